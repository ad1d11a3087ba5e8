"""Standard MIDI files of a few channels, and fluidsynth to play them. Time runs in milliseconds."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from .tools import run

DRUM_CHANNEL = 9
_GAIN = "0.5"  # of fluidsynth, below clipping; levels are set when mixing


@dataclass(frozen=True)
class MidiNote:
    """A note of a channel: onset and end in seconds, pitch and velocity of 0 to 127."""

    onset: float
    end: float
    midi: int
    velocity: int
    channel: int = 0


def midi_file(notes: Sequence[MidiNote], programs: dict[int, int]) -> bytes:
    """Write a MIDI file of one track.

    Args:
        notes: in any order; of two that overlap on one key the first is cut.
        programs: General MIDI program, from 0, of each channel.
    """
    events = [(0, 1, bytes((0xC0 | channel, program))) for channel, program in sorted(programs.items())]
    sounding: dict[tuple[int, int], int] = {}
    for note in sorted(notes, key=lambda note: (note.onset, note.channel, note.midi), reverse=True):
        start, end, key = round(note.onset * 1000), round(note.end * 1000), (note.channel, note.midi)
        end = max(start + 1, min(end, sounding.get(key, end)))
        sounding[key] = start
        events.append((start, 2, bytes((0x90 | note.channel, note.midi, note.velocity))))
        events.append((end, 0, bytes((0x80 | note.channel, note.midi, 0))))  # off before on, at the same time
    track, now = b"\0\xff\x51\x03" + (1_000_000).to_bytes(3, "big"), 0
    for time, _, event in sorted(events):
        track += _varying(time - now) + event
        now = time
    track += b"\0\xff\x2f\0"
    return b"MThd" + struct.pack(">IHHH", 6, 0, 1, 1000) + b"MTrk" + struct.pack(">I", len(track)) + track


def _varying(number: int) -> bytes:
    """Write a number in groups of seven bits, all but the last marked."""
    groups = [number & 0x7F]
    while number := number >> 7:
        groups.append(number & 0x7F | 0x80)
    return bytes(reversed(groups))


def play(notes: Sequence[MidiNote], programs: dict[int, int], soundfont: Path, num_samples: int) -> np.ndarray:
    """Play notes without reverb, (2, S) float32 at 48 kHz, cut or filled with silence to S samples.

    Raises:
        ToolError: if fluidsynth fails.
    """
    wave = np.zeros((2, num_samples), np.float32)
    if not notes:
        return wave
    with tempfile.TemporaryDirectory() as folder:
        song, out = Path(folder) / "song.mid", Path(folder) / "song.wav"
        song.write_bytes(midi_file(notes, programs))
        settings = ("-o", "synth.dynamic-sample-loading=1", "-R", "0", "-C", "0", "-g", _GAIN, "-r", "48000")
        run("fluidsynth", "-ni", "-q", *settings, "-T", "wav", "-O", "float", "-F", out, soundfont, song)
        played = soundfile.read(out, dtype="float32", always_2d=True)[0].T[:, :num_samples]
    wave[:, : played.shape[1]] = played
    return wave
