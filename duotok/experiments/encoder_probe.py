"""Experiment (b): what linear probes read from the encoder before quantization, and from the codes behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor

from duotok.evaluation.probe import auroc, probe, r_squared
from duotok.model.bottleneck import TRACKS

from .measures import Frames, see
from .routing import code_vectors
from .sweep import Arm, Claim, Setting, Stage, Sweep, Trained

_STAGE1, _STAGE2, _NARROW, _CODES = "stage 1", "stage 2", "before quantization", "code vectors"
_RADIUS = 2  # frames of context on each side that a probe sees


def encoder_probe(setting: Setting) -> Sweep:
    """Describe the experiment."""
    two, three = (Stage("stage2"),), (Stage("stage2"), Stage("stage3"))
    arms = (
        Arm(_STAGE1, (), partial(_probed, of=lambda frames, track, _: frames.hidden[track])),
        Arm(_STAGE2, two, partial(_probed, of=lambda frames, track, _: frames.hidden[track])),
        Arm(_NARROW, three, partial(_probed, of=lambda frames, track, _: frames.narrow[track])),
        Arm(_CODES, three, partial(_probed, of=lambda frames, track, vectors: vectors[track][frames.codes[track]])),
    )
    return Sweep(
        "encoder_probe",
        "What the encoder holds before quantization, and what the codes keep",
        "Linear probes, fitted on training songs and scored on held-out ones, read the chromagram of each stem and whether "
        "the vocals sound: from the front half after stage 1 and after stage 2, from the narrow features of stage 3 before "
        "quantization, and from the vectors of the chosen codes. All of them see two frames of context on each side; the "
        "bottleneck is far narrower than the front half, which costs a probe before quantization does. Stage 1 "
        "is the same run for every seed, so that its numbers have no spread. An R² below 0 is worse than the held-out songs' "
        "mean: the probe has learned the training songs instead, and says little.",
        arms,
        (
            *(Claim(f"stage 2 adds {name} to what stage 1 holds", measure, _STAGE2, _STAGE1, 1) for name, measure in _ASKED),
            *(Claim(f"quantization costs {name}", measure, _CODES, _NARROW, -1) for name, measure in _ASKED),
        ),
        {"vocals_chroma_r2": "chroma of the vocals, R²", "accompaniment_chroma_r2": "chroma of the accompaniment, R²",
         "vocals_activity_auroc": "vocal activity, AUROC"},
    )  # fmt: skip


_ASKED = (
    ("chroma of the vocals", "vocals_chroma_r2"),
    ("chroma of the accompaniment", "accompaniment_chroma_r2"),
    ("vocal activity", "vocals_activity_auroc"),
)


def _probed(trained: Trained, of: Callable[[Frames, int, list[Tensor] | None], Tensor]) -> Mapping[str, float]:
    """Fit and score the probes on features (T, d) that `of` takes from a track's frames and, after stage 3, code vectors."""
    run = trained.runs[-1] if trained.runs else trained.setting.init
    if run is None:
        raise ValueError("encoder_probe: expected a run of stage 1 to start from; got none; name it with --init")
    seen = see(run, trained.setting)
    vectors = None if seen.train[0].codes is None else code_vectors(seen.stage)

    def pairs(part: list[Frames], track: int, target: Callable[[Frames], Tensor]) -> list[tuple[Tensor, Tensor]]:
        return [(of(frames, track, vectors), target(frames)) for frames in part]

    def scored(track: int, target: Callable[[Frames], Tensor]) -> tuple[Tensor, Tensor]:
        return probe(pairs(seen.train, track, target), pairs(seen.held_out, track, target), _RADIUS)

    found = {}
    for track, name in enumerate(TRACKS):
        found[f"{name}_chroma_r2"] = r_squared(*scored(track, partial(_chroma, track=track)))
    scores, labels = scored(0, lambda frames: frames.active[:, None].float())
    return found | {"vocals_activity_auroc": auroc(scores[:, 0], labels[:, 0] > 0.5)}


def _chroma(frames: Frames, track: int) -> Tensor:
    """Average the chromagram over each frame of the tokenizer: (T, 12)."""
    return frames.truth[track].chroma.unflatten(0, (frames.hidden.shape[1], -1)).mean(1)
