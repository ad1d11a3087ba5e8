"""The language model: both protocols against a reference made by hand, causality, and reading on from a cache."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from make_lm import END, SIZE, codes_of, small_model
from torch import Tensor

from duotok.model.language_model import NOTHING, PREFIX, START, DualTrackLM, LanguageModelConfig
from duotok.model.protocols import IGNORED, code_losses, make_steps, make_targets


@pytest.fixture
def model():
    return small_model()


def by_hand(model: DualTrackLM, tokens: list[tuple[str, int, int]]) -> Tensor:
    """Hidden states (L, D) of tokens (kind, code, position), with attention written out."""
    v, a = (embedding.weight for embedding in model.embeddings)
    dim, width = v.shape[1], model.config.width
    halves = model.project.weight[:, :dim], model.project.weight[:, dim:]
    rows = []
    for kind, code, _ in tokens:
        parts = {"v": lambda c: halves[0] @ v[c[0]], "a": lambda c: halves[1] @ a[c[1]],
                 "va": lambda c: halves[0] @ v[c[0]] + halves[1] @ a[c[1]],
                 "start": lambda c: model.start, "prefix": lambda c: model.prefix}  # fmt: skip
        rows.append(parts[kind](code if isinstance(code, tuple) else (code, code)))
    x, heads, head = torch.stack(rows), model.config.num_heads, width // model.config.num_heads
    frequency = model.config.rope_base ** (-torch.arange(0, head, 2).double() / head)
    angle = torch.tensor([place for _, _, place in tokens]).double()[:, None] * frequency

    def turned(vectors: Tensor) -> Tensor:
        pairs = torch.complex(*vectors.chunk(2, -1)) * torch.polar(torch.ones_like(angle), angle)
        return torch.cat((pairs.real, pairs.imag), -1)

    for block in model.blocks:
        q, k, value = block.qkv(block.attention_norm(x)).split((width, head, head), dim=-1)
        outputs = []
        for number in range(heads):
            scores = turned(q[:, number * head : (number + 1) * head]) @ turned(k).T / head**0.5
            allowed = torch.ones_like(scores).tril() > 0
            outputs.append(scores.masked_fill(~allowed, -torch.inf).softmax(-1) @ value)
        x = x + block.out(torch.cat(outputs, -1))
        gate, up = block.ffn_in(block.ffn_norm(x)).chunk(2, -1)
        x = x + block.ffn_out(F.silu(gate) * up)
    return model.norm(x)


def test_unconditional_losses_are_those_made_by_hand(model):
    codes = codes_of(5)
    pairs = [(int(v), int(a)) for v, a in codes[0].T]
    hidden = by_hand(model, [("start", 0, 0), *(("va", pair, i + 1) for i, pair in enumerate(pairs))])
    targets = make_targets("unconditional", codes[0], END)
    assert targets.tolist() == [[*codes[0, track].tolist(), END] for track in (0, 1)]
    ours = model.read(make_steps("unconditional", codes))[0]
    for track in (0, 1):
        expected = F.cross_entropy(model.logits(hidden, track), targets[track])
        assert F.cross_entropy(model.logits(ours, track), targets[track]).item() == pytest.approx(expected.item(), abs=1e-6)
    assert torch.allclose(model(codes), ours[None, :-1]), "forward gives what comes before each frame"


def test_accompaniment_losses_are_those_made_by_hand(model):
    codes = codes_of(4)
    vocals, accompaniment = codes[0].tolist()
    tokens = [("v", code, i + 1) for i, code in enumerate(vocals)] + [("prefix", 0, 0), ("start", 0, 0)]
    hidden = by_hand(model, [*tokens, *(("a", code, i + 1) for i, code in enumerate(accompaniment))])
    targets = make_targets("accompaniment", codes[0], END)
    assert targets.tolist() == [[IGNORED] * 10, [IGNORED] * 5 + [*accompaniment, END]]
    steps = make_steps("accompaniment", codes)
    assert steps[0].tolist() == [
        [*vocals, PREFIX, START, *4 * [NOTHING]], [*4 * [NOTHING], PREFIX, START, *accompaniment],
    ]  # fmt: skip
    expected = F.cross_entropy(model.logits(hidden, 1)[5:], torch.tensor([*accompaniment, END]))
    ours = F.cross_entropy(model.logits(model.read(steps)[0], 1), targets[1])
    assert ours.item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize("protocol", ["unconditional", "accompaniment"])
def test_the_last_target_is_the_end_only_where_the_song_ends(protocol):
    codes = codes_of(6)[0]
    assert make_targets(protocol, codes)[1, -1] == IGNORED and make_targets(protocol, codes, END)[1, -1] == END
    assert (make_targets(protocol, codes)[1] != IGNORED).sum() == 6


@pytest.mark.parametrize("protocol", ["unconditional", "accompaniment"])
def test_later_codes_change_nothing_before_them(model, protocol):
    codes = codes_of(12)
    changed = codes.clone()
    tracks = [0, 1] if protocol == "unconditional" else [1]
    changed[:, tracks, 7] = (changed[:, tracks, 7] + 1) % SIZE
    before, after = (code_losses(model, protocol, codes, seen)[0] for seen in (codes, changed))
    assert torch.equal(before[:, :8], after[:, :8])
    assert (before[:, 8:] - after[:, 8:]).abs().min() > 1e-9


def test_all_vocals_count_for_every_accompaniment_code(model):
    codes = codes_of(12)
    before = code_losses(model, "accompaniment", codes)
    for place in (0, 11):
        changed = codes.clone()
        changed[:, 0, place] = (changed[:, 0, place] + 1) % SIZE
        assert (before - code_losses(model, "accompaniment", codes, changed)).abs().min() > 1e-9


def test_scores_of_the_last_frames_are_the_last_scores(model):
    codes = codes_of(9, items=3)
    whole = code_losses(model, "unconditional", codes)
    assert whole.shape == (3, 2, 9)
    assert torch.equal(code_losses(model, "unconditional", codes, last=4), whole[..., -4:])


@torch.no_grad()
@pytest.mark.parametrize("pieces", [[1] * 14, [5, 9], [13, 1], [3, 1, 1, 9]])
def test_reading_on_gives_what_reading_whole_gives(model, pieces):
    codes = codes_of(6, items=2, seed=1)
    steps = make_steps("accompaniment", codes)
    cache = model.cache(2, 14)
    parts = [model.read(piece, cache) for piece in steps.split(pieces, dim=-1)]
    whole = model.read(steps)
    assert torch.allclose(torch.cat(parts, dim=1), whole, atol=1e-12)
    assert torch.allclose(model.logits(torch.cat(parts, dim=1), 1), model.logits(whole, 1), atol=1e-12)


def test_padding_behind_a_sequence_changes_nothing(model):
    steps = make_steps("accompaniment", codes_of(5))
    assert torch.allclose(model.read(F.pad(steps, (0, 3), value=NOTHING))[:, :12], model.read(steps), atol=1e-12)


def test_it_begins_at_what_is_known():
    generator = torch.Generator().manual_seed(0)
    model, priors = small_model(), torch.rand(2, SIZE + 1, generator=generator).double().softmax(-1)
    vectors = torch.randn(2, SIZE, 8, generator=generator).double()
    model.begin_at(priors, vectors)
    hidden = model.read(make_steps("unconditional", codes_of(3)))
    for track in (0, 1):
        assert torch.allclose(model.logits(hidden, track).softmax(-1), priors[track].expand(1, 4, -1))
        rows = torch.stack((model.embeddings[track].weight, vectors[track])).movedim(-1, 0)  # a code dimension a row
        assert all(torch.corrcoef(row)[0, 1] > 0.999 for row in rows)


def test_paper_size_has_the_benchmark_s_parameters():
    with torch.device("meta"):
        model = DualTrackLM(LanguageModelConfig(has_end=True))
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    assert round((count["blocks"] + count["norm"]) / 1e6, 1) == 84.6
    assert round((count["embeddings"] + count["heads"] + count["project"]) / 1e6, 1) == 101.9
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == 186.5
