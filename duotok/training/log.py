"""The log of a run: log.jsonl, one row a line, and the same for TensorBoard where it is installed.

    {"kind": "train", "step", "time", "lr", "losses": {}, "gradient_norm", "seconds_per_step", "data_wait", "monitor": {}}
    {"kind": "evaluation", "step", "time", "scores": {}}

Time is in seconds since 1970; `data_wait` is the share of a step's time that was spent waiting for data. A resumed run cuts
off the rows behind its checkpoint, so that the file is that of a run that was never stopped.
"""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from duotok.files import make_folder, write_atomically

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FILE = "log.jsonl"


class Log:
    """Rows go to the file at once, to the disk itself at `sync`."""

    def __init__(self, run: Path, step: int) -> None:
        """Open the log of a run that goes on behind `step`, cutting off later rows."""
        make_folder(run)
        kept = [json.dumps(row) for row in read_log(run) if row["step"] <= step]
        write_atomically(run / FILE, "".join(f"{line}\n" for line in kept).encode())
        self._file = (run / FILE).open("a", encoding="utf-8", buffering=1)
        self._board = _tensorboard(run, step)

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self._board:
            self._board.close()

    def write(self, row: dict) -> None:
        """Append a row."""
        self._file.write(json.dumps(row) + "\n")
        if self._board:
            for tag, value in _scalars(row).items():
                self._board.add_scalar(tag, value, row["step"])

    def sync(self) -> None:
        """Wait until every row is on the disk."""
        os.fsync(self._file.fileno())
        if self._board:
            self._board.flush()


def read_log(run: Path) -> list[dict]:
    """Read all rows of a run; a last line that was cut short is left out."""
    path = run / FILE
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _tensorboard(run: Path, step: int) -> SummaryWriter | None:
    if find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)


def _scalars(row: dict) -> dict[str, float]:
    """Flatten a row's numbers to TensorBoard's tags, such as losses/mel."""
    nested = {name: value for name, value in row.items() if isinstance(value, dict)}
    single = {f"run/{name}": row[name] for name in ("lr", "gradient_norm", "seconds_per_step", "data_wait") if name in row}
    return single | {f"{group}/{name}": value for group, values in nested.items() for name, value in values.items()}
