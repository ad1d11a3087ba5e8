"""Our tokenizer as AudioCodecBench's `Codec` (Codec-Evaluation, `codec_evaluation/codecs/codec.py`): the calls its probes make.

Its dual-track codec, LeVo's, sets the shape: a mixture goes in and is separated, tokens come out as (B, N, 2), vocals first,
and features of both tracks one below the other. There `dim` states half the features' width; here it states all of it. The
benchmark's legend: B batch, T samples, N frames, K codebooks, D features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from duotok.decoder import Sampling
from duotok.separation import Separator
from duotok.tokenizer import DuoTok

from .codec import DuoTokCodec
from .sound import resample
from .tagging_data import apart

Mode = Literal["encode", "decode", "reconstruct", "unquantized_emb", "quantized_emb"]
_PIECE_S = 30


class BenchmarkCodec(nn.Module):
    """A mixture to tokens, features and back, in the way that the benchmark asks.

    Attributes:
        sample_rate: of the waves that the caller gives and gets, in Hz.
        orig_sample_rate: of the tokenizer.
        mode: what `forward` does.
        need_resample: whether decoded waves come at `sample_rate` rather than at `orig_sample_rate`.
        hop_length: samples of `orig_sample_rate` a frame.
        token_rate: frames per second.
        vocab_size, num_codebooks: 32,768 and 2.
        dim: of features, 2 D.
    """

    def __init__(
        self,
        tokenizer: DuoTok,
        sample_rate: int,
        mode: Mode = "reconstruct",
        separator: Separator | None = None,
        need_resample: bool = True,
        sampling: Sampling | None = None,
    ) -> None:
        """Wrap a tokenizer.

        Args:
            tokenizer, sampling: ours, and how its decoder draws; by default with the benchmark's 50 steps and guidance 1.5.
            sample_rate, mode, need_resample: as above.
            separator: of mixtures; None puts them whole on the accompaniment.

        Raises:
            ValueError: for an unknown mode.
        """
        super().__init__()
        calls: dict[str, Callable[..., Tensor | tuple[Tensor, Tensor]]] = {
            "encode": self.sig_to_toks,
            "decode": self.toks_to_sig,
            "reconstruct": lambda sig, length: self.toks_to_sig(self.sig_to_toks(sig, length)[0], length),
            "unquantized_emb": self.sig_to_unquantized_emb,
            "quantized_emb": self.sig_to_quantized_emb,
        }
        if mode not in calls:
            raise ValueError(f"mode: expected one of {', '.join(calls)}; got {mode!r}; choose one of those")
        self._call, self._separator = calls[mode], separator
        self.tokenizer = tokenizer
        self._codec = DuoTokCodec(tokenizer, sampling)
        self.sample_rate, self.orig_sample_rate = sample_rate, self._codec.sample_rate
        self.mode, self.need_resample = mode, need_resample
        self.token_rate = tokenizer.frame_rate
        self.hop_length = self.orig_sample_rate // self.token_rate
        self.vocab_size, self.num_codebooks = tokenizer.codebook_size, tokenizer.num_tracks
        self.dim = self.num_codebooks * tokenizer.config.model.trunk.block.width

    def forward(self, input: Tensor, length: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Do what `mode` says with waves (B, T) or (B, C, T), or with tokens (B, N, 2)."""
        return self._call(input, length)

    @torch.no_grad()
    def embs(self) -> Tensor:
        """Give the features of every code, (2, D, V)."""
        branches = self.tokenizer.model.trunk.bottleneck.branches
        codes = torch.arange(self.vocab_size, device=self.tokenizer.device)
        return torch.stack([branch.expand(codes).T for branch in branches])

    def sig_to_toks(self, sig: Tensor, length: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Encode mixtures (B, T) or (B, C, T): tokens (B, N, 2), and which are a song's own, (B, N) of 0 and 1.

        `length` (B,) holds the share of T that is each song's own, as in the benchmark; None if all is.
        """
        tokens = self._codec.encode(self._tracks(sig)).codes.mT
        share = torch.ones(len(sig)) if length is None else length.cpu().double()
        own = torch.ceil(share * tokens.shape[1])[:, None] > torch.arange(tokens.shape[1])
        return tokens, own.float()

    def toks_to_sig(self, toks: Tensor, length: Tensor | None = None) -> Tensor:
        """Decode tokens (B, N, 2) to mixtures (B, T)."""
        mix = self._codec.decode(toks.mT).sum(1).mean(1)
        return resample(mix, self.orig_sample_rate, self.sample_rate) if self.need_resample else mix

    def sig_to_quantized_emb(self, sig: Tensor, length: Tensor | None = None) -> Tensor:
        """Compute what the decoder sees of mixtures (B, T) or (B, C, T): (B, 2 D, N)."""
        return self._codec.encode(self._tracks(sig)).embeddings

    @torch.no_grad()
    def sig_to_unquantized_emb(self, sig: Tensor, length: Tensor | None = None) -> Tensor:
        """Compute what the front half makes of mixtures (B, T) or (B, C, T), in pieces of 30 s: (B, 2 D, N)."""
        model, rate = self.tokenizer.model, self.tokenizer.sample_rate
        tracks = resample(self._tracks(sig).mean(2), self.orig_sample_rate, rate)  # (B, 2, T)
        tracks = F.pad(tracks, (0, -tracks.shape[-1] % (rate // self.token_rate))).to(self.tokenizer.device)
        pieces = tracks.to(self.tokenizer.dtype).flatten(0, 1).split(_PIECE_S * rate, dim=-1)
        hidden = torch.cat([model.trunk.encode(model.mel(piece)) for piece in pieces], dim=1)  # (2 B, N, D)
        return hidden.unflatten(0, (-1, 2)).permute(0, 1, 3, 2).flatten(1, 2)

    def _tracks(self, sig: Tensor) -> Tensor:
        """Separate mixtures at `sample_rate`: (B, 2, 1, T) at `orig_sample_rate`."""
        songs = sig[:, None] if sig.ndim == 2 else sig
        if self._separator is None:
            mix = resample(songs.mean(1, keepdim=True), self.sample_rate, self.orig_sample_rate)
            return torch.stack((torch.zeros_like(mix), mix), dim=1)
        inner = self._separator.sample_rate
        stereo = resample(songs.expand(-1, 2, -1) if songs.shape[1] == 1 else songs, self.sample_rate, inner)
        tracks = torch.stack([apart(song, self._separator) for song in stereo]).mean(2, keepdim=True)
        return resample(tracks, inner, self.orig_sample_rate)
