"""Folders of songs that appear whole or not at all, so that whatever is there is finished."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import soundfile

from duotok.files import WriteError, make_folder


@contextmanager
def song_folder(target: Path) -> Iterator[Path]:
    """Fill a folder: yield a temporary one, which becomes `target` at the end, or disappears if something fails.

    Raises:
        WriteError: if the disk is full, or the folder cannot be written to.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        make_folder(temporary)
        yield temporary
        temporary.rename(target)
    except (soundfile.LibsndfileError, OSError) as error:
        raise WriteError(f"{target}: expected to write a song; got {error}; free space, then run the command again") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def prepare_songs(folder: Path) -> None:
    """Make the folder of all songs, without what a killed run has left in it.

    Raises:
        WriteError: if that is not possible.
    """
    make_folder(folder)
    for leftover in folder.glob(".*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
