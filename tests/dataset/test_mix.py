"""MIDI files and mixing: bytes that a MIDI reader understands, sums that are exact, filters that do what they say."""

from __future__ import annotations

import make_scores
import numpy as np
import pytest

from duotok.dataset import mix
from duotok.dataset.arrangement import arrange
from duotok.dataset.midi import DRUM_CHANNEL, MidiNote, midi_file
from duotok.dataset.musicxml import read_score


def events(data: bytes) -> list[tuple[int, bytes]]:
    """Read a MIDI file of one track: (milliseconds, event)."""
    assert data[:4] == b"MThd" and data[14:18] == b"MTrk" and len(data) == 22 + int.from_bytes(data[18:22], "big")
    assert data[8:14] == bytes((0, 0, 0, 1, 3, 232))  # one track, 1000 ticks to the quarter note
    at, now, found = 22, 0, []
    while at < len(data):
        delta = 0
        while True:
            byte, at = data[at], at + 1
            delta = delta << 7 | byte & 0x7F
            if byte < 0x80:
                break
        size = 3 + data[at + 2] if data[at] == 0xFF else 2 if data[at] >> 4 == 0xC else 3
        now += delta
        found.append((now, data[at : at + size]))
        at += size
    return found


def test_a_midi_file_holds_the_notes():
    notes = [MidiNote(1.5, 2.0, 60, 90, 1), MidiNote(0.0, 20.0, 64, 80)]
    assert events(midi_file(notes, {0: 24, 1: 33})) == [
        (0, b"\xff\x51\x03\x0f\x42\x40"),  # a quarter note lasts a second
        (0, b"\xc0\x18"), (0, b"\xc1\x21"), (0, b"\x90\x40\x50"),
        (1500, b"\x91\x3c\x5a"), (2000, b"\x81\x3c\x00"), (20_000, b"\x80\x40\x00"), (20_000, b"\xff\x2f\x00"),
    ]  # fmt: skip


def test_a_key_is_let_go_before_it_is_struck_again():
    pair = [MidiNote(0, 2, 60, 90), MidiNote(1, 3, 60, 90)]
    struck = [(time, event[0] >> 4) for time, event in events(midi_file(pair, {})) if event[0] != 0xFF]
    assert struck == [(0, 9), (1000, 8), (1000, 9), (3000, 8)]


@pytest.fixture(scope="module")
def stems() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {name: generator.normal(0, 1, (2, 30_000)).astype(np.float32) for name in ("vocals", "drums", "bass", "other")}


def test_the_parts_add_up_exactly_and_nothing_clips(stems):
    levels = {"vocals": 2.0, "drums": -40.0, "bass": 0.0, "other": -3.0}
    mixed = mix.balance(stems, levels, peak_db=0.0)
    whole = {name: wave.astype(int) for name, wave in mixed.items()}
    assert (whole["drums"] + whole["bass"] + whole["other"] == whole["accompaniment"]).all()
    peaks = [np.abs(wave).max() for wave in (*whole.values(), whole["vocals"] + whole["accompaniment"])]
    assert 32_700 < max(peaks) <= 32_767
    measured = {name: 20 * np.log10(mix.loudness(mixed[name].astype(np.float32))) for name in levels}
    for name in ("bass", "other"):
        assert measured[name] - measured["vocals"] == pytest.approx(levels[name] - levels["vocals"], abs=0.05)


def test_silent_stems_stay_silent(stems):
    silent = {name: wave * (name == "vocals") for name, wave in stems.items()}
    mixed = mix.balance(silent, dict.fromkeys(stems, 0.0), peak_db=-6.0)
    assert not mixed["accompaniment"].any() and np.abs(mixed["vocals"]).max() == pytest.approx(32_767 / 2, rel=0.01)


def test_loudness_counts_what_sounds():
    wave = np.zeros((2, 48_000), np.float32)
    wave[:, :4_800] = 0.5
    assert mix.loudness(wave) == pytest.approx(0.5) and mix.loudness(np.zeros((2, 48_000))) == 0


def test_a_room_adds_an_echo_and_changes_no_silence_before_it():
    wave = np.zeros(200_000, np.float32)
    wave[100_000] = 1.0
    placed = mix.in_room(wave, mix.Room((0.5, 0.5), (-12.0, -12.0), tone_db=0.0, pan=0.0), np.random.default_rng(0))
    assert np.abs(placed[:, :100_000]).max() < 1e-6
    direct, tail = placed[:, 100_000], placed[:, 100_001:]
    assert direct == pytest.approx(1.0, abs=0.1)
    assert 10 * np.log10((tail**2).sum(axis=1)) == pytest.approx(-12.0, abs=0.3)
    early, late = (np.square(tail[:, start : start + 2_400]).sum() for start in (0, 12_000))
    assert 10 * np.log10(early / late) == pytest.approx(30, abs=2)  # 60 dB in 0.5 s


def test_tone_stays_within_its_depth_and_does_not_look_ahead():
    wave = np.random.default_rng(1).normal(0, 1, 300_000).astype(np.float32)
    dry = mix.Room((0.01, 0.01), (-120.0, -120.0), tone_db=6.0, pan=0.0)
    placed = mix.in_room(wave, dry, np.random.default_rng(2))
    spectra = [np.abs(np.fft.rfft(x.reshape(-1, 3_000) * np.hanning(3_000))).mean(axis=0) for x in (placed[0], wave)]
    decibels = 20 * np.log10(spectra[0][4:] / spectra[1][4:])
    assert decibels.min() > -6.5 and decibels.max() < 6.5 and np.ptp(decibels) > 2


def test_long_convolutions_are_those_of_numpy():
    generator = np.random.default_rng(3)
    wave, response = generator.normal(0, 1, 150_000).astype(np.float32), generator.normal(0, 1e-2, 20_000)
    expected = np.fft.irfft(np.fft.rfft(wave, 1 << 18) * np.fft.rfft(response, 1 << 18))[: len(wave)]
    assert np.abs(mix._convolve(wave, response) - expected).max() < 1e-4


@pytest.mark.parametrize("seed", range(8))
def test_an_arrangement_keeps_the_scores_notes_and_time(seed):
    score = read_score(make_scores.song(16, bass=f"C{seed % 6}"), "song")  # from below a bass's range to above it
    parts = arrange(score, 2.0, np.random.default_rng(seed))
    assert list(parts) == ["drums", "bass", "other"]
    end = float(score.seconds(score.end)) / 2
    written = {(round(float(score.seconds(n.onset)) / 2, 6), n.midi) for n in score.accompaniment}
    played = {(round(n.onset, 6), n.midi) for n in parts["other"].notes}
    assert played == written and parts["other"].instruments
    assert all(n.onset < n.end <= end + 1e-6 and 0 < n.velocity < 128 for n in (*parts["other"].notes, *parts["bass"].notes))
    for note in parts["bass"].notes:
        assert 28 <= note.midi <= 47 and note.midi % 12 == 0  # the lowest note of every chord is a C
    sixteenths = {round(n.onset / 0.0625, 3) % 1 for n in parts["drums"].notes}
    assert sixteenths <= {0.0} and all(n.channel == DRUM_CHANNEL for n in parts["drums"].notes)
