"""What the commands share in printing."""

from __future__ import annotations

from rich.markup import escape


def line(text: object) -> str:
    """Make one printable line of anything: song names and messages are not ours."""
    return escape("".join(char if char.isprintable() else " " for char in " ".join(str(text).split())))
