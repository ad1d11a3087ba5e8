"""Files and folders appear whole, whoever else writes them."""

from __future__ import annotations

from duotok.files import new_folder, whole_file


def test_writers_of_one_file_do_not_meet(tmp_path):
    """Two with one process id, as in two containers, write the same file and make the same folder at a time."""
    with whole_file(tmp_path / "file", "a word") as one, whole_file(tmp_path / "file", "a word") as other:
        one.write_text("one")
        other.write_text("other")
    assert (tmp_path / "file").read_text() == "one", "the one that ended last"
    with new_folder(tmp_path / "a") as one:
        (one / "file").write_text("one")
        other = new_folder(tmp_path / "a")
        assert other.__enter__() != one
        other.gen.close()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "file", "file"]
