"""The loop against a few lines of plain PyTorch, its errors, evaluation, precision, data thread and pictures."""

from __future__ import annotations

import dataclasses
import struct
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor
from toy_task import CONFIG, ToyTask, tensors, timeless

from duotok.storage import CheckpointError
from duotok.training.checkpoint import latest
from duotok.training.log import read_log
from duotok.training.loop import DivergedError, TrainConfig, train
from duotok.training.losses import Mean
from duotok.training.micro_batches import Prefetcher, seeds, share
from duotok.training.optim import lr_factor
from duotok.training.plot import plot
from duotok.training.task import Batch


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")


def plain_pytorch(steps: int) -> tuple[dict[str, Tensor], dict[str, Tensor], list[float], list[float]]:
    """The same training written out: state, averaged parameters, losses, norms of the gradient."""
    task, losses, norms = ToyTask(), [], []
    heads = [*task.head.parameters(), *task.rare_head.parameters()]
    body = list(task.body.parameters())
    groups = [{"params": body, "weight_decay": CONFIG.weight_decay}, {"params": heads, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=CONFIG.betas, eps=CONFIG.eps)
    averages = {name: p.detach().clone() for name, p in task.named_parameters() if p.requires_grad}
    norm, seen = task.body[1], []
    task.body[0].register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))
    for step in range(1, steps + 1):
        factor = lr_factor(step, CONFIG.steps, CONFIG.warmup_steps, CONFIG.schedule, 0.0)
        groups[0]["lr"], groups[1]["lr"] = CONFIG.lr * factor, CONFIG.lr * factor * 0.5
        for group, values in zip(optimizer.param_groups, groups, strict=True):
            group["lr"] = values["lr"]
        mean, var = norm.running_mean.clone(), norm.running_var.clone()
        total = 0.0
        for micro in range(CONFIG.micro_batches):
            seed, generators = seeds(CONFIG.seed, step, micro)
            torch.manual_seed(generators)
            total = total + task(task.batch(step, micro), seed)["loss"]
        (total / CONFIG.micro_batches).backward()  # one graph for all
        norms.append(float(torch.nn.utils.clip_grad_norm_(body + heads, CONFIG.clip)))
        optimizer.step()
        optimizer.zero_grad()
        norm.running_mean.copy_(0.9 * mean + 0.1 * torch.stack([x.mean(0) for x in seen]).mean(0))
        norm.running_var.copy_(0.9 * var + 0.1 * torch.stack([x.var(0) for x in seen]).mean(0))
        seen.clear()
        for name, average in averages.items():
            average.mul_(0.9).add_(task.get_parameter(name).detach(), alpha=0.1)
        losses.append(float(total.detach()) / CONFIG.micro_batches)
    return task.state_dict(), averages, losses, norms


def test_it_is_plain_pytorch(tmp_path):
    rows: list[dict] = []
    result = train(ToyTask(), CONFIG, tmp_path, rows.append)
    state, averages, losses, norms = plain_pytorch(CONFIG.steps)
    found = tensors(tmp_path)
    for name, value in state.items():
        if name != "positive":  # reset by monitor
            torch.testing.assert_close(found[f"model/{name}"], value, rtol=1e-4, atol=1e-5)
    for name, value in averages.items():
        torch.testing.assert_close(found[f"ema/{name}"], value, rtol=1e-4, atol=1e-5)
    steps = [row for row in rows if row["kind"] == "train"]
    assert [row["step"] for row in steps] == list(range(1, 25))
    assert [row["losses"]["loss"] for row in steps] == pytest.approx(losses, rel=1e-4)
    assert [row["gradient_norm"] for row in steps] == pytest.approx(norms, rel=1e-3)
    assert result.step == 24 and not result.stopped and result.checkpoint == tmp_path / "step-000024"
    assert result.losses == steps[-1]["losses"] and result.scores == rows[-1]["scores"]


def test_it_learns(tmp_path):
    config = dataclasses.replace(CONFIG, steps=120, evaluate_every=20, save_every=60)
    train(ToyTask(), config, tmp_path)
    errors = [row["scores"]["error"] for row in read_log(tmp_path) if row["kind"] == "evaluation"]
    assert len(errors) == 6 and errors[-1] < 0.5 * errors[0]


def test_the_log_says_what_happened(tmp_path):
    shown: list[dict] = []
    start = time.perf_counter()
    train(ToyTask(), CONFIG, tmp_path, shown.append)
    elapsed = time.perf_counter() - start
    rows = read_log(tmp_path)
    trained = [row for row in rows if row["kind"] == "train"]
    assert [row["step"] for row in trained] == list(range(2, 25, 2))
    assert [row["step"] for row in rows if row["kind"] == "evaluation"] == [6, 12, 18, 24]
    assert [row for row in shown if row in rows] == rows  # the same rows go to the callback
    task = ToyTask()
    for row in trained:
        batches = [task.batch(step, micro).tensors["x"] for step in (row["step"] - 1, row["step"]) for micro in range(4)]
        assert row["monitor"]["positive"] == sum((x > 0).sum().item() for x in batches)
        assert row["lr"] == CONFIG.lr * lr_factor(row["step"], 24, 4, "cosine", 0.0)
        assert row["gradient_norm"] > 0 and 0 <= row["data_wait"] < 1 and row["seconds_per_step"] > 0
    times = [row["time"] for row in rows]
    assert times == sorted(times)
    assert sum(2 * row["seconds_per_step"] for row in trained) < elapsed


def test_what_few_items_have_is_averaged_over_them(tmp_path):
    """Whatever micro-batches they are in; and not logged where none has it."""

    class Counting(ToyTask):
        def forward(self, batch: Batch, seed: Tensor) -> dict[str, Tensor | Mean]:
            x = batch.tensors["x"]
            return super().forward(batch, seed) | {
                "large": Mean.of(x[:, 2], x[:, 2] > 1.5),
                "none": Mean.of(x[:, 3], x[:, 3] > 9),
            }

    rows: list[dict] = []
    train(Counting(), dataclasses.replace(CONFIG, steps=2), tmp_path, rows.append)
    for row in rows[:2]:
        x = torch.cat([Counting().batch(row["step"], micro).tensors["x"] for micro in range(4)])[:, 2]
        assert row["losses"]["large"] == pytest.approx(x[x > 1.5].mean().item()) and "none" not in row["losses"]


def test_a_folder_is_trained_in_by_one(tmp_path):
    class Intruding(ToyTask):
        def batch(self, step: int, micro: int) -> Batch:
            if (step, micro) == (1, 0):
                train(ToyTask(), CONFIG, tmp_path)
            return super().batch(step, micro)

    with pytest.raises(CheckpointError, match="expected a folder in which no other process trains; got one that is in use"):
        train(Intruding(), CONFIG, tmp_path)
    assert train(ToyTask(), dataclasses.replace(CONFIG, steps=2), tmp_path).step == 2


def test_a_bad_batch_stops_before_it_does_harm(tmp_path):
    train(ToyTask(), dataclasses.replace(CONFIG, steps=24), tmp_path / "good")
    with pytest.raises(
        DivergedError, match=r"step 12: .*gradient norm nan; loss nan, main nan, rare .* in item-12-2-0, item-12-2-1"
    ):
        train(ToyTask(poison=(12, 2)), CONFIG, tmp_path / "bad")
    assert latest(tmp_path / "bad").step == 10
    train(ToyTask(), CONFIG, tmp_path / "bad")  # with the data repaired it goes on
    assert timeless(tmp_path / "bad") == timeless(tmp_path / "good")


def test_an_infinite_gradient_of_a_finite_loss_stops_too(tmp_path):
    class Steep(ToyTask):
        def forward(self, batch: Batch, seed: Tensor) -> dict[str, Tensor]:
            losses = super().forward(batch, seed)
            at_zero = self.head.bias.sum() - self.head.bias.detach().sum()
            return {**losses, "loss": losses["loss"] + at_zero.sqrt()}  # 0, of slope infinity

    with pytest.raises(
        DivergedError, match=r"step 1: .* gradient norm (inf|nan); loss \d.* in item-1-0-0, .*; loss .* in item-1-1-0"
    ):
        train(Steep(), CONFIG, tmp_path)


def test_evaluation_sees_averaged_weights_and_leaves_no_trace(tmp_path):
    seen: dict[str, Tensor] = {}

    class Watching(ToyTask):
        def evaluate(self) -> dict[str, float]:
            assert not self.training and not torch.is_grad_enabled()
            seen.update({name: value.clone() for name, value in self.named_parameters()})
            torch.rand(7)  # even this
            return super().evaluate()

    often = dataclasses.replace(CONFIG, evaluate_every=1)
    train(Watching(), often, tmp_path / "often")
    train(ToyTask(), dataclasses.replace(CONFIG, evaluate_every=24), tmp_path / "once")
    ours, theirs = tensors(tmp_path / "often"), tensors(tmp_path / "once")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    for name, value in seen.items():
        assert torch.equal(value, theirs.get(f"ema/{name}", theirs[f"model/{name}"]))
    assert not torch.equal(seen["head.weight"], theirs["model/head.weight"])


def test_bf16_is_autocast_over_fp32_weights(tmp_path):
    types = set()

    class Watching(ToyTask):
        def forward(self, batch: Batch, seed: Tensor) -> dict[str, Tensor]:
            types.add(self.head(batch.tensors["x"].new_ones(1, self.width)).dtype)
            return super().forward(batch, seed)

    config = dataclasses.replace(CONFIG, steps=6)
    train(Watching(), dataclasses.replace(config, precision="bf16"), tmp_path / "bf16")
    assert types == {torch.bfloat16}
    train(Watching(), config, tmp_path / "fp32")
    assert types == {torch.bfloat16, torch.float32}
    assert all(t.dtype in (torch.float32, torch.int64) for t in tensors(tmp_path / "bf16").values())
    ours, theirs = timeless(tmp_path / "bf16"), timeless(tmp_path / "fp32")
    assert ours[0]["losses"] != theirs[0]["losses"]
    assert ours[0]["losses"] == pytest.approx(theirs[0]["losses"], rel=0.05)


def test_seeds_differ_everywhere_and_never_change():
    drawn = [seeds(seed, step, micro) for seed in (0, 1) for step in range(1, 40) for micro in range(8)]
    numbers = {int(word) for pair, _ in drawn for word in pair} | {generators for _, generators in drawn}
    assert len(numbers) == 3 * len(drawn) and min(numbers) >= 0 and max(numbers) > 2**60
    pair, generators = seeds(3, 400_000, 63)
    assert (pair.tolist(), generators) == KNOWN


KNOWN = ([3173531101301428422, 9126956016817467058], 7119825013413693638)


def test_shares_cover_all_micro_batches():
    assert [micro for process in range(3) for micro in share(12, 3, process)] == list(range(12))
    with pytest.raises(ValueError, match="expected a multiple of the 5 processes; got 12"):
        share(12, 5, 0)


def test_batches_are_made_ahead_but_not_too_far():
    made, order = [], [(step, micro) for step in (1, 2, 3) for micro in (0, 1)]
    reached = {number: threading.Event() for number in range(1, 7)}

    def make(step: int, micro: int) -> Batch:
        made.append((step, micro))
        reached[len(made)].set()
        return Batch((f"{step}-{micro}",), {})

    with Prefetcher(make, order, depth=2, pin=False) as data:
        assert reached[2].wait(10)
        for taken, (step, micro) in enumerate(order, 1):
            assert len(made) <= taken + 1  # taken - 1 were used, two may be ahead
            assert data.next().names == (f"{step}-{micro}",)
            assert reached[min(taken + 2, 6)].wait(10)
    assert made == order


def test_waiting_for_data_is_measured():
    release = threading.Event()

    def make(step: int, micro: int) -> Batch:
        release.wait(10)
        return Batch((), {})

    with Prefetcher(make, [(1, 0), (1, 1)], depth=2, pin=False) as data:
        threading.Timer(0.2, release.set).start()
        data.next()
        waited = data.waited
        data.next()
    assert 0.15 < waited < 5 and data.waited - waited < waited


def test_an_error_in_making_data_reaches_the_caller(tmp_path):
    class Broken(ToyTask):
        def batch(self, step: int, micro: int) -> Batch:
            if step == 7:
                raise OSError("song x cannot be read")
            return super().batch(step, micro)

    with pytest.raises(OSError, match="song x"):
        train(Broken(), CONFIG, tmp_path)
    assert latest(tmp_path).step == 5
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


@pytest.mark.parametrize(
    ("change", "message"),
    [({"steps": 0}, "steps of at least 1; got 0"), ({"keep": 0}, "keep of at"), ({"ema_decay": 1.0}, r"ema_decay in \[0, 1\)")],
)
def test_impossible_configurations_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**change)


def panels(picture: Path) -> int:
    """How many panels of 6 inches at 120 dots an inch a PNG is wide."""
    data = picture.read_bytes()
    assert data.startswith(b"\x89PNG")
    return struct.unpack(">I", data[16:20])[0] // 720


def test_curves_are_drawn(tmp_path):
    with pytest.raises(ValueError, match=r"expected rows in log.jsonl; got none"):
        plot(tmp_path)
    train(ToyTask(), CONFIG, tmp_path)
    picture = plot(tmp_path)
    assert panels(picture) == 4  # losses, gradient, monitor, evaluation
    before = picture.read_bytes()
    rows = (tmp_path / "log.jsonl").read_text().splitlines()
    (tmp_path / "log.jsonl").write_text("".join(f"{row}\n" for row in rows if "evaluation" not in row))
    assert panels(plot(tmp_path)) == 3 and picture.read_bytes() != before
