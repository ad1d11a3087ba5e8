"""How near a codec's decoded songs are to the true ones: each track and the mix, at one sample rate for every codec.

A codec of two tracks takes both apart, and its mix is the sum of what it decodes. A codec of one mix takes the mix, the vocals
and the accompaniment one after another. References come from the files at the common rate, never through the codec's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from duotok.dataset.songs import Song
from duotok.model.bottleneck import TRACKS
from duotok.model.mel_distance import mel_distance

from . import sound
from .codec import MIX, Codec, read_tracks

OUTPUTS = (*TRACKS, *MIX)
# Name -> whether more is better; in this order they are reported.
MEASURES = {
    "mel_l1": False, "mr_stft": False, "si_sdr_db": True, "chroma_cosine": True, "pesq_wb": True, "stoi": True, "visqol": True,
}  # fmt: skip


@dataclass(frozen=True)
class ReconstructionConfig:
    """What is measured.

    Attributes:
        sample_rate: at which waves are compared, in Hz. 22,050 is that of GTZAN, which Codec-Evaluation's music table uses; Mel
            distances at different rates cannot be compared.
        seconds: of every song, from its middle.
        measures: out of `MEASURES`.
    """

    sample_rate: int = 22_050
    seconds: float = 20.0
    measures: tuple[str, ...] = tuple(MEASURES)

    def __post_init__(self) -> None:
        unknown = [name for name in self.measures if name not in MEASURES]
        if unknown:
            raise ValueError(f"measures: expected some of {', '.join(MEASURES)}; got {', '.join(unknown)}; correct the names")


def compare(predicted: Tensor, target: Tensor, sample_rate: int, measures: Sequence[str] = tuple(MEASURES)) -> dict[str, float]:
    """Compare two mono waves (S,) by each of the measures named.

    Raises:
        ValueError: if the package of one of them is not installed.
    """
    functions: dict[str, Callable[[], float]] = {
        "mel_l1": lambda: mel_distance(predicted[None], target[None], sample_rate).item(),
        "mr_stft": lambda: sound.stft_distance(predicted, target),
        "si_sdr_db": lambda: sound.si_sdr(predicted, target),
        "chroma_cosine": lambda: sound.chroma_cosine(predicted, target, sample_rate),
        "pesq_wb": lambda: sound.pesq_wb(predicted, target, sample_rate),
        "stoi": lambda: sound.stoi(predicted, target, sample_rate),
        "visqol": lambda: sound.visqol(predicted, target, sample_rate),
    }
    return {name: functions[name]() for name in measures}


def measure_reconstruction(
    codec: Codec,
    inputs: Sequence[Song],
    references: Sequence[Song],
    config: ReconstructionConfig,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, dict]:
    """Measure decoded songs.

    Args:
        codec: any.
        inputs: songs at the codec's rate, with its channels.
        references: the same songs at the common rate, mono.
        config: what is measured.
        progress: called with the songs that are done and their total.

    Returns:
        "songs": by id, by track and mix, each measure; "tracks": their means over the songs that a measure can judge, and in
        "judged" how many those are.
    """
    for name in sound.OPTIONAL:
        if name in config.measures and (reason := sound.missing(name)):
            raise ValueError(reason)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for done, (song, reference) in enumerate(zip(inputs, references, strict=True), 1):
        pairs = _pairs(codec, song, reference, config)
        found[song.id] = {name: compare(*pair, config.sample_rate, config.measures) for name, pair in pairs}
        if progress:
            progress(done, len(inputs))
    return {"tracks": {name: _means([song[name] for song in found.values()]) for name in OUTPUTS}, "songs": found}


def _pairs(
    codec: Codec, song: Song, reference: Song, config: ReconstructionConfig
) -> Iterator[tuple[str, tuple[Tensor, Tensor]]]:
    """Decode the middle of a song: for each track and the mix its name, and the decoded and the true wave (S,)."""
    whole = min(song.num_samples / codec.sample_rate, reference.num_samples / config.sample_rate)
    length = min(config.seconds, whole)
    first = int((whole - length) / 2)  # in whole seconds, a sample begins at every rate
    stop = first + length
    truth = read_tracks(reference, first * config.sample_rate, round(stop * config.sample_rate))[:, 0]
    tracks = read_tracks(song, first * codec.sample_rate, round(stop * codec.sample_rate))
    if codec.parts == TRACKS:
        apart = codec.rebuild(tracks[None])[0]
        decoded = torch.cat((apart, apart.sum(0, keepdim=True)))
    else:
        decoded = torch.cat([codec.rebuild(wave[None, None])[0] for wave in (*tracks, tracks.sum(0))])
    resampled = sound.resample(decoded.mean(1), codec.sample_rate, config.sample_rate)
    size = min(resampled.shape[-1], truth.shape[-1])
    for name, wave, true in zip(OUTPUTS, resampled, (*truth, truth.sum(0)), strict=True):
        yield name, (wave[:size], true[:size])


def _means(songs: Sequence[dict[str, float]]) -> dict[str, float | dict[str, int]]:
    """Average each measure over the songs that it can judge."""
    judged = {name: [song[name] for song in songs if not math.isnan(song[name])] for name in songs[0]}
    means = {name: sum(values) / len(values) if values else math.nan for name, values in judged.items()}
    return {**means, "judged": {name: len(values) for name, values in judged.items()}}
