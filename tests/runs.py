"""Small collections and runs for the tests of corpus jobs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from make_audio import music, write

from duotok.corpus.job import Job, Options
from duotok.corpus.launch import Launch, launch, work
from duotok.corpus.plan import make_plan
from duotok.corpus.setup import Setup
from duotok.corpus.songs import collect
from duotok.corpus.store import units_to_do

RATE = 8_000


class DefectiveSetup(Setup):
    """Tools that cannot be built, for a reason that nobody foresaw."""

    def build(self) -> tuple:
        raise LookupError("a defect")


class StuckSetup(Setup):
    """Tools that the first worker does not come to build: it is stopped, as by SIGSTOP from outside."""

    def build(self) -> tuple:
        with suppress(FileExistsError):
            (self.cache / "stuck").touch(exist_ok=False)
            os.kill(os.getpid(), signal.SIGSTOP)
        return super().build()


def write_songs(folder: Path, seconds: Iterable[float]) -> Path:
    """Write a pair of stems for each length, all of them different, and one file that is no audio."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, length in enumerate(seconds):
        for track, name in enumerate(("vocals", "accompaniment")):
            write(folder / f"{number:03d}_{name}.wav", music(length, RATE, seed=2 * number + track), RATE)
    (folder / "page.mp3").write_bytes(b"<!DOCTYPE html><p>No</p>")
    return folder


def plan(songs: object, run: Path, songs_per_unit: int = 2, tokenizer: object = "tiny", **setup: object) -> Setup:
    """Plan a run with a tokenizer, and mixtures on one track."""
    made = Setup(str(tokenizer), **setup)
    tools = made.build()
    make_plan(run, collect([songs]), tools[0].fingerprint, tools[1].identity, songs_per_unit)
    made.save(run)
    return made


def tokenize(songs: object, run: Path, workers: int = 0, songs_per_unit: int = 2, **options: object) -> None:
    """Plan and run: in this process, or with worker processes."""
    setup = plan(songs, run, songs_per_unit)
    finish(run, setup, workers, **options)


def finish(run: Path, setup: Setup, workers: int = 0, **options: object) -> None:
    """Do all units that are not done."""
    units = list(range(len(list((run / "units").iterdir()))))
    if workers:
        launch(run, setup, units, Launch(num_workers=workers), Options(**options), lambda status: None)
    else:
        work(Job(run, setup, Options(**options)), units_to_do(run, units))


def outputs(run: Path) -> dict[str, bytes]:
    """Every file of tokens and of refused songs, with what was planned: what has to be the same however a run was done."""
    paths = [path for name in ("data", "failed", "units") for path in sorted((run / name).rglob("*")) if path.is_file()]
    return {str(path.relative_to(run)): path.read_bytes() for path in (*paths, run / "plan.json")}


def failures(run: Path) -> dict[str, dict]:
    """The refused songs by source."""
    lines = [line for path in sorted(run.glob("failed/*.jsonl")) for line in path.read_text().splitlines()]
    return {failure["source"]: failure for failure in map(json.loads, lines)}


def duotok(*arguments: object, **options: object) -> subprocess.CompletedProcess:
    """Run the command line; with one thread to a process, as the machine may be shared."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **options.pop("env", {})}
    line = [sys.executable, "-m", "duotok", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, env=environment, **options)


def command(*arguments: object, **options: object) -> subprocess.CompletedProcess:
    """Run `duotok tokenize`."""
    return duotok("tokenize", *arguments, **options)


def wait_for_journal(run: Path, before: frozenset[str] | set[str] = frozenset()) -> None:
    """Wait until a worker has begun a song."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        paths = [path for path in run.glob("journal/*.jsonl") if path.name not in before]
        if any(b'"begin"' in path.read_bytes() for path in paths):
            return
        time.sleep(0.02)
    raise AssertionError("no worker began a song")
