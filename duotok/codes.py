"""Codes of songs, as `DuoTok.encode` gives them and `DuoTok.decode` takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Codes:
    """Tokens of a batch of songs.

    Attributes:
        tensor: (B, 2, T) int64, vocals first; -1 beyond a song's own end.
        lengths: (B,) int64 frames of each song.
        frame_rate: codes per second and track.
        fingerprint: of the tokenizer that made them.
    """

    tensor: Tensor
    lengths: Tensor
    frame_rate: int
    fingerprint: str

    def __len__(self) -> int:
        return len(self.tensor)

    def __getitem__(self, item: int) -> Tensor:
        """Return song `item` alone, (2, T) without padding."""
        return self.tensor[item, :, : self.lengths[item]]


def check_codes(codes: Sequence[Tensor | Sequence[int]], codebook_size: int) -> Tensor:
    """Join the codes of a song's tracks, each (T,) integers, into (2, T) int64.

    Raises:
        ValueError: if they are not two tracks of one length, at least 1, or a code is out of range.
    """
    found = f"{len(codes)} tracks"
    if len(codes) == 2:
        codes = [torch.as_tensor(track) for track in codes]
        found = ", ".join(f"{tuple(track.shape)} {track.dtype}" for track in codes)
    if len(codes) != 2 or any(track.ndim != 1 or track.is_floating_point() for track in codes):
        raise ValueError(
            f"decode: expected codes (2, T) of whole numbers, vocals first; got {found}; reshape them, "
            "or decode songs one by one"
        )
    lengths = [len(track) for track in codes]
    if lengths[0] != lengths[1] or not lengths[0]:
        raise ValueError(
            f"decode: expected tracks of one length, not empty; got {lengths[0]} and {lengths[1]} codes; pair them"
        )
    joined = torch.stack([track.to("cpu", torch.int64) for track in codes])
    low, high = joined.aminmax()
    if low < 0 or high >= codebook_size:
        worst = int(low if low < 0 else high)
        raise ValueError(f"decode: expected codes from 0 to {codebook_size - 1}; got {worst}; pass this tokenizer's codes")
    return joined
