"""What the heads rebuild from codes alone, against the mean spectrum and against the other track's codes.

Head outputs follow from codes alone:

    codes (T,) -> code vectors -> proj_out -> back blocks -> heads: log-Mel (4T, F), chroma (4T, 12), lyrics (T, V + 1)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from duotok.kernels import ChromaSpec, chroma
from duotok.model.bottleneck import TRACKS
from duotok.model.semantic import SemanticModel

PIECE = 750  # frames that the back blocks see at a time, 30 s


@dataclass(frozen=True)
class Targets:
    """A track's truth.

    Attributes:
        mel: (4T, F) normalised log-Mel.
        chroma: (4T, 12).
    """

    mel: Tensor
    chroma: Tensor


def targets(model: SemanticModel, wave: Tensor) -> Targets:
    """Compute the truth of a mono wave (S,) at the model's rate, S a multiple of a frame."""
    spec = model.config.mel.spec
    chroma_spec = ChromaSpec(sample_rate=spec.sample_rate, hop_length=spec.hop_length)
    return Targets(model.mel(wave[None])[0], chroma(wave[None], chroma_spec)[0, : len(wave) // spec.hop_length])


@torch.no_grad()
def from_codes(model: SemanticModel, codes: Tensor, track: int) -> Iterator[tuple[slice, dict[str, Tensor]]]:
    """Run the back half and the heads on codes (T,) of a track: frames and head outputs of each piece of 30 s."""
    branch = model.trunk.bottleneck.branches[track]
    for first in range(0, len(codes), PIECE):
        piece = codes[None, first : first + PIECE]
        hidden = model.trunk.norm(model.trunk.back(branch.expand(piece)))
        outputs = {name: head(hidden)[0] for name, head in model.heads.items()}
        yield slice(first, first + piece.shape[1]), outputs


def rebuild_errors(
    model: SemanticModel, train: Sequence[tuple[Targets, Targets]], songs: Sequence[tuple[Tensor, tuple[Targets, Targets]]]
) -> dict[str, float]:
    """Measure the L1 of Mel and chroma rebuilt from codes.

    Args:
        model: exported, with Mel and chroma heads.
        train: truth of both tracks of the training songs, for the mean spectra.
        songs: of each held-out song, codes (2, T) and the truth of both tracks.

    Returns:
        For each track and quantity `<track>_<mel|chroma>_l1` from its own codes, `..._l1_other` from the other track's
        codes, and `..._l1_mean` of the training songs' mean spectrum.
    """
    found = {}
    for track, name in enumerate(TRACKS):
        for quantity in ("mel", "chroma"):
            mean = torch.cat([getattr(song[track], quantity) for song in train]).mean(0)
            errors: dict[str, list[Tensor]] = {"": [], "_other": [], "_mean": []}
            for codes, truth in songs:
                wanted = getattr(truth[track], quantity)
                errors["_mean"].append((wanted - mean).abs().mean(1))
                for suffix, source in (("", track), ("_other", 1 - track)):
                    pieces = [outputs[quantity] for _, outputs in from_codes(model, codes[source], source)]
                    errors[suffix].append((wanted - torch.cat(pieces)[: len(wanted)]).abs().mean(1))
            found |= {f"{name}_{quantity}_l1{suffix}": torch.cat(values).mean().item() for suffix, values in errors.items()}
    return found
