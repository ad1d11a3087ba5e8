"""Stage 3: a front half that does not move by a bit, branches that start as copies, codes that spread, and the export."""

from __future__ import annotations

import json

import pytest
import torch
from make_songs import four_songs, small_config, songs_of
from safetensors import safe_open

import duotok
from duotok.model.bottleneck import SoftRouting
from duotok.model.code_usage import summarize, tally
from duotok.training.loop import train
from duotok.training.stages import export, make_stage, read_state

SEED = torch.tensor([3, 0])
LONG = ("data.crop_s=5", "data.batch_size=8")  # 1,000 frames of each track in a batch


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    return songs_of(four_songs(tmp_path_factory.mktemp("songs")))


@pytest.fixture(scope="module")
def stage2_state(songs, tmp_path_factory):
    config = small_config(2, "train.steps=20", "train.evaluate_every=20", "train.save_every=20")
    stage = make_stage(config, songs)
    stage.start(make_stage(small_config(1), songs).state_dict())
    train(stage, config.train, tmp_path_factory.mktemp("stage2"))
    return stage.state_dict()


@pytest.fixture
def stage(songs, stage2_state):
    made = make_stage(small_config(3), songs)
    made.start(stage2_state)
    return made


@pytest.fixture(scope="module")
def run(songs, stage2_state, tmp_path_factory):
    """A trained stage with its scores before and after, its first state and its folder."""
    config, folder = small_config(3), tmp_path_factory.mktemp("stage3")
    stage = make_stage(config, songs)
    stage.start(stage2_state)
    first = {name: tensor.clone() for name, tensor in stage.state_dict().items()}
    before = stage.eval().evaluate()
    result = train(stage, config.train, folder)
    return stage, first, before, result, folder


def test_held_out_losses_fall(run):
    _, _, before, result, _ = run
    assert result.scores["loss"] < before["loss"] and result.scores["mel"] < before["mel"]


def test_the_front_half_does_not_change_by_a_bit(run):
    stage, first, *_ = run
    changed = {name for name, tensor in stage.state_dict().items() if not torch.equal(tensor, first[name])}
    frozen = ("model.trunk.downsample.", "model.trunk.front.")
    assert not [name for name in changed if name.startswith(frozen)]
    moving = {name for name, _ in stage.named_parameters()} - {name for name in first if name.startswith(frozen)}
    assert moving <= changed
    assert not any(name.endswith("quantizer.table") for name in changed)


def test_the_frozen_half_stays_in_evaluation_mode(stage):
    stage.train()
    trunk = stage.model.trunk
    assert not any(module.training for part in (trunk.downsample, trunk.front) for module in part.modules())
    assert all(module.training for module in trunk.back.modules())
    losses = stage(stage.batch(1, 0), SEED)
    losses["loss"].backward()
    assert all(p.grad is None for part in (trunk.downsample, trunk.front) for p in part.parameters())
    assert all(p.grad is not None for group in stage.parameter_groups() for p in group["params"])


def test_branches_start_as_copies_of_the_projections(stage, stage2_state):
    state = stage.state_dict()
    for projection in ("proj_in.weight", "proj_in.bias", "proj_out.weight", "proj_out.bias"):
        for track in range(2):
            given = stage2_state[f"model.trunk.bottleneck.{projection}"]
            assert torch.equal(state[f"model.trunk.bottleneck.branches.{track}.{projection}"], given)
    shared = [name for name in state if ".bottleneck." not in name and name != "tallies"]
    assert all(torch.equal(state[name], stage2_state[name]) for name in shared) and len(shared) > 50
    assert not any(name.startswith("model.heads.masks") for name in state)


def test_codes_start_with_the_features_mean_and_covariance(stage):
    stage.eval()
    for track, branch in enumerate(stage.model.trunk.bottleneck.branches):
        rows = []
        for micro in range(stage.config.fit_batches):
            batch = stage.batch(0, micro).tensors
            rows.append(branch.narrow(stage.model.trunk.encode(stage.model.mel(batch["wave"][batch["tracks"] == track]))))
        z, codes = torch.cat(rows).flatten(0, 1), branch.quantizer.codes()
        torch.testing.assert_close(codes.mean(0), z.mean(0), rtol=0, atol=0.05)
        torch.testing.assert_close(codes.T.cov(), z.T.cov(), rtol=0, atol=0.1)


def test_a_batch_holds_both_stems(stage):
    crops = stage.train_crops.draw(1, 0, 4)
    batch = stage.collate(crops)
    assert batch.tensors["tracks"].tolist() == [0] * 4 + [1] * 4
    for i, crop in enumerate(crops):
        assert torch.equal(batch.tensors["wave"][i], crop.wave("vocals"))
        assert torch.equal(batch.tensors["wave"][4 + i], crop.wave("accompaniment"))
    assert batch.tensors["unit_lengths"][4:].tolist() == [0] * 4 and batch.tensors["unit_lengths"][:4].min() > 0
    assert batch.names[0] == f"{crops[0].song.id} vocals" and len(batch.names) == 8


def test_training_does_not_collapse_the_codes(run):
    _, _, before, result, _ = run
    for track in ("vocals", "accompaniment"):
        name = f"entropy_bits_{track}"
        assert result.scores[name] > max(4, before[name] - 1)
        assert result.scores[f"dead_codes_{track}"] < before[f"dead_codes_{track}"] + 100


def test_tally_and_its_summary():
    codes = torch.cat((torch.arange(1000) % 10, torch.zeros(1000, dtype=torch.int64), torch.tensor([31] * 5)))
    counts = tally(codes, 32)
    assert counts[:32].tolist() == torch.bincount(codes, minlength=32).tolist() and counts[32:].tolist() == [11, 2]
    found = summarize(counts + tally(codes[:1000], 32))
    assert found["distinct_per_1000"] == 7 and found["dead_codes"] == 21
    assert summarize(tally(torch.arange(8).repeat(4), 16)) == {"entropy_bits": 3.0, "dead_codes": 8.0}
    assert summarize(tally(codes[:0], 32)) == {}


def test_monitor_tells_the_interval_and_forgets(songs, stage2_state):
    stage = make_stage(small_config(3, *LONG), songs)
    stage.start(stage2_state)
    assert stage.monitor() == {}
    stage.train()(stage.batch(1, 0), SEED)
    stage.eval().evaluate()  # leaves no trace
    found = stage.monitor()
    assert {name.rpartition("_")[0] for name in found} == {"entropy_bits", "dead_codes", "distinct_per_1000"}
    assert 1 < found["distinct_per_1000_vocals"] <= 1000 and stage.monitor() == {}


def test_export_gives_the_trained_tokenizer(run, tmp_path):
    stage, *_, result, folder = run
    made = export(folder, tmp_path / "tokenizer")
    tokenizer = duotok.load(tmp_path / "tokenizer")
    assert tokenizer.fingerprint == made.fingerprint and tokenizer.config.trained
    batch = stage.batch(1, 0).tensors
    stage.eval()
    with torch.no_grad():
        codes = stage.model.trunk(stage.model.mel(batch["wave"]), batch["tracks"]).bottleneck.indices
    assert torch.equal(tokenizer.model.encode(batch["wave"], batch["tracks"]), codes)
    with safe_open(tmp_path / "tokenizer" / "model.safetensors", "pt") as file:
        notes = json.loads(file.metadata()["training"])
    assert notes["steps"] == result.step and notes["scores"] == result.scores
    encoded = tokenizer.encode([torch.randn(24_000)], [torch.randn(24_000)], 24_000)
    assert encoded.tensor.shape == (1, 2, 25)


def test_training_goes_on_from_a_tokenizer_or_a_run(run, songs, tmp_path):
    stage, *_, folder = run
    export(folder, tmp_path)
    batch, codes = stage.eval().batch(1, 0), []
    for source in (tmp_path, folder):
        again = make_stage(small_config(3), songs).eval()
        again.start(read_state(source, 3))
        codes.append(again.model.encode(batch.tensors["wave"], batch.tensors["tracks"]))
    expected = stage.model.encode(batch.tensors["wave"], batch.tensors["tracks"])
    assert torch.equal(codes[0], expected) and torch.equal(codes[1], expected)


def test_shared_codebook_control(songs, stage2_state):
    stage = make_stage(small_config(3, "share_codebook=true"), songs)
    stage.start(stage2_state)
    first, second = stage.model.trunk.bottleneck.branches
    assert first.quantizer is second.quantizer and first.proj_in is not second.proj_in
    listed = [p for group in stage.parameter_groups() for p in group["params"]]
    assert len(listed) == len(set(listed))
    stage(stage.batch(1, 0), SEED)["loss"].backward()
    assert first.quantizer.linear.weight.grad.abs().sum() > 0


def test_soft_routing_control(songs, stage2_state, tmp_path):
    config = small_config(3, "routing=soft", "train.steps=2", "train.evaluate_every=2", "train.save_every=2")
    stage = make_stage(config, songs)
    stage.start(stage2_state)
    slot = stage.model.trunk.bottleneck
    assert isinstance(slot, SoftRouting)
    batch = stage.batch(1, 0).tensors
    hidden = stage.model.trunk.encode(stage.model.mel(batch["wave"]))
    out = slot(hidden)
    chosen = slot.router(hidden).argmax(-1)
    assert torch.equal(out.indices >= 4096, chosen == 1) and out.usage.sum(1).tolist() == [chosen.numel()] * 2
    with torch.no_grad():
        slot.router.weight.zero_()
        slot.router.bias.copy_(torch.tensor([0.0, 100.0]))
    rows = slot.branches[1].quantize(hidden.flatten(0, 1))
    torch.testing.assert_close(slot(hidden).hidden.flatten(0, 1), slot.branches[1].proj_out(rows.vectors))
    assert torch.equal(slot(hidden).indices.flatten(), rows.indices + 4096)
    train(stage, config.train, tmp_path / "run")
    with pytest.raises(ValueError, match="expected a run of stage 3 with hard routing; got stage 3, routing soft"):
        export(tmp_path / "run", tmp_path / "tokenizer")


def test_codes_do_not_decay(stage):
    *_, quantizers = stage.parameter_groups()
    linears = {p for branch in stage.model.trunk.bottleneck.branches for p in branch.quantizer.linear.parameters()}
    assert set(quantizers["params"]) == linears and quantizers["weight_decay"] == 0


def test_masks_are_refused(songs):
    with pytest.raises(ValueError, match=r"expected model.heads.masks false in stage 3"):
        make_stage(small_config(3, "model.heads.masks=true"), songs)
