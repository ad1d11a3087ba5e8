"""Spoken words as material for singing: flite says each word, WORLD's CheapTrick (Morise, 2015) takes its spectral envelopes.

The speech is 16 kHz; above 7.2 kHz envelopes fall off by a fixed slope, so that what is sung with them fills 48 kHz.
Shapes: S samples, N frames, F bins.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from .phones import VOWELS, Phone
from .tools import ToolError, run, world

SAMPLE_RATE = 48_000
FRAMES_PER_S = 200
NUM_BINS = 513  # of an envelope from 0 to 24 kHz: 47 Hz wide, formants are wider
_SPEECH_RATE = 16_000
_BATCH = 16  # words that flite says at a time
_TOP_HZ, _SLOPE_DB = 7_200.0, -18.0  # above, envelopes fall off per octave; own choice
_MEDIAN_HZ = 120.0  # where no pitch is found at all
_FLOOR = 1e-12


@dataclass(frozen=True)
class Speech:
    """Spoken words: the phones of each word, and log power envelopes (N, F) of all, 200 frames a second."""

    phones: list[list[Phone]]
    envelopes: np.ndarray


def speak(words: Sequence[str], voice: str, tract: float = 1.0) -> Speech:
    """Speak words one by one, each different one once, with vowels equally loud.

    Args:
        words: of letters and apostrophes.
        voice: name of a flite voice.
        tract: factor on all formants, as of a shorter vocal tract.

    Raises:
        ToolError: if flite fails or reads a word as several.
    """
    different = list(dict.fromkeys(words))
    wave, spoken = _say(different, voice)
    envelopes = _envelopes(wave, tract)
    for phones in spoken:
        own = _frames(phones[0].start, phones[-1].end)
        vowels = [frame for phone in phones if phone.name in VOWELS for frame in _frames(phone.start, phone.end)]
        envelopes[own] -= np.logaddexp.reduce(envelopes[vowels or own], axis=1).mean()
    by_word = dict(zip(different, spoken, strict=True))
    return Speech([by_word[word] for word in words], envelopes)


def _frames(start: float, end: float) -> range:
    first = round(start * FRAMES_PER_S)
    return range(first, max(first + 1, round(end * FRAMES_PER_S)))


def _say(words: Sequence[str], voice: str) -> tuple[np.ndarray, list[list[Phone]]]:
    """Let flite say a word a sentence: the wave (S,) at 16 kHz, and each word's phones without the pauses around them."""
    waves, spoken, offset = [], [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        text, wav = Path(folder) / "words.txt", Path(folder) / "words.wav"
        for start in range(0, len(words), _BATCH):
            batch = words[start : start + _BATCH]
            text.write_text("".join(f"{word}.\n\n" for word in batch), encoding="ascii")
            lines = run("flite", "-voice", voice, "-f", text, "-o", wav, "-psdur").splitlines()
            wave, rate = soundfile.read(wav)
            phones = read_phones(lines, len(wave) / rate)
            if rate != _SPEECH_RATE or len(phones) != len(batch) or not all(phones):
                raise ToolError(f"flite: expected {len(batch)} words at {_SPEECH_RATE} Hz; got {len(phones)} at {rate} Hz")
            spoken += [[Phone(p.name, p.start + offset, p.end + offset) for p in word] for word in phones]
            waves.append(wave)
            offset += len(wave) / rate
    return np.concatenate(waves), spoken


def read_phones(lines: Sequence[str], duration_s: float) -> list[list[Phone]]:
    """Read what `flite -psdur` prints: "pau:0.184 s:0.266 iy:0.401 pau:0.652" for a sentence, ends counted from its start.

    Args:
        lines: of sentences that were spoken into one wave.
        duration_s: of that wave. A sentence lasts for the whole frames of 5 ms in its last number, but three decimals do not
            tell the last frame for sure, so that the sum is corrected by what is left over.

    Returns:
        For each sentence its phones without pauses, in seconds from the start of the first.

    Raises:
        ToolError: if more than a frame a sentence is left over.
    """
    sentences = [[(name, float(end)) for name, end in (mark.rsplit(":", 1) for mark in line.split())] for line in lines]
    lengths = [int(marks[-1][1] * FRAMES_PER_S + 0.1) / FRAMES_PER_S for marks in sentences]
    left = sum(lengths) - duration_s
    if not abs(left) * FRAMES_PER_S <= len(lines):
        raise ToolError(f"flite: expected {sum(lengths):.3f} s of speech; got {duration_s:.3f} s; check its version")
    spoken, offset = [], 0.0
    for marks, length in zip(sentences, lengths, strict=True):
        starts = [0.0, *(end for _, end in marks)]
        phones = zip(marks, starts, strict=False)
        spoken.append([Phone(name, offset + start, offset + end) for (name, end), start in phones if name != "pau"])
        offset += length - left / len(lines)
    return spoken


def _envelopes(wave: np.ndarray, tract: float) -> np.ndarray:
    """Take log envelopes (N, F) up to 24 kHz from speech (S,) at 16 kHz."""
    coarse, times = world().dio(wave, _SPEECH_RATE, frame_period=1000 / FRAMES_PER_S)
    pitch = world().stonemask(wave, coarse, times, _SPEECH_RATE)
    voiced = pitch[pitch > 0]
    pitch[pitch <= 0] = np.median(voiced) if len(voiced) else _MEDIAN_HZ  # a window as wide in noise as in vowels
    envelopes = np.log(world().cheaptrick(wave, pitch, times, _SPEECH_RATE) + _FLOOR)
    wanted = np.linspace(0, SAMPLE_RATE / 2, NUM_BINS) / tract
    place = np.minimum(wanted, _TOP_HZ) / (_SPEECH_RATE / 2) * (envelopes.shape[1] - 1)
    low, share = place.astype(int), place % 1
    slope = np.log(10) / 10 * _SLOPE_DB * np.log2(np.maximum(wanted / _TOP_HZ, 1))
    return envelopes[:, low] * (1 - share) + envelopes[:, low + 1] * share + slope
