"""Experiment (c): the same small decoder on our codes, on a plain vector quantizer's, and on features before quantization."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from duotok.kernels.chroma import NUM_PITCH_CLASSES
from duotok.model.bottleneck import TRACKS
from duotok.model.heads import FrameHead
from duotok.model.transformer import Stack, TransformerConfig
from duotok.model.trunk import DOWNSAMPLING

from . import plain_vq
from .measures import Frames, Seen, bits_of, see
from .routing import code_vectors
from .sweep import Arm, Claim, Setting, Stage, Sweep, Trained

_OURS, _RIVAL, _FEATURES = "our codes", "plain VQ of the Mel frames", "ours before quantization"
_BLOCK = TransformerConfig(width=64, num_heads=4, ffn_width=256, dropout=0.0)
_NUM_BLOCKS, _BATCH, _CROP, _LR = 2, 8, 100, 2e-3  # own choices; a crop is 100 frames, 4 s


@dataclass(frozen=True)
class Representation:
    """What a decoder gets of the songs.

    Attributes:
        train, held_out: of each song, a track's vectors (2, T, d).
        codes: the training songs' and the held-out songs' codes (2, T), and the code vectors (K, d) of each track; None where
            nothing is quantized.
    """

    train: list[Tensor]
    held_out: list[Tensor]
    codes: tuple[list[Tensor], list[Tensor], list[Tensor]] | None = None


def controlled_decoders(setting: Setting) -> Sweep:
    """Describe the experiment."""
    chain = (Stage("stage2"), Stage("stage3"))
    kinds = {_OURS: _ours, _RIVAL: _rival, _FEATURES: _features}
    claims = [
        Claim(f"our codes hold more of the {what} of the {track} than the plain VQ's", f"{track}_{name}", _OURS, _RIVAL, -1)
        for track in TRACKS
        for what, name in (("Mel spectrum", "mel_db"), ("chromagram", "chroma_l1"))
    ]
    return Sweep(
        "controlled_decoders",
        "The same decoder on our codes and on a plain vector quantizer's",
        "A small decoder (two Transformer blocks and upsampling) learns the Mel spectrum and the chromagram of each stem from "
        "code vectors of one width: our stage 3's, those of k-means over four Mel frames of the same codebook size and rate, "
        "and our features before they are quantized. `mel_db` is the held-out L1 of the log-Mel spectrum in dB, `chroma_l1` "
        "that of the chromagram. The paper trains one decoder on its own and on MuCodec's embeddings and finds more detail in "
        "its own; MuCodec's weights are not ours to ship, so that the rival here is the plainest tokenizer of the same rate. "
        "It is fitted to the Mel spectrum alone, and so has an edge in mel_db.",
        tuple(Arm(name, chain, partial(_decoded, represent=kind)) for name, kind in kinds.items()),
        (*claims, Claim("our codes are easier to predict than the plain VQ's", "bits_per_token", _OURS, _RIVAL, -1)),
        {"vocals_mel_db": "Mel of the vocals, dB", "accompaniment_mel_db": "Mel of the accompaniment, dB",
         "accompaniment_chroma_l1": "chroma of the accompaniment", "bits_per_token": "bits per token"},
    )  # fmt: skip


def _ours(seen: Seen, seed: int) -> Representation:
    codes = [[frames.codes for frames in part] for part in (seen.train, seen.held_out)]
    return _looked_up(*codes, code_vectors(seen.stage))


def _rival(seen: Seen, seed: int) -> Representation:
    """Fit a plain quantizer of the same size and width to each track."""
    config = seen.stage.config.model.bottleneck.quantizer
    fitted = [
        plain_vq.fit(torch.cat([frames.truth[track].mel for frames in seen.train]), config.codebook_size, config.dim, seed)
        for track in range(len(TRACKS))
    ]

    def encode(frames: Frames) -> Tensor:
        return torch.stack([vq.encode(truth.mel) for vq, truth in zip(fitted, frames.truth, strict=True)])

    codes = [[encode(frames) for frames in part] for part in (seen.train, seen.held_out)]
    return _looked_up(*codes, [vq.vectors for vq in fitted])


def _features(seen: Seen, seed: int) -> Representation:
    return Representation(*([frames.narrow for frames in part] for part in (seen.train, seen.held_out)))


def _looked_up(train: list[Tensor], held_out: list[Tensor], vectors: list[Tensor]) -> Representation:
    def look_up(codes: Tensor) -> Tensor:
        return torch.stack([table[row] for table, row in zip(vectors, codes, strict=True)])

    return Representation([*map(look_up, train)], [*map(look_up, held_out)], (train, held_out, vectors))


def _decoded(trained: Trained, represent: Callable[[Seen, int], Representation]) -> dict[str, float]:
    """Train a decoder for each track on what `represent` gives, and score it on the held-out songs."""
    seen = see(trained.runs[-1], trained.setting)
    given = represent(seen, trained.seed)
    found = {}
    for track, name in enumerate(TRACKS):
        decoder = train_decoder(_pairs(given.train, seen.train, track, given.train), trained.seed, trained.setting.model_steps)
        errors = decoder_errors(decoder, _pairs(given.held_out, seen.held_out, track, given.train))
        mel, chroma = errors.split((len(errors) - NUM_PITCH_CLASSES, NUM_PITCH_CLASSES))
        found[f"{name}_mel_db"] = mel.mean().item() * seen.stage.config.model.mel.std
        found[f"{name}_chroma_l1"] = chroma.mean().item()
    return found if given.codes is None else found | bits_of(*given.codes, trained)


def _pairs(vectors: list[Tensor], songs: list[Frames], track: int, like: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Pair a track's vectors (T, d), scaled as `like` asks, with what is to be decoded of it, (4T, F + 12), song by song."""
    seen = torch.cat([rows[track] for rows in like])
    mean, scale = seen.mean(0), seen.std(0).clamp(min=1e-6)
    wanted = [torch.cat((frames.truth[track].mel, frames.truth[track].chroma), dim=1) for frames in songs]
    return [((rows[track] - mean) / scale, target) for rows, target in zip(vectors, wanted, strict=True)]


def train_decoder(songs: Sequence[tuple[Tensor, Tensor]], seed: int, steps: int) -> nn.Module:
    """Train a small decoder from vectors (B, T, d) to targets (B, 4T, C) by L1.

    Args:
        songs: vectors (T, d) and targets (4T, C) of each.
        seed: of weights and crops.
        steps: of training.

    Raises:
        ValueError: if no song is as long as a crop.
    """
    long = [(x, y) for x, y in songs if len(x) >= _CROP]
    if not long:
        raise ValueError(f"controlled_decoders: expected a training song of {_CROP} frames; got none; give longer excerpts")
    (x, y), width = long[0], _BLOCK.width
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = nn.Linear(x.shape[1], width), Stack(_BLOCK, _NUM_BLOCKS), FrameHead(width, width, y.shape[1])
        decoder = nn.Sequential(*parts).to(x.device)
        optimizer = torch.optim.AdamW(decoder.parameters(), lr=_LR)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LR, total_steps=steps)
        for _ in range(steps):
            x, y = _crops(long)
            loss = (decoder(x) - y).abs().mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    return decoder.eval()


@torch.no_grad()
def decoder_errors(decoder: nn.Module, songs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Measure a decoder's L1 in each column of the targets (4T, C) of songs' vectors (T, d), crop by crop: (C,)."""
    pieces = [_cut(x, y, first) for x, y in songs for first in range(0, len(x), _CROP)]
    return torch.cat([(decoder(x[None])[0] - y).abs() for x, y in pieces]).mean(0)


def _crops(songs: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Draw crops of vectors (B, T, d) and targets (B, 4T, C), a song as often as any other."""
    drawn = []
    for song in torch.randint(len(songs), (_BATCH,)).tolist():
        first = int(torch.randint(len(songs[song][0]) - _CROP + 1, ()))
        drawn.append(_cut(*songs[song], first))
    return tuple(map(torch.stack, zip(*drawn, strict=True)))


def _cut(x: Tensor, y: Tensor, first: int) -> tuple[Tensor, Tensor]:
    return x[first : first + _CROP], y[DOWNSAMPLING * first : DOWNSAMPLING * (first + _CROP)]
