"""Span masking: which samples are replaced, by what, and which labels that masks."""

from __future__ import annotations

import torch

from duotok.training.masking import MaskingConfig, frames_of_spans, mask_spans

RATE = 24_000
CONFIG = MaskingConfig()
SPAN = 9_600  # 0.4 s


def masked(num_samples: int, step: int = 0, batch: int = 8):
    wave = torch.full((batch, num_samples), 0.5)
    return wave, mask_spans(wave, CONFIG, RATE, torch.tensor([7, step]))


def test_masked_spans_hold_noise_and_others_the_wave():
    wave, out = masked(25 * SPAN)
    assert out.wave.shape == wave.shape and out.spans.shape == (8, 25)
    for samples, is_masked in zip(out.wave.unflatten(1, (25, SPAN)).flatten(0, 1), out.spans.flatten(), strict=True):
        if is_masked:
            assert abs(samples.mean()) < 0.005 and abs(samples.std() - 0.1) < 0.005
        else:
            assert torch.equal(samples, torch.full((SPAN,), 0.5))


def test_share_of_masked_spans_and_independence():
    _, out = masked(25 * SPAN, batch=200)
    spans = out.spans.double()
    assert abs(spans.mean() - 0.6) < 0.02
    neighbours = torch.corrcoef(torch.stack((spans[:, 1:].flatten(), spans[:, :-1].flatten())))[0, 1]
    assert abs(neighbours) < 0.05


def test_masks_are_functions_of_the_seed():
    _, first = masked(25 * SPAN)
    _, again = masked(25 * SPAN)
    _, other = masked(25 * SPAN, step=1)
    assert torch.equal(first.spans, again.spans) and torch.equal(first.wave, again.wave)
    assert not torch.equal(first.spans, other.spans)


def test_a_short_last_span_is_masked_like_any():
    wave, out = masked(2 * SPAN + 100, batch=50)
    assert out.wave.shape == wave.shape and out.spans.shape == (50, 3)
    changed = (out.wave[:, 2 * SPAN :] != 0.5).any(1)
    assert torch.equal(changed, out.spans[:, 2]) and 20 < changed.sum() < 40


def test_frames_of_spans():
    spans = torch.tensor([[True, False, True]])
    assert frames_of_spans(spans, 2, 5).tolist() == [[True, True, False, False, True]]
