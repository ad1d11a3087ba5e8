"""Two real processes over gloo give what one gives: losses, weights, running statistics, counts, errors and stops."""

from __future__ import annotations

import functools

import pytest
import torch
from toy_task import ToyTask, run_processes, tensors, timeless, train_sharded

from duotok.training.checkpoint import latest


def assert_close_runs(one, other) -> None:
    """The same up to the order in which gradients are added."""
    for ours, theirs in zip(timeless(one), timeless(other), strict=True):
        assert (ours["kind"], ours["step"], ours.get("lr")) == (theirs["kind"], theirs["step"], theirs.get("lr"))
        assert ours.get("monitor") == theirs.get("monitor")
        for group in ("losses", "scores"):
            assert ours.get(group, {}) == pytest.approx(theirs.get(group, {}), rel=1e-3, abs=1e-5)
    ours, theirs = tensors(one), tensors(other)
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(
            ours[name], theirs[name], rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_two_processes_equal_one(tmp_path):
    assert run_processes(tmp_path / "one", steps=24) == [0]
    assert run_processes(tmp_path / "two", num_processes=2, steps=24) == [0, 0]
    assert_close_runs(tmp_path / "one", tmp_path / "two")
    moved = tensors(tmp_path / "two")["model/body.1.running_mean"]
    assert moved.abs().max() > 0.1  # the statistics did run


def test_a_run_goes_on_with_another_number_of_processes(tmp_path):
    assert run_processes(tmp_path / "one", steps=24, schedule="constant") == [0]
    for steps, num_processes in ((9, 2), (14, 4), (24, 1)):
        codes = run_processes(tmp_path / "mixed", num_processes=num_processes, steps=steps, schedule="constant")
        assert codes == [0] * num_processes and latest(tmp_path / "mixed").step == steps
    ours, theirs = tensors(tmp_path / "mixed"), tensors(tmp_path / "one")
    for name in theirs.keys() - {"model/positive"}:  # counted since the last row, and mixed has more rows
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-4)


def test_processes_must_divide_the_micro_batches(tmp_path):
    assert run_processes(tmp_path, num_processes=2, steps=4, micro_batches=3) == [0, 0]
    for rank in range(2):
        text = (tmp_path / f"error-{rank}.txt").read_text()
        assert text == "micro_batches: expected a multiple of the 2 processes; got 3; change one"


def test_every_process_names_the_bad_batch_of_any(tmp_path):
    poisoned = functools.partial(ToyTask, poison=(7, 3))  # the second process's
    assert run_processes(tmp_path, num_processes=2, steps=24, task=poisoned) == [0, 0]
    texts = {(tmp_path / f"error-{rank}.txt").read_text() for rank in range(2)}
    assert len(texts) == 1 and "item-7-3-0" in texts.pop() and latest(tmp_path).step == 5


def test_all_processes_stop_when_one_is_asked_to(tmp_path):
    task = functools.partial(ToyTask, stop_at=(7, 2))  # in the second process alone
    assert run_processes(tmp_path, num_processes=2, steps=24, task=task) == [0, 0]
    assert latest(tmp_path).step in (7, 8)


def test_sharded_processes_equal_one(tmp_path):
    """FSDP2 over gloo: gathered checkpoints, averages and evaluation of sharded weights, and a resume of them."""
    shared = {"task": functools.partial(ToyTask, uses_all=True), "schedule": "constant"}
    assert run_processes(tmp_path / "one", steps=24, **shared) == [0]
    assert run_processes(tmp_path / "sharded", num_processes=2, target=train_sharded, steps=12, **shared) == [0, 0]
    assert run_processes(tmp_path / "sharded", num_processes=2, target=train_sharded, steps=24, **shared) == [0, 0]
    assert not list((tmp_path / "sharded").glob("error*"))
    assert_close_runs(tmp_path / "one", tmp_path / "sharded")
