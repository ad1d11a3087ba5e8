"""TensorFlow checkpoints: what was written is read, and whatever is damaged is refused in one line."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from make_checkpoint import block, crc32c, entry, number, varint, write_checkpoint

from duotok.tf_checkpoint import read_checkpoint


@pytest.fixture
def tensors() -> dict[str, np.ndarray]:
    """Tensors of every type and of odd shapes, with names that share their beginnings."""
    generator = np.random.default_rng(0)
    shapes = {f"conv2d_{i}/{part}": (i % 3, 2, i + 1)[: i % 4] for i in range(40) for part in ("kernel", "bias")}
    found = {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    return found | {"steps": np.array(2**40), "halves": np.arange(3) / 2, "ümlaut": np.arange(6, dtype=np.int32).reshape(2, 3)}


@pytest.mark.parametrize("rows_per_block", [1, 20, 1000])
def test_tensors_come_back(tensors, tmp_path, rows_per_block):
    found = read_checkpoint(write_checkpoint(tmp_path, tensors, rows_per_block=rows_per_block))
    assert sorted(found) == sorted(tensors)
    for name, array in tensors.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape and np.array_equal(found[name], array)


def test_the_checksum_is_the_usual_one():
    turned = (crc32c(b"123456789") - 0xA282EAD8) & 0xFFFFFFFF
    assert (turned << 15 | turned >> 17) & 0xFFFFFFFF == 0xE3069283  # the check value of CRC-32C


@pytest.mark.parametrize("name", ["model.index", "model.data-00000-of-00001"])
def test_every_byte_counts(tensors, tmp_path, name):
    index = write_checkpoint(tmp_path, {key: tensors[key] for key in sorted(tensors)[:9]}, rows_per_block=4)
    path = tmp_path / name
    whole = path.read_bytes()
    expected, unnoticed = read_checkpoint(index), 0
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
        found = None
        with suppress(ValueError):
            found = read_checkpoint(index)
        if found:  # a byte of the footer's padding, or of the block of meta-information
            assert all(np.array_equal(found[key], array) for key, array in expected.items())
            unnoticed += 1
    assert unnoticed < (50 if name == "model.index" else 1)
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="expected a TensorFlow checkpoint"):
            read_checkpoint(index)


def rewrite(folder: Path, rows: list[tuple[bytes, bytes]], content: bytes | None = None) -> Path:
    """Write a table of one block, with right checksums, whatever the rows say."""
    body = block(rows) if content is None else content
    file = body + b"\0" + crc32c(body + b"\0").to_bytes(4, "little")
    top = block([(b"z", varint(0) + varint(len(body)))])
    footer = varint(0) + varint(0) + varint(len(file)) + varint(len(top))
    file += top + b"\0" + crc32c(top + b"\0").to_bytes(4, "little")
    (folder / "model.index").write_bytes(file + footer.ljust(40, b"\0") + (0xDB4775248B80FB57).to_bytes(8, "little"))
    return folder / "model.index"


def test_what_a_table_says_is_checked(tmp_path):
    array = np.arange(4, dtype=np.float32)
    (tmp_path / "model.data-00000-of-00001").write_bytes(array.tobytes())
    good = entry(array, 0, crc32c(array.tobytes()))
    assert np.array_equal(read_checkpoint(rewrite(tmp_path, [(b"x", good)]))["x"], array)
    for bad, found in (
        ({"rows": [(b"x", entry(array, 1, 0))]}, "a data file of 16"),
        ({"rows": [(b"x", entry(np.arange(3, dtype=np.float32), 0, 0))]}, "differ from their checksum"),
        ({"rows": [(b"x", number(1, 5) + good[2:])]}, "a tensor of type 5"),
        ({"rows": [(b"x", good + number(3, 1))]}, "in data file 1"),
        ({"rows": [(b"x", good[:-1])]}, "4 bytes where 3 are left"),
        ({"rows": [(b"x", varint(9 << 3 | 3))]}, "a field of kind 3"),
        ({"rows": [(b"x", b"\x08" + b"\xff" * 11)]}, "more than 64 bits"),
        ({"rows": [(b"\xff", good)]}, "'utf-8' codec"),
        ({"rows": [], "content": varint(3) + varint(1) + varint(0) + b"x" + bytes(4) + b"\1\0\0\0"}, "shares 3 bytes"),
        ({"rows": [], "content": b"\xff\xff\xff\x7f"}, "restarts"),
    ):
        with pytest.raises(ValueError, match="expected a TensorFlow checkpoint") as error:
            read_checkpoint(rewrite(tmp_path, **bad))
        assert found in str(error.value)
    (tmp_path / "model.data-00000-of-00001").unlink()
    with pytest.raises(OSError, match="No such file"):
        read_checkpoint(rewrite(tmp_path, [(b"x", good)]))
