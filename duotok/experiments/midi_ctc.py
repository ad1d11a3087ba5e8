"""Experiment (f): whether the notes as a task bring the accompaniment's bits per token nearer to the vocals'."""

from __future__ import annotations

from .measures import tokenizer_quality
from .sweep import Arm, Claim, Setting, Stage, Sweep, Trained

_WITHOUT, _WITH = "without notes", "with notes"


def midi_ctc(setting: Setting) -> Sweep:
    """Describe the experiment."""
    more = ("model.heads.notes=true",)
    arms = (
        Arm(_WITHOUT, (Stage("stage2"), Stage("stage3")), asymmetry),
        Arm(_WITH, (Stage("stage2", more), Stage("stage3", more)), asymmetry),
    )
    return Sweep(
        "midi_ctc",
        "The accompaniment's notes as a task (MIDI-CTC)",
        "Stages 2 and 3 with and without one task more: a linear head reads the accompaniment's notes, as the scores give "
        "them, by connectionist temporal classification (pitches in the order of onset, chords from the lowest note; songs "
        "without notes have no such loss; weight 0.1). The paper finds that vocals are far easier to model than "
        "accompaniments and suggests MIDI-CTC as future work; it has no numbers on it. `asymmetry` is the accompaniment's "
        "bits per token minus the vocals', and `gap` its size.",
        arms,
        (
            Claim("notes bring the tracks' bits per token together", "gap", _WITH, _WITHOUT, -1),
            Claim("notes make the accompaniment easier to predict", "accompaniment_language_model_bits", _WITH, _WITHOUT, -1),
            Claim("notes put more chroma into the accompaniment's codes", "accompaniment_chroma_r2", _WITH, _WITHOUT, 1),
            Claim("notes cost accuracy of the Mel spectrum", "mel_l1", _WITH, _WITHOUT, 1),
        ),
        {"asymmetry": "bits: accompaniment - vocals", "accompaniment_language_model_bits": "bits per token, accompaniment",
         "accompaniment_chroma_r2": "chroma of the accompaniment, R²", "mel_l1": "Mel L1 from codes"},
    )  # fmt: skip


def asymmetry(trained: Trained) -> dict[str, float]:
    """Measure a tokenizer, and how much more its accompaniment costs than its vocals."""
    found = tokenizer_quality(trained)
    more = found["accompaniment_language_model_bits"] - found["vocals_language_model_bits"]
    return found | {"asymmetry": more, "gap": abs(more)}
