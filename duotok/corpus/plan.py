"""What a run consists of: its songs, in units that are fixed before the first is tokenized.

    RUN/plan.json              what the run was planned with
    RUN/units/00000.jsonl      the songs of unit 0
    RUN/data/unit-00000.parquet, RUN/failed/unit-00000.jsonl, RUN/done/00000.json      its outcome
    RUN/setup.json             the tools of the run, by name
    RUN/leases/, RUN/journal/  units that are being worked on

Because units are fixed, any number of workers, changed at any time, makes the same files.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from duotok.config import parse
from duotok.files import found_instead, make_folder, write_atomically

from .songs import PlanError, Song

PLAN_VERSION = 1


@dataclass(frozen=True)
class Plan:
    """What a run was planned with; everything that decides its bytes.

    Attributes:
        version: of this file.
        fingerprint: of the tokenizer.
        separator: identity of the separator, or "none" with the track that takes the mixture.
        num_songs, songs_per_unit: how the songs were cut into units.
        songs_sha256: of all unit files.
    """

    version: int
    fingerprint: str
    separator: str
    num_songs: int
    songs_per_unit: int
    songs_sha256: str

    def __post_init__(self) -> None:
        if self.songs_per_unit < 1 or self.num_songs < 0:
            raise ValueError(f"expected songs_per_unit above 0; got {self.songs_per_unit}; plan the run again")

    @property
    def num_units(self) -> int:
        """Number of unit files."""
        return -(-self.num_songs // self.songs_per_unit)


def make_plan(run: Path, songs: list[Song], fingerprint: str, separator: str, songs_per_unit: int | None = None) -> Plan:
    """Write a run's plan, or find the same one already there, so that a stopped run goes on.

    Args:
        run: its folder.
        songs: in their order.
        fingerprint, separator: see `Plan`.
        songs_per_unit: None for a 16th of the songs, so that a small corpus keeps several workers busy, and 100 at most.

    Raises:
        PlanError: if the folder holds another run.
    """
    songs_per_unit = songs_per_unit or min(100, max(1, -(-len(songs) // 16)))
    lines = [json.dumps(asdict(song), ensure_ascii=True) + "\n" for song in songs]
    units = ["".join(lines[i : i + songs_per_unit]) for i in range(0, len(lines), songs_per_unit)]
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    plan = Plan(PLAN_VERSION, fingerprint, separator, len(songs), songs_per_unit, digest)
    if (run / "plan.json").exists():
        _refuse_other_run(run, read_plan(run), plan)
        return plan
    if any((run / name).exists() for name in ("data", "done", "failed")):
        raise PlanError(f"{run}: expected an empty folder, or a run with its plan.json; got results without; choose another")
    make_folder(run / "units")
    for number, text in enumerate(units):
        write_atomically(_unit_path(run, number), text.encode())
    write_atomically(run / "plan.json", (json.dumps(asdict(plan), indent=1) + "\n").encode())
    return plan


def _refuse_other_run(run: Path, there: Plan, wanted: Plan) -> None:
    for name, old in asdict(there).items():
        new = getattr(wanted, name)
        if old != new:
            raise PlanError(
                f"{run}: expected an empty folder or the same run to go on with; got a run with {name} {str(old)[:16]} "
                f"instead of {str(new)[:16]}; choose another folder"
            )


def read_plan(run: Path) -> Plan:
    """Read plan.json, and check that the units are those that were planned.

    Raises:
        PlanError: if the folder is no run, or its units were changed.
    """
    path = run / "plan.json"
    try:
        plan = parse(Plan, json.loads(path.read_text(encoding="utf-8")), str(path))
        units = b"".join(_unit_path(run, unit).read_bytes() for unit in range(plan.num_units))
    except (OSError, ValueError) as error:
        raise PlanError(
            f"{run}: expected a run, with plan.json and units; got {found_instead(error)}; pass a folder that tokenize made"
        ) from None
    if hashlib.sha256(units).hexdigest() != plan.songs_sha256:
        raise PlanError(
            f"{run}: expected the songs that were planned; got changed files in units; tokenize into another folder"
        )
    return plan


def read_unit(run: Path, unit: int) -> list[Song]:
    """Read the songs of a unit."""
    text = _unit_path(run, unit).read_text(encoding="utf-8")
    return [parse(Song, json.loads(line), str(_unit_path(run, unit))) for line in text.splitlines()]


def choose_units(text: str | None, num_units: int) -> list[int]:
    """Choose units of a run.

    Args:
        text: ranges ("0-99,105"), a share ("3/16": every 16th unit, from 3 on), or None for all.
        num_units: of the run.

    Raises:
        PlanError: for anything else, or units that the run does not have.
    """
    if text is None:
        return list(range(num_units))
    try:
        if "/" in text:
            first, step = map(int, text.split("/"))
            if not 0 <= first < step:
                raise ValueError
            return list(range(first, num_units, step))
        ends = [[int(end) for end in part.split("-")] for part in text.split(",")]
        if max(map(len, ends)) > 2 or max(map(max, ends)) >= num_units:
            raise ValueError
        chosen = sorted({unit for part in ends for unit in range(part[0], part[-1] + 1)})
        if not chosen:
            raise ValueError
    except ValueError:
        raise PlanError(
            f"units: expected ranges like 0-3,7 below {num_units}, or a share like 0/16; got {text!r}; correct it"
        ) from None
    return chosen


def _unit_path(run: Path, unit: int) -> Path:
    return run / "units" / f"{unit:05d}.jsonl"
