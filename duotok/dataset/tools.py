"""The free programs that sing and play: are they there, and one clear line if not."""

from __future__ import annotations

import functools
import importlib.util
import shutil
import subprocess
import warnings
from pathlib import Path
from types import ModuleType

_SOUNDFONTS = tuple(
    Path("/usr/share") / folder / name
    for folder in ("sounds/sf2", "soundfonts", "sounds/sf3")
    for name in ("FluidR3_GM.sf2", "FluidR3_GM.sf3", "default-GM.sf2", "TimGM6mb.sf2")
)


class ToolError(ValueError):
    """A program that is missing or failed; the message says what to do."""


def find_soundfont(chosen: Path | None = None) -> Path:
    """Find a General MIDI soundfont: the one chosen, or a Debian package's.

    Raises:
        ToolError: if there is none.
    """
    for path in (chosen,) if chosen else _SOUNDFONTS:
        if path.is_file():
            return path
    found = f"none at {chosen}" if chosen else "none"
    raise ToolError(
        f"soundfont: expected a General MIDI soundfont (.sf2); got {found}; "
        "install fluid-soundfont-gm (Debian, Ubuntu), or name one with --soundfont"
    )


def check_tools() -> None:
    """Check for everything that building a corpus needs besides the soundfont.

    Raises:
        ToolError: naming all that is missing.
    """
    missing = [program for program in ("flite", "fluidsynth") if shutil.which(program) is None]
    missing += [] if importlib.util.find_spec("pyworld") else ["the Python package pyworld"]
    if missing:
        raise ToolError(
            f"building a corpus: expected flite, fluidsynth and pyworld; missing: {', '.join(missing)}; run "
            "apt-get install flite fluidsynth fluid-soundfont-gm && pip install 'duotok[corpus]'"
        )


def run(*command: str | Path) -> str:
    """Run a program and return what it prints.

    Raises:
        ToolError: if it fails.
    """
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["nothing on its standard error"]
        raise ToolError(
            f"{command[0]}: expected it to succeed; got exit code {done.returncode} ({lines[-1]}); check its version"
        )
    return done.stdout


@functools.cache
def world() -> ModuleType:
    """Import pyworld, which warns that it imports pkg_resources."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pyworld
    return pyworld
