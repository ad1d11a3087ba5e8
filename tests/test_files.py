"""Files and folders appear whole, whoever else writes them."""

from __future__ import annotations

import pytest

from duotok.files import WriteError, new_folder, whole_file


def test_writers_of_one_file_do_not_meet(tmp_path):
    """Two with one process id, as in two containers, write the same file and make the same folder at a time."""
    with whole_file(tmp_path / "file", "a word") as one, whole_file(tmp_path / "file", "a word") as other:
        one.write_text("one")
        other.write_text("other")
    assert (tmp_path / "file").read_text() == "one", "the one that ended last"
    with pytest.raises(WriteError, match="expected to write there"), new_folder(tmp_path / "a") as one:
        (one / "one").touch()
        with new_folder(tmp_path / "a") as other:
            (other / "other").touch()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "file", "other"], "the one that ended first"
