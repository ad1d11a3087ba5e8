"""Ray as a scheduler of actors, each of which calls `run_unit`; what travels is numbers of units, and never audio.

The run's folder has to be one that all nodes see under the same path.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .job import Job, Options
from .pipeline import EncoderError
from .setup import Setup
from .unit import run_unit

logger = logging.getLogger(__name__)

_POLL_S = 0.5


class _Actor:
    """A worker of a run, as an actor."""

    def __init__(self, run: Path, setup: Setup, options: Options) -> None:
        self._arguments, self._job = (run, setup, options), None

    def run_unit(self, unit: int) -> bool:
        """Do a unit; False while another process holds it."""
        self._job = self._job or Job(*self._arguments)
        done = run_unit(self._job, unit) is not None
        if not done:
            time.sleep(_POLL_S)
        return done


def run_ray(
    run: Path, setup: Setup, units: list[int], num_workers: int, address: str | None, options: Options,
    poll: Callable[[int], None],
) -> None:  # fmt: skip
    """Do units on the nodes of a Ray cluster, or of one that is started here.

    Args:
        run, setup, units, options: as for `run_local`.
        num_workers: actors; each takes a CPU, or a CPU and a GPU where `setup.device` is one.
        address: of the cluster, "auto" for the one of this host; None starts Ray on this machine.
        poll: as for `run_local`.

    Raises:
        ValueError: if Ray is not installed, or no cluster answers.
        OSError, ValueError: what an actor ended with.
    """
    ray = _start_ray(address, num_workers)
    resources = {"num_cpus": 1, "num_gpus": int(setup.device.startswith("cuda"))}
    actor = ray.remote(**resources)(_Actor)

    def start() -> Any:
        return actor.remote(run.absolute(), setup, options)

    pending = deque(units)
    idle, busy = [start() for _ in range(min(num_workers, len(units)))], {}
    try:
        while pending or busy:
            while pending and idle:
                worker, unit = idle.pop(), pending.popleft()
                busy[worker.run_unit.remote(unit)] = worker, unit
            num_died = 0
            for task in ray.wait(list(busy), num_returns=len(busy), timeout=_POLL_S)[0]:
                worker, unit = busy.pop(task)
                done, died = _result(ray, task, unit)
                if not done:
                    pending.append(unit)
                idle.append(start() if died else worker)
                num_died += died
            poll(num_died)
    finally:
        for worker in (*idle, *(worker for worker, _ in busy.values())):
            ray.kill(worker)
        if address is None:
            ray.shutdown()


def _result(ray: Any, task: Any, unit: int) -> tuple[bool, bool]:
    """Tell whether a task did its unit, and whether its actor died of it; raise what the machine or the user did wrong."""
    try:
        return ray.get(task), False
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, OSError | ValueError):
            raise error.cause from None
        if not isinstance(error.cause, EncoderError):
            raise
        logger.warning("unit %d: %s", unit, error.cause)
    except ray.exceptions.RayActorError as error:
        logger.warning("unit %d: an actor died: %s", unit, str(error).splitlines()[0])
    return False, True


def _start_ray(address: str | None, num_workers: int) -> Any:
    try:
        import ray
    except ImportError:
        raise ValueError("launcher ray: expected the package ray; it is not installed; pip install 'duotok[ray]'") from None
    try:
        own = {"num_cpus": num_workers, "include_dashboard": False} if address is None else {}
        ray.init(address=address, ignore_reinit_error=True, log_to_driver=False, logging_level=logging.ERROR, **own)
    except ConnectionError as error:
        raise ValueError(
            f"launcher ray: expected a cluster at {address}; got {error}; start one, or leave the address out"
        ) from None
    return ray
