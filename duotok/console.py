"""What the command line writes to: standard output for results, standard error for progress, notes and errors."""

from __future__ import annotations

import logging
import signal
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

out, err = Console(highlight=False, soft_wrap=True), Console(stderr=True, highlight=False, soft_wrap=True)


def line(text: object) -> str:
    """Make one printable line of anything: song names and messages are not ours."""
    return escape("".join(char if char.isprintable() else " " for char in " ".join(str(text).split())))


def plural(number: int, noun: str) -> str:
    """Name a number of things: 1 song, 2 songs."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def show(text: object) -> None:
    """Write one line to standard output."""
    out.print(line(text))


def show_text(text: str) -> None:
    """Write a text of many lines to standard output as it is."""
    out.file.write(text)


class NoteHandler(logging.Handler):
    """Shows warnings of the library as notes, a line each."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line to standard error."""
        err.print(f"note: {line(record.getMessage())}")


class StoppableBar:
    """A progress bar of a command that may be interrupted, which ends with code 130 and says what to do then."""

    def __init__(self, bar: Progress, advice: str = "run the same command to go on") -> None:
        self._bar, self._advice = bar, advice

    def __enter__(self) -> Any:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a job that is pre-empted stops like an interrupted one
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._bar.stop()
        if kind is KeyboardInterrupt:
            err.print(f"stopped; {self._advice}")
            raise typer.Exit(130)
