"""Stage 1: labels from the clean wave, losses on masked labels only, and a held-out loss that falls."""

from __future__ import annotations

import pytest
import torch
from make_songs import four_songs, small_config, songs_of

from duotok.config import ConfigError
from duotok.training.loop import train
from duotok.training.stages import make_stage

SEED = torch.tensor([3, 0])


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    return songs_of(four_songs(tmp_path_factory.mktemp("songs")))


@pytest.mark.parametrize("rate", [25, 50, 100])
def test_held_out_loss_falls_at_every_target_rate(songs, tmp_path, rate):
    config = small_config(1, f"labels.target_rate={rate}")
    stage = make_stage(config, songs)
    stage.start()
    before = stage.eval().evaluate()
    after = train(stage, config.train, tmp_path).scores
    assert after["loss"] < before["loss"] - 0.3
    assert after["accuracy"] > before["accuracy"] + 0.05
    assert after["loss"] == after["cross_entropy"]


def test_only_masked_labels_count(songs):
    """Logits of unmasked labels are not even computed, and no gradient reaches their hidden frames from the head."""
    stage = make_stage(small_config(1), songs).eval()
    batch, seen = stage.batch(1, 0), {}
    stage.head.register_forward_hook(lambda _, inputs, logits: seen.update(hidden=inputs[0], chosen=inputs[1], logits=logits))
    terms = stage.terms(batch, SEED)
    share = seen["chosen"].float().mean()
    assert 0.3 < share < 0.9
    assert len(seen["logits"]) == seen["chosen"].sum() == terms["cross_entropy"].count
    [gradient] = torch.autograd.grad(terms["cross_entropy"].value, seen["hidden"])
    assert torch.equal(gradient.abs().sum(-1) > 0, seen["chosen"])


def test_targets_come_from_the_clean_wave(songs, monkeypatch):
    stage = make_stage(small_config(1), songs).eval()
    batch, labelled, heard = stage.batch(1, 0), [], []
    stage.labels.register_forward_hook(lambda _, inputs, labels: labelled.append(inputs[0]))
    stage.model.trunk.register_forward_hook(lambda _, inputs, out: heard.append(inputs[0]))
    stage.terms(batch, SEED)
    clean = stage.model.mel(batch.tensors["wave"])
    assert torch.equal(labelled[0], clean) and not torch.equal(heard[0], clean)


def test_a_batch_without_a_masked_span_has_a_gradient(songs):
    stage = make_stage(small_config(1, "masking.p=0"), songs)
    losses = stage(stage.batch(1, 0), SEED)
    losses["loss"].backward()
    assert losses["loss"] == 0 and stage.head.out.weight.grad is not None


def test_bands_of_the_labels_input_are_normalised(songs):
    stage = make_stage(small_config(1), songs)
    before = stage.labels(stage.model.mel(stage.batch(1, 0).tensors["wave"]))
    stage.start()
    mel = torch.cat([stage.model.mel(stage.batch(0, micro).tensors["wave"]) for micro in range(stage.config.fit_batches)])
    normal = (mel - stage.labels.mean) / stage.labels.std
    torch.testing.assert_close(normal.mean((0, 1)), torch.zeros(128), rtol=0, atol=1e-3)
    torch.testing.assert_close(normal.std((0, 1)), torch.ones(128), rtol=0, atol=1e-3)
    after = stage.labels(stage.model.mel(stage.batch(1, 0).tensors["wave"]))
    assert len(after.unique()) > len(before.unique())
    again = make_stage(small_config(1), songs)
    again.start({**stage.state_dict(), "labels.mean": torch.full((128,), 3.0)})
    assert again.labels.mean.tolist() == [3.0] * 128 and torch.equal(again.labels.std, stage.labels.std)


def test_inputs_take_turns(songs):
    stage = make_stage(small_config(1, "inputs=[vocals, mixture]"), songs)
    """Over all crops of all micro-batches and steps, however few a micro-batch has."""
    for step, micro, first in ((1, 0, "mixture"), (1, 1, "mixture"), (2, 0, "vocals")):
        crops = stage.train_crops.draw(step, micro, 4)
        wave, names = stage.collate(crops).tensors["wave"], ("vocals", "mixture")
        start = names.index(first)
        for i, crop in enumerate(crops):
            assert torch.equal(wave[i], crop.wave(names[(start + i) % 2]))
    scored = stage.held_out_crops.spread(4)
    alone = [stage.collate([crop]).tensors["wave"] for crop in scored]
    assert torch.equal(stage.collate(scored).tensors["wave"], torch.cat(alone)), "scores do not depend on the batch size"


def test_batches_and_scores_repeat(songs):
    first, second = (make_stage(small_config(1), songs).eval() for _ in range(2))
    assert torch.equal(first.batch(5, 2).tensors["wave"], second.batch(5, 2).tensors["wave"])
    state = torch.random.get_rng_state()
    assert first.evaluate() == second.evaluate() == first.evaluate()
    assert torch.equal(torch.random.get_rng_state(), state)


def test_spans_must_hold_whole_labels():
    with pytest.raises(ConfigError, match=r"expected masking.span_s to hold whole labels.*; got 0.5 s at 25 labels/s"):
        small_config(1, "masking.span_s=0.5")
