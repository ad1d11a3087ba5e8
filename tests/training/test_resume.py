"""Stopping in any way and going on gives what never stopping gives, bit for bit."""

from __future__ import annotations

import dataclasses
import os
import random
import signal

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toy_task import CONFIG, ToyTask, run_processes, tensors, timeless, train_in_process

from duotok.storage import CheckpointError
from duotok.training.checkpoint import latest
from duotok.training.log import FILE, read_log
from duotok.training.loop import train


def assert_same_run(one, other) -> None:
    ours, theirs = tensors(one), tensors(other)
    assert ours.keys() == theirs.keys() and latest(one).step == latest(other).step
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name
    assert timeless(one) == timeless(other)


def test_killed_ten_times_at_random_moments(tmp_path):
    """kill -9 of a real process, while it starts, trains, logs or saves."""
    arguments = {"steps": 400, "micro_batches": 2, "save_every": 3, "log_every": 2, "evaluate_every": 5}
    assert run_processes(tmp_path / "calm", **arguments) == [0]
    times = [row["time"] for row in read_log(tmp_path / "calm")]
    longest, moments, reached = (times[-1] - times[0]) / 8, random.Random(7), []
    for turn in range(10):
        kill = {"kill_after": moments.uniform(0, longest), "kill_at_start": turn % 4 == 3}
        assert run_processes(tmp_path / "killed", **kill, **arguments) == [-signal.SIGKILL]
        found = latest(tmp_path / "killed") if (tmp_path / "killed").exists() else None
        reached.append(found.step if found else 0)
    assert run_processes(tmp_path / "killed", **arguments) == [0]
    assert len(set(reached)) >= 4 and reached == sorted(reached), f"the kills hit too little of the run: {reached}"
    assert_same_run(tmp_path / "calm", tmp_path / "killed")
    assert len(read_log(tmp_path / "calm")) == 200 + 80


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_at_the_end_of_the_step_and_stops(tmp_path, number):
    train(ToyTask(), CONFIG, tmp_path / "calm")
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]

    def interrupt(row):
        if row["kind"] == "train" and row["step"] == 7:
            os.kill(os.getpid(), number)

    result = train(ToyTask(), CONFIG, tmp_path / "stopped", interrupt)
    assert result.stopped and result.step == 8 == latest(tmp_path / "stopped").step
    assert result.checkpoint == tmp_path / "stopped" / "step-000008"
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
    result = train(ToyTask(), CONFIG, tmp_path / "stopped")
    assert not result.stopped and result.step == CONFIG.steps
    assert_same_run(tmp_path / "calm", tmp_path / "stopped")


def test_the_second_signal_stops_at_once(tmp_path):
    def impatient(row):
        if row["step"] == 7:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            train(ToyTask(), CONFIG, tmp_path, impatient)
    finally:
        signal.signal(signal.SIGINT, before)
    assert latest(tmp_path).step == 5


def test_a_broken_newest_checkpoint_costs_only_its_steps(tmp_path):
    train(ToyTask(), CONFIG, tmp_path / "calm")
    train(ToyTask(), CONFIG, tmp_path / "broken")
    (tmp_path / "broken" / "step-000024" / "optimizer.safetensors").write_bytes(b"")
    with (tmp_path / "broken" / FILE).open("a") as file:
        file.write('{"kind": "train", "st')  # as kill -9 leaves it
    train(ToyTask(), CONFIG, tmp_path / "broken")
    assert_same_run(tmp_path / "calm", tmp_path / "broken")


def test_more_steps_go_on_and_a_finished_run_does_nothing(tmp_path):
    constant = dataclasses.replace(CONFIG, schedule="constant")
    train(ToyTask(), dataclasses.replace(constant, steps=30), tmp_path / "whole")
    first = train(ToyTask(), constant, tmp_path / "grown")
    again = train(ToyTask(), constant, tmp_path / "grown", progress=lambda row: pytest.fail("it trained again"))
    assert again == first
    train(ToyTask(), dataclasses.replace(constant, steps=30, log_every=3, save_every=7), tmp_path / "grown")
    ours, theirs = tensors(tmp_path / "grown"), tensors(tmp_path / "whole")
    counted = {"model/positive"}  # since the last row, which another cadence puts elsewhere
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs.keys() - counted)
    with pytest.raises(CheckpointError, match=r"train.steps: expected at least the 30 of .*; got 24"):
        train(ToyTask(), constant, tmp_path / "grown")


def test_a_changed_configuration_is_refused(tmp_path):
    train_in_process(tmp_path, steps=6)
    with pytest.raises(CheckpointError, match=r"train.seed: expected 0 as in .*step-000006; got 1"):
        train(ToyTask(), dataclasses.replace(CONFIG, steps=6, seed=1), tmp_path)
    with pytest.raises(CheckpointError, match=r"task.width: expected 16"):
        train(ToyTask(width=8), dataclasses.replace(CONFIG, steps=6), tmp_path)


def test_tensorboard_shows_the_log_also_after_a_resume(tmp_path):
    train(ToyTask(), CONFIG, tmp_path)
    (tmp_path / "step-000024" / "state.json").unlink()
    train(ToyTask(), CONFIG, tmp_path)
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    rows = [row for row in read_log(tmp_path) if row["kind"] == "train"]
    shown = [(event.step, event.value) for event in board.Scalars("losses/main")]
    assert [step for step, _ in shown] == [row["step"] for row in rows]
    assert [value for _, value in shown] == pytest.approx([row["losses"]["main"] for row in rows])
    assert {"run/lr", "run/gradient_norm", "scores/error", "monitor/positive"} <= set(board.Tags()["scalars"])
