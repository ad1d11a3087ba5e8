"""Adapters give what their models give, and our own codec is the tokenizer itself."""

from __future__ import annotations

import json
import math

import pytest
import torch
from make_codecs import BOOK, KINDS, random_model
from make_decoder import decoding_tokenizer
from make_songs import four_songs, songs_of

from duotok import DuoTok
from duotok.decoder import Sampling
from duotok.evaluation.codec import DuoTokCodec, code_songs, load_codec, read_parts

pytest.importorskip("transformers", reason="needs the extra: pip install 'duotok[evaluate]'")
RATES = {"encodec": (24_000, 75.0, 4), "dac": (16_000, 31.25, 3), "mimi": (24_000, 12.5, 4), "xcodec": (16_000, 50.0, 3)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of weights of each kind."""
    made = {}
    for kind in KINDS:
        made[kind] = tmp_path_factory.mktemp(kind)
        random_model(kind).save_pretrained(made[kind])
    return made


@pytest.fixture(scope="module")
def ours(tmp_path_factory) -> DuoTokCodec:
    tokenizer = decoding_tokenizer(tmp_path_factory.mktemp("ours"), DuoTok.from_config("tiny/tokenizer", seed=1))
    return DuoTokCodec(tokenizer, Sampling(steps=1, guidance=1.0))


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_gives_its_model_s_own_codes_and_waves(kind, folders):
    codec = load_codec(f"{kind}:{folders[kind]}")
    assert (codec.sample_rate, codec.frame_rate, codec.num_codebooks) == RATES[kind] and codec.codebook_size == BOOK
    wave = 0.3 * torch.randn(2, 1, 1, 16 * codec.hop_length)
    found = codec.encode(wave)
    with torch.no_grad():
        out = codec.model(wave[:, 0])  # the model's own way from wave to wave
        codes = codec.model.encode(wave[:, 0]).audio_codes
    codes = codes[0] if kind == "encodec" else codes  # EnCodec lists chunks, and takes its lowest rate unless told
    assert torch.equal(found.codes[:, : codes.shape[1]], codes) and len(found.codes.unique()) > 5
    assert found.codes.shape == (2, codec.num_codebooks, 16)
    torch.testing.assert_close(codec.decode(found.codes[:, : codes.shape[1]])[:, 0, 0], out.audio_values.view(2, -1))
    assert torch.equal(codec.embed(found.codes), found.embeddings) and found.embeddings.shape[2] == 16
    assert codec.codebook(codec.num_codebooks - 1).shape[0] == BOOK
    assert codec.nominal_bits_per_second == pytest.approx(codec.num_codebooks * 6 * codec.frame_rate)


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_codebooks_are_the_first_ones_and_waves_keep_their_length(kind, folders):
    whole, fewer = (load_codec(f"{kind}:{folders[kind]}", num_codebooks=count) for count in (None, 2))
    wave = 0.3 * torch.randn(1, 1, 1, 9 * whole.hop_length - 77)
    assert torch.equal(fewer.encode(wave).codes, whole.encode(wave).codes[:, :2])
    assert whole.encode(wave).codes.shape[-1] == 9 and whole.rebuild(wave).shape == wave.shape
    with pytest.raises(ValueError, match=r"expected 1 to \d codebooks; got 9; take fewer"):
        load_codec(f"{kind}:{folders[kind]}", num_codebooks=9)


def test_embeddings_of_a_residual_codec_are_sums_of_its_codes_vectors(folders):
    codec = load_codec(f"encodec:{folders['encodec']}")
    codes = torch.randint(BOOK, (1, 4, 5))
    expected = sum(codec.codebook(book)[codes[0, book]] for book in range(4))
    torch.testing.assert_close(codec.embed(codes)[0].mT, expected)


def test_encodec_with_levels_of_its_own_is_refused(tmp_path):
    model = random_model("encodec")
    model.config.normalize = True
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"expected an EnCodec whose codes alone make its sound; .* take the 24 kHz one"):
        load_codec(f"encodec:{tmp_path}")


def test_names_that_lead_nowhere_are_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"codec: expected one of duotok, .*; got 'opus'; write encodec:NAME"):
        load_codec("opus:x")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "dac"}))
    with pytest.raises(ValueError, match=r"codec dac: expected weights at .*; got .*; correct the name") as caught:
        load_codec(f"dac:{tmp_path}")
    assert "\n" not in str(caught.value)


def test_ours_is_the_tokenizer(ours):
    tokenizer, wave = ours.tokenizer, 0.3 * torch.randn(2, 2, 1, 2 * 24_000)
    codes = tokenizer.encode(wave[:, 0], wave[:, 1], sample_rate=24_000).tensor
    found = ours.encode(wave)
    assert torch.equal(found.codes, codes)
    branches = tokenizer.model.trunk.bottleneck.branches
    expected = torch.cat([branch.expand(codes[:, i]) for i, branch in enumerate(branches)], -1).mT
    assert torch.equal(found.embeddings, expected) and expected.shape == (2, 2 * 128, 50)
    decoded = tokenizer.decode(codes, steps=1, guidance=1.0)
    assert torch.equal(ours.rebuild(wave), torch.stack((decoded.vocals, decoded.accompaniment), 1))
    assert ours.nominal_bits_per_second == 750 and ours.parts == ("vocals", "accompaniment")
    assert torch.equal(ours.codebook(1), tokenizer.model.codebook(1))
    assert ours.describe()["fingerprint"] == tokenizer.fingerprint
    half = ours.cast(torch.bfloat16)
    assert half.tokenizer.dtype == torch.bfloat16 and tokenizer.dtype == torch.float32


def test_songs_are_coded_whole_or_in_pieces(tmp_path, ours, folders):
    song = songs_of(four_songs(tmp_path)).train[0]
    tracks = [torch.from_numpy(song.read(name, 0, song.num_samples) / 32768).float() for name in ours.parts]
    [codes] = code_songs(ours, [song])
    assert math.isinf(ours.piece_s) and torch.equal(codes, ours.tokenizer.encode(*tracks, sample_rate=24_000)[0])
    codec = load_codec(f"mimi:{folders['mimi']}")
    torch.testing.assert_close(read_parts(codec, song, 0, song.num_samples)[0, 0, 0], tracks[0] + tracks[1])
    codec.piece_s = 4.0
    pieces = code_songs(codec, [song])
    assert [piece.shape[1] for piece in pieces] == [50, 25]
    assert torch.equal(pieces[1], codec.encode(read_parts(codec, song, 96_000, 144_000)).codes[0])
