"""Stage 2: four tasks that learn, noise while training only, and tasks that songs without their data skip."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from make_songs import four_songs, small_config, songs_of

from duotok.dataset.songs import Songs
from duotok.training.data import Crop
from duotok.training.loop import train
from duotok.training.stages import make_stage

SEED = torch.tensor([3, 0])
TASKS = {"mel", "chroma", "masks", "lyrics"}


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    return songs_of(four_songs(tmp_path_factory.mktemp("songs")))


def mute(songs: Songs) -> Songs:
    """The same songs without lyrics and stems."""
    names = ("vocals", "accompaniment")
    bare = [
        tuple(replace(s, words=(), text=None, waves={n: s.waves[n] for n in names}) for s in part)
        for part in (songs.train, songs.held_out)
    ]
    return Songs(*bare)


def test_every_task_learns_on_held_out_songs(songs, tmp_path):
    config = small_config(2, "train.steps=60")
    stage = make_stage(config, songs)
    before = stage.eval().evaluate()
    after = train(stage, config.train, tmp_path).scores
    assert set(after) == {"loss", "character_errors", *TASKS}
    assert after["loss"] < 0.7 * before["loss"]
    assert all(after[task] < before[task] for task in TASKS), (before, after)


def test_the_total_is_the_weighted_sum(songs):
    stage = make_stage(small_config(2, "weights={mel: 2.0, chroma: 0.5, masks: 3.0, lyrics: 0.25}"), songs).eval()
    losses = stage(stage.batch(1, 0), SEED)
    mel, chroma, masks, lyrics = (losses[name].value for name in ("mel", "chroma", "masks", "lyrics"))
    expected = 2 * mel + 0.5 * chroma + 3 * masks + 0.25 * lyrics
    torch.testing.assert_close(losses["loss"], expected)


def test_sources_and_mixture_come_from_one_crop(songs):
    stage = make_stage(small_config(2), songs)
    with_stems = next(song for song in songs.train if "drums" in song.waves)
    without = next(song for song in songs.train if "drums" not in song.waves)
    crops = [Crop(song, 12_000, stage.train_crops.draw(1, 0, 1)[0].num_samples) for song in (with_stems, without)]
    batch = stage.collate(crops)
    sources = batch.tensors["sources"]
    assert batch.tensors["has_stems"].tolist() == [True, False] and batch.names == (with_stems.id, without.id)
    torch.testing.assert_close(sources[0, :3].sum(0), sources[0, 4], rtol=0, atol=2e-4)
    assert sources[1, :3].abs().max() == 0
    for row, crop in zip(sources, crops, strict=True):
        assert torch.equal(row[3], crop.wave("vocals")) and torch.equal(row[4], crop.wave("accompaniment"))
        assert torch.equal(row[3] + row[4], crop.wave("mixture"))


def test_songs_without_lyrics_or_stems_skip_that_task_alone(songs):
    losses = {}
    for name, part in (("all", songs), ("mute", mute(songs))):
        stage = make_stage(small_config(2), part).eval()
        losses[name] = stage(stage.batch(1, 0), SEED)
        losses[name]["loss"].backward()
        assert losses[name]["loss"].isfinite()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in stage.parameters() if p.requires_grad)
        assert (stage.model.heads["lyrics"].weight.grad.abs().sum() > 0) == (name == "all")
    whole, mute_ones = ({name: mean.value for name, mean in found.items() if name != "loss"} for found in losses.values())
    assert whole["lyrics"] > 0 and mute_ones["lyrics"] == losses["mute"]["lyrics"].count == 0
    assert whole["mel"] == mute_ones["mel"] and whole["chroma"] == mute_ones["chroma"]
    assert whole["masks"] != mute_ones["masks"] > 0
    assert "lyrics" not in make_stage(small_config(2), mute(songs)).eval().evaluate()


def test_noise_in_training_only(songs):
    stage = make_stage(small_config(2, "model.trunk.block.dropout=0"), songs)
    for module in stage.modules():  # so that the bottleneck alone differs
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            module.momentum = 0.0
            module.track_running_stats = False
            module.running_mean = module.running_var = None
    batch = stage.batch(1, 0)
    clean = [stage.eval()(batch, torch.tensor([1, step]))["mel"] for step in (0, 1)]
    noisy = [stage.train()(batch, torch.tensor([1, step]))["mel"] for step in (0, 0, 1)]
    assert clean[0] == clean[1] and noisy[0] == noisy[1] != noisy[2] and clean[0] not in noisy


def test_masks_in_the_middle_alone(songs):
    """With masks_s the mask head sees the middle second of the crop."""
    stage, seen = make_stage(small_config(2, "data.crop_s=2", "masks_s=1"), songs).eval(), []
    stage.model.heads["masks"].register_forward_hook(lambda _, inputs, out: seen.append(inputs[0]))
    stage.model.trunk.norm.register_forward_hook(lambda _, inputs, out: seen.append(out))
    stage(stage.batch(1, 0), SEED)
    assert torch.equal(seen[0][:, 12:37], seen[1])


def test_stage1_gives_its_trunk(songs):
    first, second = make_stage(small_config(1), songs), make_stage(small_config(2, "train.seed=1"), songs)
    fresh = {name: tensor.clone() for name, tensor in second.state_dict().items()}
    second.start(first.state_dict())
    given = first.state_dict()
    for name, tensor in second.state_dict().items():
        if not name.startswith("model.trunk.bottleneck."):
            assert torch.equal(tensor, fresh[name] if name.startswith("model.heads.") else given[name]), name
    assert any(not torch.equal(fresh[name], given[name]) for name in fresh if name in given)


def test_projections_start_as_principal_components(songs):
    """The narrow features fill their space, and what the back blocks hear is the best d-dimensional copy of stage 1's."""
    stage = make_stage(small_config(2), songs)
    stage.start(make_stage(small_config(1), songs).state_dict())
    slot, num_batches = stage.model.trunk.bottleneck, stage.config.fit_batches
    hidden = torch.cat([hidden.flatten(0, 1) for _, hidden in stage.front_features(num_batches)])
    narrow = slot.proj_in(hidden)
    torch.testing.assert_close(narrow.T.cov(), torch.eye(8), rtol=0, atol=0.02)
    lost = (slot.proj_out(narrow) - hidden).square().sum() / (hidden - hidden.mean(0)).square().sum()
    values = torch.linalg.svdvals(hidden - hidden.mean(0)).square()
    torch.testing.assert_close(lost, values[8:].sum() / values.sum(), rtol=0, atol=1e-3)


def test_other_sizes_are_named(songs):
    first, second = make_stage(small_config(1), songs), make_stage(small_config(2, "model.trunk.front_blocks=2"), songs)
    with pytest.raises(
        ValueError, match=r"model.trunk.front.blocks.1.* is missing; .* and \d+ more; start from a run of that stage"
    ):
        second.start(first.state_dict())
    wide = make_stage(small_config(2, "model.trunk.block.ffn_width=96"), songs)
    with pytest.raises(ValueError, match=r"ffn_in.weight is \(64, 32\) instead of \(96, 32\)"):
        wide.start(first.state_dict())
    with pytest.raises(ValueError, match=r"model.extra has no place"):
        second.start({**second.state_dict(), "model.extra": torch.zeros(1)})


def test_trunk_learns_at_its_own_rate(songs):
    stage = make_stage(small_config(2, "trunk_lr_scale=0.25"), songs)
    groups = stage.parameter_groups()
    assert [group["lr_scale"] for group in groups] == [0.25, 1.0]
    listed = [p for group in groups for p in group["params"]]
    assert len(listed) == len(set(listed)) == len(list(stage.parameters()))
    assert set(stage.model.heads.parameters()) <= set(groups[1]["params"])
