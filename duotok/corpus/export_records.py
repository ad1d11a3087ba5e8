"""Exports with a record for each song: .npy files, and WebDataset's tar files. Arrays are those of `vocabulary.arrange`."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from .export_read import TokenSet, TokenSong
from .vocabulary import arrange


def write_npy(songs: Iterable[TokenSong], folder: Path, tokens: TokenSet, layout: str, songs_per_shard: int) -> None:
    """Write codes/00000/0000000.npy and so on, a folder for each shard, and a line in songs.jsonl for each file."""
    with (folder / "songs.jsonl").open("w", encoding="utf-8") as lines:
        for number, song in enumerate(songs):
            path = folder / "codes" / f"{number // songs_per_shard:05d}" / f"{number:07d}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(npy_bytes(arrange(song.codes, layout)))
            write_line(lines, {"path": path.relative_to(folder).as_posix(), **song.row})


def write_webdataset(songs: Iterable[TokenSong], folder: Path, tokens: TokenSet, layout: str, songs_per_shard: int) -> None:
    """Write songs-00000.tar and so on; keys are numbers, as ids may hold what a key may not."""
    number = 0
    for shard, part in enumerate(shards(songs, songs_per_shard)):
        with tarfile.open(folder / f"songs-{shard:05d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for song in part:
                for suffix, data in (("codes.npy", npy_bytes(arrange(song.codes, layout))), ("json", json_bytes(song.row))):
                    member = tarfile.TarInfo(f"{number:09d}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
                number += 1


def shards(songs: Iterable[TokenSong], size: int) -> Iterator[Iterator[TokenSong]]:
    """Cut songs into parts of `size`, each to be read to its end before the next; none is empty."""
    rest = iter(songs)
    for first in rest:
        yield chain([first], islice(rest, size - 1))


def npy_bytes(array: np.ndarray) -> bytes:
    """Turn an array (...) into the bytes of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def json_bytes(row: dict[str, Any]) -> bytes:
    """Turn a song's columns into one line of JSON."""
    return json.dumps(row, ensure_ascii=False).encode()


def write_line(lines: TextIO, row: dict[str, Any]) -> None:
    """Write a song's columns as a line of JSON."""
    lines.write(json.dumps(row, ensure_ascii=False) + "\n")
