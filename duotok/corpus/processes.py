"""Worker processes, forked from one that has imported what they need: it does so once, and while the command still plans.

Nothing runs there but imports: no thread is started and no device opened, which a fork would not survive.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import BaseContext


def context() -> BaseContext:
    """Return how worker processes are started: from the server, or afresh where the system has no fork."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    chosen = multiprocessing.get_context("forkserver")
    chosen.set_forkserver_preload(["duotok.corpus.preloaded"])
    return chosen


def begin() -> None:
    """Start the server, if it does not run yet, and go on meanwhile."""
    if context().get_start_method() == "forkserver":
        from multiprocessing import forkserver

        forkserver.ensure_running()
