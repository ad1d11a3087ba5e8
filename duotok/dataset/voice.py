"""A singer made of free parts: spoken words are sung again by WORLD (Morise et al., 2016) at a score's pitches and times.

Shapes: S samples, T and N frames of 5 ms, F bins, W words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from .phones import VOICELESS, Phone, Piece, SpokenSyllable, SungSyllable, place, split_word
from .speech import FRAMES_PER_S, NUM_BINS, SAMPLE_RATE, Speech, speak
from .tools import world
from .words import SungNote, SungWord, spelling

# Four singers of three flite voices: the voice, factors on its formants, MIDI pitch in the middle of the range; own choices.
_SINGERS = {
    "soprano": ("slt", (1.0, 1.12), 69),
    "alto": ("slt", (0.9, 0.98), 63),
    "tenor": ("rms", (0.96, 1.08), 57),
    "baritone": ("awb", (0.92, 1.04), 52),
}
_FRICATIVES = frozenset(("z", "zh", "v", "dh", "jh"))
_PHRASE_GAP_S = 0.03
_ATTACK_S, _RELEASE_S = 0.01, 0.05
_EARLY_S = 0.02  # a pitch is reached about when its vowel begins, so the glide starts before
_VIBRATO_AFTER_S, _VIBRATO_GROWS_S, _VIBRATO_NOTE_S = 0.25, 0.3, 0.45
_DRIFT_CENTS, _DRIFT_HZ = 8.0, 3.0


@dataclass(frozen=True)
class Voice:
    """How a song is sung.

    Attributes:
        singer: soprano, alto, tenor or baritone.
        speaker: name of a flite voice.
        shift: semitones, whole octaves, from the score to the voice.
        tract: factor on all formants, as of a shorter vocal tract.
        vibrato_hz, vibrato_cents: of long notes.
        glide_s: time of a step between two pitches.
        breath: share of noise in a vowel.
    """

    singer: str
    speaker: str
    shift: int
    tract: float
    vibrato_hz: float
    vibrato_cents: float
    glide_s: float
    breath: float


@dataclass(frozen=True)
class Performance:
    """A sung song: wave (S,) float32 at 48 kHz, and the start and end of each word in seconds, (W, 2)."""

    wave: np.ndarray
    times: np.ndarray


def choose_voice(words: Sequence[SungWord], generator: np.random.Generator) -> Voice:
    """Draw a voice, and move the song by octaves to the middle of its range: men sing an octave below a soprano's score."""
    singer = str(generator.choice(list(_SINGERS)))
    speaker, tract, center = _SINGERS[singer]
    middle = float(np.median([note.midi for note in _notes(words)]))
    return Voice(
        singer,
        speaker,
        shift=12 * round((center - middle) / 12),
        tract=float(generator.uniform(*tract)),
        vibrato_hz=float(generator.uniform(4.8, 6.2)),
        vibrato_cents=float(generator.uniform(15, 60)),
        glide_s=float(generator.uniform(0.04, 0.12)),
        breath=float(generator.uniform(0.01, 0.06)),
    )


def sing(words: Sequence[SungWord], voice: Voice, num_samples: int, generator: np.random.Generator) -> Performance:
    """Sing words.

    Args:
        words: in order.
        voice: that sings.
        num_samples: S of the result; silence where nothing is sung.
        generator: for the small drift of pitch.

    Raises:
        ToolError: if flite fails or reads a word as several.
    """
    speech = speak([spelling(word.text) for word in words], voice.speaker, voice.tract)
    pieces = place(*syllables(words, speech.phones))
    pitch = _pitch(_notes(words), voice, num_samples / SAMPLE_RATE, generator)
    wave = np.zeros(num_samples + SAMPLE_RATE)
    for phrase in _phrases(pieces):
        first, sung = _sing_phrase(phrase, speech, pitch, voice)
        wave[first : first + len(sung)] += sung
    times = np.tile([np.inf, 0.0], (len(words), 1))
    for piece in pieces:
        times[piece.word] = min(times[piece.word, 0], piece.start), max(times[piece.word, 1], piece.end)
    return Performance(wave[:num_samples].astype(np.float32), times)


def _notes(words: Sequence[SungWord]) -> list[SungNote]:
    return [note for word in words for syllable in word.syllables for note in syllable]


def syllables(words: Sequence[SungWord], phones: Sequence[Sequence[Phone]]) -> tuple[list[SungSyllable], list[SpokenSyllable]]:
    """Match what is sung with what is spoken; a vowel lasts over syllables that have none of their own."""
    sung: list[SungSyllable] = []
    spoken: list[SpokenSyllable] = []
    for index, (word, own) in enumerate(zip(words, phones, strict=True)):
        for notes, syllable in zip(word.syllables, split_word(own, len(word.syllables)), strict=True):
            if syllable is None:
                sung[-1] = replace(sung[-1], end=notes[-1].end)
            else:
                sung.append(SungSyllable(index, notes[0].onset, notes[-1].end))
                spoken.append(syllable)
    return sung, spoken


def _pitch(notes: Sequence[SungNote], voice: Voice, duration_s: float, generator: np.random.Generator) -> np.ndarray:
    """Draw the course of the pitch, (T,) in MIDI numbers: glides, vibrato on long notes, and a little drift."""
    times = np.arange(round(duration_s * FRAMES_PER_S) + FRAMES_PER_S) / FRAMES_PER_S
    onsets = np.array([note.onset for note in notes])
    current = (np.searchsorted(onsets, times + _EARLY_S, side="right") - 1).clip(0)
    steps = np.array([float(note.midi) for note in notes])[current] + voice.shift
    glide = np.hanning(2 * round(voice.glide_s * FRAMES_PER_S / 2) + 3)
    padded = np.pad(steps, len(glide) // 2, mode="edge")
    smooth = np.convolve(padded, glide / glide.sum(), mode="valid")
    lengths = np.array([note.end - note.onset for note in notes])[current]
    grown = ((times - onsets[current] - _VIBRATO_AFTER_S) / _VIBRATO_GROWS_S).clip(0, 1) * (lengths > _VIBRATO_NOTE_S)
    vibrato = grown * voice.vibrato_cents / 100 * np.sin(2 * np.pi * voice.vibrato_hz * times)
    knots = generator.standard_normal(int(times[-1] * _DRIFT_HZ) + 2) * _DRIFT_CENTS / 100
    return smooth + vibrato + np.interp(times * _DRIFT_HZ, np.arange(len(knots)), knots)


def _phrases(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Cut where nothing is sung."""
    cuts = [i for i, (before, after) in enumerate(pairwise(pieces), 1) if after.start - before.end > _PHRASE_GAP_S]
    return [list(pieces[start:stop]) for start, stop in pairwise([0, *cuts, len(pieces)]) if stop > start]


def _sing_phrase(pieces: Sequence[Piece], speech: Speech, pitch: np.ndarray, voice: Voice) -> tuple[int, np.ndarray]:
    """Sing pieces without a rest between them: the sample where they begin, and their wave (S,)."""
    first, last = int(pieces[0].start * FRAMES_PER_S), int(np.ceil(pieces[-1].end * FRAMES_PER_S))
    times = np.arange(first, last + 1) / FRAMES_PER_S  # (T,)
    index = (np.searchsorted([piece.start for piece in pieces], times, side="right") - 1).clip(0)
    spans = np.array([(piece.start, piece.end, piece.source_start, piece.source_end) for piece in pieces])[index].T
    share = ((times - spans[0]) / np.maximum(spans[1] - spans[0], 1e-9)).clip(0, 1)
    source = (spans[2] + share * (spans[3] - spans[2])) * FRAMES_PER_S
    low = source.astype(int).clip(0, len(speech.envelopes) - 2)
    blend = (source - low).clip(0, 1)[:, None]
    envelopes = speech.envelopes[low] * (1 - blend) + speech.envelopes[low + 1] * blend  # (T, F)
    envelopes += _fade(times - pieces[0].start, _ATTACK_S)[:, None] + _fade(pieces[-1].end - times, _RELEASE_S)[:, None]
    voiced = np.array([piece.phone not in VOICELESS for piece in pieces])[index]
    hertz = np.where(voiced, 440 * 2 ** ((pitch[first : last + 1] - 69) / 12), 0.0)
    noise = np.array([voice.breath + 0.3 * (piece.phone in _FRICATIVES) for piece in pieces])[index][:, None]
    noise = (noise + np.linspace(0, 1, NUM_BINS) ** 0.8).clip(1e-3, 0.99)
    return first * SAMPLE_RATE // FRAMES_PER_S, world().synthesize(hertz, np.exp(envelopes), noise, SAMPLE_RATE)


def _fade(distance_s: np.ndarray, length_s: float) -> np.ndarray:
    """Give the log power of a fade over `length_s` from an edge, (T,)."""
    return 2 * np.log((distance_s / length_s).clip(1e-3, 1))
