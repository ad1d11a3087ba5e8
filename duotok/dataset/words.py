"""The words of a score as they are sung: syllables with their notes, in seconds."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from .musicxml import Note, Score

# A note without a syllable goes on with the one before it, if no longer a rest than this stands between; seconds.
_LONGEST_GAP_S = 0.05
_SHORTEST_NOTE_S = 0.04
# What most lines of English verse hold a few of, and lines of German, French, Italian, Spanish or Latin do not.
_ENGLISH = frozenset(
    "the and of to my is that with thy thou you i it for his her thee she he when from are we was your they shall love".split()  # noqa: SIM905
)
_ENGLISH_SHARE = 0.15


@dataclass(frozen=True)
class SungNote:
    """A note of the voice: onset and end in seconds, MIDI pitch."""

    onset: float
    end: float
    midi: int


@dataclass(frozen=True)
class SungWord:
    """A word and the notes of each of its syllables."""

    text: str
    syllables: tuple[tuple[SungNote, ...], ...]


def sung_words(score: Score, pace: float = 1.0) -> list[SungWord]:
    """List the words that a score's voice sings.

    Args:
        score: notes that stand alone, after a rest and without a syllable, are left out.
        pace: how many times faster than printed it is sung.
    """
    words: list[SungWord] = []
    text, syllables, ended = "", [], False

    def finish() -> None:
        nonlocal text, syllables
        printed = re.sub(r"^\d+\.\s*", "", text)  # the number of the verse
        if spelling(printed) and syllables:
            words.append(SungWord(printed, tuple(map(tuple, syllables))))
        text, syllables = "", []

    for note, start, end in _timed(score, pace):
        syllable = note.syllable
        if syllable is None:
            if syllables and start - syllables[-1][-1].end <= _LONGEST_GAP_S:
                syllables[-1].append(SungNote(start, end, note.midi))
            continue
        if syllable.first or ended:
            finish()
        ended = syllable.last
        text += syllable.text.strip(" -_")
        syllables.append([SungNote(start, end, note.midi)])
    finish()
    return words


def _timed(score: Score, pace: float) -> list[tuple[Note, float, float]]:
    onsets = score.seconds([note.onset for note in score.voice]) / pace
    ends = score.seconds([note.onset + note.duration for note in score.voice]) / pace
    timed = zip(score.voice, onsets.tolist(), ends.tolist(), strict=True)
    return [(note, start, end) for note, start, end in timed if end - start >= _SHORTEST_NOTE_S]


def spelling(text: str) -> str:
    """Reduce a printed word to letters and apostrophes, which a speech synthesiser reads as one word; "" if none is left."""
    return " ".join(re.sub(r"[^a-z' ]", "", text.lower().replace("\u2019", "'")).split()).strip("'")


def is_english(words: Iterable[str]) -> bool:
    """Tell English lyrics from others by their share of frequent words."""
    spelled = [spelling(word) for word in words]
    return sum(word in _ENGLISH for word in spelled) >= _ENGLISH_SHARE * max(1, len(spelled))
