"""N-gram models beside counting by hand, and on codes whose structure is known."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from make_codes import code_songs

from duotok.evaluation.bits import unigram
from duotok.evaluation.ngrams import measure_ngrams, ngram_probabilities


def by_hand(train: list[list[int]], song: list[int], size: int, order: int) -> list[float]:
    """Witten-Bell interpolation with dictionaries, a code at a time."""
    base = unigram([torch.tensor(part) for part in train], size)

    def probability(code: int, history: tuple[int, ...]) -> float:
        if not history:
            return base[code].item()
        followers = Counter(
            part[i] for part in train for i in range(len(history), len(part)) if tuple(part[i - len(history) : i]) == history
        )
        shorter = probability(code, history[1:])
        if not followers:
            return shorter
        return (followers[code] + len(followers) * shorter) / (followers.total() + len(followers))

    return [probability(code, tuple(song[max(0, i - order + 1) : i])) for i, code in enumerate(song)]


@pytest.mark.parametrize("order", [1, 2, 3])
def test_probabilities_are_those_of_counting_by_hand(order):
    generator = torch.Generator().manual_seed(0)
    train = [torch.randint(5, (n,), generator=generator) for n in (40, 30, 1)]
    held = [torch.randint(7, (n,), generator=generator) for n in (25, 1, 2)]
    expected = [p for song in held for p in by_hand([t.tolist() for t in train], song.tolist(), 7, order)]
    assert ngram_probabilities(train, held, 7, order).tolist() == pytest.approx(expected)


def test_probabilities_of_all_successors_add_up_to_one():
    generator = torch.Generator().manual_seed(1)
    train = [torch.randint(6, (50,), generator=generator) for _ in range(2)]
    for context in ([0, 3], [5, 5], [7, 1]):
        tails = [torch.tensor([*context, code]) for code in range(8)]
        last = ngram_probabilities(train, tails, 8, 3).view(8, 3)[:, 2]
        assert last.sum().item() == pytest.approx(1)


def test_order_helps_where_there_is_structure_and_nowhere_else():
    chain, noise = (measure_ngrams(code_songs(kind, 12, 0), code_songs(kind, 3, 1), 64)[0] for kind in ("chain", "noise"))
    assert chain.unigram > 5.5 and 1 < chain.bigram < 1.6  # its steps are one bit
    assert chain.conditional_entropy == pytest.approx(1, abs=0.1) and chain.entropy <= chain.unigram
    assert noise.bigram > noise.unigram - 0.1 and noise.trigram > 5.9


def test_nothing_to_count_is_refused_and_trigrams_of_the_paper_s_codebook_fit():
    with pytest.raises(ValueError, match=r"expected songs to count and songs held out; got 1 and 0; add songs"):
        measure_ngrams([torch.zeros(2, 5, dtype=torch.int64)], [], 4)
    last = torch.full((3, 4), 32_767)
    [row] = measure_ngrams([last[:1], last[:1]], [last[:1]], 32_768)
    assert 0 < row.trigram < row.unigram < 2 and row.entropy == 0 and math.isclose(row.conditional_entropy, 0)
