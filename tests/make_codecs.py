"""Small codecs for tests: the four of transformers with random weights, and one that keeps every sample."""

from __future__ import annotations

import torch
from torch import Tensor

from duotok.evaluation.codec import Codec, Encoded

KINDS = ("encodec", "dac", "mimi", "xcodec")
BOOK = 64


def random_model(kind: str) -> torch.nn.Module:
    """A model of transformers, some ten thousand weights; codebooks as wide as what they quantize."""
    import transformers as tf

    torch.manual_seed(0)
    dac = {"encoder_hidden_size": 4, "decoder_hidden_size": 64, "codebook_size": BOOK, "sampling_rate": 16_000}
    if kind == "encodec":
        model = tf.EncodecModel(tf.EncodecConfig(
            num_filters=4, hidden_size=16, codebook_size=BOOK, target_bandwidths=[0.9, 1.8], num_lstm_layers=1
        ))  # fmt: skip
    elif kind == "dac":
        model = tf.DacModel(tf.DacConfig(n_codebooks=3, **dac))
    elif kind == "mimi":
        model = tf.MimiModel(tf.MimiConfig(
            num_filters=4, hidden_size=32, codebook_size=BOOK, codebook_dim=8, vector_quantization_hidden_dimension=8,
            num_quantizers=4, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, head_dim=16,
            intermediate_size=32, upsample_groups=32,
        ))  # fmt: skip
    else:
        semantic = tf.HubertConfig(
            hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, conv_dim=[16] * 7,
            num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2,
        )  # fmt: skip
        ratios = {"downsampling_ratios": [8, 5, 4, 2], "upsampling_ratios": [8, 5, 4, 2], "hidden_size": 32, "codebook_dim": 8}
        model = tf.XcodecModel(tf.XcodecConfig(
            codebook_size=BOOK, target_bandwidths=[0.9], acoustic_model_config=tf.DacConfig(**dac, **ratios),
            semantic_model_config=semantic,
        ))  # fmt: skip
    if kind == "encodec":  # its encoder's biases would outweigh every wave
        for name, weight in model.encoder.named_parameters():
            weight.data *= 0 if name.endswith("bias") else 1
    for name, buffer in model.named_buffers():  # transformers leaves them at zero, and every code would be the first
        if name.endswith(("codebook.embed", "codebook.embed_sum")):
            buffer.normal_(std=0.002 if kind == "encodec" else 0.3)
    return model


class SampleCodec(Codec):
    """Codes are samples of 12 bits, four a frame on four codebooks, plus `noise` of so much."""

    name, num_codebooks, codebook_size, sample_rate, frame_rate = "samples", 4, 4096, 24_000, 6000.0

    def __init__(self, noise: float = 0.0) -> None:
        self.noise = noise

    def encode(self, waves: Tensor) -> Encoded:
        codes = ((waves[:, 0, 0] + 1) * 2047.5).round().long().clamp(0, 4095).unflatten(-1, (-1, 4)).mT
        return Encoded(codes, self.embed(codes))

    def embed(self, codes: Tensor) -> Tensor:
        return codes / 2047.5 - 1

    def decode(self, codes: Tensor) -> Tensor:
        wave = self.embed(codes).mT.flatten(1)[:, None, None]
        return wave + self.noise * torch.randn(wave.shape, generator=torch.Generator().manual_seed(0))

    def codebook(self, index: int) -> Tensor:
        return torch.linspace(-1, 1, 4096)[:, None]

    def cast(self, dtype: torch.dtype) -> SampleCodec:
        return self
