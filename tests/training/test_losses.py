"""Losses against their definitions in plain numbers, and what is skipped."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from duotok.kernels import MelSpec

from duotok.training.losses import Mean, character_errors, cross_entropy, ctc, l1, separation
from duotok.training.targets import chroma_target, compressed_magnitude


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def test_means_add_like_their_samples(generator):
    values, chosen = torch.randn(7, generator=generator), torch.tensor([1, 0, 1, 1, 0, 0, 1], dtype=torch.bool)
    parts = Mean.of(values[:3], chosen[:3]) + Mean.of(values[3:], chosen[3:])
    torch.testing.assert_close(parts.value, values[chosen].mean())
    torch.testing.assert_close((Mean.of(values[:3]) + Mean.of(values[3:])).value, values.mean())


def test_a_mean_of_nothing_is_zero_with_a_gradient():
    values = torch.ones(3, requires_grad=True)
    value = Mean.of(values, torch.zeros(3, dtype=torch.bool)).value
    value.backward()
    assert value == 0 and values.grad.tolist() == [0, 0, 0]


def test_cross_entropy_and_l1(generator):
    logits, labels = torch.randn(5, 4, generator=generator), torch.tensor([0, 1, 2, 3, 0])
    torch.testing.assert_close(cross_entropy(logits, labels).value, F.cross_entropy(logits, labels))
    assert cross_entropy(logits[:0], labels[:0]).value == 0
    a, b = torch.randn(2, 2, 3, 4, generator=generator)
    torch.testing.assert_close(l1(a, b).value, (a - b).abs().mean())


def test_ctc_is_per_unit_over_items_with_lyrics(generator):
    logits = torch.randn(3, 20, 5, generator=generator, requires_grad=True)
    units, lengths = torch.tensor([[1, 2, 3], [4, 0, 0], [0, 0, 0]]), torch.tensor([3, 1, 0])
    value = ctc(logits, units, lengths).value
    log_p = logits.log_softmax(-1).transpose(0, 1)
    expected = F.ctc_loss(log_p[:, :2], units[:2], torch.tensor([20, 20]), lengths[:2])  # reduction "mean" divides by lengths
    torch.testing.assert_close(value, expected)
    value.backward()
    assert logits.grad[:2].abs().sum() > 0 and logits.grad[2].abs().sum() == 0


def test_ctc_of_one_frame_is_the_cross_entropy(generator):
    logits, unit = torch.randn(1, 1, 5, generator=generator), torch.tensor([2])
    torch.testing.assert_close(ctc(logits, unit[None], torch.ones_like(unit)).value, F.cross_entropy(logits[0], unit))


def test_lyrics_that_do_not_fit_are_skipped(generator):
    logits = torch.randn(2, 2, 5, generator=generator, requires_grad=True)
    units, lengths = torch.tensor([[1, 2, 3], [1, 0, 0]]), torch.tensor([3, 1])
    mean = ctc(logits, units, lengths)
    mean.value.backward()
    assert mean.count == 1 and mean.value.isfinite() and logits.grad.isfinite().all() and logits.grad[0].abs().sum() == 0
    doubled = torch.tensor([[1, 1], [2, 1], [3, 0]])  # a blank stands between equal units
    counted = [ctc(logits.detach()[:1], row[None], torch.tensor([2 if row[1] else 1])).count.item() for row in doubled]
    assert counted == [0, 1, 1]


def test_character_errors():
    best = torch.tensor([[1, 1, 0, 2], [3, 3, 3, 3], [1, 2, 3, 4]])
    units, lengths = torch.tensor([[1, 2, 2], [1, 2, 0], [0, 0, 0]]), torch.tensor([3, 2, 0])
    errors = character_errors(F.one_hot(best, 5).float(), units, lengths)
    assert (errors.total.item(), errors.count.item()) == (1 + 2, 5)


def test_ideal_masks_have_no_separation_loss(generator):
    """Four sources whose magnitudes add: their masks, and the masks' norm for the accompaniment, are exact."""
    sources = torch.rand(2, 4, 6, 9, generator=generator) + 0.1
    mixture, accompaniment = sources.sum(1), sources[:, :3].sum(1)
    compressed = torch.cat((sources, accompaniment[:, None]), 1) ** 0.3
    masks = (compressed[:, :4] / mixture[:, None] ** 0.3).movedim(1, 2)
    has_stems = torch.tensor([True, False])
    assert separation(masks, mixture**0.3, compressed, has_stems).value < 1e-6
    worse = masks.clone()
    worse[1, :, 0] = 0  # the drums' mask of the song of two stems counts through the accompaniment alone
    assert separation(worse, mixture**0.3, compressed, has_stems).value > 1e-3


def test_songs_of_two_stems_ignore_unknown_stems(generator):
    masks, mixture = torch.rand(1, 6, 4, 9, generator=generator), torch.rand(1, 6, 9, generator=generator)
    sources = torch.rand(1, 5, 6, 9, generator=generator)
    changed = sources.clone()
    changed[:, :3] = 7

    def loss(sources, has):
        return separation(masks, mixture, sources, torch.tensor([has])).value.item()

    assert loss(sources, False) == loss(changed, False) and loss(sources, True) != loss(changed, True)
    vocals = (masks[:, :, 3] * mixture - sources[:, 3]).abs().mean()
    together = masks[:, :, :3].pow(1 / 0.3).sum(2).pow(0.3).clamp(max=1)
    accompaniment = (together * mixture - sources[:, 4]).abs().mean()
    assert math.isclose(loss(sources, False), (vocals + accompaniment).item() / 2, rel_tol=1e-5)


def test_targets_lie_on_the_mel_frames():
    spec, t = MelSpec(), torch.arange(24_000) / 24_000
    tone = 0.5 * torch.sin(2 * torch.pi * 440 * t)[None]
    chroma = chroma_target(tone, spec)
    assert chroma.shape == (1, 100, 12) and (chroma[0, 5:-5].argmax(-1) == 9).all()  # A
    magnitude = compressed_magnitude(tone[None], spec)
    assert magnitude.shape == (1, 1, 100, 1025)
    frame = np.abs(np.fft.rfft(tone[0, 12_000 - 1024 : 12_000 + 1024].numpy() * np.hanning(2049)[:-1]))
    np.testing.assert_allclose(magnitude[0, 0, 50].numpy(), frame**0.3, atol=1e-2)
