"""Kill a corpus job again and again: `python benchmarks/kill_jobs.py --songs 200 --kills 100 -o result.json`.

A run of two workers is killed (SIGKILL) at random moments: one worker, the worker that is just writing a unit's file, or the
whole group, which the same command then continues. In the end its files have to be those of a run that nobody disturbed, and
every song in exactly one place. If it finishes before the last kill, another run of the same songs takes the rest.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import soundfile

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
            wave = 0.05 * tone + 0.05 * swell * generator.standard_normal(len(time_s))
            path = folder / f"{song:03d}_{name}.wav"
            soundfile.write(path, wave, RATE)
            if song % 9 == 0:
                path.write_bytes(path.read_bytes()[:-5_000])


def command(*arguments: object) -> list[str]:
    """Compose a call of `duotok tokenize`."""
    return [sys.executable, "-m", "duotok", "tokenize", *map(str, arguments)]


def start(run: Path) -> subprocess.Popen:
    """Start two workers and their parent, in a group of their own."""
    line = command("run", run, "--workers", 2, "--threads", 1)
    return subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def workers(run: Path, parent: int) -> list[int]:
    """List the processes that hold a unit now and belong to this start of the run."""
    found = []
    for path in (run / "leases").glob("*.jsonl"):
        try:
            pid = json.loads(path.read_text().splitlines()[0])["pid"]
            if os.getpgid(pid) == parent:
                found.append(pid)
        except (OSError, ValueError, IndexError):
            continue
    return found


def kill_once(run: Path, group: subprocess.Popen, kind: str, generator: random.Random) -> bool:
    """Kill what `kind` says once somebody is at work; False if the run ended before that."""
    while not (alive := workers(run, group.pid)):
        if group.poll() is not None:
            return False
        time.sleep(0.02)
    time.sleep(generator.uniform(0, 2.0))
    if kind == "writer":
        deadline = time.monotonic() + 20
        alive = []
        while not alive and group.poll() is None and time.monotonic() < deadline:
            writing = [int(path.name.split(".")[-2]) for path in run.glob("*/.*.tmp")]
            alive = [pid for pid in writing if pid != group.pid]
            time.sleep(0.001)
        if not alive:
            return False
    try:
        if kind == "group":
            os.killpg(group.pid, signal.SIGKILL)
        else:
            os.kill(generator.choice(alive), signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def disturb(run: Path, kills: int, generator: random.Random) -> Counter[str]:
    """Kill a run up to `kills` times, and let it end; count the kills by kind."""
    done: Counter[str] = Counter()
    group = start(run)
    while done.total() < kills and group.poll() is None:
        kind = generator.choice(["worker", "worker", "writer", "group"])
        done[kind] += kill_once(run, group, kind, generator)
        if kind == "group":
            group.wait()
            group = start(run)
    while group.wait() not in (0, 3):
        group = start(run)
    return +done


def outputs(run: Path) -> dict[str, bytes]:
    """All files of tokens and of refused songs."""
    return {str(path.relative_to(run)): path.read_bytes() for name in ("data", "failed") for path in (run / name).iterdir()}


def main() -> None:
    """Run the experiment and write its result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--songs", type=int, default=200)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args()
    generator, kinds, identical, problems = random.Random(options.seed), Counter(), [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_songs(folder / "songs", options.songs)
        planned = ("plan", folder / "songs", "--songs-per-unit", 20, "-o")
        for run in (folder / "undisturbed", *(folder / f"run{i}" for i in range(options.kills))):
            subprocess.run(command(*planned, run), check=True, capture_output=True)
            kinds += disturb(run, options.kills - kinds.total() if run.name != "undisturbed" else 0, generator)
            identical.append(outputs(run) == outputs(folder / "undisturbed"))
            checked = subprocess.run(command("verify", run), capture_output=True, text=True)
            problems.append(checked.stdout.strip())
            sys.stderr.write(f"{run.name}: {dict(kinds)}, identical: {identical[-1]}, {problems[-1]}\n")
            if kinds.total() >= options.kills:
                break
    result = {
        "songs": options.songs, "seed": options.seed, "kills": dict(kinds), "runs": len(identical) - 1,
        "identical": all(identical), "verify": problems,
    }  # fmt: skip
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    if not all(identical):
        sys.exit(1)


if __name__ == "__main__":
    main()
