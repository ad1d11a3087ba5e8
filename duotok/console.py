"""What the command line writes to: standard output for results, standard error for progress, notes and errors."""

from __future__ import annotations

import logging

from rich.console import Console
from rich.markup import escape

out, err = Console(highlight=False, soft_wrap=True), Console(stderr=True, highlight=False, soft_wrap=True)


def line(text: object) -> str:
    """Make one printable line of anything: song names and messages are not ours."""
    return escape("".join(char if char.isprintable() else " " for char in " ".join(str(text).split())))


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
