"""Run a plan on this machine: one process, or several that share the songs of a unit; the files are the same."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import torch

from duotok.separation import make_separator
from duotok.tokenizer import DuoTok, load

from .plan import Plan, read_unit
from .reader import MixturePolicy
from .songs import PlanError, Song
from .store import UnitOutcome, read_note, write_unit
from .worker import Outcome, run_metadata, tokenize_song


@dataclass(frozen=True)
class Setup:
    """What a worker process needs to build its tools.

    Attributes:
        tokenizer: name, folder or hub id.
        device: of the tokenizer and the separator.
        separator, separator_weights, track, cache: see `make_separator` and `MixturePolicy`.
    """

    tokenizer: str
    device: str = "cpu"
    separator: str = "none"
    separator_weights: Path | None = None
    track: str = "accompaniment"
    cache: Path | None = None

    def build(self) -> tuple[DuoTok, MixturePolicy]:
        """Load the tokenizer and the separator.

        Raises:
            ValueError: if one of them cannot be loaded.
        """
        refuse_absent_device(self.device)
        tokenizer = load(self.tokenizer, device=self.device)
        separator = make_separator(self.separator, self.separator_weights, self.device)
        return tokenizer, MixturePolicy(separator, self.track, self.cache)


def refuse_absent_device(device: str) -> None:
    """Refuse a device that this machine lacks (ValueError)."""
    try:
        if torch.device(device).type not in ("cpu", "cuda"):
            raise RuntimeError("neither cpu nor cuda")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"device: expected cpu or a device of this machine; got {device!r}: {reason}; choose another"
        ) from None


def run_plan(
    run: Path,
    plan: Plan,
    setup: Setup,
    tools: tuple[DuoTok, MixturePolicy],
    num_workers: int = 1,
    retry_refused: bool = False,
    on_song: Callable[[Song, Outcome], None] = lambda song, outcome: None,
) -> None:
    """Tokenize every unit that is not done yet.

    Args:
        run: the run's folder.
        plan: its plan.
        setup: from which further workers build the same tools.
        tools: this process's tools, used alone when `num_workers` is 1.
        num_workers: processes.
        retry_refused: do units again in which songs were refused.
        on_song: called after each song, in the order of the plan.

    Raises:
        PlanError: if a worker process dies.
        OSError: if the machine fails (a full disk, no memory).
    """
    metadata = run_metadata(*tools)
    with _Pool(setup, tools, num_workers) as pool:
        for unit in range(plan.num_units):
            note = read_note(run, unit)
            if note and not (retry_refused and note.failed):
                continue
            collected = UnitOutcome()
            for song, outcome in pool.map(read_unit(run, unit)):
                if outcome.row is not None:
                    collected.rows.append(outcome.row)
                else:
                    collected.failures.append(outcome.failure)
                on_song(song, outcome)
            write_unit(run, unit, collected, metadata)


class _Pool:
    """Songs to outcomes in order, here or in worker processes."""

    def __init__(self, setup: Setup, tools: tuple[DuoTok, MixturePolicy], num_workers: int) -> None:
        self._tools, self._num_workers, self._executor = tools, num_workers, None
        if num_workers > 1:
            threads = max(1, (os.cpu_count() or 1) // num_workers)
            self._executor = ProcessPoolExecutor(
                num_workers, multiprocessing.get_context("spawn"), initializer=_start_worker, initargs=(setup, threads)
            )

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *_: object) -> None:
        if self._executor:
            self._executor.shutdown(wait=True, cancel_futures=True)

    def map(self, songs: list[Song]) -> Iterator[tuple[Song, Outcome]]:
        """Yield every song with its outcome, in order; a few songs are in flight at a time."""
        if self._executor is None:
            tokenizer, policy = self._tools
            yield from ((song, tokenize_song(tokenizer, song, policy)) for song in songs)
            return
        flying: deque[tuple[Song, Future[Outcome]]] = deque()
        for song in songs:
            flying.append((song, self._executor.submit(_tokenize_in_worker, song)))
            if len(flying) > 2 * self._num_workers:
                yield _landed(flying)
        while flying:
            yield _landed(flying)


def _landed(flying: deque[tuple[Song, Future[Outcome]]]) -> tuple[Song, Outcome]:
    song, future = flying.popleft()
    try:
        return song, future.result()
    except BrokenProcessPool:
        near = ", ".join(other.source for other, _ in [(song, future), *flying])
        raise PlanError(
            f"expected every worker to finish; one died near {near}; run the same command to go on, or leave the song out"
        ) from None


_worker_tools: tuple[DuoTok, MixturePolicy] | None = None


def _start_worker(setup: Setup, threads: int) -> None:
    global _worker_tools
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    _worker_tools = setup.build()


def _end_with_parent() -> None:
    """Do not outlive a parent that was killed: it would leave the output open and the device taken."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _tokenize_in_worker(song: Song) -> Outcome:
    assert _worker_tools is not None, "the worker was not started"
    tokenizer, policy = _worker_tools
    return tokenize_song(tokenizer, song, policy)
