"""Any codec behind one small class, so that every measure speaks to all of them alike.

    waves (B, P, C, S) -> codes (B, N, T) and quantized embeddings (B, D, T) -> waves (B, P, C, S)

P counts the parts that a codec takes apart: one mix, or vocals and accompaniment; N counts its codebooks.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from duotok.dataset.songs import Song
from duotok.decoder import Sampling, decode
from duotok.model.bottleneck import TRACKS
from duotok.tokenizer import DuoTok, load

MIX = ("mix",)
KINDS = ("duotok", "encodec", "dac", "mimi", "xcodec")


@dataclass(frozen=True)
class Encoded:
    """What a codec makes of waves.

    Attributes:
        codes: (B, N, T) int64.
        embeddings: (B, D, T), quantized: what the codec's decoder sees.
    """

    codes: Tensor
    embeddings: Tensor


class Codec(ABC):
    """A codec as the measures see it; subclasses set the attributes and give the methods.

    Attributes:
        name: for tables and result files.
        parts: what it takes, ("mix",) or ("vocals", "accompaniment").
        channels: C of each part's wave.
        sample_rate: of waves, in Hz.
        frame_rate: codes per second of each codebook.
        codebook_size, num_codebooks: V codes in each of N codebooks.
        piece_s: seconds that a song is cut into before it is encoded; infinity where the codec streams by itself.
    """

    name: str
    parts: tuple[str, ...] = MIX
    channels: int = 1
    sample_rate: int
    frame_rate: float
    codebook_size: int
    num_codebooks: int
    piece_s: float = 30.0

    @property
    def nominal_bits_per_second(self) -> float:
        """Rate of codes stored as they are: N log2(V) bits a frame."""
        return self.num_codebooks * math.log2(self.codebook_size) * self.frame_rate

    @abstractmethod
    def encode(self, waves: Tensor) -> Encoded:
        """Encode waves (B, P, C, S) at `sample_rate`; T = ceil(S * frame_rate / sample_rate), up to one frame."""

    @abstractmethod
    def embed(self, codes: Tensor) -> Tensor:
        """Look codes (B, N, T) up: what the codec's decoder sees, (B, D, T)."""

    @abstractmethod
    def decode(self, codes: Tensor) -> Tensor:
        """Decode codes (B, N, T) to waves (B, P, C, S)."""

    @abstractmethod
    def codebook(self, index: int) -> Tensor:
        """Return the vectors (V, d) that a codebook is searched in."""

    @abstractmethod
    def cast(self, dtype: torch.dtype) -> Codec:
        """Copy the codec with weights and arithmetic of another dtype."""

    def describe(self) -> dict[str, str | int | float]:
        """Say what a result file needs to know of the codec."""
        return {
            "codec": self.name,
            "sample_rate": self.sample_rate,
            "frame_rate": self.frame_rate,
            "codebook_size": self.codebook_size,
            "num_codebooks": self.num_codebooks,
            "nominal_bits_per_second": self.nominal_bits_per_second,
        }

    def encode_in_pieces(self, waves: Tensor, pieces: Sequence[int]) -> Tensor:
        """Encode waves (B, P, C, S) that arrive in pieces of so many samples: codes (B, N, T).

        Codecs that cannot stream start afresh at every piece.
        """
        return torch.cat([self.encode(piece).codes for piece in waves.split(list(pieces), dim=-1)], dim=-1)

    def rebuild(self, waves: Tensor) -> Tensor:
        """Encode and decode waves (B, P, C, S), cut or filled up with silence to their own length."""
        decoded = self.decode(self.encode(waves).codes)[..., : waves.shape[-1]]
        return F.pad(decoded, (0, waves.shape[-1] - decoded.shape[-1]))


class DuoTokCodec(Codec):
    """Our tokenizer: vocals and accompaniment in, a codebook for each."""

    parts = TRACKS
    piece_s = math.inf

    def __init__(self, tokenizer: DuoTok, sampling: Sampling | None = None, name: str | None = None) -> None:
        """Wrap a tokenizer; `sampling` is how its decoder draws, by default as `DuoTok.decode` does."""
        self.tokenizer, self.sampling = tokenizer, sampling or Sampling()
        self.name = name or f"duotok:{tokenizer.fingerprint[:16]}"
        self.frame_rate = float(tokenizer.frame_rate)
        self.codebook_size, self.num_codebooks = tokenizer.codebook_size, tokenizer.num_tracks
        decodes = tokenizer.can_decode
        self.sample_rate = tokenizer.decoder.sample_rate if decodes else tokenizer.sample_rate
        self.channels = tokenizer.decoder.autoencoder.channels if decodes else 1

    def encode(self, waves: Tensor) -> Encoded:
        """Encode waves (B, 2, C, S): codes (B, 2, T), and proj_out(q) of both tracks one below the other, (B, 2 D, T)."""
        codes = self.tokenizer.encode(list(waves[:, 0]), list(waves[:, 1]), self.sample_rate).tensor
        return Encoded(codes, self.embed(codes))

    @torch.no_grad()
    def embed(self, codes: Tensor) -> Tensor:
        """Look codes (B, 2, T) up: proj_out(q) of both tracks, (B, 2 D, T)."""
        branches = self.tokenizer.model.trunk.bottleneck.branches
        codes = codes.to(self.tokenizer.device)
        return torch.cat([branch.expand(codes[:, track]) for track, branch in enumerate(branches)], dim=-1).mT

    def decode(self, codes: Tensor) -> Tensor:
        """Decode codes (B, 2, T) to both tracks (B, 2, C, S)."""
        decoded = decode(self.tokenizer, codes, self.sampling)
        return torch.stack((decoded.vocals, decoded.accompaniment), dim=1)

    def codebook(self, index: int) -> Tensor:
        """Return the code vectors of a track, (V, d)."""
        return self.tokenizer.model.codebook(index)

    def cast(self, dtype: torch.dtype) -> DuoTokCodec:
        """Copy the tokenizer with another dtype."""
        return DuoTokCodec(deepcopy(self.tokenizer).to(dtype), self.sampling, self.name)

    def describe(self) -> dict[str, str | int | float]:
        """Say what a result file needs to know of the tokenizer, its fingerprint included."""
        return {**super().describe(), "fingerprint": self.tokenizer.fingerprint}

    def encode_in_pieces(self, waves: Tensor, pieces: Sequence[int]) -> Tensor:
        """Push waves (B, 2, C, S) into a stream, piece by piece: codes (B, 2, T)."""
        songs = []
        for song in waves:
            stream = self.tokenizer.stream(self.sample_rate)
            parts = [stream.push(*piece) for piece in song.split(list(pieces), dim=-1)]
            songs.append(torch.cat([*parts, stream.finish()], dim=-1))
        return torch.stack(songs)


def load_codec(
    name: str, device: str | torch.device = "cpu", num_codebooks: int | None = None, sampling: Sampling | None = None
) -> Codec:
    """Load a codec.

    Args:
        name: `KIND:WHERE`, KIND one of `KINDS`, WHERE a name, folder or hub id; without a kind, one of our tokenizers.
        device: where to compute.
        num_codebooks: of a residual codec, the first so many; 8 or all if there are fewer, as in Codec-Evaluation.
        sampling: of our own decoder.

    Raises:
        ValueError: for an unknown kind or number of codebooks, or if the package transformers is not installed.
        CheckpointError: if there is no such tokenizer.
    """
    kind, separator, where = name.partition(":")
    if not separator:
        kind, where = "duotok", name
    if kind not in KINDS:
        raise ValueError(f"codec: expected one of {', '.join(KINDS)} before the colon; got {kind!r}; write encodec:NAME")
    if kind == "duotok":
        return DuoTokCodec(load(where, device=device), sampling, name)
    from .codec_transformers import load_transformers

    return load_transformers(kind, where, device, num_codebooks)


def read_tracks(song: Song, start: int, stop: int) -> Tensor:
    """Read samples of a song's vocals and accompaniment, (2, C, S)."""
    tracks = [torch.from_numpy(song.read(name, start, stop)).float() / 32768 for name in TRACKS]
    return torch.stack([track[None] if track.ndim == 1 else track.T for track in tracks])


def read_parts(codec: Codec, song: Song, start: int, stop: int) -> Tensor:
    """Read samples of a song as a codec takes them, (1, P, C, S); the mix is the sum of the tracks."""
    tracks = read_tracks(song, start, stop)
    return tracks[None] if codec.parts == TRACKS else tracks.sum(0)[None, None]


def code_songs(codec: Codec, songs: Sequence[Song], progress: Callable[[int, int], None] | None = None) -> list[Tensor]:
    """Encode songs: the codes (N, T) of each, or of each piece of `codec.piece_s` seconds."""
    coded = []
    for done, song in enumerate(songs, 1):
        piece = song.num_samples if math.isinf(codec.piece_s) else round(codec.piece_s * codec.sample_rate)
        for start in range(0, song.num_samples, piece):
            waves = read_parts(codec, song, start, min(start + piece, song.num_samples))
            coded.append(codec.encode(waves).codes[0].cpu())
        if progress:
            progress(done, len(songs))
    return coded
