"""The card of a trained tokenizer: what was written about it, what training cost, and every score that was measured.

`duotok experiment card` writes results.json and, from it and the text, README.md into the tokenizer's folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from duotok.config import read
from duotok.files import write_atomically
from duotok.model.bottleneck import TRACKS
from duotok.training.log import read_log

from .report import RESULTS, table

RUNS = ("stage1", "stage2", "stage3", "vae", "stage4")
# Rows of the table of quality: a measure of each track, what it says, and whether more of it is better.
_MEASURES = (
    ("distinct_per_1000", "distinct codes per 1,000 frames"),
    ("entropy_bits", "entropy of the codes, bits"),
    ("unigram_bits", "unigram model, bits per token"),
    ("language_model_bits", "small language model, bits per token"),
    ("gain_bits", "gained over the unigram model of the training songs"),
    ("gain_over_any_unigram_bits", "gained over the best unigram model, that of the held-out codes"),
    ("mel_l1", "Mel from codes, L1"),
    ("mel_l1_other", "the same from the other track's codes"),
    ("mel_l1_mean", "the same from the mean spectrum"),
    ("chroma_l1", "chroma from codes, L1"),
    ("chroma_l1_other", "the same from the other track's codes"),
    ("chroma_l1_mean", "the same from the mean spectrum"),
    ("chroma_r2", "chroma by a linear probe, R^2"),
)
_WHOLE = (
    ("vocals_activity_auroc", "vocal activity by a linear probe, AUROC"),
    ("lyrics_character_error_rate", "lyrics, character error rate"),
    ("lyrics_word_error_rate", "lyrics, word error rate"),
)
_TOKENIZERS = ("trained", "untrained", "fitted")
_DECODING = (
    ("decoded", "decoded codes"),
    ("autoencoder", "the true stem through the autoencoder alone"),
    ("untrained", "an untrained decoder (noise latents)"),
    ("shuffled", "codes in another order"),
    ("other", "the other track's codes"),
    ("mean_spectrum", "the true stem's mean spectrum, held"),
    ("noise", "white noise as loud as the true stem"),
)


def gather(runs: Path, quality: Path, decoding: Path, trained_on: str) -> dict:
    """Collect the logs of the runs and the results of both evaluations.

    Raises:
        OSError, ValueError: if one cannot be read.
    """
    found = {}
    for name in RUNS:
        rows = read_log(runs / name)
        train = [row for row in rows if row["kind"] == "train"]
        steps = [0, *(row["step"] for row in train)]
        seconds = sum(
            row["seconds_per_step"] * (step - before) for row, before, step in zip(train, steps, steps[1:], strict=False)
        )
        evaluations = [{"step": row["step"], **row["scores"]} for row in rows if row["kind"] == "evaluation"]
        data = read(runs / name / "config.yaml")["data"]
        settings = {key: data[key] for key in ("crop_s", "batch_size")}
        found[name] = {"steps": steps[-1], "seconds": seconds, **settings, "evaluations": evaluations}
    parts = {name: json.loads(path.read_text()) for name, path in (("quality", quality), ("decoding", decoding))}
    return {"trained_on": trained_on, "runs": found, **parts}


def page(about: str, results: Mapping) -> str:
    """Put the tables of what `gather` found behind a text."""
    prints = f"Fingerprints: tokenizer {results['quality']['tokenizer'][:16]}, decoder {results['decoding']['decoder'][:16]}."
    held_out = f"Held out: {', '.join(results['quality']['held_out_songs'])}."
    parts = (about.strip(), f"{prints} {held_out}", _training(results), _quality(results), _decoding(results))
    return "\n\n".join(parts)


def _training(results: Mapping) -> str:
    rows = []
    for name, run in results["runs"].items():
        last = {key: value for key, value in run["evaluations"][-1].items() if key != "step"}
        scores = ", ".join(f"{key} {value:.3g}" for key, value in list(last.items())[:6])
        rows.append((name, run["steps"], f"{run['batch_size']} x {run['crop_s']:g} s", f"{run['seconds']:.0f}", scores))
    header = ("run", "steps", "batch", "seconds", "held-out scores at the end")
    return f"## Training, on {results['trained_on']}\n\n{table(rows, header)}"


def _quality(results: Mapping) -> str:
    found = results["quality"]["results"]
    rows = [
        (label, *(found[which].get(f"{track}_{name}", "") for track in TRACKS for which in _TOKENIZERS))
        for name, label in _MEASURES
    ]
    header = ("", *(f"{track}, {which}" for track in TRACKS for which in _TOKENIZERS))
    whole = [(label, *(found[which].get(name, "") for which in _TOKENIZERS)) for name, label in _WHOLE]
    return (
        "## Codes, on held-out songs\n\nBeside it the same tokenizer untrained, and that with its codebooks fitted to what its "
        "random weights make of eight songs. Probes and language models learn from the training songs, with one recipe for all."
        f"\n\n{table(rows, header)}\n\n{table(whole, ('', *_TOKENIZERS))}"
    )


def _decoding(results: Mapping) -> str:
    found = results["decoding"]
    tracks = found["tracks"]
    rows = [(label, *(tracks[track][name] for track in TRACKS)) for name, label in _DECODING]
    rivals = ("untrained", "shuffled", "other")
    margins = [
        (f"margin over {label}", *(tracks[track][name] - tracks[track]["decoded"] for track in TRACKS))
        for name, label in _DECODING
        if name in rivals
    ]
    run = results["runs"]["vae"]
    vae = run["evaluations"][-1]
    return (
        f"## Sound, on held-out songs\n\nMulti-scale Mel distance to the true stem, {found['seconds']:g} s of each song, "
        f"{found['sampling']['steps']} steps; lower is better.\n\n{table([*rows, *margins], ('', *TRACKS))}\n\n"
        f"While it learned, the autoencoder was scored on crops of {run['crop_s']:g} s of vocals, accompaniments and mixtures: "
        f"{vae['mel_distance']:.3g}; white noise as loud {vae['mel_distance_of_noise']:.3g}, the crop's own mean spectrum "
        f"{vae['mel_distance_of_mean_spectrum']:.3g}."
    )


def write_card(folder: Path, about: str, results: Mapping) -> None:
    """Write what `gather` found and the card made of it."""
    write_atomically(folder / RESULTS, (json.dumps(results, indent=1) + "\n").encode())
    write_atomically(folder / "README.md", f"{page(about, results)}\n".encode())
