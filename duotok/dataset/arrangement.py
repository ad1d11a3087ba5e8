"""A band for a piano score: other instruments, a bass that doubles the lowest notes, and drums on the bars.

All choices are our own; they make the accompaniment differ from song to song as that of records does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .midi import DRUM_CHANNEL, MidiNote
from .musicxml import Score

# General MIDI programs, from 0, for what a score's hands play, for held chords, and for the bass.
KEYS = {
    0: "acoustic grand piano", 2: "electric grand piano", 4: "electric piano 1", 5: "electric piano 2", 6: "harpsichord",
    11: "vibraphone", 16: "drawbar organ", 21: "accordion", 24: "nylon guitar", 25: "steel guitar", 26: "jazz guitar",
    27: "clean guitar", 46: "harp", 80: "square lead", 81: "saw lead",
}  # fmt: skip
PADS = {
    48: "string ensemble 1",
    50: "synth strings 1",
    52: "choir aahs",
    61: "brass section",
    88: "new age pad",
    89: "warm pad",
}
BASSES = {32: "acoustic bass", 33: "finger bass", 34: "pick bass", 35: "fretless bass", 38: "synth bass 1"}
_KICK, _SNARE, _RIM, _CLOSED_HAT, _OPEN_HAT, _CRASH, _RIDE, _TAMBOURINE = 36, 38, 37, 42, 46, 49, 51, 54
_BASS_RANGE = range(28, 48)
_PAD_SHARE, _DRUM_SHARE, _BASS_SHARE = 0.5, 0.85, 0.9
_PAD, _HANDS = 2, (0, 1)  # channels
_HIT_S = 0.1


@dataclass(frozen=True)
class Part:
    """What one stem plays: notes in seconds, General MIDI program of each channel, names of the instruments."""

    notes: tuple[MidiNote, ...]
    programs: dict[int, int]
    instruments: tuple[str, ...]


def arrange(score: Score, pace: float, generator: np.random.Generator) -> dict[str, Part]:
    """Arrange a score's accompaniment.

    Args:
        score: its accompaniment's first staff goes to one instrument, the others to another or the same.
        pace: how many times faster than printed it is played.
        generator: draws instruments, pattern and dynamics.

    Returns:
        The stems "drums", "bass" and "other"; drums or bass may have no notes.
    """
    notes = _timed(score, pace, generator)
    times = [score.seconds(list(bar.beats)) / pace for bar in score.bars]
    return {"drums": _drums(times, generator), "bass": _bass(notes, generator), "other": _other(notes, generator)}


def _timed(score: Score, pace: float, generator: np.random.Generator) -> list[MidiNote]:
    """Turn the accompaniment's notes into seconds; channel 0 is the upper staff, 1 what is below."""
    onsets = score.seconds([note.onset for note in score.accompaniment]) / pace
    ends = score.seconds([note.onset + note.duration for note in score.accompaniment]) / pace
    velocities = generator.normal(72, 7, len(onsets)).clip(40, 110)
    rows = zip(score.accompaniment, onsets.tolist(), ends.tolist(), velocities.tolist(), strict=True)
    return [MidiNote(start, end, n.midi, round(v), _HANDS[n.staff > 1]) for n, start, end, v in rows if 0 <= n.midi < 128]


def _other(notes: Sequence[MidiNote], generator: np.random.Generator) -> Part:
    upper = int(generator.choice(list(KEYS)))
    lower = upper if generator.random() < 0.5 else int(generator.choice(list(KEYS)))
    programs, names = {_HANDS[0]: upper, _HANDS[1]: lower}, [KEYS[upper], KEYS[lower]]
    pad: list[MidiNote] = []
    if generator.random() < _PAD_SHARE:
        programs[_PAD] = int(generator.choice(list(PADS)))
        names.append(PADS[programs[_PAD]])
        pad = [MidiNote(note.onset, note.end, note.midi, 50, _PAD) for note in notes if note.end - note.onset > 0.3]
    return Part((*notes, *pad), programs, tuple(dict.fromkeys(names)))


def _bass(notes: Sequence[MidiNote], generator: np.random.Generator) -> Part:
    """Double the lowest note of each moment an octave or more below, held until the next one."""
    program = int(generator.choice(list(BASSES)))
    if generator.random() >= _BASS_SHARE:
        return Part((), {}, ())
    lowest: dict[float, MidiNote] = {}
    for note in notes:
        rival = lowest.get(note.onset)
        if note.channel == _HANDS[1] and (rival is None or note.midi < rival.midi):
            lowest[note.onset] = note
    line = []
    moments = [lowest[onset] for onset in sorted(lowest)]
    for note, following in pairwise([*moments, None]):
        octaves = (pitch for pitch in reversed(_BASS_RANGE) if pitch % 12 == note.midi % 12)
        pitch = note.midi if note.midi in _BASS_RANGE else next(octaves)
        end = min(note.end, following.onset) if following else note.end
        line.append(MidiNote(note.onset, end, pitch, note.velocity + 10))
    return Part(tuple(line), {0: program}, (BASSES[program],))


def _drums(bars: Sequence[np.ndarray], generator: np.random.Generator) -> Part:
    """Play a pattern in every bar but a few at the start: kick, backbeat, cymbal, and a fill now and then."""
    cymbal = int(generator.choice([_CLOSED_HAT, _RIDE, _TAMBOURINE, _OPEN_HAT]))
    backbeat = int(generator.choice([_SNARE, _RIM]))
    division, syncopated = int(generator.choice([1, 2, 2, 4])), bool(generator.random() < 0.5)
    kit, intro = int(generator.choice([0, 8, 16, 24, 25, 32])), int(generator.integers(0, 8))
    if generator.random() >= _DRUM_SHARE:
        return Part((), {}, ())
    hits: list[MidiNote] = []

    def hit(time: float, drum: int, velocity: float) -> None:
        strength = round(float(np.clip(velocity + generator.normal(0, 5), 20, 120)))
        hits.append(MidiNote(time, time + _HIT_S, drum, strength, DRUM_CHANNEL))

    for number, beats in enumerate(bars):
        if number < intro or not len(beats):
            continue
        length = float(beats[1] - beats[0]) if len(beats) > 1 else 0.6
        for beat, time in enumerate(beats.tolist()):
            strong = beat == 0 or (len(beats) == 4 and beat == 2)
            hit(time, _KICK if strong else backbeat, 95 if strong else 85)
            for step in range(division):
                hit(time + length * step / division, cymbal, 70 if step == 0 else 55)
            if syncopated and strong:
                hit(time + length / 2, _KICK, 75)
        if number % 8 == 7:
            for step in range(4):
                hit(float(beats[-1]) + length * step / 4, _SNARE, 70 + 8 * step)
        elif number % 8 == 0:
            hit(float(beats[0]), _CRASH, 80)
    return Part(tuple(hits), {DRUM_CHANNEL: kit}, ("drum kit",))
