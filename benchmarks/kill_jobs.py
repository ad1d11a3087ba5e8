"""Kill a corpus job again and again: `python benchmarks/kill_jobs.py --songs 200 --kills 100 -o result.json`.

Two workers share a run and are killed (SIGKILL) at random moments: one of them, the one that is just writing a unit's file, or
both at once; now and then it is the command line's whole group, parent and workers. In the end the files have to be those of a
run that nobody disturbed, with every song in exactly one place. A run that ends too soon is followed by another.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from kill_workers import code, start
from runs import outputs, plan

from duotok.corpus.verify import verify

RATE = 16_000


def write_songs(folder: Path, number: int) -> None:
    """Write pairs of stems of 1 to 4 s: noise that swells and fades, over tones; every ninth song is a truncated file."""
    generator = np.random.default_rng(0)
    folder.mkdir()
    for song in range(number):
        time_s = np.arange(int(generator.uniform(1, 4) * RATE)) / RATE
        for name in ("vocals", "accompaniment"):
            tone = sum(np.sin(2 * np.pi * pitch * time_s) for pitch in generator.uniform(80, 2_000, 4))
            swell = 1 + np.sin(2 * np.pi * generator.uniform(1, 5) * time_s)
            path = folder / f"{song:03d}_{name}.wav"
            soundfile.write(path, 0.05 * tone + 0.05 * swell * generator.standard_normal(len(time_s)), RATE)
            if song % 9 == 0:
                path.write_bytes(path.read_bytes()[:-5_000])


class Disturbed:
    """A run with two workers that are killed and replaced."""

    def __init__(self, run: Path, tools: tuple, generator: random.Random) -> None:
        self._run, self._tools, self._generator, self._finished = run, tools, generator, False
        self._alive = [start(run, tools) for _ in range(2)]

    def is_finished(self) -> bool:
        """Tell whether a worker, or the command line, has come to the end of the run."""
        for pid in self._alive:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                self._alive.remove(pid)
                assert status == 0, f"expected workers to end in order, got status {status}"
                return True
        return self._finished

    def kill(self, kind: str) -> bool:
        """Kill what `kind` says; False if there was nothing of that kind to kill."""
        if kind == "command":
            return self._kill_command()
        time.sleep(self._generator.uniform(0, 1.0))
        pids = {"worker": self._alive[:1], "writer": [self._writer()], "group": list(self._alive)}[kind]
        for pid in filter(None, pids):
            os.kill(pid, signal.SIGKILL)
        for pid in filter(None, pids):
            assert code(pid) in (0, -signal.SIGKILL)
            self._alive.remove(pid)
            self._alive.append(start(self._run, self._tools))
        return any(pids)

    def _writer(self) -> int | None:
        """Wait for a worker that has a half-written file, a while."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            for pid in self._alive:
                if any(".tmp" in name for name in _open_files(pid)):
                    return pid
        return None

    def _kill_command(self) -> bool:
        """Let the command line take over from the workers, and kill its group once it has begun a song."""
        self.end()
        before = set(self._run.glob("journal/*"))
        line = [sys.executable, "-m", "duotok", "tokenize", "run", str(self._run), "--workers", "2", "--threads", "1"]
        group = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        while group.poll() is None and not set(self._run.glob("journal/*")) - before:
            time.sleep(0.02)
        time.sleep(self._generator.uniform(0, 1.0))
        self._finished = group.poll() is not None
        if self._finished:
            assert group.returncode == 3, f"expected the code of a run with refused songs, 3; got {group.returncode}"
        else:
            os.killpg(group.pid, signal.SIGKILL)
            group.wait()
        self._alive = [start(self._run, self._tools) for _ in range(2)]
        return not self._finished

    def end(self) -> None:
        """Kill all."""
        for pid in self._alive:
            os.kill(pid, signal.SIGKILL)
            code(pid)

    def wait(self) -> None:
        """Let the workers come to the end of the run."""
        for pid in self._alive:
            assert code(pid) == 0, "expected workers to end in order"


def _open_files(pid: int) -> Iterator[str]:
    """Name the files that a process has open (Linux)."""
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            yield str(entry.readlink())


def disturb(run: Path, tools: tuple, kills: int, generator: random.Random) -> Counter[str]:
    """Kill a run's workers up to `kills` times, and let it end; count the kills by kind."""
    done: Counter[str] = Counter()
    disturbed = Disturbed(run, tools, generator)
    while done.total() < kills and not disturbed.is_finished():
        kind = "command" if done.total() % 10 == 5 else generator.choice(["worker", "worker", "writer", "group"])
        done[kind] += disturbed.kill(kind)
    disturbed.wait()
    return +done


def main() -> None:
    """Run the experiment and write its result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--songs", type=int, default=200)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args()
    generator, kinds, runs = random.Random(options.seed), Counter(), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_songs(folder / "songs", options.songs)
        while kinds.total() < options.kills or not runs:  # the first run is not disturbed
            run = folder / f"run{len(runs)}"
            tools = plan(folder / "songs", run, songs_per_unit=20).build()
            kills = disturb(run, tools, options.kills - kinds.total() if runs else 0, generator)
            report = verify(run)
            same = outputs(run) == outputs(folder / "run0")
            runs.append({"kills": dict(kills), "identical": same, "songs": report.num_songs, "refused": report.num_failed,
                         "missing": report.num_missing, "problems": report.problems})  # fmt: skip
            kinds += kills
            sys.stderr.write(f"{run.name}: {runs[-1]}\n")
    result = {"songs": options.songs, "seed": options.seed, "kills": dict(kinds), "total": kinds.total(), "runs": runs}
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    if not all(run["identical"] and not run["problems"] for run in runs):
        sys.exit(1)


if __name__ == "__main__":
    main()
