"""Lyrics as units for connectionist temporal classification (CTC, Graves et al., 2006), and back: normalisation, vocabularies,
greedy decoding, error rates, and the times of known words by forced alignment.

Unit 0 is the CTC blank. Shapes: T frames, K units with the blank, L units of a text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

BLANK = 0
_SECTION = re.compile(r"\[[^\]\n]*\]")
_NO_PATH = -1e30  # finite, so that an impossible state never turns into NaN


def normalize(text: str) -> str:
    """Reduce a text to what is sung: NFKC, lower case, no marks such as [Chorus], single spaces, no punctuation.

    Args:
        text: in any language; letters with their accents, digits and apostrophes within words stay.
    """
    text = _SECTION.sub(" ", unicodedata.normalize("NFKC", text)).lower().replace("\u2019", "'").replace("\u2018", "'")
    kept = (char if char == "'" or unicodedata.category(char)[0] in "LMN" else " " for char in text)
    words = (word.strip("'") for word in "".join(kept).split())
    return " ".join(word for word in words if word)


class Vocabulary(Protocol):
    """What turns words into units and back.

    Attributes:
        size: number of units without the blank, so units are 1 to `size`.
    """

    size: int

    def spell(self, words: Sequence[str]) -> tuple[list[int], list[int]]:
        """Write normalised words as units; for each unit, the word it belongs to, or -1 for a separator."""
        ...

    def read(self, units: Sequence[int]) -> str:
        """Write units (L,) as text."""
        ...


class Bytes:
    """The 256 bytes of UTF-8: unit = byte + 1. It needs no training and knows every language."""

    size = 256

    def spell(self, words: Sequence[str]) -> tuple[list[int], list[int]]:
        """Write normalised words as units; for each unit, the word it belongs to, or -1 for the space between two."""
        units: list[int] = []
        owners: list[int] = []
        for index, word in enumerate(words):
            spelled = [byte + 1 for byte in word.encode("utf-8", "replace")]
            space = [ord(" ") + 1] if index else []
            units += space + spelled
            owners += [-1] * len(space) + [index] * len(spelled)
        return units, owners

    def read(self, units: Sequence[int]) -> str:
        """Write units (L,) as text; bytes that are no UTF-8 become replacement characters."""
        return bytes(unit - 1 for unit in units).decode("utf-8", "replace")


class SentencePieces:
    """Sub-words of a sentencepiece model that the user brings: unit = piece + 1."""

    def __init__(self, model: str | Path) -> None:
        """Load a .model file.

        Raises:
            ValueError: if sentencepiece is not installed or the file is none of its models.
        """
        try:
            from sentencepiece import SentencePieceProcessor
        except ImportError:
            raise ValueError(
                "vocabulary: expected the package sentencepiece; it is not installed; "
                "install the extra: pip install 'duotok[text]'"
            ) from None
        try:
            self._pieces = SentencePieceProcessor(model_file=str(model))
        except (OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:120]
            raise ValueError(f"{model}: expected a sentencepiece model; got {reason}; correct the path") from None
        self.size = self._pieces.get_piece_size()

    def spell(self, words: Sequence[str]) -> tuple[list[int], list[int]]:
        """Write normalised words as units; every unit belongs to a word, since pieces carry the space before them."""
        spelled = [self._pieces.encode(word) for word in words]
        units = [piece + 1 for pieces in spelled for piece in pieces]
        return units, [index for index, pieces in enumerate(spelled) for _ in pieces]

    def read(self, units: Sequence[int]) -> str:
        """Write units (L,) as text."""
        return self._pieces.decode([unit - 1 for unit in units])


BYTES = Bytes()


def encode(text: str, vocabulary: Vocabulary = BYTES) -> list[int]:
    """Normalise lyrics and write them as units (L,), none of them the blank."""
    return vocabulary.spell(normalize(text).split())[0]


def decode(units: Sequence[int], vocabulary: Vocabulary = BYTES) -> str:
    """Write units (L,) as text, the inverse of `encode` for normalised text."""
    return vocabulary.read(units)


def greedy(scores: np.ndarray) -> list[int]:
    """Read the likeliest units of a CTC output: the best unit of each frame, repeats merged, blanks dropped.

    Args:
        scores: (T, K) logits or log-probabilities, blank first.

    Returns:
        Units (L,).
    """
    best = np.asarray(scores).argmax(axis=1)
    changed = np.diff(best, prepend=-1) != 0
    return best[changed & (best != BLANK)].tolist()


@dataclass(frozen=True)
class Word:
    """A word with its time, in seconds from the start."""

    start: float
    end: float
    text: str


def align_units(log_probs: np.ndarray, units: Sequence[int]) -> np.ndarray:
    """Find the likeliest path through a CTC output that spells given units (Viterbi).

    Args:
        log_probs: (T, K) log-probabilities, blank first.
        units: (L,) the text, without blanks.

    Returns:
        (L, 2) int64: first frame of each unit, and the frame behind its last.

    Raises:
        ValueError: if the text does not fit into T frames: each unit needs one, and a repeated unit a blank before it.
    """
    log_probs, spelled = np.asarray(log_probs, np.float64), np.asarray(units, np.int64)
    needed = len(spelled) + int((spelled[1:] == spelled[:-1]).sum())
    if needed > len(log_probs):
        raise ValueError(
            f"alignment: expected at least {needed} frames for {len(spelled)} units; got {len(log_probs)}; shorten the text"
        )
    if not len(spelled):
        return np.zeros((0, 2), np.int64)
    states = np.full(2 * len(spelled) + 1, BLANK)  # blank, unit, blank, unit, ..., blank
    states[1::2] = spelled
    path = _best_path(log_probs, states)
    first = np.searchsorted(path, np.arange(1, len(states), 2))
    last = np.searchsorted(path, np.arange(1, len(states), 2), side="right")
    return np.stack((first, last), axis=1)


def _best_path(log_probs: np.ndarray, states: np.ndarray) -> np.ndarray:
    """Walk from one of the first two states to one of the last two; return the state of every frame, (T,)."""
    skippable = np.zeros(len(states), bool)  # a unit may follow another one directly, but not itself
    skippable[3::2] = states[3::2] != states[1:-2:2]
    score = np.full(len(states), _NO_PATH)
    score[:2] = log_probs[0, states[:2]]
    steps = np.zeros((len(log_probs), len(states)), np.int8)
    moves = np.full((3, len(states)), _NO_PATH)
    for t in range(1, len(log_probs)):
        moves[0], moves[1, 1:], moves[2, 2:] = score, score[:-1], np.where(skippable[2:], score[:-2], _NO_PATH)
        steps[t] = moves.argmax(axis=0)
        score = np.maximum(moves.max(axis=0), _NO_PATH) + log_probs[t, states]
    path = np.empty(len(log_probs), np.int64)
    path[-1] = len(states) - 2 + int(score[-1] > score[-2])
    for t in range(len(log_probs) - 1, 0, -1):
        path[t - 1] = path[t] - steps[t, path[t]]
    return path


def align(log_probs: np.ndarray, text: str, frame_rate: float = 25.0, vocabulary: Vocabulary = BYTES) -> list[Word]:
    """Find when each word of known lyrics is sung.

    Args:
        log_probs: (T, K) CTC log-probabilities of the song, blank first.
        text: its lyrics; normalised here.
        frame_rate: frames per second.
        vocabulary: that the log-probabilities were trained with.

    Returns:
        The normalised words in order, from the first frame of a word's first unit to the end of its last.

    Raises:
        ValueError: if the text does not fit into the frames.
    """
    words = normalize(text).split()
    units, owners = vocabulary.spell(words)
    spans, owner = align_units(log_probs, units), np.asarray(owners)
    times = [spans[owner == index] / frame_rate for index in range(len(words))]
    return [Word(float(time[0, 0]), float(time[-1, 1]), word) for time, word in zip(times, words, strict=True)]


def edit_distance(reference: Sequence, hypothesis: Sequence) -> int:
    """Count the insertions, deletions and substitutions between two sequences (Levenshtein)."""
    symbols = {symbol: number for number, symbol in enumerate(dict.fromkeys([*reference, *hypothesis]))}
    target = np.array([symbols[symbol] for symbol in hypothesis], np.int64)
    index = np.arange(len(target) + 1)
    row = index.copy()
    for number, symbol in enumerate(reference, 1):
        change = np.minimum(row[1:] + 1, row[:-1] + (target != symbols[symbol]))
        # An insertion costs 1 to the right: the least of what stands to the left, plus the distance to it.
        row = np.minimum.accumulate(np.concatenate(([number], change)) - index) + index
    return int(row[-1])


def word_error_rate(references: Iterable[str], hypotheses: Iterable[str]) -> float:
    """Divide the word edits of all texts by the words of all references; texts are normalised here.

    Raises:
        ValueError: if the references hold no word, or there are more of one than of the other.
    """
    return _error_rate([normalize(text).split() for text in references], [normalize(text).split() for text in hypotheses])


def character_error_rate(references: Iterable[str], hypotheses: Iterable[str]) -> float:
    """Divide the character edits of all texts by the characters, spaces too, of all references; texts are normalised here.

    Raises:
        ValueError: if the references hold no character, or there are more of one than of the other.
    """
    return _error_rate([normalize(text) for text in references], [normalize(text) for text in hypotheses])


def _error_rate(references: Sequence[Sequence], hypotheses: Sequence[Sequence]) -> float:
    total = sum(map(len, references))
    if not total or len(references) != len(hypotheses):
        raise ValueError(
            f"error rate: expected pairs of texts, not all references empty; got {len(references)} references of length "
            f"{total} and {len(hypotheses)} hypotheses; pass one hypothesis for each reference"
        )
    return sum(map(edit_distance, references, hypotheses)) / total
