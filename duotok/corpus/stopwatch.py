"""Where the time of a unit goes: seconds for each stage, over all threads."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

STAGES = ("decode", "separate", "features", "encode", "write", "wait")


class Stopwatch:
    """Seconds per stage. A stage within another counts for itself, and not for the other."""

    def __init__(self) -> None:
        self._seconds: Counter[str] = Counter()
        self._lock, self._local = threading.Lock(), threading.local()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time of a `with` block for the stage `name`."""
        outer, self._local.inner = getattr(self._local, "inner", 0.0), 0.0
        start = time.monotonic()
        try:
            yield
        finally:
            elapsed = time.monotonic() - start
            with self._lock:
                self._seconds[name] += elapsed - self._local.inner
            self._local.inner = outer + elapsed

    def take(self) -> dict[str, float]:
        """Return the seconds counted since the last time, and begin again at 0."""
        with self._lock:
            taken, self._seconds = dict(self._seconds), Counter()
        return taken


class Timed:
    """Another object whose methods' time is counted for a stage."""

    def __init__(self, inner: Any, watch: Stopwatch, stage: str) -> None:
        self._inner, self._watch, self._stage = inner, watch, stage

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if not callable(value):
            return value

        def timed(*args: Any, **options: Any) -> Any:
            with self._watch.stage(self._stage):
                return value(*args, **options)

        return timed
