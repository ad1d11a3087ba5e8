"""What the commands of evaluation share: a bar, a file of results, and a table of them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from .console import StoppableBar, err, out


class Steps(StoppableBar):
    """A bar of songs or steps."""

    def __init__(self, what: str, total: int, unit: str = "bits per token") -> None:
        """Start at nothing of `total`; `unit` is that of the loss that steps tell."""
        columns = TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[loss]}")
        bar = Progress(*columns, console=err)
        super().__init__(bar, "no results were written; run the same command again")
        self._steps, self._unit = bar, unit
        self._task = bar.add_task(what, total=total, loss="")

    def songs(self, done: int, total: int) -> None:
        """Show songs done."""
        self._steps.update(self._task, completed=done, total=total)

    def step(self, step: int, loss: float) -> None:
        """Show a step and its loss."""
        self._steps.update(self._task, completed=step, loss=f"{loss:.3f} {self._unit}")


def write_results(path: Path, found: Mapping[str, Any], columns: Mapping[str, Mapping[str, Any]]) -> None:
    """Write results to a file, whole or not at all, and show a table.

    Args:
        path: of the JSON file; NaN and infinity, which JSON lacks, become null.
        found: everything.
        columns: of the table: by heading, numbers by name; what is no number is not shown.
    """
    from .files import make_folder, write_atomically

    make_folder(path.parent)
    write_atomically(path, (json.dumps(_finite(found), indent=1, allow_nan=False) + "\n").encode())
    table = Table("", *columns, box=None)
    names = {name: None for values in columns.values() for name, value in values.items() if isinstance(value, int | float)}
    for name in names:
        table.add_row(name, *(_cell(values.get(name)) for values in columns.values()))
    out.print(table)


def _cell(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.4g}"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
