"""Opening finished units again for the songs that they refused; the others keep their rows."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from .journal import Journal
from .store import UnitNote, data_path, is_intact, note_path, read_note
from .worker import Outcome


def reopen(run: Path, units: list[int]) -> int:
    """Open those of `units` again in which songs were refused.

    A unit's rows go into a journal, as though its worker had been killed after the last good song; then its note goes. A unit
    whose files are not those that were committed is done again from its first song.

    Returns:
        How many songs will be tried again.

    Raises:
        WriteError: if a journal cannot be written.
    """
    count = 0
    for unit in units:
        note = read_note(run, unit)
        if note and not is_intact(run, unit, note):
            note_path(run, unit).unlink()
            count += note.ok + note.failed
        elif note and note.failed:
            _keep_rows(run, unit, note)
            note_path(run, unit).unlink()
            count += note.failed
    return count


def _keep_rows(run: Path, unit: int, note: UnitNote) -> None:
    path = data_path(run, unit)
    if not path.exists():
        return
    table = pq.read_table(path)
    kept = Journal(run, unit, hashlib.sha256(table.schema.metadata[b"duotok"]).hexdigest())
    seconds = {**note.seconds, "elapsed": note.elapsed_s}  # told once: the journal's times are added up
    for row in table.to_pylist():
        codes = {name: np.array(row[name], np.uint16) for name in ("vocal_codes", "accomp_codes")}
        kept.finish(row["id"], Outcome({**row, **codes}, None, row["duration"]), seconds)
        seconds = {}
    kept.close()
