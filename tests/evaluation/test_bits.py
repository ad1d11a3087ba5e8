"""Bits per token: the unigram model, and a language model that must find what there is to find, and nothing else."""

from __future__ import annotations

import math

import pytest
import torch
from make_codes import code_songs

from duotok.evaluation.bits import BitsConfig, entropy_bits, measure_bits, unigram
from duotok.model.language_model import DualTrackLM, LanguageModelConfig

SMALL = BitsConfig(width=32, num_blocks=1, num_heads=2, num_key_heads=1, ffn_width=64, steps=150, batch_size=4, frames=50)


def test_unigram_leaves_what_songs_do_not_share_its_likeliest_weight():
    p = unigram([torch.tensor([0, 0, 1]), torch.tensor([0, 2])], 8)
    assert p.sum().item() == pytest.approx(1)

    def likelihood(w: float) -> float:  # of each song's codes, given the counts of the other
        shared = 2 * math.log((1 - w) / 2 + w / 8) + math.log((1 - w) * 2 / 3 + w / 8)
        return shared + 2 * math.log(w / 8)

    best = max((i / 10_000 for i in range(1, 10_000)), key=likelihood)
    counts = [3, 1, 1, 0, 0, 0, 0, 0]
    assert p.tolist() == pytest.approx([(1 - best) * n / 5 + best / 8 for n in counts], abs=1e-4)
    assert torch.allclose(unigram([torch.tensor([0, 1, 0, 1])], 2), torch.full((2,), 0.5, dtype=torch.float64))
    assert (unigram([torch.zeros(10, dtype=torch.int64)] * 2, 4) > 0.01).all()


def test_entropy_of_a_known_distribution():
    assert entropy_bits(torch.tensor([0, 0, 1, 3]), 5) == pytest.approx(1.5)


def test_model_is_causal():
    model = DualTrackLM(LanguageModelConfig(16, 2, 32, 2, 2, 1, 64, embedding_dim=8)).double()
    codes = torch.randint(16, (1, 2, 12))
    before = model(codes)
    changed = codes.clone()
    changed[0, :, 7] = (changed[0, :, 7] + 1) % 16
    after = model(changed)
    assert torch.equal(before[:, :8], after[:, :8])
    assert (before[:, 8:] - after[:, 8:]).abs().amax(-1).min() > 1e-9


@pytest.mark.parametrize(("kind", "lowest", "highest"), [("chain", 2.0, 5.01), ("noise", -0.3, 0.05)])
def test_language_model_gains_where_there_is_structure_and_nowhere_else(kind, lowest, highest):
    angle = torch.arange(64) / 64 * 2 * math.pi
    vectors = torch.stack([f(k * angle) for k in (1, 3, 8, 20) for f in (torch.sin, torch.cos)], dim=1)
    for bits in measure_bits(code_songs(kind, 12, 0), code_songs(kind, 3, 1), [vectors, vectors], SMALL):
        assert lowest < bits.gain < highest
        assert bits.entropy <= bits.unigram


def test_songs_shorter_than_a_crop_are_refused():
    with pytest.raises(ValueError, match=r"expected a training song of more than 50 frames; got none; set frames lower"):
        measure_bits([torch.zeros(2, 50, dtype=torch.int64)], [], [torch.zeros(4, 2)] * 2, SMALL)
