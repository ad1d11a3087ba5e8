"""The networks: shapes, routing, freezing, the quantizer's promises, the paper's size."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from duotok import config as configuration
from duotok.model.best_rq import BestRQConfig, RandomProjectionQuantizer
from duotok.model.bottleneck import BottleneckConfig, DualSimVQ, make_bottleneck
from duotok.model.heads import BANDS, HeadsConfig
from duotok.model.semantic import SemanticConfig, SemanticModel
from duotok.model.simvq import Codebook, SimVQConfig
from duotok.model.transformer import Block, TransformerConfig, rotary_table, rotate
from duotok.model.trunk import TrunkConfig
from duotok.tokenizer import _CONFIGS, TokenizerConfig

TINY = SemanticConfig(
    trunk=TrunkConfig(1, 1, TransformerConfig(width=32, num_heads=2, ffn_width=64, dropout=0.0), downsample_channels=4),
    bottleneck=BottleneckConfig(quantizer=SimVQConfig(codebook_size=100, dim=8)),
    heads=HeadsConfig(masks=True, hidden=16, band_dim=4),
)


def with_slot(**changes) -> SemanticConfig:
    return replace(TINY, bottleneck=replace(TINY.bottleneck, **changes))


@pytest.fixture
def wave() -> torch.Tensor:
    return 0.1 * torch.randn(4, 9600, generator=torch.Generator().manual_seed(0))  # 0.4 s: 10 frames


TRACKS = torch.tensor([0, 1, 1, 0])


@pytest.mark.parametrize("kind", ["plain", "gaussian", "simvq", "codebook"])
def test_every_slot_gives_frames_at_25_hz(wave, kind):
    model = SemanticModel(with_slot(kind=kind)).eval()
    out = model(wave, TRACKS)
    assert out.hidden.shape == (4, 10, 32)
    assert (out.bottleneck.indices is None) == (kind in ("plain", "gaussian"))
    shapes = {name: tuple(head(out.hidden).shape) for name, head in model.heads.items()}
    assert shapes == {"mel": (4, 40, 128), "chroma": (4, 40, 12), "masks": (4, 40, 4, 1025), "lyrics": (4, 10, 257)}


def test_masks_lie_between_zero_and_one_and_bands_cover_the_spectrum(wave):
    model = SemanticModel(with_slot(kind="plain")).eval()
    masks = model.heads["masks"](model(wave).hidden)
    assert masks.min() >= 0 and masks.max() <= 1 and masks.std() > 0
    assert sum(BANDS) == 1025 and len(BANDS) == 62


def test_paper_size_from_yaml_on_the_meta_device():
    config = configuration.load(_CONFIGS / "tokenizer.yaml", TokenizerConfig)
    with torch.device("meta"):
        model = SemanticModel(config.model)
    blocks = sum(p.numel() for p in (*model.trunk.front.parameters(), *model.trunk.back.parameters()))
    assert 302_000_000 < blocks < 303_000_000  # PAPER.md section 3: 24 blocks of this size are 302 M
    assert [len(model.trunk.front.blocks), len(model.trunk.back.blocks)] == [12, 12]
    tables = [branch.quantizer.table for branch in model.trunk.bottleneck.branches]
    assert [tuple(table.shape) for table in tables] == [(32_768, 128)] * 2
    assert config.model.frame_rate == 25


def test_paper_width_runs_at_reduced_depth():
    config = configuration.load(
        _CONFIGS / "tokenizer.yaml", TokenizerConfig,
        ["model.trunk.front_blocks=1", "model.trunk.back_blocks=1", "model.heads.masks=true"],
    )  # fmt: skip
    model = SemanticModel(config.model).train()
    out = model(0.1 * torch.randn(2, 9600), torch.tensor([0, 1]))
    loss = out.bottleneck.commitment + out.bottleneck.codebook + model.heads["mel"](out.hidden).abs().mean()
    loss.backward()
    assert loss.isfinite() and model.trunk.downsample.project.weight.grad.abs().sum() > 0


def test_routing_is_hard(wave):
    """An item's codes come from its own branch alone: changing the other branch changes nothing."""
    model = SemanticModel(TINY).eval()
    before = model(wave, TRACKS)
    with torch.no_grad():
        for parameter in model.trunk.bottleneck.branches[1].parameters():
            parameter.mul_(-1.7)
    after = model(wave, TRACKS)
    vocal = TRACKS == 0
    assert torch.equal(before.hidden[vocal], after.hidden[vocal])
    assert not torch.equal(before.hidden[~vocal], after.hidden[~vocal])
    alone = model(wave[:1], TRACKS[:1])
    assert torch.equal(alone.bottleneck.indices, after.bottleneck.indices[:1])
    assert after.bottleneck.usage.sum(1).tolist() == [20, 20]


def test_one_track_alone_keeps_its_losses_finite(wave):
    out = SemanticModel(TINY).eval()(wave[:1], torch.tensor([1]))
    assert out.bottleneck.commitment.isfinite() and out.bottleneck.usage[0].sum() == 0


@pytest.mark.parametrize("share", [False, True])
def test_linear_maps_are_independent_or_shared(share):
    slot = make_bottleneck(replace(TINY.bottleneck, share_linear=share), 32)
    first, second = (branch.quantizer for branch in slot.branches)
    assert (first.linear is second.linear) == share
    assert not torch.equal(first.table, second.table)
    assert {name for name, _ in first.named_buffers()} == {"table"}, "the table is frozen"


def test_table_is_gaussian_and_equal_for_equal_seeds():
    config = BottleneckConfig(quantizer=SimVQConfig(codebook_size=32_768, dim=16))
    first, second = (make_bottleneck(config, 8).branches[0].quantizer.table for _ in range(2))
    assert torch.equal(first, second)
    assert abs(first.std().item() - 16**-0.5) < 1e-3


def test_tracks_are_required():
    slot = DualSimVQ(8, replace(TINY.bottleneck))
    with pytest.raises(ValueError, match=r"expected tracks \(2,\) of 0 and 1; got None"):
        slot(torch.zeros(2, 3, 8))


def test_straight_through_reaches_the_front_and_losses_reach_the_map(wave):
    model = SemanticModel(TINY).train()
    out = model(wave, TRACKS)
    out.hidden.square().mean().backward(retain_graph=True)
    branch = model.trunk.bottleneck.branches[0]
    assert branch.proj_in.weight.grad.abs().sum() > 0 and branch.quantizer.linear.weight.grad is None
    out.bottleneck.codebook.backward()
    assert branch.quantizer.linear.weight.grad.abs().sum() > 0


def test_gaussian_replacement_acts_in_training_only(wave):
    model = SemanticModel(with_slot(kind="gaussian", replace_p=0.5)).eval()
    clean = model(wave).hidden
    assert torch.equal(model(wave).hidden, clean)
    slot = model.trunk.bottleneck.train()
    noisy = [model(wave, seed=torch.tensor([1, step])).hidden for step in (0, 0, 1)]
    assert torch.equal(noisy[0], noisy[1]) and not torch.equal(noisy[0], noisy[2]) and not torch.equal(noisy[0], clean)
    with pytest.raises(ValueError, match="expected a seed"):
        slot(torch.zeros(1, 2, 32))


def test_bottleneck_features_have_unit_scale_over_frames():
    slot = make_bottleneck(with_slot(kind="gaussian").bottleneck, 32)
    hidden = 7 + 3 * torch.randn(5, 400, 32)
    z = slot.train().narrow(hidden).flatten(0, 1)
    torch.testing.assert_close(z.mean(0), torch.zeros(8), rtol=0, atol=1e-5)
    torch.testing.assert_close(z.var(0), torch.ones(8), rtol=0, atol=1e-2)
    calibrated = slot.calibrate(hidden.flatten(0, 1))
    torch.testing.assert_close(calibrated, z, rtol=0, atol=1e-2)
    torch.testing.assert_close(slot.eval().narrow(hidden).flatten(0, 1), calibrated)


def test_narrow_features_ignore_autocast_and_keep_the_weights_dtype():
    slot, hidden = make_bottleneck(with_slot(kind="gaussian").bottleneck, 32).eval(), torch.randn(3, 5, 32)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(slot.narrow(hidden), slot.narrow(hidden).float())
    assert slot.double().narrow(hidden.double()).dtype == torch.float64


def test_principal_components_survive_the_bottleneck():
    """Features of rank d pass through a fitted bottleneck unchanged, and are white inside."""
    slot = make_bottleneck(with_slot(kind="gaussian").bottleneck, 32).eval()
    hidden = torch.randn(2000, 8) @ torch.randn(8, 32) + 5
    slot.fit(hidden)
    torch.testing.assert_close(slot.narrow(hidden).T.cov(), torch.eye(8), rtol=0, atol=1e-3)
    torch.testing.assert_close(slot(hidden[None]).hidden[0], hidden, rtol=0, atol=1e-2)


def test_codes_can_be_given_a_mean_and_covariance():
    quantizer = make_bottleneck(BottleneckConfig(quantizer=SimVQConfig(32_768, 4)), 8).branches[0].quantizer
    root = torch.randn(4, 4)
    quantizer.fit(torch.arange(4.0), root @ root.T)
    torch.testing.assert_close(quantizer.codes().T.cov(), root @ root.T, rtol=0.05, atol=0.05)
    torch.testing.assert_close(quantizer.codes().mean(0), torch.arange(4.0), rtol=0, atol=0.1)


def test_a_track_may_be_missing_while_training(wave):
    out = SemanticModel(TINY).train()(wave, torch.zeros(4, dtype=torch.int64))
    out.hidden.sum().backward()
    assert out.hidden.isfinite().all() and out.bottleneck.usage[1].sum() == 0


def test_export_holds_the_effective_codes_and_the_same_answers(wave):
    model = SemanticModel(TINY).eval()
    frozen = model.export()
    assert frozen.config.bottleneck.kind == "codebook"
    for track in (0, 1):
        assert torch.equal(frozen.codebook(track), model.codebook(track))
    ours, theirs = frozen(wave, TRACKS), model(wave, TRACKS)
    assert torch.equal(ours.bottleneck.indices, theirs.bottleneck.indices)
    torch.testing.assert_close(ours.hidden, theirs.hidden, rtol=1e-5, atol=1e-5)
    assert torch.equal(frozen.encode(wave, TRACKS), ours.bottleneck.indices)
    assert not any("linear" in name for name in frozen.state_dict() if ".quantizer." in name)


def test_codebook_notices_that_it_was_changed(wave):
    frozen = SemanticModel(TINY).eval().export()
    before = frozen.encode(wave, TRACKS)
    for branch in frozen.trunk.bottleneck.branches:
        branch.quantizer.table.copy_(branch.quantizer.table.flip(0).clone())
    assert torch.equal(frozen.encode(wave, TRACKS), 99 - before)


def test_export_needs_codebooks():
    with pytest.raises(ValueError, match="got Plain; train stage 3 first"):
        SemanticModel(with_slot(kind="plain")).export()


def test_rotary_attention_sees_distances_only():
    table = rotary_table(20, 8, 10_000.0, torch.device("cpu"))
    q, k = torch.randn(1, 1, 1, 8).expand(1, 20, 1, 8), torch.randn(1, 1, 1, 8).expand(1, 20, 1, 8)
    products = torch.einsum("bshd,bthd->st", rotate(q, table), rotate(k, table))
    for shift in range(1, 5):
        torch.testing.assert_close(products[shift:, shift:], products[:-shift, :-shift], rtol=1e-4, atol=1e-4)
    assert products[0].std() > 0.01


def test_block_is_pre_norm_with_residuals():
    block = Block(TransformerConfig(width=16, num_heads=2, ffn_width=32)).eval()
    with torch.no_grad():
        for linear in (block.out, block.ffn_out):
            linear.weight.zero_(), linear.bias.zero_()
    x = torch.randn(1, 5, 16)
    assert torch.equal(block(x, rotary_table(5, 8, 1e4, x.device)), x)


def test_width_must_fit_the_heads():
    with pytest.raises(ValueError, match="even multiple of num_heads; got 30 and 4"):
        TransformerConfig(width=30, num_heads=4)


@pytest.mark.parametrize(("rate", "labels"), [(25, 10), (50, 20), (100, 40)])
def test_best_rq_labels_at_every_rate(rate, labels):
    mel = torch.randn(2, 40, 128, generator=torch.Generator().manual_seed(3))
    quantizer = RandomProjectionQuantizer(BestRQConfig(target_rate=rate), 128, 100)
    targets = quantizer(mel)
    assert targets.shape == (2, labels) and targets.dtype == torch.int64
    stacked = mel.reshape(2 * labels, -1)
    similarity = F.normalize(stacked @ quantizer.projection, dim=-1) @ quantizer.codebook.T
    assert torch.equal(similarity.argmax(1), targets.flatten())  # nearest on the sphere is most similar
    assert len(targets.unique()) > labels, "a random codebook is used widely"
    again = RandomProjectionQuantizer(BestRQConfig(target_rate=rate), 128, 100)
    assert torch.equal(again(mel), targets)
    assert not list(quantizer.parameters())


def test_best_rq_rate_must_divide_the_mel_rate():
    with pytest.raises(ValueError, match="divides 100 Mel frames/s; got 30"):
        RandomProjectionQuantizer(BestRQConfig(target_rate=30), 128, 100)


def test_a_codebook_made_in_inference_mode_quantizes():
    with torch.inference_mode():
        codebook = Codebook(64, 4)
        codebook.table.copy_(torch.randn(64, 4, generator=torch.Generator().manual_seed(0)))
        first = codebook(codebook.table[:5]).indices
        codebook.table.copy_(codebook.table.flip(0))
        assert torch.equal(first, torch.arange(5)) and torch.equal(codebook(codebook.table[:5]).indices, first)
        assert torch.equal(codebook(codebook.table.flip(0)[:5]).indices, 63 - first)
