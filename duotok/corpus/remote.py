"""Songs and results on remote stores (s3://, gs://, hf://, memory://), through fsspec: fetched to be read, copied when done."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO

from duotok.files import WriteError
from duotok.integrity import AudioError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

    from .songs import Song


def is_remote(path: str | None) -> bool:
    """Tell an address such as s3://bucket/song.wav from a path of this machine."""
    return bool(path) and "://" in path


def open_store(address: str) -> tuple[AbstractFileSystem, str]:
    """Open the store of an address; return it with the address as the store itself writes it.

    Raises:
        ValueError: if no such store is known, or its package is not installed.
    """
    from fsspec.core import url_to_fs

    try:
        return url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise ValueError(
            f"{address}: expected an address that fsspec can open; got {error}; correct it, or pip install 'duotok[remote]'"
        ) from None


@contextmanager
def fetched(song: Song) -> Iterator[Song]:
    """Give a song whose remote files are local while it is read; a song of local files is given as it is.

    Raises:
        AudioError: "missing" or "unreachable" if a file cannot be fetched; what is raised within names the file's address.
        WriteError: if the disk for temporary files is full.
    """
    names = [name for name in song.__dataclass_fields__ if name.endswith("_path") and is_remote(getattr(song, name))]
    if not names:
        yield song
        return
    with ExitStack() as stack:
        local = {name: stack.enter_context(_fetched(getattr(song, name))) for name in names}
        try:
            yield replace(song, **{name: str(path) for name, path in local.items()})
        except AudioError as error:
            message = str(error)
            for name, path in local.items():
                message = message.replace(str(path), getattr(song, name))
            raise AudioError(error.stage, error.reason, message) from error


@contextmanager
def _fetched(address: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="duotok-") as folder:
        path = Path(folder) / f"audio{PurePosixPath(address).suffix}"
        try:
            system, inner = open_store(address)
            with system.open(inner, "rb") as source, path.open("wb") as target:
                while piece := source.read(1 << 22):
                    _write(target, piece, path)
        except (WriteError, MemoryError):
            raise
        except ValueError as error:
            raise AudioError("open", "unsupported", str(error)) from error
        except Exception as error:  # of the store's own kinds, which need not be errors of the system
            if _is_absent(error, address):
                raise AudioError("open", "missing", f"{address}: expected a file; got nothing; correct the address") from None
            why = error.__cause__ if isinstance(error, FileNotFoundError) else error
            found = f"expected to fetch a file; got {type(why).__name__}: {why}; check network and credentials, then retry"
            raise AudioError("open", "unreachable", f"{address}: {found}") from error
        yield path


def _is_absent(error: Exception, address: str) -> bool:
    """Tell a file that is not there from a server that does not answer; fsspec's http finds nothing in both cases."""
    if not isinstance(error, FileNotFoundError) or not address.startswith("http"):
        return isinstance(error, FileNotFoundError)
    return isinstance(error.__cause__, FileNotFoundError | None) or getattr(error.__cause__, "status", 0) in (404, 410)


def _write(target: BinaryIO, piece: bytes, path: Path) -> None:
    try:
        target.write(piece)
    except OSError as error:
        raise WriteError(f"{path}: expected to fetch a song; got {error.strerror}; free space, or set TMPDIR") from error


def size(path: str) -> int:
    """Count a file's bytes, local or remote; 0 if it is none, or cannot be looked at."""
    try:
        if not is_remote(path):
            return Path(path).stat().st_size if Path(path).is_file() else 0
        system, inner = open_store(path)
        return int(system.size(inner) or 0) if system.isfile(inner) else 0
    except Exception:  # noqa: BLE001 - of the store's own kinds; the song has been refused already
        return 0


def publish(paths: list[Path], run: Path, address: str, gone: Sequence[Path] = ()) -> None:
    """Copy files of a run to the same places under `address`, where copies of files that are gone are removed first.

    Raises:
        WriteError: if that is not possible.
    """
    system, root = open_store(address)
    for path in gone:
        with _reaching(address, f"to remove {path.name}"):
            if system.exists(_place(root, path, run)):
                system.rm_file(_place(root, path, run))
    for path in paths:
        with _reaching(address, f"to copy {path.name}"):
            system.makedirs(system._parent(_place(root, path, run)), exist_ok=True)
            system.put_file(str(path), _place(root, path, run))


def sizes(folder: Path, run: Path, address: str) -> dict[str, int]:
    """List the copies of a folder's files: name and size; none where nothing is published yet.

    Raises:
        WriteError: if the place cannot be reached.
    """
    system, root = open_store(address)
    with _reaching(address, "to list what is published"):
        system.invalidate_cache()
        try:
            found = system.ls(_place(root, folder, run), detail=True)
        except FileNotFoundError:
            return {}
    return {PurePosixPath(each["name"]).name: each["size"] for each in found}


def _place(root: str, path: Path, run: Path) -> str:
    return f"{root.rstrip('/')}/{path.relative_to(run).as_posix()}"


@contextmanager
def _reaching(address: str, what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of the store's own kinds, which need not be errors of the system
        raise WriteError(
            f"{address}: expected {what}; got {type(error).__name__}: {error}; "
            "make the place reachable, then run the same command again"
        ) from error
