"""Lyrics beside audio files: .lrc, whose lines have times, and .txt."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

_TIME = r"(\d+):(\d{1,2}(?:[.:]\d{1,3})?)"
_LINE = re.compile(rf"((?:\[{_TIME}\]\s*)+)(.*)")
_OFFSET = re.compile(r"\[offset:\s*([+-]?\d+)\s*\]", re.IGNORECASE)


def read_lyrics(path: Path, duration_s: float) -> dict[str, Any]:
    """Read lyrics into the fields of a manifest.

    Args:
        path: a .lrc or .txt file; bytes that are no UTF-8 are read as Latin-1.
        duration_s: of the song, where the last line of a .lrc ends.

    Returns:
        "text", and for .lrc "words" with start, end and text: words where the file times words (<mm:ss.xx> within lines), else
        whole lines. Empty if there is no text.
    """
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    if path.suffix.lower() != ".lrc":
        return {"text": text.strip()} if text.strip() else {}
    timed = parse_lrc(text, duration_s)
    lines = [line for line in timed if line[2]]
    words = [word for line in lines for word in _words(*line)]
    if not words:
        return {}
    plain = "\n".join(" ".join(word[2] for word in _words(*line)) for line in lines)
    return {"text": plain, "words": [{"start": start, "end": end, "text": word} for start, end, word in words]}


def parse_lrc(text: str, duration_s: float) -> list[tuple[float, float, str]]:
    """List the timed lines of a .lrc in order: start and end in seconds, and what follows the time, which may be empty.

    A line ends where the next one starts, the last at `duration_s`. Lines with several times are sung several times; those
    without, such as [ar:name], are left out, but [offset:ms] moves all.
    """
    offset = _OFFSET.search(text)
    early = int(offset[1]) / 1000 if offset else 0.0  # a positive offset shows the lines sooner
    starts = []
    for line in text.splitlines():
        if match := _LINE.match(line.strip()):
            content = match[4].strip()
            starts += [(_seconds(*time) - early, content) for time in re.findall(rf"\[{_TIME}\]", match[1])]
    starts = sorted((min(max(start, 0.0), duration_s), content) for start, content in starts)
    return [(start, end, content) for (start, content), (end, _) in pairwise([*starts, (duration_s, "")])]


def _words(start: float, end: float, content: str) -> list[tuple[float, float, str]]:
    """Split a line at its <mm:ss.xx> marks; without any it is one piece."""
    first, *rest = re.split(rf"<{_TIME}>", content)
    pieces = [(start, first)]
    pieces += [(_seconds(*time), piece) for *time, piece in zip(rest[0::3], rest[1::3], rest[2::3], strict=True)]
    spans = [(begin, stop, piece.strip()) for (begin, piece), (stop, _) in pairwise([*pieces, (end, "")])]
    return [(round(begin, 3), round(stop, 3), piece) for begin, stop, piece in spans if piece]


def _seconds(minutes: str, seconds: str) -> float:
    return 60 * int(minutes) + float(seconds.replace(":", "."))
