"""What a token promises: the same codes alone, in company, in pieces, on any number of threads, and before a cut."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import duotok
from duotok.tokenizer import DuoTok
from duotok.windows import WindowPolicy


@pytest.fixture(scope="module")
def alone(spread_tokenizer, long_song) -> torch.Tensor:
    """Codes (2, T) of the long song, tokenized alone."""
    return spread_tokenizer.encode(*long_song)[0]


def test_codes_of_the_test_song_are_diverse(alone, long_song):
    """Otherwise the equalities below would say little."""
    assert alone.shape == (2, 110 * 25)
    assert all(len(track.unique()) > 500 for track in alone)


def test_batch_neighbours_do_not_matter(spread_tokenizer, long_song, alone):
    vocals, accompaniment, rate = long_song
    short = slice(rate * 40, rate * 47)
    songs = [vocals[short], vocals, accompaniment[short]], [accompaniment[short], accompaniment, vocals[short]]
    codes = spread_tokenizer.encode(*songs, rate)
    assert codes.lengths.tolist() == [175, 2750, 175]
    assert torch.equal(codes[1], alone)
    assert torch.equal(codes[0], spread_tokenizer.encode(vocals[short], accompaniment[short], rate)[0])
    assert (codes.tensor[0, :, 175:] == -1).all()


@pytest.mark.parametrize("batch_size", [2, 5])
def test_batch_size_does_not_matter(spread_tokenizer, long_song, alone, batch_size):
    config = replace(spread_tokenizer.config, windows=WindowPolicy(batch_size=batch_size))
    assert torch.equal(DuoTok(config, spread_tokenizer.model).encode(*long_song)[0], alone)


def test_number_of_threads_does_not_matter(spread_tokenizer, long_song, alone):
    before = torch.get_num_threads()
    try:
        for threads in {1, 2} - {before}:
            torch.set_num_threads(threads)
            assert torch.equal(spread_tokenizer.encode(*long_song)[0], alone)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("piece_s", [1.0, 0.3337, 29.0])
def test_a_stream_gives_the_codes_of_the_file(spread_tokenizer, long_song, alone, piece_s):
    vocals, accompaniment, rate = long_song
    size = int(piece_s * rate)
    stream = spread_tokenizer.stream(rate)
    pieces = [stream.push(vocals[i : i + size], accompaniment[i : i + size]) for i in range(0, len(vocals), size)]
    assert any(piece.shape[1] for piece in pieces), "codes come while the song still runs"
    pieces.append(stream.finish())
    assert torch.equal(torch.cat(pieces, dim=1), alone)
    assert stream.num_frames == alone.shape[1]


def test_a_cut_song_agrees_before_its_last_margin(spread_tokenizer, long_song, alone):
    """At 100 s the windows that lie wholly before the cut answer for the first 75 s."""
    vocals, accompaniment, rate = long_song
    cut = spread_tokenizer.encode(vocals[: 100 * rate], accompaniment[: 100 * rate], rate)[0]
    assert cut.shape[1] == 2500
    assert torch.equal(cut[:, :1875], alone[:, :1875])


def test_backend_of_the_search_does_not_matter(spread_tokenizer, long_song, alone):
    vocals, accompaniment, rate = long_song
    with duotok.kernels.use_backends("cpu", "sdpa", "numba"):
        assert torch.equal(spread_tokenizer.encode(vocals, accompaniment, rate)[0], alone)


def test_single_and_batched_shapes(spread_tokenizer, real_song):
    vocals, accompaniment, rate = real_song
    one = spread_tokenizer.encode(vocals, accompaniment, rate)
    pair = torch.from_numpy(np.stack((vocals, accompaniment)))
    assert torch.equal(spread_tokenizer.encode(pair[:1], pair[1:], rate).tensor, one.tensor)
    stereo = pair[:, None].expand(-1, 2, -1)
    assert torch.equal(spread_tokenizer.encode(stereo[:1], stereo[1:], rate).tensor, one.tensor)
    assert spread_tokenizer.encode([], [], rate).tensor.shape == (0, 2, 0)


def test_int16_is_read_as_fractions_of_full_scale(spread_tokenizer, real_song):
    vocals, accompaniment, rate = real_song
    whole = [np.round(wave * 32768).clip(-32768, 32767).astype(np.int16) for wave in (vocals, accompaniment)]
    as_float = [wave.astype(np.float32) / 32768 for wave in whole]
    assert torch.equal(spread_tokenizer.encode(*whole, rate).tensor, spread_tokenizer.encode(*as_float, rate).tensor)


def test_silence_takes_the_short_way_to_the_same_codes(spread_tokenizer, real_song):
    vocals, _, rate = real_song
    codes = spread_tokenizer.encode(vocals, np.zeros_like(vocals), rate)[0]
    wave = torch.zeros(1, 720_000)
    with torch.inference_mode():
        computed = spread_tokenizer.model.encode(wave, torch.tensor([1]))[0]
    assert torch.equal(codes[1], computed[62 : 62 + codes.shape[1]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros(9, np.float32), np.zeros(8, np.float32), 24_000), "one length; got 9 and 8"),
        (([np.zeros(9, np.float32)], [], 24_000), "as many vocals as accompaniments; got 1 and 0"),
        ((np.zeros(9, np.float32), np.zeros(9, np.float32), 0), "sample rate of 1000 to 1000000 Hz, a whole number; got 0"),
        (
            ([np.zeros((9000, 2), np.float32)], [np.zeros((9000, 2), np.float32)], 24_000),
            "1 to 256 channels; got .*transpose",
        ),
        ((np.zeros((300, 2), np.float32), np.zeros((300, 2), np.float32), 24_000), "300 songs of 2 samples; transpose them"),
        (([np.zeros((0, 9), np.float32)], [np.zeros(9, np.float32)], 24_000), r"1 to 256 channels; got \(0, 9\)"),
        ((np.full(9, 3e4, np.float32), np.zeros(9, np.float32), 24_000), "a peak of 30000; divide floats of 16 bits by 32768"),
        ((np.zeros(9, np.float32), np.zeros(9, np.float32), True), "a whole number; got True"),
        ((np.full(9, np.nan, np.float32), np.zeros(9, np.float32), 24_000), "expected finite samples"),
        ((np.zeros(9, np.float32), np.zeros(9, np.float32), 44_100.0), "a whole number; got 44100.0"),
        (("song.wav", "song.wav", 44_100), "got str"),
        ((np.zeros(9, np.int64), np.zeros(9, np.int64), 24_000), "floats or int16"),
        ((np.zeros((1, 1, 1, 9)), np.zeros((1, 1, 1, 9)), 24_000), "expected waves"),
    ],
)
def test_bad_arguments_are_named(tokenizer, arguments, message):
    with pytest.raises(ValueError, match=message):
        tokenizer.encode(*arguments)


def test_properties_and_state_of_training(tokenizer):
    assert (tokenizer.sample_rate, tokenizer.frame_rate, tokenizer.codebook_size, tokenizer.num_tracks) == (
        24_000,
        25,
        32_768,
        2,
    )
    assert tokenizer.config.trained and not DuoTok.from_config("tiny/tokenizer").config.trained
    assert len(tokenizer.fingerprint) == 64


def test_fingerprint_follows_weights_windows_and_dtype(tokenizer):
    model = DuoTok.from_config("tiny/tokenizer").model
    base = DuoTok(tokenizer.config, model)
    first = base.fingerprint
    assert DuoTok(replace(tokenizer.config, windows=WindowPolicy(batch_size=2)), model).fingerprint != first
    model.trunk.downsample.project.bias.data[0] += 1e-6
    changed = base.fingerprint
    assert changed != first
    assert base.to(torch.float64).fingerprint != changed


def test_a_stream_ends_once(tokenizer):
    stream = tokenizer.stream(24_000)
    stream.finish()
    with pytest.raises(ValueError, match="expected no samples after finish"):
        stream.push(np.zeros(9, np.float32), np.zeros(9, np.float32))
    with pytest.raises(ValueError, match="expected one finish; got another"):
        stream.finish()


def test_a_module_around_it_changes_no_codes(spread_tokenizer, real_song):
    """Neither its training mode, which would also change batch statistics, nor its autocast."""
    vocals, accompaniment, rate = real_song
    around, before = torch.nn.ModuleList([spread_tokenizer]), spread_tokenizer.fingerprint
    expected = spread_tokenizer.encode(vocals, accompaniment, np.int64(rate)).tensor
    around.train()
    with torch.autocast("cpu", torch.bfloat16):
        found = spread_tokenizer.encode(vocals, accompaniment, rate).tensor
    assert torch.equal(found, expected) and spread_tokenizer.fingerprint == before and not spread_tokenizer.training


def test_what_is_kept_of_the_weights_goes_when_they_change(monkeypatch):
    base, other = (DuoTok.from_config("tiny/tokenizer", seed=seed) for seed in range(2))
    hashed = []
    monkeypatch.setattr(duotok.storage, "fingerprint", lambda config, state: hashed.append(0) or f"hash {len(hashed)}")
    silence = torch.zeros(24_000)
    first = base.encode(silence, silence, 24_000)
    assert base.encode(silence, silence, 24_000).fingerprint == first.fingerprint == "hash 1"
    base.model.load_state_dict(other.model.state_dict())
    second = base.encode(silence, silence, 24_000)
    assert second.fingerprint == "hash 2"
    assert torch.equal(second.tensor, other.encode(silence, silence, 24_000).tensor)
    assert not torch.equal(second.tensor, first.tensor)


def test_an_absent_device_is_one_line():
    with pytest.raises(
        ValueError, match=r"^device: expected cpu or a device of this machine; got 'cuda:99': .*; choose another$"
    ):
        duotok.load("tiny", device="cuda:99")
