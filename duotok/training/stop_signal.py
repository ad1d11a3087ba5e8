"""SIGTERM and Ctrl-C as a wish that a loop can read between two steps."""

from __future__ import annotations

import signal
import threading


class StopSignal:
    """While entered, notes the first SIGTERM or Ctrl-C in `requested`; the second one is obeyed at once.

    Python gives signals to the main thread alone; in any other thread nothing is noted.
    """

    requested = False

    def __enter__(self) -> StopSignal:
        self._old = {}
        if threading.current_thread() is threading.main_thread():
            self._old = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _note(self, *_: object) -> None:
        self.requested = True
        self.__exit__()
