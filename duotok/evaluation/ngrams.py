"""What counting alone predicts: unigram, bigram and trigram models of a codebook's codes, beside their entropy.

Each model backs off to the next shorter one by interpolation (Witten and Bell, 1991): in a context h seen c(h) times with n(h)
different successors,

    p(w | h) = (c(h w) + n(h) p(w | h')) / (c(h) + n(h))

where h' is h without its oldest code; the unigram model is bits.py's. What a language model gains over these is more than
repetition. A context never crosses the start of a song; there the shorter model speaks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .bits import entropy_bits, unigram


@dataclass(frozen=True)
class NgramBits:
    """Held-out bits per token of one codebook.

    Attributes:
        entropy: of the held-out codes' own distribution.
        conditional_entropy: of a held-out code given the one before, counted in the held-out codes themselves; too low in few.
        unigram, bigram, trigram: under the models of the training songs.
    """

    entropy: float
    conditional_entropy: float
    unigram: float
    bigram: float
    trigram: float


def ngram_probabilities(train: Sequence[Tensor], songs: Sequence[Tensor], codebook_size: int, order: int) -> Tensor:
    """Give the probability of every code of songs under the model of an order.

    Args:
        train: codes (T_i,) int64 that are counted.
        songs: codes (T_j,) int64 that are scored.
        codebook_size: V.
        order: 1 looks at no code before, 3 at two.

    Returns:
        (sum of T_j,) float64.
    """
    found = unigram(train, codebook_size)[torch.cat(list(songs))]
    for length in range(1, order):
        grams, counts = _grams(train, length, codebook_size).unique(return_counts=True)
        contexts, context_of = (grams // codebook_size).unique(return_inverse=True)
        totals = torch.zeros(len(contexts), dtype=torch.int64).index_add_(0, context_of, counts)
        kinds = context_of.bincount(minlength=len(contexts))
        wanted = _grams(songs, length, codebook_size)
        seen = _lookup(counts, grams, wanted)
        total, kind = (_lookup(values, contexts, wanted // codebook_size) for values in (totals, kinds))
        inside = torch.cat([torch.arange(len(song)) >= length for song in songs])
        shorter = found[inside]
        found[inside] = torch.where(total > 0, (seen + kind * shorter) / (total + kind).clamp(min=1), shorter)
    return found


def measure_ngrams(train: Sequence[Tensor], held_out: Sequence[Tensor], codebook_size: int) -> list[NgramBits]:
    """Score held-out songs, codes (N, T_i) int64 each, under n-gram models of training songs, codebook by codebook.

    Raises:
        ValueError: if there are no songs to count or to score.
    """
    if not train or not held_out:
        raise ValueError(f"expected songs to count and songs held out; got {len(train)} and {len(held_out)}; add songs")
    rows = []
    for book in range(len(train[0])):
        counted, scored = [song[book] for song in train], [song[book] for song in held_out]
        models = (ngram_probabilities(counted, scored, codebook_size, order) for order in (1, 2, 3))
        entropies = entropy_bits(torch.cat(scored), codebook_size), _conditional_entropy(scored, codebook_size)
        rows.append(NgramBits(*entropies, *(-model.log2().mean().item() for model in models)))
    return rows


def _grams(songs: Sequence[Tensor], length: int, size: int) -> Tensor:
    """Number every code of songs with the `length` before it, oldest first, (n,) int64."""
    if size ** (length + 1) > 2**63:
        raise ValueError(f"expected a codebook whose {length + 1}-grams fit 63 bits; got {size} codes; lower the order")
    numbers = []
    for song in songs:
        number = torch.zeros(max(0, len(song) - length), dtype=torch.int64)
        for shift in range(length + 1):
            number = number * size + song[shift : shift + len(number)]
        numbers.append(number)
    return torch.cat(numbers)


def _lookup(values: Tensor, keys: Tensor, wanted: Tensor) -> Tensor:
    """Give the value (n,) int64 of each wanted key (n,), 0 of one that is not among sorted keys."""
    if not len(keys):
        return torch.zeros_like(wanted)
    place = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
    return torch.where(keys[place] == wanted, values[place], 0)


def _conditional_entropy(songs: Sequence[Tensor], size: int) -> float:
    """Compute H(code, code before) - H(code before) in bits."""
    pairs = _grams(songs, 1, size)
    if not len(pairs):
        return math.nan
    entropies = []
    for numbers in (pairs, pairs // size):
        shares = numbers.unique(return_counts=True)[1].double() / len(numbers)
        entropies.append(-(shares * shares.log2()).sum().item())
    return entropies[0] - entropies[1]
