"""Miss rates: the share of codes that change when what should not matter changes.

    again       the same clip once more
    batch       together with other clips
    padding     with silence behind it; codes of the clip's own frames
    pieces      arriving piece by piece; a codec that cannot stream starts afresh at every piece
    threads     with another number of CPU threads
    reference   with every op's reference in place of its faster twin
    DTYPE       with weights and arithmetic of another dtype

The tokenizer of this package promises 0 in all but the last two: where a twin adds up in another order, a frame that lies
between two codes may fall to the other one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from duotok.dataset.songs import Song
from duotok.kernels import use_backends

from .codec import Codec, read_parts

DTYPES = {"float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class InvarianceConfig:
    """What is changed.

    Attributes:
        padding_s: seconds of silence behind a clip.
        piece_s: mean length of the pieces.
        threads: of the other number of CPU threads.
        dtypes: names out of `DTYPES`.
        seed: of the pieces' lengths.
    """

    padding_s: float = 3.0
    piece_s: float = 1.0
    threads: int = 2
    dtypes: tuple[str, ...] = ("bfloat16", "float16")
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [name for name in self.dtypes if name not in DTYPES]
        if unknown:
            raise ValueError(f"dtypes: expected some of {', '.join(DTYPES)}; got {', '.join(unknown)}; correct the names")


def read_clips(codec: Codec, songs: Sequence[Song], seconds: float) -> Tensor:
    """Cut clips of one length, a whole number of frames, out of the middle of songs: (B, P, C, S)."""
    frame = round(codec.sample_rate / codec.frame_rate)
    shortest = min(song.num_samples for song in songs)
    samples = min(round(seconds * codec.sample_rate), shortest) // frame * frame
    starts = [(song.num_samples - samples) // 2 for song in songs]
    return torch.cat([read_parts(codec, song, start, start + samples) for song, start in zip(songs, starts, strict=True)])


def measure_invariance(
    codec: Codec, clips: Tensor, config: InvarianceConfig, progress: Callable[[int, int], None] | None = None
) -> dict[str, dict[str, float | list[float] | str]]:
    """Encode clips (B, P, C, S) in every way, and compare with each alone.

    Returns:
        By condition `miss_rate`, `by_codebook` and the number of `codes` compared; or `error`, why it could not be computed.
    """
    base = torch.cat([codec.encode(clip[None]).codes for clip in clips]).cpu()
    ways = _ways(codec, clips, config)
    found: dict[str, dict] = {}
    for done, (name, encode) in enumerate(ways.items(), 1):
        try:
            codes = encode().cpu()
        except (RuntimeError, TypeError) as error:  # an operation that torch lacks in a dtype
            found[name] = {"error": str(error).splitlines()[0]}
        else:
            found[name] = miss_rate(base, codes)
        if progress:
            progress(done, len(ways))
    return found


def miss_rate(base: Tensor, codes: Tensor) -> dict[str, float | list[float]]:
    """Count the codes (B, N, T') that differ from those of `base` (B, N, T), in its T frames; a frame that lacks differs."""
    length = base.shape[-1]
    missed = base != F.pad(codes[..., :length], (0, max(0, length - codes.shape[-1])), value=-1)
    return {
        "miss_rate": missed.double().mean().item(),
        "by_codebook": missed.double().mean((0, 2)).tolist(),
        "codes": base.numel(),
    }


def _ways(codec: Codec, clips: Tensor, config: InvarianceConfig) -> dict[str, Callable[[], Tensor]]:
    """List the ways to encode clips, each as a function that gives codes (B, N, T')."""
    padded = F.pad(clips, (0, round(config.padding_s * codec.sample_rate)))
    pieces = _pieces(codec, clips.shape[-1], config)

    def alone(with_codec: Codec, waves: Tensor = clips) -> Tensor:
        return torch.cat([with_codec.encode(wave[None]).codes for wave in waves])

    def with_threads() -> Tensor:
        with _threads(config.threads):
            return alone(codec)

    def with_references() -> Tensor:
        with use_backends("reference"):
            return alone(codec)

    ways: dict[str, Callable[[], Tensor]] = {
        "again": lambda: alone(codec),
        "batch": lambda: codec.encode(clips).codes,
        "padding": lambda: alone(codec, padded),
        "pieces": lambda: codec.encode_in_pieces(clips, pieces),
        "threads": with_threads,
        "reference": with_references,
    }
    return ways | {name: lambda name=name: alone(codec.cast(DTYPES[name])) for name in config.dtypes}


def _pieces(codec: Codec, num_samples: int, config: InvarianceConfig) -> list[int]:
    """Draw the lengths of pieces, whole frames each, that add up to `num_samples`."""
    generator = torch.Generator().manual_seed(config.seed)
    frame, left, pieces = round(codec.sample_rate / codec.frame_rate), num_samples, []
    longest = max(1, round(2 * config.piece_s * codec.frame_rate))
    while left:
        pieces.append(min(left, frame * (1 + int(torch.randint(longest, (), generator=generator)))))
        left -= pieces[-1]
    return pieces


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
