"""Experiment (d): how wide the trunk and the bottleneck are, and after how many blocks the bottleneck stands."""

from __future__ import annotations

from .measures import tokenizer_quality
from .noise import CHARTS
from .sweep import Arm, Claim, Setting, Stage, Sweep

_BASE = "width 128, 4 + 4 blocks, d 16"
_TRUNK, _SLOT = "model.trunk", "model.bottleneck.quantizer.dim"
# Arm -> changes of every stage, from the tiny configuration's sizes.
_ARMS: dict[str, tuple[str, ...]] = {
    _BASE: (),
    "width 64": (f"{_TRUNK}.block.width=64", f"{_TRUNK}.block.ffn_width=256"),
    "width 192": (f"{_TRUNK}.block.width=192", f"{_TRUNK}.block.ffn_width=768"),
    "2 + 6 blocks": (f"{_TRUNK}.front_blocks=2", f"{_TRUNK}.back_blocks=6"),
    "6 + 2 blocks": (f"{_TRUNK}.front_blocks=6", f"{_TRUNK}.back_blocks=2"),
    "d 8": (f"{_SLOT}=8",),
    "d 32": (f"{_SLOT}=32",),
}


def sizes(setting: Setting) -> Sweep:
    """Describe the experiment."""
    stages = ("stage1", "stage2", "stage3")
    arms = [Arm(name, tuple(Stage(stage, more) for stage in stages), tokenizer_quality) for name, more in _ARMS.items()]
    return Sweep(
        "sizes",
        "Width, place and dimension of the bottleneck",
        "Stages 1 to 3 from random weights, with another width of the trunk, another place of the bottleneck among its eight "
        "blocks, or another dimension d of the bottleneck. The paper places it in the middle of 24 blocks and names neither "
        "width nor dimension, so that these are questions, not its claims.",
        tuple(arms),
        (
            Claim("the middle predicts better than an early bottleneck", "bits_per_token", _BASE, "2 + 6 blocks", -1),
            Claim("the middle predicts better than a late bottleneck", "bits_per_token", _BASE, "6 + 2 blocks", -1),
            Claim("the middle rebuilds the Mel spectrum better than an early bottleneck", "mel_l1", _BASE, "2 + 6 blocks", -1),
            Claim("the middle rebuilds the Mel spectrum better than a late bottleneck", "mel_l1", _BASE, "6 + 2 blocks", -1),
            Claim("a wider trunk rebuilds the Mel spectrum better", "mel_l1", "width 192", _BASE, -1),
            Claim("a wider bottleneck rebuilds the Mel spectrum better", "mel_l1", "d 32", _BASE, -1),
        ),
        CHARTS,
    )
