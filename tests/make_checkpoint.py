"""TensorFlow checkpoints by hand, for tests: a table of LevelDB with protocol buffers in it, and the tensors' bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

TYPES = {"float32": 1, "float64": 2, "int32": 3, "int64": 9}


def crc32c(data: bytes) -> int:
    """CRC-32C, masked as LevelDB stores it: by polynomial division of a whole number, bit for bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def varint(value: int) -> bytes:
    """A number in groups of seven bits."""
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


def number(field: int, value: int) -> bytes:
    """A field of a protocol buffer that is a number."""
    return varint(field << 3) + varint(value)


def message(field: int, body: bytes) -> bytes:
    """A field of a protocol buffer that is a message."""
    return varint(field << 3 | 2) + varint(len(body)) + body


def entry(array: np.ndarray, offset: int, checksum: int) -> bytes:
    """A BundleEntryProto."""
    shape = b"".join(message(2, number(1, size)) for size in array.shape)
    head = number(1, TYPES[array.dtype.name]) + message(2, shape)
    return head + number(4, offset) + number(5, array.nbytes) + varint(6 << 3 | 5) + checksum.to_bytes(4, "little")


def block(rows: list[tuple[bytes, bytes]]) -> bytes:
    """Rows as a table stores them: what a key shares with the one before is left out, except at every 16th."""
    body, restarts, before = b"", [], b""
    for i, (key, value) in enumerate(rows):
        if i % 16 == 0:
            restarts.append(len(body))
            before = b""
        shared = next((n for n, (a, b) in enumerate(zip(key, before, strict=False)) if a != b), min(len(key), len(before)))
        body += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    return body + b"".join(n.to_bytes(4, "little") for n in [*restarts, len(restarts)])


def write_checkpoint(folder: Path, tensors: Mapping[str, np.ndarray], checksum=crc32c, rows_per_block: int = 20) -> Path:
    """Write model.index and model.data-00000-of-00001, and return the former."""
    rows, data, file, index = [(b"", number(1, 1))], bytearray(), b"", []
    for name, array in sorted(tensors.items()):
        rows.append((name.encode(), entry(array, len(data), checksum(array.tobytes()))))
        data += array.tobytes()

    def add(content: bytes) -> bytes:
        nonlocal file
        handle = varint(len(file)) + varint(len(content))
        file += content + b"\0" + checksum(content + b"\0").to_bytes(4, "little")
        return handle

    for start in range(0, len(rows), rows_per_block):
        part = rows[start : start + rows_per_block]
        index.append((part[-1][0], add(block(part))))
    footer = add(block([])) + add(block(index))
    (folder / "model.data-00000-of-00001").write_bytes(data)
    (folder / "model.index").write_bytes(file + footer.ljust(40, b"\0") + (0xDB4775248B80FB57).to_bytes(8, "little"))
    return folder / "model.index"
