"""Experiment (e): how codebooks are used, by hard and soft routing, and by one codebook for both tracks."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from duotok.model.bottleneck import TRACKS
from duotok.model.code_usage import summarize, tally
from duotok.training.stage3 import Stage3

from .measures import Frames, bits_of, see
from .runs import last_scores
from .sweep import Arm, Claim, Setting, Stage, Sweep, Trained

_HARD, _SOFT, _SHARED = "dual, hard routing", "dual, soft routing", "one shared codebook"


def routing(setting: Setting) -> Sweep:
    """Describe the experiment."""
    changes = {_HARD: (), _SOFT: ("routing=soft",), _SHARED: ("share_codebook=true",)}
    arms = [Arm(name, (Stage("stage2"), Stage("stage3", more)), codebook_use) for name, more in changes.items()]
    return Sweep(
        "routing",
        "Codebooks: hard and soft routing, two and one",
        "Stage 3 from the same stage 2, three ways. The paper routes each stem to its own codebook; the controls weigh both "
        "branches by a learned gate for every frame, or give both stems one codebook. `used` is the share of the codes at a "
        "track's disposal that its held-out songs use (with soft routing those of both branches), `entropy_share` the entropy "
        "of their frequencies over the logarithm of that number, `overlap` the share of all used codes that both tracks use, "
        "and `frame_mel` and `frame_chroma` are stage 3's held-out losses. With soft routing the blocks "
        "behind the bottleneck hear a blend of two codes by a gate that is no token, which flatters `frame_mel`; and a soft "
        "code is one of twice as many, so that bits per token compare with care: `enbpt` divides by the unigram model's.",
        tuple(arms),
        (
            Claim("hard routing predicts better than soft (bits per token / unigram bits)", "enbpt", _HARD, _SOFT, -1),
            Claim("hard routing uses more of its codes than soft", "used", _HARD, _SOFT, 1),
            Claim("hard routing rebuilds the Mel spectrum better than soft", "frame_mel", _HARD, _SOFT, -1),
            Claim("two codebooks predict better than one (bits per token)", "bits_per_token", _HARD, _SHARED, -1),
            Claim("two codebooks rebuild the Mel spectrum better than one", "frame_mel", _HARD, _SHARED, -1),
        ),
        {"used": "share of codes used", "bits_per_token": "bits per token", "enbpt": "bits per token / unigram bits",
         "frame_mel": "held-out Mel loss"},
    )  # fmt: skip


def codebook_use(trained: Trained) -> dict[str, float]:
    """Measure use, overlap and predictability of the codes of stage 3, however routed."""
    seen = see(trained.runs[-1], trained.setting)
    vectors = code_vectors(seen.stage)
    found, used = {}, []
    for track, name in enumerate(TRACKS):
        codes, size = torch.cat([frames.codes[track] for frames in seen.held_out]), len(vectors[track])
        usage = summarize(tally(codes, size))
        used.append(_identities(seen.stage, codes, track))
        found[f"{name}_used"] = 1 - usage["dead_codes"] / size
        found[f"{name}_entropy_share"] = usage["entropy_bits"] / math.log2(size)
    both = {name: sum(found[f"{track}_{name}"] for track in TRACKS) / len(TRACKS) for name in ("used", "entropy_share")}
    both["overlap"] = len(used[0] & used[1]) / len(used[0] | used[1])
    scores = last_scores(trained.runs[-1])
    both |= {f"frame_{name}": scores[name] for name in ("mel", "chroma")}
    return found | both | bits_of(*map(_codes, (seen.train, seen.held_out)), vectors, trained)


def code_vectors(stage: Stage3) -> list[Tensor]:
    """List the code vectors (K, d) of each track; (2K, d) with soft routing, whose codes count through both branches."""
    codes = [branch.quantizer.codes() for branch in stage.model.trunk.bottleneck.branches]
    return [torch.cat(codes)] * len(TRACKS) if stage.config.routing == "soft" else codes


def _identities(stage: Stage3, codes: Tensor, track: int) -> set[tuple[int, int]]:
    """Say which codes (T,) of which codebook a track uses."""
    own = 0 if stage.config.routing == "soft" or stage.config.share_codebook else track
    return {(own, code) for code in codes.tolist()}


def _codes(frames: list[Frames]) -> list[Tensor]:
    return [part.codes for part in frames]
