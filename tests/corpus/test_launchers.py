"""However a run is launched, its files are the same: one process, workers, Ray's actors, Slurm's array tasks."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest
from runs import StuckSetup, command, finish, outputs, plan, write_songs

from duotok.cli import app
from duotok.corpus import launch
from duotok.corpus.job import Options
from duotok.corpus.setup import Setup
from duotok.corpus.status import RunStatus
from duotok.corpus.verify import verify

SECONDS = (1.0, 2.0, 1.5, 1.0, 3.0, 1.2, 2.5)


@pytest.fixture(scope="module")
def songs(tmp_path_factory) -> Path:
    return write_songs(tmp_path_factory.mktemp("songs"), SECONDS)


@pytest.fixture(scope="module")
def alone(songs, spread_folder, tmp_path_factory) -> Path:
    """The run that this process made."""
    run = tmp_path_factory.mktemp("alone")
    finish(run, plan(songs, run, tokenizer=spread_folder))
    return run


def assert_same(run: Path, alone: Path) -> None:
    assert outputs(run) == outputs(alone)
    assert verify(run).problems == []


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_workers(songs, alone, spread_folder, tmp_path, workers):
    setup = plan(songs, tmp_path, tokenizer=spread_folder)
    finish(tmp_path, setup, workers, threads=1, num_decoders=workers - 1, queue_s=0)
    assert_same(tmp_path, alone)


def test_a_worker_that_hangs_does_not_hold_up_a_run_that_is_done(songs, alone, spread_folder, tmp_path, monkeypatch):
    """One of two is stopped where it builds its tools, as by SIGSTOP from outside; the other does all units."""
    setup = plan(songs, tmp_path, tokenizer=spread_folder)
    seen = []

    def watch(status: RunStatus) -> None:
        seen.append(status.units)
        assert seen.count(status.num_units) < 200, "it waits for the worker that hangs"

    monkeypatch.setattr(launch, "_GRACE_S", 0.2)
    stuck = StuckSetup(**{**vars(setup), "cache": tmp_path})
    launch.launch(tmp_path, stuck, [0, 1, 2, 3], launch.Launch(num_workers=2), Options(), watch)
    assert (tmp_path / "stuck").exists()
    assert_same(tmp_path, alone)


def test_ray_actors(songs, alone, spread_folder, tmp_path):
    pytest.importorskip("ray", reason="needs the extra ray")
    plan(songs, tmp_path, tokenizer=spread_folder)
    done = command("run", tmp_path, "--launcher", "ray", "--workers", 2)
    assert done.returncode == 3, done.stderr
    assert_same(tmp_path, alone)


def test_tasks_of_a_slurm_array(songs, alone, spread_folder, tmp_path):
    """The script goes into a fake sbatch, which runs each task of the array as Slurm would, one after another."""
    run, fake = tmp_path / "a run", tmp_path / "sbatch"
    plan(songs, run, tokenizer=spread_folder)
    script = command("run", run, "--launcher", "slurm", "--tasks", 2)
    assert script.returncode == 0, script.stderr
    fake.write_text(
        'cat > "$0.sh"; last=$(sed -n "s/^#SBATCH --array=0-//p" "$0.sh")\n'
        'for i in $(seq 0 "$last"); do SLURM_ARRAY_TASK_ID=$i bash "$0.sh" || [ $? = 3 ] || exit\n'
        'ls "$0.run/done" | wc -l; done\n'
    )
    (tmp_path / "sbatch.run").symlink_to(run)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["bash", str(fake)], input=script.stdout, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.isdigit()] == ["2", "4"], "each task does its share of the units"
    assert_same(run, alone)


def test_a_slurm_script_carries_the_options(songs, tmp_path, monkeypatch, capsys):
    """A tokenizer that moved is named from the root; a choice of units is refused, as the array makes its own."""
    monkeypatch.chdir(tmp_path)
    plan(songs, tmp_path / "run")
    (tmp_path / "moved").mkdir()
    line = ["tokenize", "run", "run", "--launcher", "slurm", "--tasks", "16"]
    options = {"threads": 4, "queue-s": 30.5, "lease-expiry": 1234567.5, "max-failure-rate": 0.12345, "tokenizer": "moved"}
    app([*line, *(f"--{name}={value}" for name, value in options.items())], standalone_mode=False)
    words = shlex.split(capsys.readouterr().out.splitlines()[-1])
    options["tokenizer"] = str(tmp_path / "moved")
    assert {f"--{name}={value}" for name, value in options.items()} <= {*words}
    with pytest.raises(ValueError, match="--units: expected none with --launcher slurm"):
        app([*line, "--units", "0-1"], standalone_mode=False)


@pytest.mark.parametrize(("workers", "decoders", "threads"), [(1, 1, 7), (2, 1, 3), (2, 0, 4), (4, 2, 1)])
def test_encoders_leave_threads_to_the_decoders(monkeypatch, tmp_path, workers, decoders, threads):
    """Of eight threads a worker has its share, and its encoder what the decoders leave of that, but one at least."""
    found = []

    class Worker:
        waitable, is_finished = (), True

        def __init__(self, run: object, setup: object, units: object, options: Options) -> None:
            found.append(options.threads)

        def listen(self) -> bool:
            return False

        def terminate(self) -> None:
            pass

        def stop(self, end: float) -> None:
            pass

    monkeypatch.setattr(launch, "_Worker", Worker)
    monkeypatch.setattr(launch.torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(launch, "_POLL_S", 0.0)
    launch.run_local(tmp_path, Setup("tiny"), [0, 1, 2, 3], workers, Options(num_decoders=decoders), lambda died: None)
    assert found == [threads] * workers
