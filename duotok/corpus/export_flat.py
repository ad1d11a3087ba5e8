"""Exports that are one stream of ids: what nanoGPT and Megatron-LM read. A song begins with <bos> and ends with <eos>.

The interleaved layout makes tokens.bin; the parallel and delayed ones make vocals.bin and accompaniment.bin, whose positions
belong together. songs.jsonl beside them has a line for each song in the same order: where its ids start, how many they are, and
the run's own columns.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .export_read import TokenSet, TokenSong
from .export_records import write_line
from .vocabulary import streams

# Megatron-LM, megatron/core/datasets/indexed_dataset.py: magic, version, number of the type; it knows no unsigned 32 bits.
_MAGIC, _VERSION, _INT32 = b"MMIDIDX\0\0", 1, 4


def write_bin32(songs: Iterable[TokenSong], folder: Path, tokens: TokenSet, layout: str, songs_per_shard: int) -> None:
    """Write the ids of all songs, uint32 in little endian without a header."""
    for _ in _write_streams(songs, folder, layout, "<u4"):
        pass


def write_megatron(songs: Iterable[TokenSong], folder: Path, tokens: TokenSet, layout: str, songs_per_shard: int) -> None:
    """Write .bin and .idx of each stream; a song is a sequence and a document of its own.

    The index is the magic, the version (u64), the type (u8), the numbers of sequences and of document bounds (u64 each), the
    lengths (i32), the first bytes (i64), and the document bounds (i64).
    """
    lengths = np.fromiter(_write_streams(songs, folder, layout, "<i4"), np.int32)
    starts = np.concatenate(([0], 4 * np.cumsum(lengths[:-1], dtype=np.int64)))[: len(lengths)]
    head = _MAGIC + struct.pack("<QBQQ", _VERSION, _INT32, len(lengths), len(lengths) + 1)
    bounds = np.arange(len(lengths) + 1, dtype=np.int64)
    index = head + lengths.astype("<i4").tobytes() + starts.astype("<i8").tobytes() + bounds.astype("<i8").tobytes()
    for path in folder.glob("*.bin"):
        path.with_suffix(".idx").write_bytes(index)


def _write_streams(songs: Iterable[TokenSong], folder: Path, layout: str, dtype: str) -> Iterator[int]:
    """Write every song's streams, and yield their length."""
    with ExitStack() as stack:
        files: dict[str, BinaryIO] = {}
        lines, start = stack.enter_context((folder / "songs.jsonl").open("w", encoding="utf-8")), 0
        for song in songs:
            found = streams(song.codes, layout)
            for name, ids in found.items():
                if name not in files:
                    files[name] = stack.enter_context((folder / f"{name}.bin").open("wb"))
                files[name].write(ids.astype(dtype).tobytes())
            length = len(ids)
            write_line(lines, {"first": start, "length": length, **song.row})
            start += length
            yield length
