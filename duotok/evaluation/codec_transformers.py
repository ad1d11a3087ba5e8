"""EnCodec, DAC, Mimi and X-Codec as the package transformers has them, with weights that the user names.

Waves are filled up to whole frames before they are encoded, so that T = ceil(S / hop). Residual codecs keep their first N
codebooks.
"""

from __future__ import annotations

from abc import abstractmethod
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .codec import Codec, Encoded

# Codebooks of Codec-Evaluation's rows for these codecs.
_NUM_CODEBOOKS = 8


class TransformersCodec(Codec):
    """What the four have in common; subclasses know how each model is called."""

    def __init__(self, model: nn.Module, name: str, num_codebooks: int | None = None) -> None:
        """Wrap a model.

        Raises:
            ValueError: if it does not have so many codebooks, or takes its waves in chunks with levels of their own.
        """
        self.model, self.name = model.eval().requires_grad_(False), name
        books = len(self._books())
        self.num_codebooks = min(books, _NUM_CODEBOOKS) if num_codebooks is None else num_codebooks
        if not 1 <= self.num_codebooks <= books:
            raise ValueError(f"{name}: expected 1 to {books} codebooks; got {num_codebooks}; take fewer")
        config = model.config
        self.codebook_size = config.codebook_size
        self.sample_rate = config.sample_rate if hasattr(config, "sample_rate") else config.sampling_rate
        self.hop_length = self._hop_length()
        self.frame_rate = self.sample_rate / self.hop_length
        self.channels = getattr(config, "audio_channels", 1)

    @torch.no_grad()
    def encode(self, waves: Tensor) -> Encoded:
        """Encode waves (B, 1, C, S): codes (B, N, T) and the sum of their vectors (B, D, T)."""
        weight = next(self.model.parameters())
        wave = F.pad(waves[:, 0], (0, -waves.shape[-1] % self.hop_length)).to(weight.device, weight.dtype)
        codes = self._codes(wave)[:, : self.num_codebooks]
        return Encoded(codes, self.embed(codes))

    @torch.no_grad()
    def embed(self, codes: Tensor) -> Tensor:
        """Add the vectors of codes (B, N, T) up: (B, D, T)."""
        return self._embed(codes.to(next(self.model.parameters()).device))

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Decode codes (B, N, T) to waves (B, 1, C, S)."""
        wave = self._wave(codes.to(next(self.model.parameters()).device))
        return wave.view(len(codes), 1, self.channels, -1).float()

    def codebook(self, index: int) -> Tensor:
        """Return the vectors of a codebook, (V, d)."""
        return self._books()[index]

    def cast(self, dtype: torch.dtype) -> TransformersCodec:
        """Copy the model with another dtype."""
        return type(self)(deepcopy(self.model).to(dtype), self.name, self.num_codebooks)

    def _hop_length(self) -> int:
        return int(self.model.config.hop_length)

    @abstractmethod
    def _books(self) -> list[Tensor]:
        """List the codebooks, (V, d) each."""

    def _codes(self, wave: Tensor) -> Tensor:
        """Encode waves (B, C, S): (B, all N, T)."""
        return self.model.encode(wave).audio_codes

    def _embed(self, codes: Tensor) -> Tensor:
        """Look codes (B, N, T) up: (B, D, T)."""
        return self.model.quantizer.decode(codes.transpose(0, 1))

    def _wave(self, codes: Tensor) -> Tensor:
        """Decode codes (B, N, T): (B, C, S) or (B, S)."""
        return self.model.decode(codes).audio_values


class EncodecCodec(TransformersCodec):
    """EncodecModel (Defossez et al., arXiv 2210.13438) that takes a wave in one piece, as the 24 kHz release does."""

    def __init__(self, model: nn.Module, name: str, num_codebooks: int | None = None) -> None:
        config = model.config
        if config.normalize or config.chunk_length_s:
            raise ValueError(
                f"{name}: expected an EnCodec whose codes alone make its sound; got one that cuts waves into chunks and "
                "keeps a level for each; take the 24 kHz one"
            )
        super().__init__(model, name, num_codebooks)

    def _books(self) -> list[Tensor]:
        return [layer.codebook.embed for layer in self.model.quantizer.layers]

    def _codes(self, wave: Tensor) -> Tensor:
        return self.model.encode(wave, bandwidth=self.model.config.target_bandwidths[-1]).audio_codes[0]

    def _wave(self, codes: Tensor) -> Tensor:
        return self.model.decode(codes[None], [None]).audio_values


class DacCodec(TransformersCodec):
    """DacModel (Kumar et al., arXiv 2306.06546)."""

    def _books(self) -> list[Tensor]:
        return [quantizer.codebook.weight for quantizer in self.model.quantizer.quantizers]

    def _embed(self, codes: Tensor) -> Tensor:
        return self.model.quantizer.from_codes(codes)[0]

    def _wave(self, codes: Tensor) -> Tensor:
        return self.model.decode(audio_codes=codes).audio_values


class MimiCodec(TransformersCodec):
    """MimiModel (Defossez et al., arXiv 2410.00037): the first codebook is semantic."""

    def _hop_length(self) -> int:
        return round(self.sample_rate / self.model.config.frame_rate)

    def _books(self) -> list[Tensor]:
        quantizer = self.model.quantizer
        halves = (quantizer.semantic_residual_vector_quantizer, quantizer.acoustic_residual_vector_quantizer)
        return [layer.codebook.embed for half in halves for layer in half.layers]

    def _embed(self, codes: Tensor) -> Tensor:
        return self.model.quantizer.decode(codes)


class XcodecCodec(TransformersCodec):
    """XcodecModel (Ye et al., arXiv 2408.17175)."""

    def _books(self) -> list[Tensor]:
        return [quantizer.codebook.embed for quantizer in self.model.quantizer.quantizers]


_CLASSES = {
    "encodec": ("EncodecModel", EncodecCodec),
    "dac": ("DacModel", DacCodec),
    "mimi": ("MimiModel", MimiCodec),
    "xcodec": ("XcodecModel", XcodecCodec),
}


def load_transformers(kind: str, where: str, device: str | torch.device, num_codebooks: int | None) -> TransformersCodec:
    """Load one of the four.

    Args:
        kind: "encodec", "dac", "mimi" or "xcodec".
        where: folder or hub id of the weights, in safetensors.
        device: where to compute.
        num_codebooks: the first so many.

    Raises:
        ValueError: if transformers is not installed, or there are no such weights.
    """
    try:
        import transformers

        loader = getattr(transformers, _CLASSES[kind][0])
    except (ImportError, AttributeError):
        raise ValueError(
            f"codec {kind}: expected the package transformers with {_CLASSES[kind][0]}; it is not installed, or older; "
            "install the extra: pip install 'duotok[evaluate]'"
        ) from None
    try:
        model = loader.from_pretrained(where, use_safetensors=True)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"codec {kind}: expected weights at {where}; got {reason}; correct the name") from error
    return _CLASSES[kind][1](model.to(device), f"{kind}:{where}", num_codebooks)
