"""Workers, writers and whole groups that are killed at any moment: nothing is lost, and the bytes are the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from runs import failures, finish, outputs, plan, wait_for_journal, write_songs

from duotok.corpus.setup import Setup
from duotok.corpus.verify import verify

SECONDS = (1.0, 2.0, 1.5, 1.0, 1.0, 3.0, 1.2)


@pytest.fixture(scope="module")
def songs(tmp_path_factory) -> Path:
    return write_songs(tmp_path_factory.mktemp("songs"), SECONDS)


@pytest.fixture(scope="module")
def undisturbed(songs, spread_folder, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed")
    finish(run, planned(songs, run, spread_folder))
    return run


def planned(songs: Path, run: Path, tokenizer: Path) -> Setup:
    return plan(songs, run, songs_per_unit=3, tokenizer=tokenizer)


def kill_workers(*arguments: object) -> str:
    script = Path(__file__).parents[1] / "kill_workers.py"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, str(script), *map(str, arguments)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def assert_same(run: Path, undisturbed: Path) -> None:
    assert verify(run).problems == []
    assert outputs(run) == outputs(undisturbed)
    assert not [path for name in ("journal", "leases") for path in (run / name).iterdir()]


@pytest.mark.parametrize("seed", [1, 2])
def test_workers_killed_at_random_moments(songs, undisturbed, spread_folder, tmp_path, seed):
    planned(songs, tmp_path, spread_folder)
    kill_workers("moments", tmp_path, seed, 4)
    assert_same(tmp_path, undisturbed)


def test_a_writer_killed_before_and_after_each_file_appears(songs, undisturbed, spread_folder, tmp_path):
    planned(songs, tmp_path, spread_folder)
    kill_workers("renames", tmp_path)
    assert_same(tmp_path, undisturbed)


def test_a_group_that_is_killed_goes_on_with_the_same_command(songs, undisturbed, spread_folder, tmp_path):
    """The parent and its two workers at once, in the midst of songs; then one worker alone, whom the parent replaces."""
    planned(songs, tmp_path, spread_folder)
    line = [sys.executable, "-m", "duotok", "tokenize", "run", str(tmp_path), "--workers", "2"]
    group = subprocess.Popen(line, stderr=subprocess.DEVNULL, start_new_session=True)
    wait_for_journal(tmp_path)
    os.killpg(group.pid, signal.SIGKILL)
    group.wait()
    before = {path.name for path in (tmp_path / "journal").iterdir()}
    group = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
    wait_for_journal(tmp_path, before)
    claims = [json.loads(path.read_text().splitlines()[0]) for path in sorted((tmp_path / "leases").iterdir())]
    alive = [claim["pid"] for claim in claims if Path(f"/proc/{claim['pid']}").exists()]
    os.kill(alive[-1], signal.SIGKILL)
    _, errors = group.communicate()
    assert group.returncode == 3, errors
    assert "a worker ended (signal SIGKILL); starting it again" in errors
    assert_same(tmp_path, undisturbed)


def test_a_song_that_crashes_workers_is_refused_after_two_crashes(songs, undisturbed, spread_folder, tmp_path):
    planned(songs, tmp_path, spread_folder)
    codes = json.loads(kill_workers("crash", tmp_path, "004_"))
    assert codes == [-signal.SIGSEGV, -signal.SIGSEGV, 0]
    assert verify(tmp_path).problems == []
    found = failures(tmp_path)
    assert found["004_vocals.wav"]["reason"] == "worker_crash" and found["004_vocals.wav"]["stage"] == "decode"
    assert found.keys() - {"004_vocals.wav"} == failures(undisturbed).keys(), (
        "its neighbours were in flight too, and are not to blame"
    )
    others = {name: data for name, data in outputs(tmp_path).items() if "00001" not in name}
    assert others == {name: data for name, data in outputs(undisturbed).items() if "00001" not in name}
