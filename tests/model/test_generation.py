"""Drawing codes: by the seed, as the scores say, with the cache as without it, and on beyond the trained length."""

from __future__ import annotations

import pytest
import torch
from make_lm import END, SIZE, codes_of, small_model

from duotok.model.generation import Draw, generate, pick
from duotok.model.language_model import NOTHING
from duotok.model.protocols import make_steps

WHOLE = 64  # frames of a window that no test leaves


def test_symbols_come_as_often_as_they_are_likely():
    numbers = (torch.arange(2000) + 0.5) / 2000
    scores = torch.tensor([0.5, 0.125, 0.25, 0.125]).log().expand(2000, 4)

    def shares(**options: float) -> list[float]:
        return (torch.bincount(pick(scores, numbers, Draw(**options)), minlength=4) / 2000).tolist()

    assert shares() == pytest.approx([0.5, 0.125, 0.25, 0.125], abs=1e-3)
    assert shares(temperature=0.5) == pytest.approx([16 / 22, 1 / 22, 4 / 22, 1 / 22], abs=1e-3)
    assert shares(top_k=2) == pytest.approx([2 / 3, 0, 1 / 3, 0], abs=1e-3)
    assert shares(top_p=0.74) == pytest.approx([2 / 3, 0, 1 / 3, 0], abs=1e-3)
    assert shares(top_p=0.01) == shares(temperature=0) == [1, 0, 0, 0]


@pytest.mark.parametrize("protocol", ["unconditional", "accompaniment"])
def test_the_likeliest_codes_are_those_that_reading_anew_each_time_finds(protocol):
    model, given = small_model(ends=False), codes_of(12, items=3, seed=4)
    drawn = generate(model, protocol, given, 3, WHOLE, Draw(temperature=0))
    codes = given.clone()
    tracks = [0, 1] if protocol == "unconditional" else [1]
    for frame in range(3, 12):
        hidden = model.read(make_steps(protocol, codes, frame))[:, -1]
        for track in tracks:
            codes[:, track, frame] = model.logits(hidden, track)[:, :SIZE].argmax(-1)
    assert torch.equal(drawn, codes) and torch.equal(drawn[..., :3], given[..., :3])


def test_draws_depend_on_the_seed_and_on_no_neighbour():
    model, given = small_model(), codes_of(20, items=4, seed=5)
    first, again, other = (generate(model, "accompaniment", given, 0, WHOLE, Draw(seed=seed)) for seed in (7, 7, 8))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(generate(model, "accompaniment", given[:2], 0, WHOLE, Draw(seed=7)), first[:2])
    assert torch.equal(first[:, 0], given[:, 0]) and (first >= 0).all(), "vocals stay, and the accompaniment is as long"
    same = generate(model, "unconditional", given[:1].expand(4, -1, -1), 5, WHOLE, Draw(seed=7))
    assert len({tuple(song.flatten().tolist()) for song in same}) == 4, "each item has draws of its own"


def test_a_song_ends_where_a_track_ends():
    model = small_model()
    model.heads[1].bias.data[END] = 3.0
    drawn = generate(model, "unconditional", codes_of(40, items=6), 2, WHOLE, Draw(seed=1))
    lengths = (drawn[:, 0] != NOTHING).sum(1)
    assert lengths.min() < 40 and len(set(lengths.tolist())) > 1
    for song, length in zip(drawn, lengths, strict=True):
        assert (song[:, :length] >= 0).all() and (song[:, :length] < SIZE).all() and (song[:, length:] == NOTHING).all()


@pytest.mark.parametrize("protocol", ["unconditional", "accompaniment"])
def test_long_songs_go_on_from_half_a_window(protocol):
    model, given = small_model(ends=False), codes_of(26, seed=6)
    drawn = generate(model, protocol, given, 2, 8, Draw(temperature=0))
    tail = generate(model, protocol, drawn[..., 20:], 4, 8, Draw(temperature=0))
    assert torch.equal(tail[..., :8], drawn[..., 20:]), "frames 24 and 25 see no more than frames 20 to 23"
    assert torch.equal(generate(model, protocol, given[..., :8], 2, WHOLE, Draw(temperature=0)), drawn[..., :8])
    assert torch.equal(generate(model, protocol, drawn, 26, 8, Draw()), drawn), "nothing is left to draw"


@pytest.mark.parametrize("wrong", [{"temperature": -1.0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_impossible_draws_are_refused(wrong):
    with pytest.raises(ValueError, match=r"expected temperature and top_k of at least 0, and top_p above 0"):
        Draw(**wrong)
