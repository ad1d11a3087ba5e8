"""Quality and time of decoded songs by the number of steps of each sampler."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from duotok.dataset.songs import Song, load_songs
from duotok.decoder import Sampling
from duotok.evaluation.decoding import distances, pieces
from duotok.model.bottleneck import TRACKS
from duotok.tokenizer import DuoTok

from .report import Report, draw_curves, table

SAMPLERS = ("ddim", "dpm")
STEPS = (2, 5, 10, 20, 50, 100)


def measure(
    tokenizer: DuoTok, songs: Sequence, steps: Sequence[int], reference_steps: int, seconds: float, guidance: float
) -> list[dict]:
    """Decode songs with every sampler and number of steps.

    Args:
        tokenizer: with a decoder.
        songs: whose waves are at the decoder's rate.
        steps: to try.
        reference_steps: of the second-order sampler, whose result stands for infinitely many.
        seconds: of every song, from its middle.
        guidance: of the sampling.

    Returns:
        a row for each: sampler, steps, the Mel distance of each track to the true stem, "to_reference" (to what
        `reference_steps` give), and "real_time", computing time over the time of the sound.
    """
    slot, decoder = tokenizer.model.trunk.bottleneck, tokenizer.decoder
    cut = list(pieces(tokenizer, songs, seconds))

    def decode(codes: torch.Tensor, sampling: Sampling) -> torch.Tensor:
        return torch.cat(list(decoder.waves(slot, codes, sampling)), dim=-1)

    references = [decode(codes, Sampling(reference_steps, guidance)) for _, _, codes in cut]
    rows = []
    for sampler in SAMPLERS:
        for number in steps:
            to_stems, to_reference, start = [], [], time.perf_counter()
            waves = [decode(codes, Sampling(number, guidance, sampler=sampler)) for _, _, codes in cut]
            elapsed = time.perf_counter() - start
            for wave, reference, (_, stems, _) in zip(waves, references, cut, strict=True):
                to_stems.append(distances(decoder, wave, stems))
                to_reference.append(distances(decoder, wave, reference))
            by_track = dict(zip(TRACKS, np.mean(to_stems, axis=0).tolist(), strict=True))
            sound = sum(stems.shape[-1] for _, stems, _ in cut) / decoder.sample_rate
            rows.append(
                {"sampler": sampler, "steps": number, **by_track, "to_reference": float(np.mean(to_reference)),
                 "real_time": elapsed / sound}
            )  # fmt: skip
    return rows


def held_out(tokenizer: DuoTok, manifest: Path, cache: Path, count: int) -> Sequence[Song]:
    """Read at most `count` held-out songs at the rate of a tokenizer's decoder."""
    decoder = tokenizer.decoder
    return load_songs(manifest, cache, decoder.sample_rate, 6.0, None, decoder.autoencoder.channels).held_out[:count]


def describe(tokenizer: DuoTok, rows: Sequence[dict], reference_steps: int, num_songs: int, device: str) -> Report:
    """Lay out what `measure` found."""
    labels = {
        "Mel distance to the true vocals": "vocals",
        "Mel distance to the true accompaniment": "accompaniment",
        f"Mel distance to {reference_steps} steps": "to_reference",
    }
    panels = {
        label: {sampler: [(r["steps"], r[name]) for r in rows if r["sampler"] == sampler] for sampler in SAMPLERS}
        for label, name in labels.items()
    }
    header = ("sampler", "steps", *TRACKS, "to_reference", "real_time")
    text = (
        f"Mean Mel distance of {num_songs} held-out songs to their true stems and to {reference_steps} steps of dpm; "
        f"real_time is computing time of both tracks over the song's, on {device}.\n\n"
        f"{table([[row[name] for name in header] for row in rows], header)}"
    )
    results = {"rows": list(rows), "tokenizer": tokenizer.fingerprint, "decoder": tokenizer.decoder.fingerprint}
    return Report("Samplers by number of steps", text, results, ("curves", draw_curves(panels, "steps")))
