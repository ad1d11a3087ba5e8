"""The SI-SNR-improvement term of stage 4 on and off, compared on held-out scores."""

from __future__ import annotations

from collections.abc import Mapping

from .runs import last_scores
from .sweep import Arm, Claim, Setting, Stage, Sweep, Trained

_SCORES = {"epsilon": "L_eps", "si_snr_improvement": "SI-SNR improvement, dB", "latent_error": "error of the clean latents"}


def si_snr_term(setting: Setting) -> Sweep:
    """Describe the experiment."""
    place = f"tokenizer={setting.tokenizer}"
    arms = (
        Arm("off", (Stage("stage4", (place, "si_weight=0")),), _scores),
        Arm("on", (Stage("stage4", (place,)),), _scores),
    )
    return Sweep(
        "si_snr_term",
        "The SI-SNR term, on and off",
        "Stage 4 with the SI-SNR-improvement term of its loss and without, scored on held-out songs; L_eps and the error of "
        "the clean latents are better when lower, the improvement when higher.",
        arms,
        (
            Claim("the term raises the SI-SNR improvement of held-out songs", "si_snr_improvement", "on", "off", 1),
            Claim("the term lowers the error of the clean latents", "latent_error", "on", "off", -1),
            Claim("the term costs L_eps", "epsilon", "on", "off", 1),
        ),
        _SCORES,
    )


def _scores(trained: Trained) -> Mapping[str, float]:
    """Read the last held-out scores."""
    scores = last_scores(trained.runs[-1])
    return {name: scores[name] for name in _SCORES}
