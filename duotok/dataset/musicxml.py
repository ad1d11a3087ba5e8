"""Scores of a voice with accompaniment, read from MusicXML 4.0 (.musicxml, or .mxl, which is a zip of one).

A score is read once from start to end with its first verse: repeats are not unfolded, grace notes and cues are left out. Times
are in quarter notes from the start, pitches are MIDI numbers as they sound.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np

_STEPS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_DEFAULT_TEMPO = 96.0  # quarter notes a minute, where a score has none; own choice
_TEMPI = (30.0, 240.0)  # beyond these a tempo is a slip of the pen
_SAME_TIME = 1e-3


class ScoreError(ValueError):
    """A score that cannot be read; the message says what was expected and what it holds."""


class UnsuitedScore(ScoreError):
    """A score that can be read, but is not the kind of song that is wanted."""


@dataclass(frozen=True)
class Syllable:
    """What a note sings: text as printed, and whether it is the first and the last of its word."""

    text: str
    first: bool
    last: bool


@dataclass(frozen=True)
class Note:
    """A note: onset and duration in quarter notes, MIDI pitch, staff of its part (1 is the highest).

    `syllable` is None in the accompaniment, and in the voice where a note goes on with the syllable before it.
    """

    onset: float
    duration: float
    midi: int
    staff: int = 1
    syllable: Syllable | None = None


@dataclass(frozen=True)
class Bar:
    """A bar: onset, and the onsets of its beats, in quarter notes."""

    onset: float
    beats: tuple[float, ...]


@dataclass(frozen=True)
class Score:
    """A song for one voice.

    Attributes:
        title, composer: as printed, perhaps empty.
        voice: its notes in order, one at a time.
        accompaniment: notes of all other parts, by onset.
        bars: of the voice.
        tempi: (onset in quarter notes, quarter notes a minute), the first at 0.
        end: in quarter notes.
    """

    title: str
    composer: str
    voice: tuple[Note, ...]
    accompaniment: tuple[Note, ...]
    bars: tuple[Bar, ...]
    tempi: tuple[tuple[float, float], ...]
    end: float

    def seconds(self, quarters: float | np.ndarray) -> np.ndarray:
        """Turn times (...) in quarter notes into seconds (...)."""
        onsets = np.array([onset for onset, _ in self.tempi] + [self.tempi[-1][0] + 1])
        lengths = np.array([60 / tempo for _, tempo in self.tempi])
        times = np.concatenate(([0.0], np.cumsum(np.diff(onsets) * lengths)))
        last = np.maximum(np.asarray(quarters) - onsets[-1], 0) * lengths[-1]  # beyond what is tabulated
        return np.interp(quarters, onsets, times) + last


@dataclass
class _Part:
    """What one part holds, and where its reading stands."""

    notes: list[tuple[Note, dict[str, Syllable], bool]]  # with the syllable of each verse, and whether a tie ends there
    bars: list[Bar]
    tempi: dict[float, float]
    end: float = 0.0
    divisions: float = 1.0
    transpose: int = 0
    beat: float = 1.0


def read_score(data: bytes, name: str) -> Score:
    """Read a score.

    Args:
        data: contents of a .musicxml or .mxl file.
        name: of the file, for messages.

    Raises:
        ScoreError: if it is no MusicXML.
        UnsuitedScore: if not exactly one part is sung.
    """
    try:
        root = ElementTree.fromstring(_unpack(data))
        parts = [_read_part(part) for part in root.findall("part")]
    except (ElementTree.ParseError, zipfile.BadZipFile, LookupError, ValueError, TypeError, ZeroDivisionError) as error:
        raise ScoreError(f"{name}: expected MusicXML; got {type(error).__name__}: {error}; leave it out") from None
    sung = [part for part in parts if any(verses for _, verses, _ in part.notes)]
    if len(sung) != 1:
        raise UnsuitedScore(f"{name}: expected one part with lyrics; got {len(sung)}; leave it out")
    others = [note for part in parts if part is not sung[0] for note in _join_ties(part)]
    tempi = {0.0: _DEFAULT_TEMPO} | {onset: tempo for part in reversed(parts) for onset, tempo in part.tempi.items()}
    return Score(
        title=_text(root, "movement-title") or _text(root, "work/work-title"),
        composer=_text(root, "identification/creator[@type='composer']"),
        voice=tuple(_melody(_join_ties(sung[0]))),
        accompaniment=tuple(sorted(others, key=lambda note: (note.onset, note.midi, note.duration))),
        bars=tuple(sung[0].bars),
        tempi=tuple(sorted(tempi.items())),
        end=max(part.end for part in parts),
    )


def _unpack(data: bytes) -> bytes:
    if not data.startswith(b"PK"):
        return data
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        container = ElementTree.fromstring(archive.read("META-INF/container.xml"))
        rootfile = next(node for node in container.iter() if node.tag.endswith("rootfile"))
        return archive.read(rootfile.attrib["full-path"])


def _text(node: Element, path: str) -> str:
    return " ".join((node.findtext(path) or "").split())


def _read_part(element: Element) -> _Part:
    part = _Part([], [], {})
    for measure in element.iter("measure"):
        start = at = latest = part.end
        for node in measure:
            if node.tag == "attributes":
                _read_attributes(node, part)
            elif node.tag == "note":
                at = _read_note(node, part, at)
            elif node.tag in ("backup", "forward"):
                step = float(node.findtext("duration", "0")) / part.divisions
                at += step if node.tag == "forward" else -step
            for sound in node.iter("sound"):
                if "tempo" in sound.attrib:
                    part.tempi[at] = min(max(float(sound.attrib["tempo"]), _TEMPI[0]), _TEMPI[1])
            latest = max(latest, at)
        beats = np.arange(start, latest - _SAME_TIME, part.beat)
        part.bars.append(Bar(start, tuple(beats.tolist())))
        part.end = latest
    return part


def _read_attributes(node: Element, part: _Part) -> None:
    part.divisions = float(node.findtext("divisions") or part.divisions)
    part.transpose = int(node.findtext("transpose/chromatic") or part.transpose)
    part.transpose += 12 * int(node.findtext("transpose/octave-change") or 0)
    if (unit := node.findtext("time/beat-type")) is not None:
        count = sum(int(number) for number in (node.findtext("time/beats") or "4").split("+"))
        compound = unit in ("8", "16") and count % 3 == 0 and count > 3
        part.beat = (3 if compound else 1) * 4 / int(unit)


def _read_note(node: Element, part: _Part, at: float) -> float:
    """Add a note to its part; return where the next one starts."""
    duration = float(node.findtext("duration", "0")) / part.divisions
    if node.find("grace") is not None or node.find("cue") is not None or duration <= 0:
        return at + (0 if node.find("grace") is not None else duration)
    is_chord = node.find("chord") is not None and bool(part.notes)
    onset = part.notes[-1][0].onset if is_chord else at
    if (pitch := node.find("pitch")) is not None:
        step, octave, alter = pitch.findtext("step", ""), pitch.findtext("octave", ""), pitch.findtext("alter", "0")
        midi = _STEPS[step] + round(float(alter)) + 12 * (int(octave) + 1) + part.transpose
        ends_tie = any(tie.get("type") == "stop" for tie in node.findall("tie"))
        note = Note(onset, duration, midi, int(node.findtext("staff", "1")))
        part.notes.append((note, dict(_syllables(node)), ends_tie))
    return at if is_chord else at + duration


def _syllables(node: Element) -> Iterator[tuple[str, Syllable]]:
    """Read a note's syllable in every verse; two words under one note are joined by a space."""
    for lyric in node.findall("lyric"):
        text = " ".join(piece for part in lyric.findall("text") for piece in (part.text or "").split())
        if text:
            kind = lyric.findtext("syllabic", "single")
            yield lyric.get("number", "1"), Syllable(text, kind in ("single", "begin"), kind in ("single", "end"))


def _join_ties(part: _Part) -> list[Note]:
    """Make one note of tied ones, with the syllables of the first verse that the part has."""
    verse = min((number for _, verses, _ in part.notes for number in verses), default="1")
    joined: list[Note] = []
    open_ties: dict[tuple[int, int], int] = {}
    for note, verses, ends_tie in sorted(part.notes, key=lambda entry: entry[0].onset):
        before = open_ties.get((note.midi, note.staff))
        if ends_tie and before is not None and abs(_end(joined[before]) - note.onset) < _SAME_TIME:
            joined[before] = replace(joined[before], duration=_end(note) - joined[before].onset)
            continue
        open_ties[note.midi, note.staff] = len(joined)
        joined.append(replace(note, syllable=verses.get(verse)))
    return joined


def _end(note: Note) -> float:
    return note.onset + note.duration


def _melody(notes: Iterable[Note]) -> list[Note]:
    """Leave one note at a time: of a chord the sung one, else the highest; a note ends where the next begins."""
    best: dict[float, Note] = {}
    for note in notes:
        slot = round(note.onset, 3)
        rival = best.get(slot)
        if rival is None or (note.syllable is not None, note.midi) > (rival.syllable is not None, rival.midi):
            best[slot] = note
    line = [best[slot] for slot in sorted(best)]
    ends = [min(_end(note), following.onset) for note, following in pairwise(line)]
    return [replace(note, duration=end - note.onset) for note, end in zip(line, [*ends, *map(_end, line[-1:])], strict=True)]
