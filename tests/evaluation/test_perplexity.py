"""PPL@1024: the formula, the model beside Qwen2's own classes, and codes whose predictability is known."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from make_codes import code_songs

from duotok.evaluation import perplexity
from duotok.evaluation.perplexity import PerplexityConfig, measure_perplexity, ppl_1024, sequences, warmup_cosine
from duotok.model.language_model import DualTrackLM, LanguageModelConfig

MODEL = LanguageModelConfig(width=32, num_blocks=1, num_heads=2, num_key_heads=1, ffn_width=64)
QUICK = PerplexityConfig(
    MODEL, lr=1e-2, floor=0.1, steps=60, batch_size=4, seconds=2.0, warmup_steps=5, validate_every=30, val_batches=2
)


def test_ppl_1024_is_that_of_the_published_table():
    # Duo-Tok's 4.75 with 32,768 codes is a perplexity of 152 and 7.25 bits; LeVo's 8.10 with 16,384 is 129.6.
    assert ppl_1024(math.log(152.0), 32_768) == pytest.approx(4.75)
    assert ppl_1024(math.log(129.6), 16_384) == pytest.approx(8.10)
    assert ppl_1024(math.log(194.0), 1024) == pytest.approx(194.0)
    assert ppl_1024(math.log(32_768), 32_768) == pytest.approx(1024)  # of codes drawn uniformly, whatever V


def test_sequences_end_and_padding_counts_nowhere():
    ids, labels = sequences([torch.tensor([[1, 2], [3, 4]]), torch.tensor([[5], [6]])], 10)
    assert ids.tolist() == [[[1, 2, 11], [3, 4, 11]], [[5, 11, 12], [6, 11, 12]]]
    assert labels.tolist() == [[[1, 2, 11], [3, 4, 11]], [[5, 11, -100], [6, 11, -100]]]


def test_rate_warms_up_and_ends_at_its_floor():
    rates = [warmup_cosine(step, 50, 1000, 0.99) for step in range(1200)]
    assert rates[0] == 1 / 50 and rates[49] == 1 and max(rates) == 1
    assert min(rates[50:]) == pytest.approx(0.99) and rates[1199] == pytest.approx(0.99)
    assert rates[525] == pytest.approx(0.995, abs=1e-3)


def test_benchmark_s_sizes_have_the_benchmark_s_parameters():
    with torch.device("meta"):
        model = DualTrackLM(replace(PerplexityConfig().model, codebook_size=32_771))
    trunk = sum(p.numel() for name, p in model.named_parameters() if name.startswith(("blocks", "norm")))
    assert round(trunk / 1e6, 1) == pytest.approx(84.6, abs=1.3)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == pytest.approx(186.5, abs=2)


def test_cross_entropy_counts_every_code_once_and_the_end():
    torch.manual_seed(0)
    model = DualTrackLM(replace(MODEL, codebook_size=13)).double()
    crops = [torch.randint(10, (2, 7)), torch.randint(10, (2, 4))]
    codes, ends = perplexity._score(model, crops, 10, batch_size=2)
    for book in range(2):
        values, last = 0.0, 0.0
        for crop in crops:
            whole = F.pad(crop, (0, 1), value=11)
            logits = model.logits(model(whole[None])[0], book)
            steps = -logits.log_softmax(-1)[torch.arange(whole.shape[1]), whole[book]]
            values, last = values + steps[:-1].sum().item(), last + steps[-1].item()
        assert codes[book].item() == pytest.approx(values) and ends[book].item() == pytest.approx(last)
    mean = perplexity._mean_loss(model, crops, 10).item()
    assert mean == pytest.approx((codes.sum() + ends.sum()).item() / 2 / (7 + 4 + 2), rel=1e-6)


def test_report_follows_from_the_losses():
    found = measure_perplexity(code_songs("noise", 4, 0), code_songs("noise", 2, 1), 64, 25.0, replace(QUICK, steps=2))
    for row in found.codebooks:
        assert row.ppl_1024 == pytest.approx(math.exp(row.cross_entropy_nats) / (64 / 1024))
        assert row.cn_bpt == pytest.approx(row.bits / 6) and row.en_bpt == pytest.approx(row.bits / row.entropy_bits)
        assert row.bits_per_second == pytest.approx(25 * row.bits) and row.entropy_bits <= row.unigram_bits
    nats = sum(row.cross_entropy_nats for row in found.codebooks) / 2
    assert found.mean.ppl_1024 == pytest.approx(math.exp(nats) * 16)
    assert found.mean.bits_per_second == pytest.approx(sum(row.bits_per_second for row in found.codebooks))
    assert found.nominal_bits_per_second == 2 * 6 * 25 and found.num_tokens == 600 and found.best_step == 2


def test_codes_with_structure_cost_less_than_those_without():
    kinds = {kind: (code_songs(kind, 12, 0), code_songs(kind, 3, 1)) for kind in ("chain", "noise")}
    chain, noise = (measure_perplexity(*kinds[kind], 64, 25.0, QUICK).mean for kind in kinds)
    assert noise.bits > 5.9 and noise.en_bpt > 0.98
    assert chain.bits < 4 and chain.ppl_1024 < noise.ppl_1024 / 3
    assert chain.cn_bpt < 0.7 and chain.unigram_bits > 5.5


def test_training_repeats_itself_and_keeps_the_best_weights():
    songs, wild = code_songs("chain", 4, 0), replace(QUICK, steps=8, validate_every=1, lr=0.3, val_batches=1)
    seen: list[int] = []
    found = measure_perplexity(songs, songs[:1], 64, 25.0, wild, progress=lambda step, bits: seen.append(step))
    assert found == measure_perplexity(songs, songs[:1], 64, 25.0, wild)
    assert seen == list(range(1, 9)) and found.best_step < 8  # at such a rate it only gets worse


def test_what_cannot_be_measured_is_refused():
    codes = [torch.zeros(2, 60, dtype=torch.int64)]
    with pytest.raises(ValueError, match=r"expected songs to train on and songs held out; got 1 and 0; add songs"):
        measure_perplexity(codes, [], 8, 25.0, QUICK)
    with pytest.raises(ValueError, match=r"expected codes from 0 to 7; got up to 8; name the codec that made them"):
        measure_perplexity(codes, [codes[0] + 8], 8, 25.0, QUICK)
