"""Songs named in JSON lines, gzipped or not: manifests of duotok and of NeMo, and cuts of lhotse."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .manifest import absolute

_TRACKS = (("vocal_path", "accompaniment_path"), ("stems_path",), ("mixture_path",))


class RowError(ValueError):
    """A line that names no song; the message says what was expected and what it holds."""


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | RowError]]:
    """Read each line as a row of a duotok manifest, with its number; paths become absolute.

    Raises:
        ValueError: if the file cannot be read as text.
    """
    open_text = gzip.open if path.suffix == ".gz" else open
    try:
        with open_text(path, "rt", encoding="utf-8-sig", newline="\n") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, _row(line, path.parent)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected JSON lines in UTF-8; got {error}; correct the file") from None


def _row(line: str, folder: Path) -> dict[str, Any] | RowError:
    try:
        values = json.loads(line)
        if "audio_filepath" in values:
            row = _from_nemo(values)
        elif "recording" in values or values.get("type") in ("MultiCut", "MixedCut", "PaddingCut"):
            row = _from_lhotse(values)
        elif any(all(values.get(name) for name in tracks) for tracks in _TRACKS) and values.get("id"):
            row = values | {"id": str(values["id"])}
        else:
            raise RowError(f"expected a row of duotok, NeMo or lhotse; got fields {', '.join(values)[:80]}; correct the line")
        for name in ("start", "duration"):
            if row.get(name) is not None:
                row[name] = float(row[name])
        return absolute(row, folder)
    except RowError as error:
        return error
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        return RowError(f"expected a JSON object that names audio; got {type(error).__name__}: {error}; correct the line")


def _from_nemo(values: dict[str, Any]) -> dict[str, Any]:
    """Read audio_filepath, offset, duration, text and lang; all other fields travel along."""
    known = {"audio_filepath", "offset", "duration", "text", "lang", "id"}
    offset = float(values.get("offset") or 0)
    name = Path(values["audio_filepath"]).with_suffix("").as_posix().lstrip("./")
    row = {"id": str(values.get("id") or (f"{name}@{offset:g}" if offset else name)), "mixture_path": values["audio_filepath"]}
    row |= {"start": offset} if offset else {}
    renamed = {"duration": values.get("duration"), "text": values.get("text"), "language": values.get("lang")}
    row |= {name: value for name, value in renamed.items() if value is not None}
    return row | {name: value for name, value in values.items() if name not in known}


def _from_lhotse(values: dict[str, Any]) -> dict[str, Any]:
    """Read a cut of one recording in a file; its supervisions give the text, and the times of words if they are aligned."""
    if values.get("type") in ("MixedCut", "PaddingCut"):
        raise RowError(f"cut {values.get('id')}: expected a cut of one recording; got a {values['type']}; export it first")
    sources = values["recording"]["sources"]
    if len(sources) != 1 or sources[0]["type"] != "file":
        kinds = ", ".join(source["type"] for source in sources)
        raise RowError(f"cut {values['id']}: expected a recording in one file; got sources {kinds or 'none'}; export it first")
    supervisions = values.get("supervisions") or []
    aligned = [item for segment in supervisions for item in (segment.get("alignment") or {}).get("word", [])]
    words = [{"start": start, "end": round(start + length, 4), "text": text} for text, start, length, *_ in aligned]
    row = {"id": str(values["id"]), "mixture_path": sources[0]["source"], "duration": values["duration"]}
    row |= {"start": values["start"]} if values.get("start") else {}
    text = " ".join(segment["text"] for segment in supervisions if segment.get("text"))
    languages = {segment["language"] for segment in supervisions if segment.get("language")}
    row |= {"text": text} if text else {}
    row |= {"language": languages.pop()} if len(languages) == 1 else {}
    return row | ({"words": words} if words else {})
