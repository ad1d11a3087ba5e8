"""Our tokenizer behind AudioCodecBench's calls."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from make_decoder import decoding_tokenizer

from duotok.decoder import Sampling
from duotok.evaluation.codec_benchmark import BenchmarkCodec
from duotok.evaluation.sound import resample

QUICK = Sampling(steps=1, guidance=1.0)


class HalfSeparator:
    """Takes 0.75 of a mixture for its vocals."""

    identity, sample_rate = "half", 24_000

    def vocals(self, mixture: np.ndarray) -> np.ndarray:
        return 0.75 * mixture


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return decoding_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def test_tokens_and_features_have_the_benchmark_s_shapes(tokenizer):
    sig = 0.2 * torch.randn(2, 48_000)
    tokens, own = BenchmarkCodec(tokenizer, 24_000, "encode", HalfSeparator())(sig, torch.tensor([1.0, 0.5]))
    expected = tokenizer.encode(0.75 * sig, 0.25 * sig, sample_rate=24_000).tensor
    assert torch.equal(tokens, expected.mT) and tokens.shape == (2, 50, 2)
    assert own.sum(1).tolist() == [50, 25]
    codec = BenchmarkCodec(tokenizer, 24_000, "quantized_emb", HalfSeparator())
    features = codec(sig)
    assert features.shape == (2, codec.dim, 50) and codec.dim == 2 * 128
    embs = codec.embs()
    assert embs.shape == (2, 128, codec.vocab_size)
    assert torch.equal(features[0, :128, 7], embs[0, :, tokens[0, 7, 0]])
    assert torch.equal(features[1, 128:, 3], embs[1, :, tokens[1, 3, 1]])
    assert (codec.num_codebooks, codec.vocab_size, codec.token_rate, codec.hop_length) == (2, 32_768, 25, 960)


def test_unquantized_features_are_what_is_quantized(tokenizer):
    sig = 0.2 * torch.randn(1, 24_000 * 30)
    hidden = BenchmarkCodec(tokenizer, 24_000, "unquantized_emb")(sig)
    model = tokenizer.model
    expected = model.trunk.encode(model.mel(torch.cat((torch.zeros_like(sig), sig))))
    torch.testing.assert_close(hidden[0], torch.cat((expected[0].T, expected[1].T)))


def test_waves_come_back_at_the_caller_s_rate_or_the_codec_s(tokenizer):
    sig = 0.2 * torch.randn(1, 2, 16_000)  # stereo
    codec = BenchmarkCodec(tokenizer, 16_000, "reconstruct", sampling=QUICK)
    back = codec(sig)
    assert back.shape == (1, 16_000)
    tokens, _ = BenchmarkCodec(tokenizer, 16_000, "encode")(sig)
    mix = resample(sig.mean(1), 16_000, 24_000)
    assert torch.equal(tokens.mT, tokenizer.encode(torch.zeros_like(mix), mix, sample_rate=24_000).tensor)
    own = BenchmarkCodec(tokenizer, 16_000, "decode", need_resample=False, sampling=QUICK)(tokens)
    decoded = tokenizer.decode(tokens.mT, steps=1, guidance=1.0)
    torch.testing.assert_close(own, decoded.mix.mean(1))
    torch.testing.assert_close(back, resample(own, 24_000, 16_000))
    with pytest.raises(ValueError, match=r"mode: expected one of encode, .*; got 'sing'; choose one of those"):
        BenchmarkCodec(tokenizer, 16_000, "sing")
