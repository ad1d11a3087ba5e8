"""Launch a run's units: on this machine (here), through Ray (launch_ray.py), or as Slurm tasks that each do so on theirs."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path

import torch

from . import launch_ray, processes
from .job import Job, Options
from .pipeline import EncoderError
from .report import write_report
from .setup import Setup
from .songs import PlanError
from .status import RunStatus, StatusReader
from .store import read_note, units_to_do
from .unit import publish_missing, run_unit

logger = logging.getLogger(__name__)

LAUNCHERS = ("local", "ray")
_POLL_S, _SHORTEST_S = 0.5, 0.02
_GRACE_S = 10.0  # for workers to end once all is done, and once they are asked to
_WAITS = 32  # a worker that has waited for others so often says so
# Workers that die one after another, without a song finished in between, end the run; more than it takes to refuse a song.
_MAX_DEATHS = 16
# Refused songs are judged against --max-failure-rate once so many are finished.
_MIN_JUDGED = 20


@dataclass(frozen=True)
class Launch:
    """Who does the work.

    Attributes:
        launcher: one of `LAUNCHERS`.
        num_workers: processes, or Ray actors.
        ray_address: of a cluster, "auto" for the one that this host belongs to; None starts Ray here.
        max_failure_rate: share of refused songs at which to stop early.
    """

    launcher: str = "local"
    num_workers: int = 1
    ray_address: str | None = None
    max_failure_rate: float = 1.0


def launch(
    run: Path, setup: Setup, units: list[int], how: Launch, options: Options, on_status: Callable[[RunStatus], None]
) -> None:
    """Tokenize those of `units` that are not done, and write the run's report.

    Args:
        run: the run's folder.
        setup: from which workers build their tools.
        units: to do.
        how: who does the work.
        options: how a worker works.
        on_status: called about twice a second.

    Raises:
        PlanError: if too many songs are refused, or workers keep dying.
        OSError: if the machine fails (a full disk, no memory).
    """
    todo = units_to_do(run, units)
    if setup.publish:
        publish_missing(run, sorted({*units} - {*todo}), setup.publish)
    poll = _Poll(run, how.max_failure_rate, on_status)
    try:
        poll(0)
        if todo and how.launcher == "ray":
            launch_ray.run_ray(run, setup, todo, how.num_workers, how.ray_address, options, poll)
        elif todo:
            run_local(run, setup, todo, how.num_workers, options, poll)
            poll(0)
    except (Exception, KeyboardInterrupt):
        with suppress(OSError):
            write_report(run)
        raise
    write_report(run)


class _Poll:
    """Looks at a run now and then, and stops it when there is no point in going on."""

    def __init__(self, run: Path, max_failure_rate: float, on_status: Callable[[RunStatus], None]) -> None:
        self._run, self._max_failure_rate, self._on_status = run, max_failure_rate, on_status
        self._reader = StatusReader(run)
        self._most = self._deaths = 0

    def __call__(self, num_died: int) -> None:
        """Look, after `num_died` workers have died since the last time."""
        status = self._reader.read()
        self._on_status(status)
        if status.songs >= min(_MIN_JUDGED, status.num_songs) and status.failure_rate > self._max_failure_rate:
            raise PlanError(
                f"{self._run}: expected at most {self._max_failure_rate:g} of the songs to be refused; got {status.failed} "
                f"of {status.songs}; see duotok tokenize status, then run again with another --max-failure-rate"
            )
        self._deaths = (0 if status.songs > self._most else self._deaths) + num_died
        self._most = max(self._most, status.songs)
        if self._deaths > _MAX_DEATHS:
            raise PlanError(
                f"{self._run}: expected workers to finish songs; got {self._deaths} that died one after another; "
                "look at their messages, then run the same command to go on"
            )


def work(job: Job, units: list[int]) -> None:
    """Do units one after another, those that others hold last; the main loop of a worker.

    Raises:
        OSError, EncoderError: as `run_unit` does.
    """
    pending, waits = list(units), 0
    while pending:
        held = [unit for unit in pending if run_unit(job, unit) is None]
        waits = waits + 1 if len(held) == len(pending) else 0
        if waits == _WAITS:
            logger.warning("waiting for units %s, which other workers hold", ", ".join(map(str, held)))
        if waits:
            time.sleep(min(_SHORTEST_S * waits, _POLL_S))
        pending = held


def run_local(
    run: Path, setup: Setup, units: list[int], num_workers: int, options: Options, poll: Callable[[int], None]
) -> None:
    """Do units in processes of this machine; one that dies is started again, one that hangs after all is done is stopped.

    Args:
        run, setup, units, options: as for `launch`.
        num_workers: processes.
        poll: called about twice a second with the number of workers that have died since; raises to stop.

    Raises:
        OSError, ValueError: what a worker ended with.
    """
    number = min(num_workers, len(units))
    share = torch.get_num_threads() // number - options.num_decoders
    options = replace(options, threads=options.threads or max(1, share))
    workers = [_Worker(run, replace(setup, device=_device(setup.device, i)), units, options) for i in range(number)]
    running, pending, end = workers, list(units), float("inf")
    try:
        while running and time.monotonic() < end:
            wait([part for worker in running for part in worker.waitable], _POLL_S)
            died = [worker for worker in running if worker.listen()]
            poll(len(died))
            for worker in died:
                logger.warning("a worker ended (%s); starting it again", worker.code)
                worker.start()
            running = [worker for worker in running if not worker.is_finished]
            while pending and read_note(run, pending[-1]):
                pending.pop()
                end = float("inf") if pending else time.monotonic() + _GRACE_S
    finally:
        for worker in workers:
            worker.terminate()
        end = time.monotonic() + _GRACE_S
        for worker in workers:
            worker.stop(end)


def _device(device: str, worker: int) -> str:
    """Spread workers over the GPUs of this machine, if the user named none."""
    count = torch.cuda.device_count() if device == "cuda" else 0
    return f"cuda:{worker % count}" if count else device


class _Worker:
    """A process that does units, seen from its parent."""

    def __init__(self, run: Path, setup: Setup, units: list[int], options: Options) -> None:
        self._arguments = (run, setup, units, options)
        self.start()

    def start(self) -> None:
        """Start the process."""
        context = processes.context()
        self._messages, theirs = context.Pipe(duplex=False)
        self._process = context.Process(target=_main, args=(*self._arguments, theirs), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def is_finished(self) -> bool:
        return self._process.exitcode == 0

    @property
    def waitable(self) -> tuple:
        return self._process.sentinel, self._messages

    @property
    def code(self) -> str:
        code = self._process.exitcode or 0
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def listen(self) -> bool:
        """Pass the worker's messages on, and tell whether it died; raises what it ended with."""
        ended = not self._process.is_alive()
        try:
            while self._messages.poll():
                message = self._messages.recv()
                if isinstance(message, BaseException):
                    raise message
                logger.warning("%s", message)
        except EOFError:
            self._process.join()
            ended = True
        if ended and self._process.exitcode == 1:  # Python's, for an exception that nobody expects
            raise PlanError("expected workers to work; got a defect of one, whose traceback stands above; please report it")
        return ended and self._process.exitcode != 0

    def terminate(self) -> None:
        """Ask the process to end."""
        if self._process.is_alive():
            self._process.terminate()

    def stop(self, end: float) -> None:
        """Wait until `end` (of the monotonic clock) for the process to end as it was asked to; then kill it."""
        self._process.join(max(0.0, end - time.monotonic()))
        self._process.kill()
        self._process.join()
        self._messages.close()


class _Send(logging.Handler):
    """Sends what a worker logs to its parent, which knows the terminal."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(logging.WARNING)
        self._connection = connection

    def emit(self, record: logging.LogRecord) -> None:
        self._connection.send(record.getMessage())


def _main(run: Path, setup: Setup, units: list[int], options: Options, connection: Connection) -> None:
    """Be a worker process: end in order at SIGTERM, and with the parent; the terminal's SIGINT is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.getLogger("duotok").addHandler(_Send(connection))
    try:
        work(Job(run, setup, options), units)
        code, last = 0, None
    except KeyboardInterrupt:
        code, last = 130, None
    except (OSError, ValueError) as error:
        code, last = 2, error
    except EncoderError as error:
        code, last = 70, str(error)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the parent ends its workers at the first error that it hears of
    if last is not None:
        connection.send(last)
    os._exit(code)


def _end_with_parent() -> None:
    """Do not outlive a parent that was killed: it would leave the device taken."""
    multiprocessing.parent_process().join()
    os._exit(1)
