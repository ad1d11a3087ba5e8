"""Our own codec is the tokenizer itself, and other codecs' adapters give what their models give."""

from __future__ import annotations

import importlib.util
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from make_codecs import SampleCodec
from make_decoder import decoding_tokenizer
from make_songs import four_songs, songs_of

from duotok import DuoTok
from duotok.decoder import Sampling
from duotok.evaluation.codec import DuoTokCodec, code_songs, load_codec, read_parts

CASES = Path(__file__).parent / "transformers_cases.py"


@pytest.fixture(scope="module")
def ours(tmp_path_factory) -> DuoTokCodec:
    tokenizer = decoding_tokenizer(tmp_path_factory.mktemp("ours"), DuoTok.from_config("tiny/tokenizer", seed=1))
    return DuoTokCodec(tokenizer, Sampling(steps=1, guidance=1.0))


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


def test_songs_are_coded_whole_or_in_pieces(tmp_path, ours):
    song = songs_of(four_songs(tmp_path)).train[0]
    tracks = [torch.from_numpy(song.read(name, 0, song.num_samples) / 32768).float() for name in ours.parts]
    [codes] = code_songs(ours, [song])
    assert math.isinf(ours.piece_s) and torch.equal(codes, ours.tokenizer.encode(*tracks, sample_rate=24_000)[0])
    codec = SampleCodec()
    torch.testing.assert_close(read_parts(codec, song, 0, song.num_samples)[0, 0, 0], tracks[0] + tracks[1])
    codec.piece_s = 4.0
    pieces = code_songs(codec, [song])
    assert [piece.shape[1] for piece in pieces] == [24_000, 12_000]
    assert torch.equal(pieces[1], codec.encode(read_parts(codec, song, 96_000, 144_000)).codes[0])


def test_unknown_kinds_are_named():
    with pytest.raises(ValueError, match=r"codec: expected one of duotok, .*; got 'opus'; write encodec:NAME"):
        load_codec("opus:x")


def test_adapters_of_transformers():
    """In a process of their own: loading its models there has made later calls of compiled operators crash."""
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("needs the extra: pip install 'duotok[evaluate]'")
    line = [sys.executable, "-m", "pytest", "-q", "-o", "python_files=*_cases.py", "-p", "no:cacheprovider", CASES]
    done = subprocess.run(line, cwd=CASES.parents[2], capture_output=True, text=True)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-3000:]
