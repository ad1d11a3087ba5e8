"""What the experiments measure: a whole tokenizer, and the features and codes of a trained stage on excerpts of songs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from duotok.dataset.songs import Song, load_songs
from duotok.evaluation.bits import BitsConfig, TrackBits, measure_bits
from duotok.evaluation.quality import QualityConfig, code_songs, first_minutes, measure, sounding
from duotok.evaluation.rebuild import PIECE, Targets, targets
from duotok.model.bottleneck import TRACKS, DualSimVQ, Projections
from duotok.training import checkpoint, stages
from duotok.training.stage import Stage

from .sweep import Setting, Trained

# A frame sings if its vocals reach this level, as in `duotok evaluate quality`.
_MIN_S = 6.0


@dataclass(frozen=True)
class Excerpts:
    """Parts of songs: those that probes and language models learn from, and those that they are scored on."""

    train: list[Song]
    held_out: list[Song]


@dataclass(frozen=True)
class Frames:
    """An excerpt as a stage sees it.

    Attributes:
        hidden: (2, T, D) features of the front half, of vocals and accompaniment.
        narrow: (2, T, d) in the bottleneck, before it changes them; None in stage 1.
        codes: (2, T) int64; None before stage 3.
        truth: Mel and chroma of both tracks.
        active: (T,) bool, whether the vocals sound.
    """

    hidden: Tensor
    narrow: Tensor | None
    codes: Tensor | None
    truth: tuple[Targets, Targets]
    active: Tensor


def excerpts(setting: Setting, sample_rate: int) -> Excerpts:
    """Read the songs of a setting, and take `excerpt_s` seconds from the middle of each."""
    songs = load_songs(setting.manifest, setting.waves, sample_rate, _MIN_S)

    def cut(song: Song) -> Song:
        length = min(song.num_samples, round(setting.excerpt_s * sample_rate))
        start = (song.num_samples - length) // 2
        return song.part(start, start + length, sample_rate)

    train = first_minutes([cut(song) for song in songs.train], setting.minutes, sample_rate)
    return Excerpts(train, [cut(song) for song in songs.held_out])


def tokenizer_quality(trained: Trained) -> dict[str, float]:
    """Measure the tokenizer that a chain ends with as `duotok evaluate quality` does, and sum up both tracks.

    Returns:
        the numbers of `measure`, and `bits_per_token`, `unigram_bits`, `enbpt` (bits per token over the unigram model's; the
        reading of PAPER's v2 metric is inferred), `ppl_1024` (perplexity over the codebook's size in 1,024s, as
        Codec-Evaluation prints it) and `mel_l1`, each the mean over the tracks.
    """
    setting = trained.setting
    with TemporaryDirectory() as folder:
        tokenizer = stages.export(trained.runs[-1], Path(folder) / "tokenizer")
    songs = excerpts(setting, tokenizer.sample_rate)
    coded = code_songs(tokenizer, [*songs.train, *songs.held_out])
    count, config = len(songs.train), QualityConfig(BitsConfig(steps=setting.model_steps, seed=trained.seed))
    found = measure(tokenizer, coded[:count], coded[count:], config)
    mean = {name: sum(found[f"{track}_{name}"] for track in TRACKS) / len(TRACKS) for name in ("unigram_bits", "mel_l1")}
    bits = sum(found[f"{track}_language_model_bits"] for track in TRACKS) / len(TRACKS)
    return found | mean | predictability(bits, mean["unigram_bits"], tokenizer.codebook_size)


def predictability(bits: float, unigram_bits: float, codebook_size: int) -> dict[str, float]:
    """Put the bits per token of a language model beside the same in the units that papers use."""
    return {"bits_per_token": bits, "enbpt": bits / unigram_bits, "ppl_1024": 2**bits / (codebook_size / 1024)}


@dataclass(frozen=True)
class Seen:
    """A trained stage, and the excerpts of training and held-out songs as it sees them."""

    stage: Stage
    train: list[Frames]
    held_out: list[Frames]


def see(run: Path, setting: Setting) -> Seen:
    """Read a trained stage 1, 2 or 3 from its run, and run it over a setting's excerpts."""
    stage = load_stage(run, setting)
    songs = excerpts(setting, stage.spec.sample_rate)
    return Seen(stage, *([read_frames(stage, song) for song in part] for part in (songs.train, songs.held_out)))


def load_stage(run: Path, setting: Setting) -> Stage:
    """Read a trained stage 1, 2 or 3 from its run, ready to be measured."""
    config = stages.load_config(run / "config.yaml")
    songs = load_songs(setting.manifest, setting.waves, config.model.mel.spec.sample_rate, config.data.min_s)
    stage = stages.make_stage(config, songs)
    stage.load_state_dict(checkpoint.read_weights(run))
    return stage.eval()


@torch.no_grad()
def read_frames(stage: Stage, song: Song) -> Frames:
    """Run the front half and the bottleneck over a song, in pieces of 30 s."""
    hop = stage.spec.sample_rate // stage.config.model.frame_rate
    samples = song.num_samples - song.num_samples % hop
    waves = torch.stack([torch.from_numpy(song.read(name, 0, samples).astype(np.float32) / 32768) for name in TRACKS])
    hidden = torch.cat([stage.model.trunk.encode(stage.mel(piece)) for piece in waves.split(PIECE * hop, dim=1)], dim=1)
    slot, tracks = stage.model.trunk.bottleneck, torch.arange(len(TRACKS))
    codes = slot(hidden, tracks).indices if isinstance(slot, DualSimVQ) else None
    narrow = None
    if isinstance(slot, DualSimVQ):
        narrow = torch.stack([branch.narrow(rows) for branch, rows in zip(slot.branches, hidden, strict=True)])
    elif isinstance(slot, Projections):
        narrow = slot.narrow(hidden)
    truth = tuple(targets(stage.model, wave) for wave in waves)
    return Frames(hidden, narrow, codes, truth, sounding(waves[0], hop))


def bits_of(
    train: Sequence[Tensor], held_out: Sequence[Tensor], vectors: Sequence[Tensor], trained: Trained
) -> dict[str, float]:
    """Measure how well codes (2, T) of songs are predicted, given the code vectors (K, d) of each track."""
    found: list[TrackBits] = measure_bits(
        train, held_out, vectors, BitsConfig(steps=trained.setting.model_steps, seed=trained.seed)
    )
    bits, unigram = (sum(getattr(track, name) for track in found) / len(found) for name in ("language_model", "unigram"))
    by_track = {f"{name}_bits": track.language_model for name, track in zip(TRACKS, found, strict=True)}
    return by_track | {"unigram_bits": unigram} | predictability(bits, unigram, len(vectors[0]))
