"""The README is true: its Python runs, its commands are those of CI, and what it names exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

import duotok
from duotok.corpus.store import SCHEMA

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_ten_lines_of_python_run(tmp_path, real_song):
    vocals, accompaniment, rate = real_song
    for name, wave in (("vocals", vocals), ("accompaniment", accompaniment)):
        soundfile.write(tmp_path / f"{name}.wav", wave, rate)
    first = blocks("python")[0]
    assert len(first.splitlines()) <= 10
    done = subprocess.run([sys.executable, "-c", first], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "torch.Size([1, 2, 153])" in done.stdout and duotok.load("tiny").fingerprint[:16] in done.stdout


def test_kernel_example_runs():
    names: dict = {}
    exec(compile(blocks("python")[1], "README.md", "exec"), names)
    assert names["indices"].shape == (750,)


@pytest.mark.parametrize("name", ["tokenize", "test"])
def test_the_two_commands_are_what_ci_runs(name):
    [command] = re.findall(rf"<!-- command: {name} -->\n```bash\n(.*?)\n```", README)
    assert command.startswith("python3 -m venv .venv && . .venv/bin/activate && pip install -e ")
    assert f'readme_command {name})"' in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_named_files_exist():
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = contributing.split("## What is where, file by file")[1].split("## The compiled library")[0]
    short = README.split("## What is where")[1].split("Shapes in docstrings")[0]
    named = re.findall(r"`([a-z_]+/[a-z_./]*)`", short + table)
    assert len(named) > 15
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing
    python = [p for p in (*ROOT.glob("kernels/*.py"), *ROOT.glob("duotok/*.py")) if not p.name.startswith("__")]
    unnamed = [str(p.relative_to(ROOT)) for p in python if f"`{p.relative_to(ROOT)}`" not in table]
    assert not unnamed


def test_columns_are_those_of_the_token_files():
    text = (ROOT / "docs" / "tokens.md").read_text(encoding="utf-8").split("## Columns")[1].split("## Promises")[0]
    rows = re.findall(r"^\| (`.*?`) \|", text, flags=re.MULTILINE)
    assert [name for row in rows for name in re.findall(r"`([a-z_0-9]+)`", row)] == SCHEMA.names
