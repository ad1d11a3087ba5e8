"""Experiment (a): Gaussian replacement on and off, how much and how strong, and noise that is added instead."""

from __future__ import annotations

from .measures import tokenizer_quality
from .sweep import Arm, Claim, Setting, Stage, Sweep

_ON = "p 0.2, sigma 1"
# Arm -> changes of stage 2. p and sigma of the sweep around the paper's 0.2 are its summaries', see `BottleneckConfig`.
_ARMS: dict[str, tuple[str, ...]] = {
    "off": ("model.bottleneck.replace_p=0",),
    _ON: (),
    "p 0.1": ("model.bottleneck.replace_p=0.1",),
    "p 0.3": ("model.bottleneck.replace_p=0.3",),
    "sigma 0.5": ("model.bottleneck.replace_sigma=0.5",),
    "sigma 1.5": ("model.bottleneck.replace_sigma=1.5",),
    "added at the bottleneck": ("noise=add",),
    "added at the input": ("noise=add_to_input",),
}
CHARTS = {
    "ppl_1024": "PPL@1024", "bits_per_token": "bits per token", "enbpt": "bits per token / unigram bits",
    "mel_l1": "Mel L1 from codes",
}  # fmt: skip


def noise(setting: Setting) -> Sweep:
    """Describe the experiment."""
    arms = [Arm(name, (Stage("stage2", more), Stage("stage3")), tokenizer_quality) for name, more in _ARMS.items()]
    return Sweep(
        "noise",
        "Gaussian replacement: on and off, how much, how strong, and added instead",
        "Stages 2 and 3 from one stage 1, with different noise in stage 2. The paper reports that replacing about a fifth of "
        "the bottleneck's frames makes the codes easier to predict (PPL@1024) at some cost in the Mel spectrum. Both controls "
        "add N(0, 1) to a fifth of the frames: of the bottleneck, or of the normalised Mel spectrogram that goes in.",
        tuple(arms),
        (
            Claim("noise makes the codes easier to predict (bits per token)", "bits_per_token", _ON, "off", -1),
            Claim("they stay easier relative to a unigram model of them", "enbpt", _ON, "off", -1),
            Claim("noise costs accuracy of the Mel spectrum", "mel_l1", _ON, "off", 1),
            Claim(
                "replacing predicts better than adding at the bottleneck", "bits_per_token", _ON, "added at the bottleneck", -1
            ),
            Claim("replacing predicts better than adding at the input", "bits_per_token", _ON, "added at the input", -1),
        ),
        CHARTS,
    )
