"""The command that makes a page, and a song for it whose name is not to be trusted."""

from __future__ import annotations

from typer.testing import CliRunner, Result

from duotok.cli import app

RATE = 44_100
SONG_S, EXCERPT_S, START_S = 6, 4, 1
EVIL = "</title></script><script>hit()</script>\"'><img src=x onerror=hit()>\u202e שלום\n$data ${title} &amp;"
# What is to be read of it: one line, and no control that turns the direction of writing.
EVIL_SHOWN = "</title></script><script>hit()</script>\"'><img src=x onerror=hit()> שלום $data ${title} &amp;"
QUICK = ("--steps", 1, "--guidance", 1, "--seconds", EXCERPT_S)


def listen(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["listen", *map(str, arguments)])
