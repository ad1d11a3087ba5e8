"""Tensors of a TensorFlow checkpoint, read without TensorFlow.

A checkpoint is `NAME.index`, a table in the format of LevelDB (github.com/google/leveldb, doc/table_format.md) whose values are
protocol buffers (TensorFlow's tensor_bundle.proto), and `NAME.data-00000-of-00001`, the tensors' bytes. Every length and offset
is checked against the file before it is used, and every checksum is compared. What checkpoints of models hold is read: one
file of data, no compression, floats and integers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np

_MAGIC, _FOOTER, _TRAILER = 0xDB4775248B80FB57, 48, 5
# TensorFlow's numbers of types.
_DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8"}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def read_checkpoint(index: Path) -> dict[str, np.ndarray]:
    """Read all tensors of a checkpoint.

    Args:
        index: the file NAME.index; NAME.data-00000-of-00001 lies beside it.

    Returns:
        Every tensor by its name, in its own shape (...).

    Raises:
        ValueError: if a file is damaged, cut, or holds what is not read here.
        OSError: if a file cannot be read.
    """
    data = memoryview(index.with_suffix(".data-00000-of-00001").read_bytes())
    try:
        entries = dict(_table(memoryview(index.read_bytes())))
        return {name.decode(): _tensor(entry, data) for name, entry in entries.items() if name}
    except (_Damage, UnicodeDecodeError) as error:
        raise ValueError(f"{index}: expected a TensorFlow checkpoint; got {error}; install or download it again") from error


class _Damage(Exception):
    """What is wrong with a checkpoint."""


def _table(file: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Yield a table's keys and values: its footer names the block of blocks."""
    if len(file) < _FOOTER or int.from_bytes(file[-8:], "little") != _MAGIC:
        raise _Damage("a file without a table's last bytes")
    footer = _Bytes(file[-_FOOTER:-8])
    footer.varint(), footer.varint()  # the block of meta-information, which is empty
    for _, handle in _block(file, footer):
        yield from _block(file, _Bytes(handle))


def _block(file: memoryview, handle: _Bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yield a block's keys and values; a key is stored without what it shares with the one before."""
    offset, size = handle.varint(), handle.varint()
    if offset + size + _TRAILER > len(file):
        raise _Damage(f"a block up to byte {offset + size + _TRAILER} of {len(file)}")
    block, kind = file[offset : offset + size], file[offset + size]
    if kind:
        raise _Damage("a compressed table")
    _check(file[offset : offset + size + 1], int.from_bytes(file[offset + size + 1 : offset + size + _TRAILER], "little"))
    restarts = int.from_bytes(block[-4:], "little")
    if 4 * (restarts + 1) > size:
        raise _Damage(f"a block of {size} bytes with {restarts} restarts")
    left, key = _Bytes(block[: size - 4 * (restarts + 1)]), b""
    while left:
        shared, fresh, length = left.varint(), left.varint(), left.varint()
        if shared > len(key):
            raise _Damage(f"a key that shares {shared} bytes with one of {len(key)}")
        key = key[:shared] + bytes(left.take(fresh))
        yield key, left.take(length)


def _tensor(entry: memoryview, data: memoryview) -> np.ndarray:
    """Cut a tensor out of the data, as its entry (BundleEntryProto) says."""
    fields = dict(_fields(entry))
    dtype, shard, offset, size = (fields.get(number, 0) for number in (1, 3, 4, 5))
    shape = [dict(_fields(dim)).get(1, 0) for _, dim in _fields(fields.get(2, memoryview(b"")))]
    if dtype not in _DTYPES or shard or 7 in fields:
        raise _Damage(f"a tensor of type {dtype} in data file {shard}, or one in slices")
    if offset + size > len(data) or size != math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize:
        raise _Damage(f"a tensor {shape} of {size} bytes at {offset} in a data file of {len(data)}")
    _check(data[offset : offset + size], fields.get(6, 0))
    return np.frombuffer(data[offset : offset + size], _DTYPES[dtype]).reshape(shape)


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield a protocol buffer's fields, (number, value)."""
    left = _Bytes(message)
    while left:
        number, kind = divmod(left.varint(), 8)
        if kind == _VARINT:
            yield number, left.varint()
        elif kind == _BYTES:
            yield number, left.take(left.varint())
        elif kind in (_FIXED32, _FIXED64):
            yield number, int.from_bytes(left.take(4 if kind == _FIXED32 else 8), "little")
        else:
            raise _Damage(f"a field of kind {kind}")


class _Bytes:
    """Bytes that are taken from the front, and never beyond their end."""

    def __init__(self, view: memoryview) -> None:
        self._view, self._at = view, 0

    def __bool__(self) -> bool:
        return self._at < len(self._view)

    def take(self, count: int) -> memoryview:
        if count > len(self._view) - self._at:
            raise _Damage(f"{count} bytes where {len(self._view) - self._at} are left")
        self._at += count
        return self._view[self._at - count : self._at]

    def varint(self) -> int:
        value = 0
        for shift in range(0, 64, 7):
            [byte] = self.take(1)
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise _Damage("a number of more than 64 bits")


def _check(data: memoryview, stored: int) -> None:
    """Compare the checksum of bytes with the stored one, which LevelDB turns and shifts."""
    crc = int(_crc32c()(np.frombuffer(data, np.uint8)))
    if ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF != stored:
        raise _Damage("bytes that differ from their checksum")


@cache
def _crc32c():  # noqa: ANN202 - a compiled function
    """Compile CRC-32C (Castagnoli, RFC 3720), which the standard library lacks."""
    import numba

    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = table >> 1 ^ (table & 1) * np.uint32(0x82F63B78)

    @numba.njit("uint32(Array(uint8, 1, 'C', readonly=True))")
    def crc32c(data):  # noqa: ANN001, ANN202
        crc = np.uint32(0xFFFFFFFF)
        for byte in data:
            crc = crc >> np.uint32(8) ^ table[(crc ^ byte) & np.uint32(0xFF)]
        return ~crc

    return crc32c
