"""From spoken phones to sung time: which phones a note takes, and when each of them sounds.

Consonants keep the length they have in speech; vowels are stretched to the note. A vowel begins on its note's onset, so the
consonants before it borrow time from what comes before, as singers do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

# Phones of the CMU dictionary as flite writes them.
VOWELS = frozenset("aa ae ah ao aw ax axr ay eh er ey ih ix iy ow oy uh uw".split())  # noqa: SIM905
VOICELESS = frozenset("p t k f th s sh ch hh pau".split())  # noqa: SIM905
_LONGEST_CONSONANT_S = 0.14
# At least this share of the time between two vowel onsets is the first one's vowel.
_VOWEL_SHARE = 0.5
_EDGE_S = 0.04  # of a vowel, left unstretched at either side so that transitions keep their speed


@dataclass(frozen=True)
class Phone:
    """A spoken phone and its times, in seconds."""

    name: str
    start: float
    end: float


@dataclass(frozen=True)
class SungSyllable:
    """What is sung on one vowel: its word's number, when the first note starts and when the last one ends, in seconds."""

    word: int
    onset: float
    end: float


@dataclass(frozen=True)
class SpokenSyllable:
    """Phones of a syllable: consonants, what carries the note, consonants."""

    head: tuple[Phone, ...]
    nucleus: tuple[Phone, ...]
    tail: tuple[Phone, ...] = ()


@dataclass(frozen=True)
class Piece:
    """From `start` to `end` of the song, what stands from `source_start` to `source_end` of the speech is sung; seconds."""

    start: float
    end: float
    source_start: float
    source_end: float
    phone: str
    word: int


def split_word(phones: Sequence[Phone], count: int) -> list[SpokenSyllable | None]:
    """Give a word's phones to its `count` sung syllables.

    Consonants between two vowels go to the later one, but for the first of several. A word sung on fewer syllables than it
    has vowels gets several of them on one; on more, a vowel lasts over what follows, which is None here.

    Raises:
        ValueError: if there is no phone.
    """
    if not phones:
        raise ValueError("syllables: expected a phone or more; got none; leave the word out")
    centers = [i for i, phone in enumerate(phones) if phone.name in VOWELS]
    centers = centers or [max(range(len(phones)), key=lambda i: (phones[i].name not in VOICELESS, phones[i].end))]
    used = min(count, len(centers))
    groups = [centers[len(centers) * i // used : len(centers) * (i + 1) // used] for i in range(used)]
    starts = [0]
    for before, after in pairwise(groups):
        between = after[0] - before[-1] - 1
        starts.append(before[-1] + 1 + (1 if between > 1 else 0))
    spoken: list[SpokenSyllable | None] = [None] * count
    for i, (group, start, stop) in enumerate(zip(groups, starts, [*starts[1:], len(phones)], strict=True)):
        head, nucleus = phones[start : group[0]], phones[group[0] : group[-1] + 1]
        spoken[i * count // used] = SpokenSyllable(tuple(head), tuple(nucleus), tuple(phones[group[-1] + 1 : stop]))
    return spoken


def place(sung: Sequence[SungSyllable], spoken: Sequence[SpokenSyllable]) -> list[Piece]:
    """Place the phones of syllables in the song.

    Args:
        sung: in order, one after another.
        spoken: the phones of each.

    Returns:
        Pieces in order that do not overlap; a vowel makes up to three, of which the middle one is stretched.
    """
    heads = [_lengths(syllable.head) for syllable in spoken]
    tails = [_lengths(syllable.tail) for syllable in spoken]
    scales = _scales(sung, [sum(head) for head in heads], [sum(tail) for tail in tails])
    starts = [syllable.onset - sum(head) * scale for syllable, head, scale in zip(sung, heads, scales, strict=False)]
    pieces: list[Piece] = []
    for i, (syllable, phones) in enumerate(zip(sung, spoken, strict=True)):
        tail = sum(tails[i]) * scales[i + 1]
        end = min([syllable.end, *starts[i + 1 : i + 2]]) - tail
        end = max(end, syllable.onset + _VOWEL_SHARE * (syllable.end - syllable.onset))
        pieces += _consonants(phones.head, heads[i], starts[i], scales[i], syllable.word)
        pieces += _vowel(phones.nucleus, syllable.onset, end, syllable.word)
        pieces += _consonants(phones.tail, tails[i], end, scales[i + 1], syllable.word)
    return pieces


def _lengths(phones: Sequence[Phone]) -> list[float]:
    return [min(phone.end - phone.start, _LONGEST_CONSONANT_S) for phone in phones]


def _scales(sung: Sequence[SungSyllable], heads: list[float], tails: list[float]) -> list[float]:
    """Squeeze the consonants before each vowel, and those behind the last, into the time that may be theirs."""
    ends = [0.0, *(syllable.end for syllable in sung)]
    notes = [0.0, *(syllable.end - syllable.onset for syllable in sung)]
    onsets = [*(syllable.onset for syllable in sung), ends[-1]]
    scales = []
    for onset, end, note, tail, head in zip(onsets, ends, notes, [0.0, *tails], [*heads, 0.0], strict=True):
        free = onset - end + (1 - _VOWEL_SHARE) * note
        scales.append(min(1.0, free / max(tail + head, 1e-9)))
    return scales


def _consonants(phones: Sequence[Phone], lengths: list[float], start: float, scale: float, word: int) -> list[Piece]:
    pieces = []
    for phone, length in zip(phones, lengths, strict=True):
        middle = (phone.start + phone.end) / 2
        pieces.append(Piece(start, start + length * scale, middle - length / 2, middle + length / 2, phone.name, word))
        start += length * scale
    return pieces


def _vowel(phones: Sequence[Phone], start: float, end: float, word: int) -> list[Piece]:
    """Stretch the middle of a vowel, or squeeze all of it into a note that is shorter."""
    first, last = phones[0].start, phones[-1].end
    edge = min(_EDGE_S, (last - first) / 4)
    name = max(phones, key=lambda phone: phone.end - phone.start).name
    if end - start <= last - first:
        return [Piece(start, end, first, last, name, word)]
    times, sources = (start, start + edge, end - edge, end), (first, first + edge, last - edge, last)
    return [Piece(*times[i : i + 2], *sources[i : i + 2], name, word) for i in range(3)]
