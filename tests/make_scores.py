"""Scores for tests, written note by note: MusicXML with four divisions to the quarter note."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path

_DIVISIONS = 4
WORDS = "the love of my heart is a song that you and I shall hear in the night".split()  # noqa: SIM905


def note(
    pitch: str, quarters: float, lyric: str = "", syllabic: str = "single", tie: str = "", staff: int = 1, chord: bool = False
) -> str:
    """A note such as C4, F#5 or Bb3."""
    step, alter, octave = re.fullmatch(r"([A-G])(#|b)?(\d)", pitch).groups()
    alteration = f"<alter>{1 if alter == '#' else -1}</alter>" if alter else ""
    sung = f'<lyric number="1"><syllabic>{syllabic}</syllabic><text>{lyric}</text></lyric>' if lyric else ""
    return (
        f"<note>{'<chord/>' if chord else ''}<pitch><step>{step}</step>{alteration}<octave>{octave}</octave></pitch>"
        f"<duration>{round(quarters * _DIVISIONS)}</duration>{f'<tie type={tie!r}/>' if tie else ''}<staff>{staff}</staff>"
        f"{sung}</note>"
    )


def rest(quarters: float) -> str:
    return f"<note><rest/><duration>{round(quarters * _DIVISIONS)}</duration></note>"


def grace(pitch: str) -> str:
    return f"<note><grace/><pitch><step>{pitch[0]}</step><octave>{pitch[1]}</octave></pitch></note>"


def backup(quarters: float) -> str:
    return f"<backup><duration>{round(quarters * _DIVISIONS)}</duration></backup>"


def tempo(quarters_a_minute: float) -> str:
    return f'<direction><sound tempo="{quarters_a_minute}"/></direction>'


def measure(*content: str, first: bool = False, meter: str = "4/4", transpose: int = 0) -> str:
    beats, unit = meter.split("/")
    attributes = (
        f"<attributes><divisions>{_DIVISIONS}</divisions><time><beats>{beats}</beats><beat-type>{unit}</beat-type></time>"
        f"{f'<transpose><chromatic>{transpose}</chromatic></transpose>' if transpose else ''}</attributes>"
    )
    return f"<measure>{attributes if first else ''}{''.join(content)}</measure>"


def part(*measures: str) -> str:
    return f"<part>{''.join(measures)}</part>"


def score(*parts: str) -> bytes:
    head = "<work><work-title>A  Song</work-title></work><identification><creator type='composer'>Ann O'Nymous</creator>"
    return f"<?xml version='1.0'?><score-partwise>{head}</identification>{''.join(parts)}</score-partwise>".encode()


def compressed(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(
            "META-INF/container.xml", "<container><rootfiles><rootfile full-path='s.xml'/></rootfiles></container>"
        )
        archive.writestr("s.xml", data)
    return buffer.getvalue()


def song(num_bars: int = 16, root: int = 0, bass: str = "C3") -> bytes:
    """A song of two seconds a bar: a word a beat, a rest in every fourth bar, chords in two staves below."""
    pitches = ["C4", "E4", "G4", "A4", "F4", "D4", "B3", "C5"]
    voice, piano = [], []
    for bar in range(num_bars):
        sung = [note(pitches[(root + bar + i) % 8], 1, WORDS[(4 * bar + i) % len(WORDS)]) for i in range(4)]
        sung = [rest(4)] if bar % 4 == 3 else sung
        voice.append(measure(*([tempo(120)] if bar == 0 else []), *sung, first=bar == 0))
        chord = [note("E4", 2), note("G4", 2, chord=True), note("C4", 2), backup(4), note(bass, 4, staff=2)]
        piano.append(measure(*chord, first=bar == 0))
    return score(part(*voice), part(*piano))


def write_zip(path: Path, songs: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in songs.items():
            archive.writestr(name, data)
    return path
