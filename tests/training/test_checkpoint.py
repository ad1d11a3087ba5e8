"""Checkpoints: what is read is what was written; broken ones are skipped, old ones removed, other settings refused."""

from __future__ import annotations

import json
import logging

import pytest
import torch

from duotok.files import WriteError
from duotok.storage import CheckpointError
from duotok.training import checkpoint
from duotok.training.checkpoint import EMA, MODEL, OPTIMIZER, check_settings, latest, read_weights, save

SETTINGS = {"train": {"lr": 0.1, "betas": (0.9, 0.98), "steps": 10}, "task": {"width": 4, "heads": {"mel": True}}}


def parts(value: float) -> dict[str, dict[str, torch.Tensor]]:
    weight = torch.full((3, 2), value)
    model = {"a": weight, "tied": weight, "column": weight[:, 0], "count": torch.tensor(7), "half": weight.bfloat16()}
    return {MODEL: model, EMA: {"a": weight + 1}, OPTIMIZER: {"a.exp_avg": weight * 2, "a.step": torch.tensor(3.0)}}


def write(run, *steps: int, keep: int = 10) -> None:
    for step in steps:
        save(run, step, SETTINGS, parts(float(step)), keep)


def test_what_is_read_is_what_was_written(tmp_path):
    write(tmp_path, 5)
    found = latest(tmp_path)
    assert found.step == 5 and found.settings == json.loads(json.dumps(SETTINGS))
    for part, tensors in parts(5.0).items():
        read = found.read(part)
        assert read.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert torch.equal(read[name], tensor) and read[name].dtype == tensor.dtype
    assert {path.suffix for path in found.folder.iterdir()} == {".safetensors", ".json"}  # nothing pickled


def test_weights_of_a_run_are_the_averaged_ones(tmp_path):
    write(tmp_path, 1, 2)
    assert torch.equal(read_weights(tmp_path)["a"], torch.full((3, 2), 3.0))
    assert torch.equal(read_weights(tmp_path)["count"], torch.tensor(7))
    assert torch.equal(read_weights(tmp_path, averaged=False)["a"], torch.full((3, 2), 2.0))
    with pytest.raises(CheckpointError, match="expected a run with a checkpoint"):
        read_weights(tmp_path / "nowhere")


def test_newest_is_by_number_and_old_ones_go(tmp_path):
    write(tmp_path, 999_998, 999_999, 1_000_000, keep=2)
    assert latest(tmp_path).step == 1_000_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-1000000", "step-999999"]


def cut(folder):
    path = folder / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def flip(folder):
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def lose(folder):
    (folder / "ema.safetensors").unlink()


def half_written(folder):
    (folder / "state.json").write_text((folder / "state.json").read_text()[:40])


def other_version(folder):
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({**state, "format_version": 99}))


@pytest.mark.parametrize("damage", [cut, flip, lose, half_written, other_version])
def test_a_broken_newest_is_skipped_with_a_warning(tmp_path, caplog, damage):
    write(tmp_path, 1, 2, 3)
    damage(tmp_path / "step-000003")
    with caplog.at_level(logging.WARNING):
        assert latest(tmp_path).step == 2
    assert "skipped" in caplog.text and "step-000003" in caplog.text
    write(tmp_path, 3)  # the same step again takes its place
    assert latest(tmp_path).step == 3
    for step in (1, 2, 3):
        damage(tmp_path / f"step-{step:06d}")
    with pytest.raises(CheckpointError, match="got 3 broken; remove them"):
        latest(tmp_path)


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    write(tmp_path, 1)
    whole = checkpoint.write_atomically

    def full(path, data):
        if path.name == "optimizer.safetensors":
            raise WriteError(f"{path}: no space left")
        whole(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_atomically", full)
        with pytest.raises(WriteError):
            write(tmp_path, 2, keep=1)
    assert latest(tmp_path).step == 1 and (tmp_path / ".step-000002.tmp").exists()
    write(tmp_path, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000001", "step-000003"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": {**SETTINGS["train"], "lr": 0.2}}, r"train.lr: expected 0.1 as in .*step-000001; got 0.2"),
        ({"train": {**SETTINGS["train"], "betas": (0.5, 0.98)}}, r"train.betas: expected \[0.9, 0.98\]"),
        ({"task": {"width": 4, "heads": {"mel": False}}}, r"task.heads.mel: expected True"),
        ({"task": {"width": 4, "heads": {"mel": True}, "new": 1}}, r"task.new: expected None .* got 1"),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path, change, message):
    write(tmp_path, 1)
    with pytest.raises(CheckpointError, match=message):
        check_settings(latest(tmp_path), SETTINGS | change, {"train.steps"})


def test_some_settings_may_change(tmp_path):
    write(tmp_path, 1)
    changed = {**SETTINGS, "train": {**SETTINGS["train"], "steps": 99}}
    check_settings(latest(tmp_path), changed, {"train.steps"})
    with pytest.raises(CheckpointError, match=r"train.steps"):
        check_settings(latest(tmp_path), changed, set())
