"""The whole card of a tokenizer on songs with true stems: codebook use, bits per token, probes, heads, lyrics.

Everything that learns (language model, probes, mean spectra) learns from training songs and is scored on held-out ones, with
one recipe for every tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from duotok.dataset.manifest import hash_rank
from duotok.dataset.songs import Song
from duotok.lyrics import character_error_rate, decode, greedy, word_error_rate
from duotok.model.bottleneck import TRACKS
from duotok.model.code_usage import summarize, tally
from duotok.model.semantic import SemanticModel
from duotok.tokenizer import DuoTok

from .bits import BitsConfig, measure_bits
from .probe import auroc, probe, r_squared
from .rebuild import Targets, from_codes, rebuild_errors, targets

# A frame sings if its vocals reach this level; own choice, 20 dB above the noise of 16-bit recordings' quiet rooms.
_ACTIVE_DB = -50.0


@dataclass(frozen=True)
class QualityConfig:
    """What is measured and how; own choices.

    Attributes:
        bits: the small language model.
        probe_radius: frames of context on each side that the linear probes see.
    """

    bits: BitsConfig = field(default_factory=BitsConfig)
    probe_radius: int = 2


@dataclass(frozen=True)
class CodedSong:
    """A song as the measures see it.

    Attributes:
        song: where it came from.
        codes: (2, T) int64.
        truth: of each track, cut to T frames.
        active: (T,) bool, whether the vocals sound.
    """

    song: Song
    codes: Tensor
    truth: tuple[Targets, Targets]
    active: Tensor


def first_minutes(songs: Sequence[Song], minutes: float, sample_rate: int) -> list[Song]:
    """Take songs in an order fixed by their ids' hashes until they last `minutes`; at least one."""
    taken, seconds = [], 0.0
    for song in sorted(songs, key=lambda song: hash_rank(song.id)):
        if taken and seconds >= 60 * minutes:
            break
        taken.append(song)
        seconds += song.num_samples / sample_rate
    return taken


def untrained_like(tokenizer: DuoTok, songs: Sequence[Song] = (), seed: int = 0) -> DuoTok:
    """Build the same tokenizer from random weights; with songs, its norms and codebooks are fitted to its features of them.

    Without that fit almost every frame of an untrained tokenizer gets the same code.
    """
    config, hop = tokenizer.config.model, tokenizer.sample_rate // tokenizer.frame_rate
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SemanticModel(replace(config, bottleneck=replace(config.bottleneck, kind="simvq"))).eval()
    with torch.no_grad():
        for track, branch in enumerate(model.trunk.bottleneck.branches if songs else ()):
            z = branch.calibrate(torch.cat([_front(model, _wave(song, track, hop)) for song in songs]))
            branch.quantizer.fit(z.mean(0), z.T.cov())
    return DuoTok(replace(tokenizer.config, trained=False), model.export())


def _front(model: SemanticModel, wave: Tensor) -> Tensor:
    """Run the front half on a wave (S,) in pieces of 30 s: (T, D)."""
    pieces = wave.split(30 * model.config.mel.spec.sample_rate)
    return torch.cat([model.trunk.encode(model.mel(piece[None]))[0] for piece in pieces])


def sounding(wave: Tensor, hop: int) -> Tensor:
    """Say of each frame (T,) of `hop` samples of a wave (S,) whether it is louder than -50 dB."""
    return wave.unflatten(0, (-1, hop)).square().mean(1).clamp(min=1e-12).log10() * 10 > _ACTIVE_DB


def code_songs(tokenizer: DuoTok, songs: Sequence[Song], progress: Callable[[int, int], None] | None = None) -> list[CodedSong]:
    """Tokenize songs and compute their truth."""
    coded, hop = [], tokenizer.sample_rate // tokenizer.frame_rate
    for done, song in enumerate(songs, 1):
        waves = [_wave(song, track, hop) for track in range(len(TRACKS))]
        codes = tokenizer.encode(*waves, sample_rate=tokenizer.sample_rate)[0]
        with torch.no_grad():
            truth = tuple(targets(tokenizer.model, wave) for wave in waves)
        coded.append(CodedSong(song, codes, truth, sounding(waves[0], hop)))
        if progress:
            progress(done, len(songs))
    return coded


def _wave(song: Song, track: int, hop: int) -> Tensor:
    """Read a track's wave (S,), cut to whole frames of `hop` samples."""
    samples = song.num_samples - song.num_samples % hop
    return torch.from_numpy(song.read(TRACKS[track], 0, samples).astype(np.float32) / 32768)


def measure(
    tokenizer: DuoTok,
    train: Sequence[CodedSong],
    held_out: Sequence[CodedSong],
    config: QualityConfig,
    progress: Callable[[int, float], None] | None = None,
) -> dict[str, float]:
    """Measure a tokenizer.

    Args:
        tokenizer: that coded the songs.
        train, held_out: from `code_songs`.
        config: the recipe.
        progress: of the language model's training.

    Returns:
        Numbers by name, each track's under its own name.
    """
    vectors = [tokenizer.model.codebook(track) for track in range(tokenizer.num_tracks)]
    bits = measure_bits([s.codes for s in train], [s.codes for s in held_out], vectors, config.bits, progress)
    found = {}
    for track, name in enumerate(TRACKS):
        usage = summarize(tally(torch.cat([song.codes[track] for song in held_out]), len(vectors[track])))
        found |= {f"{name}_{key}": value for key, value in usage.items()}
        found |= {f"{name}_{key}_bits": value for key, value in asdict(bits[track]).items()}
        found[f"{name}_gain_bits"] = bits[track].gain
        found[f"{name}_gain_over_any_unigram_bits"] = bits[track].gain_over_any_unigram
    found |= _probes(train, held_out, vectors, config.probe_radius)
    found |= rebuild_errors(tokenizer.model, [s.truth for s in train], [(s.codes, s.truth) for s in held_out])
    return found | _lyrics(tokenizer.model, held_out)


def _probes(
    train: Sequence[CodedSong], held_out: Sequence[CodedSong], vectors: Sequence[Tensor], radius: int
) -> dict[str, float]:
    """Read chroma from the accompaniment's code vectors, chroma and activity from the vocals'."""

    def chroma(songs: Sequence[CodedSong], track: int) -> list[tuple[Tensor, Tensor]]:
        return [
            (vectors[track][s.codes[track]], s.truth[track].chroma.unflatten(0, (s.codes.shape[1], -1)).mean(1)) for s in songs
        ]

    def activity(songs: Sequence[CodedSong]) -> list[tuple[Tensor, Tensor]]:
        return [(vectors[0][s.codes[0]], s.active[:, None].float()) for s in songs]

    found = {f"{name}_chroma_r2": r_squared(*probe(chroma(train, track), chroma(held_out, track), radius))
             for track, name in enumerate(TRACKS)}  # fmt: skip
    scores, labels = probe(activity(train), activity(held_out), radius)
    return found | {"vocals_activity_auroc": auroc(scores[:, 0], labels[:, 0] > 0.5)}


def _lyrics(model: SemanticModel, songs: Sequence[CodedSong]) -> dict[str, float]:
    """Decode the lyrics of pieces of 30 s greedily, from the vocals' codes; nothing where no song has timed words."""
    if "lyrics" not in model.heads:
        return {}
    sung, heard = [], []
    for song in songs:
        for frames, outputs in from_codes(model, song.codes[0], 0):
            start, stop = (edge / model.config.frame_rate for edge in (frames.start, frames.stop))
            words = [word.text for word in song.song.words if start <= word.start and word.end <= stop]
            if words:
                sung.append(" ".join(words))
                heard.append(decode(greedy(outputs["lyrics"].numpy())))
    if not sung:
        return {}
    return {
        "lyrics_character_error_rate": character_error_rate(sung, heard),
        "lyrics_word_error_rate": word_error_rate(sung, heard),
    }
