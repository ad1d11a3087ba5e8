"""`duotok corpus index` and `stems`: what is left out is named, and every command's help has an example."""

from __future__ import annotations

import make_audio
import pytest
from runs import duotok


@pytest.mark.parametrize("name", ["build", "index", "stems"])
def test_help_shows_an_example(name):
    done = duotok("corpus", name, "--help")
    assert done.returncode == 0 and f"Example: duotok corpus {name}" in done.stdout


def test_index_and_stems_end_with_3_if_songs_are_left_out(tmp_path):
    (tmp_path / "a").mkdir()
    make_audio.write(tmp_path / "a" / "x.wav", make_audio.music(1.0), 44_100)
    (tmp_path / "a" / "bad.mp3").write_bytes(b"")
    done = duotok("corpus", "index", tmp_path / "a", "-o", tmp_path / "m.jsonl")
    assert done.returncode == 3 and "left out: bad: empty_file: " in done.stderr
    assert f"1 song, 0.0 minutes in {tmp_path / 'm.jsonl'}, 1 left out" in done.stdout
    (tmp_path / "a" / "bad.mp3").unlink()
    assert duotok("corpus", "index", tmp_path / "a", "-o", tmp_path / "m.jsonl").returncode == 0
    no_separator, no_weights = ("--separate", "none"), ("--separator-weights", tmp_path / "m.jsonl")
    for arguments, message in ((no_separator, "expected a separator"), (no_weights, "expected safetensors of htdemucs")):
        done = duotok("corpus", "stems", tmp_path / "m.jsonl", "-o", tmp_path / "s", *arguments)
        assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
