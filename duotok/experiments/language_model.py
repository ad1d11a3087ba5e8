"""What language models of both tracks make of the other track, and of the past.

Two diagnostics of the paper (its second version), with definitions of our own, on the held-out songs of a run of tokens:

    corruption    bits per token of a track when the model reads another song's, a shifted, or random codes in the other track
    context       bits per token of the same codes, given the last 64 to 1,024 frames
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from duotok.dataset.tokens import TokenSongs
from duotok.evaluation.bits import unigram
from duotok.language import LanguageModel
from duotok.model.bottleneck import TRACKS
from duotok.model.protocols import code_losses, predicted_tracks

from .report import Report, draw_curves, table

CORRUPTIONS = ("other song", "time shift", "random codes")
_AT_A_TIME = 4  # windows in a batch


def corrupted(songs: Sequence[Tensor], number: int, corruption: str, shift: int, size: int) -> Tensor:
    """Make what the model is to read in place of a song.

    Args:
        songs: codes (2, T) of several.
        number: of the song.
        corruption: one of `CORRUPTIONS`: the next song's codes, repeated where it is shorter; the song's own, `shift` frames
            later, the end at the beginning; or codes drawn uniformly from all.
        shift: in frames.
        size: codes of a track.

    Returns:
        (2, T) int64.
    """
    song = songs[number]
    if corruption == "time shift":
        return song.roll(shift, dims=1)
    if corruption == "random codes":
        return torch.randint(size, song.shape, generator=torch.Generator().manual_seed(number)).to(song.device)
    other = songs[(number + 1) % len(songs)]
    return other.repeat(1, -(-song.shape[1] // other.shape[1]))[:, : song.shape[1]]


@torch.no_grad()
def measure_corruption(lm: LanguageModel, songs: Sequence[Tensor], shift: int) -> dict[str, dict[str, list[float]]]:
    """Score every song in windows of the trained length, with the other track as it is, and corrupted.

    Args:
        lm: a language model.
        songs: codes (2, T) of at least two.
        shift: in frames.

    Returns:
        of each predicted track, for "true" and each corruption: bits per token of each song.
    """
    config, size = lm.config, lm.config.model.codebook_size
    found: dict[str, dict[str, list[float]]] = {}
    for track in predicted_tracks(config.protocol):
        rows = found[TRACKS[track]] = {name: [] for name in ("true", *CORRUPTIONS)}
        for number, song in enumerate(songs):
            for name, bits in rows.items():
                seen = song if name == "true" else corrupted(songs, number, name, shift, size)
                seen = torch.stack([song[i] if i == track else seen[i] for i in range(len(TRACKS))])
                pairs = zip(*(codes.split(config.context_frames, dim=1) for codes in (song, seen)), strict=True)
                losses = [code_losses(lm.model, config.protocol, a[None], b[None], tracks=(track,)) for a, b in pairs]
                bits.append(_bits(torch.cat(losses, dim=-1)))
    return found


@torch.no_grad()
def measure_contexts(
    lm: LanguageModel, songs: Sequence[Tensor], contexts: Sequence[int], block: int, stride: int
) -> dict[str, list[float]]:
    """Score the same codes given more and more of what came before.

    Every window of a context ends with the same `block` frames, which alone are scored: a code is predicted from at most as
    many frames before it as the context has, and at least `block` fewer.

    Args:
        lm: a language model.
        songs: codes (2, T) of each; only what lies behind the longest context is scored.
        contexts: in frames, rising.
        block: frames.
        stride: frames from one block to the next; the more, the fewer codes are scored.

    Returns:
        of each predicted track, bits per token for each context.

    Raises:
        ValueError: if no song is as long as the longest context.
    """
    longest = contexts[-1]
    ends = [(song, end) for song in songs for end in range(longest, song.shape[1] + 1, stride)]
    if not ends:
        raise ValueError(f"expected a held-out song of at least {longest} frames; got none; name shorter contexts")
    tracks = predicted_tracks(lm.config.protocol)
    found: dict[str, list[float]] = {TRACKS[track]: [] for track in tracks}
    for context in contexts:
        losses = []
        for first in range(0, len(ends), _AT_A_TIME):
            windows = torch.stack([song[:, end - context : end] for song, end in ends[first : first + _AT_A_TIME]])
            losses.append(code_losses(lm.model, lm.config.protocol, windows, last=block).movedim(1, 0).flatten(1))
        for track, row in zip(tracks, torch.cat(losses, dim=1), strict=True):
            found[TRACKS[track]].append(_bits(row))
    return found


def _bits(losses: Tensor) -> float:
    return losses.double().mean().item() / math.log(2)


def measure(
    lms: Sequence[LanguageModel], tokens: TokenSongs, contexts: Sequence[int], block: int, stride: int, shift: int
) -> dict:
    """Measure all models; the unigram model of evaluation/bits.py stands beside them.

    Raises:
        ValueError: if a model is of another tokenizer, or there are no two held-out songs.
    """
    train, held_out = (
        [torch.from_numpy(song.codes.astype("int64")) for song in part] for part in (tokens.train, tokens.held_out)
    )
    if len(held_out) < 2:
        raise ValueError(f"expected two held-out songs, one to corrupt the other; got {len(held_out)}; tokenize more")
    models = {}
    for lm in lms:
        if lm.config.tokenizer != tokens.fingerprint:
            raise ValueError(
                f"expected a language model of the tokens' tokenizer, {tokens.fingerprint[:16]}; got one of "
                f"{lm.config.tokenizer[:16]}; name another"
            )
        songs = [song.to(lm.model.start.device) for song in held_out]
        models[lm.config.protocol] = {
            "fingerprint": lm.fingerprint,
            "training": lm.training,
            "corruption": measure_corruption(lm, songs, shift),
            "context": measure_contexts(lm, songs, contexts, block, stride),
        }
    base = {}
    for track, name in enumerate(TRACKS):
        prior = unigram([song[track] for song in train], tokens.codebook_size)
        base[name] = -prior[torch.cat(held_out, dim=1)[track]].log2().mean().item()
    settings = {"contexts": list(contexts), "block_frames": block, "stride_frames": stride, "shift_frames": shift}
    names = [song.id for song in tokens.held_out]
    return {**settings, "tokenizer": tokens.fingerprint, "held_out_songs": names, "unigram_bits": base, "models": models}


def describe(found: dict) -> Report:
    """Lay out what `measure` found."""
    past, other = _past(found), _other_track(found)
    listed = "\n".join(f"- {claim}." for _, claim in (*other, *past))
    others = table([row for row, _ in other], ("protocol", "track", "unigram", "true", *CORRUPTIONS))
    cells = [(*row[:2], *(f"{bits:.3f}" for bits in row[2:])) for row, _ in past]
    contexts = table(cells, ("protocol", "track", *map(str, found["contexts"])))
    text = (
        f"Bits per token of {len(found['held_out_songs'])} held-out songs; one seed of each model. {_training(found)}\n\n"
        "The paper compares tokenizers by such numbers; of one they say whether its codes show the effects at all.\n\n"
        f"{listed}\n\n## The other track, corrupted\n\nThe mean over songs with the true other track, and by how much it "
        "rises, with the number of songs in which it does. A rise says that the model used the other track; it does not say "
        f"that nothing else would serve as well. The shift is {found['shift_frames']} frames.\n\n{others}\n\n"
        "![The other track, corrupted](corruption.png)\n\n## The past\n\nThe same codes, predicted from windows of so many "
        f"frames, of which the last {found['block_frames']} are scored, every {found['stride_frames']} frames.\n\n{contexts}"
    )
    curves = {
        f"{protocol}, {track}": [(context, bits[0] - b) for context, b in zip(found["contexts"], bits, strict=True)]
        for (protocol, track, *bits), _ in past
    }
    saved = f"bits per token saved over {found['contexts'][0]} frames"
    title = "Language models: the other track, and the past"
    return Report(title, text, found, ("curves", draw_curves({saved: curves}, "frames of context")))


def _training(found: dict) -> str:
    """Say how the models were trained."""
    told = []
    for protocol, model in found["models"].items():
        scores = ", ".join(f"{name} {value:.3f}" for name, value in model["training"]["scores"].items() if name in TRACKS)
        told.append(f"{protocol}: {model['training']['steps']} steps, then {scores}.")
    return f"Training, with its held-out cross-entropy in nats: {' '.join(told)}"


def _other_track(found: dict) -> list[tuple[tuple, str]]:
    """A row of the table of corruptions, and what it says, for each protocol and track."""
    rows = []
    for protocol, model in found["models"].items():
        for track, songs in model["corruption"].items():
            rises = {name: [b - a for a, b in zip(songs["true"], songs[name], strict=True)] for name in CORRUPTIONS}
            cells = [f"{_mean(rise):+.3f} ({sum(x > 0 for x in rise)} of {len(rise)})" for rise in rises.values()]
            costly = [name for name, rise in rises.items() if min(rise) > 0]
            claim = f"corrupting the other track costs bits in every song for {', '.join(costly)}"
            claim = claim if costly else "no corruption of the other track costs bits in every song"
            row = (protocol, track, found["unigram_bits"][track], _mean(songs["true"]), *cells)
            rows.append((row, f"{protocol}, {track}: {claim}"))
    return rows


def _past(found: dict) -> list[tuple[tuple, str]]:
    """A row of the table of contexts, and what it says, for each protocol and track."""
    first, last = found["contexts"][0], found["contexts"][-1]
    return [
        (
            (protocol, track, *bits),
            f"{protocol}, {track}: {last} frames instead of {first} save {bits[0] - bits[-1]:.3f} bits per token",
        )
        for protocol, model in found["models"].items()
        for track, bits in model["context"].items()
    ]


def draw_corruption(found: dict) -> Figure:
    """Draw by how much bits per token rise, a group of bars for each protocol and track."""
    groups = {
        f"{protocol},\n{track}": songs
        for protocol, model in found["models"].items()
        for track, songs in model["corruption"].items()
    }
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes, width = figure.subplots(), 0.8 / len(CORRUPTIONS)
    for number, name in enumerate(CORRUPTIONS):
        places = [group + (number - 1) * width for group in range(len(groups))]
        axes.bar(places, [_mean(songs[name]) - _mean(songs["true"]) for songs in groups.values()], width, label=name)
    axes.set_xticks(range(len(groups)), [*groups])
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(ylabel="rise in bits per token")
    axes.grid(axis="y", alpha=0.3)
    axes.legend()
    return figure


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
