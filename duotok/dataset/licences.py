"""LICENCES.md of a corpus: who made what is in it, and under which terms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from duotok.files import write_atomically

_INTRODUCTION = """# Licences

Songs whose id begins with "lieder-" were made by `duotok corpus build tiny`. Their scores are CC0; no recording was used. What
made them sound:

| program or data | used for | licence |
|---|---|---|
| flite, voices slt, rms and awb (Carnegie Mellon University) | spoken words | BSD-like, permits any use with notice |
| WORLD (M. Morise), through pyworld | singing | BSD-3-Clause; pyworld: MIT |
| fluidsynth | playing | LGPL-2.1-or-later (the program; it does not extend to its output) |
| General MIDI soundfont; by default FluidR3 (Frank Wen) | instruments | MIT for FluidR3; else its own |

| id | title | by | source | licence |
|---|---|---|---|---|
"""


def write_licences(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write LICENCES.md into a corpus's folder: a line for each song of its manifest.

    Raises:
        WriteError: if that is not possible.
    """
    table = [
        f"| {' | '.join(_cell(row.get(name)) for name in ('id', 'title', 'composer', 'source', 'licence'))} |"
        for row in sorted(rows, key=lambda row: row["id"])
    ]
    write_atomically(folder / "LICENCES.md", (_INTRODUCTION + "\n".join(table) + "\n").encode())


def _cell(value: object) -> str:
    return " ".join(str(value or "").split()).replace("|", "\\|")
