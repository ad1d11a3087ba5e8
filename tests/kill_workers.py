"""Workers of a run that are killed: forked from a process that has imported all and computed nothing, to start fast.

python kill_workers.py moments RUN SEED KILLS       two workers at a time, one of them killed at a random moment
python kill_workers.py renames RUN                  a worker killed before and after each file of a unit appears
python kill_workers.py crash RUN WORD               workers that die of a segmentation fault in songs of that name
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from duotok.corpus import worker
from duotok.corpus.job import Job, Options
from duotok.corpus.launch import work
from duotok.corpus.plan import read_plan
from duotok.corpus.setup import read_setup

OPTIONS = Options(threads=1, beat_s=0.05, num_decoders=2)


def start(run: Path, tools: tuple, prepare=lambda: None) -> int:
    """Fork a worker that does all units, and return its process id."""
    if pid := os.fork():
        return pid
    torch.set_num_threads(1)
    prepare()
    work(Job(run, read_setup(run), OPTIONS, tools), list(range(read_plan(run).num_units)))
    os._exit(0)


def code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill_at_moments(run: Path, tools: tuple, seed: int, kills: int) -> None:
    generator = random.Random(seed)
    other = start(run, tools)
    for _ in range(kills):
        pid = start(run, tools)
        time.sleep(generator.uniform(0.05, 1.0))
        os.kill(pid, signal.SIGKILL)
        code(pid)
        if generator.random() < 0.5:
            pid, other = other, start(run, tools)
            os.kill(pid, signal.SIGKILL)
            code(pid)
    assert code(start(run, tools)) == 0 and code(other) == 0


def kill_at_renames(run: Path, tools: tuple) -> None:
    """Each worker dies at the next of a unit's five renames, one before it and one after.

    Data and refused songs get their names beside the run's and are then moved there; the note comes last.
    """

    def prepare(late: bool, number: int) -> None:
        rename = Path.replace

        def replace(self: Path, target: Path) -> None:
            nonlocal number
            number -= 1
            if late or number:
                rename(self, target)
            if number == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        Path.replace = replace

    for number in range(1, 6):
        for late in (False, True):
            assert code(start(run, tools, lambda late=late, number=number: prepare(late, number))) == -signal.SIGKILL
    assert code(start(run, tools)) == 0


def crash(run: Path, tools: tuple, word: str) -> None:
    """Print how the workers ended."""

    def prepare() -> None:
        open_song = worker.open_song

        def crashing(song: object, policy: object) -> object:
            if word in song.source:
                ctypes.string_at(0)
            return open_song(song, policy)

        worker.open_song = crashing

    codes = []
    while not codes or codes[-1]:
        codes.append(code(start(run, tools, prepare)))
    print(codes)


if __name__ == "__main__":
    mode, folder, *rest = sys.argv[1:]
    opened = read_setup(Path(folder)).build()
    if mode == "moments":
        kill_at_moments(Path(folder), opened, int(rest[0]), int(rest[1]))
    elif mode == "renames":
        kill_at_renames(Path(folder), opened)
    else:
        crash(Path(folder), opened, rest[0])
