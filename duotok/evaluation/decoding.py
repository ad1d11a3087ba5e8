"""How far decoded songs are from the true ones, beside what a decoder must beat.

Each number is the multi-scale Mel distance (mel_distance.py) of a track to its true stem:

    decoded       decode(codes)
    untrained     what the same autoencoder makes of the noise that sampling starts from: a DiT begins with a velocity of 0
    shuffled      the codes in another order
    other         what the other track's codes decode to
    autoencoder   the true stem through the autoencoder alone, which no decoder on its latents can be expected to beat
    mean_spectrum the true stem's own mean spectrum, held from beginning to end
    noise         white noise as loud as the true stem
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from duotok.autoencoder import decode_pieces, encode_wave
from duotok.dataset.songs import Song
from duotok.decoder import Decoder, Sampling
from duotok.model.bottleneck import TRACKS
from duotok.model.mel_distance import mean_spectrum_distance, mel_distance
from duotok.tokenizer import DuoTok

RIVALS = ("untrained", "shuffled", "other")


def pieces(tokenizer: DuoTok, songs: Sequence[Song], seconds: float) -> Iterator[tuple[Song, Tensor, Tensor]]:
    """Cut the middle out of every song: the song, its stems (2, C, S) at the decoder's rate, and their codes (2, T)."""
    decoder = tokenizer.decoder
    frame = decoder.sample_rate // tokenizer.frame_rate
    for song in songs:
        samples = min(round(seconds * tokenizer.frame_rate), song.num_samples // frame) * frame
        start = (song.num_samples - samples) // 2
        parts = [torch.from_numpy(song.read(name, start, start + samples)).float() / 32768 for name in TRACKS]
        stems = torch.stack([part[None] if part.ndim == 1 else part.T for part in parts])
        yield song, stems, tokenizer.encode(stems[:1], stems[1:], sample_rate=decoder.sample_rate)[0]


def distances(decoder: Decoder, waves: Tensor, stems: Tensor) -> list[float]:
    """Compare waves (2, C, S) with stems (2, C, S), both mixed down to mono, track by track."""
    return mel_distance(waves.float().mean(1).cpu(), stems.float().mean(1).cpu(), decoder.sample_rate).tolist()


def untrained_like(decoder: Decoder, seed: int = 0) -> Decoder:
    """Build a decoder with the same autoencoder and normalised conditions, and a DiT as training begins it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        rival = Decoder(decoder.config, decoder.autoencoder)
    rival.dit.load_state_dict(dict(decoder.dit.named_buffers()), strict=False)
    return rival.to(decoder.dit.no_condition.device)


def measure_decoding(
    tokenizer: DuoTok,
    songs: Sequence[Song],
    sampling: Sampling,
    seconds: float = 30.0,
    progress: Callable[[int, int], None] | None = None,
) -> dict:
    """Measure decoded songs and their rivals.

    Args:
        tokenizer: with a decoder.
        songs: whose waves are at the decoder's rate.
        sampling: how latents are drawn.
        seconds: of every song, from its middle.
        progress: called with the songs that are done and their total.

    Returns:
        "songs": by id, by track, the distances; and "tracks": by track, their means, and for each rival "wins_<rival>", the
        share of songs that are decoded better than it.
    """
    slot, decoder = tokenizer.model.trunk.bottleneck, tokenizer.decoder
    untrained = untrained_like(decoder)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for done, (song, stems, codes) in enumerate(pieces(tokenizer, songs, seconds), 1):
        order = torch.randperm(codes.shape[1], generator=torch.Generator().manual_seed(0))
        rivals = {
            "untrained": decode_song(untrained, slot, codes, sampling),
            "shuffled": decode_song(decoder, slot, codes[:, order], sampling),
        }
        values = score(decoder, decode_song(decoder, slot, codes, sampling), stems)
        values |= {name: distances(decoder, wave, stems) for name, wave in rivals.items()}
        found[song.id] = {track: {name: pair[i] for name, pair in values.items()} for i, track in enumerate(TRACKS)}
        if progress:
            progress(done, len(songs))
    return {"tracks": {track: _means([song[track] for song in found.values()]) for track in TRACKS}, "songs": found}


def decode_song(decoder: Decoder, slot: torch.nn.Module, codes: Tensor, sampling: Sampling) -> Tensor:
    """Decode codes (2, T) to waves (2, C, S)."""
    return torch.cat(list(decoder.waves(slot, codes, sampling)), dim=-1)


def score(decoder: Decoder, decoded: Tensor, stems: Tensor) -> dict[str, list[float]]:
    """Compare decoded waves (2, C, S) with stems (2, C, S): by track, all but "untrained" and "shuffled"."""
    autoencoded = torch.stack([_through(decoder, stem) for stem in stems])
    level = stems.square().mean((1, 2), keepdim=True).sqrt()
    noise = torch.randn(stems.shape, generator=torch.Generator().manual_seed(0)) * level
    waves = {"decoded": decoded, "other": decoded.flip(0), "autoencoder": autoencoded, "noise": noise}
    found = {name: distances(decoder, wave, stems) for name, wave in waves.items()}
    return found | {"mean_spectrum": mean_spectrum_distance(stems.mean(1), decoder.sample_rate).tolist()}


def _through(decoder: Decoder, stem: Tensor) -> Tensor:
    """Send a stem (C, S) through the autoencoder: (C, S)."""
    latents = encode_wave(decoder.autoencoder, stem.to(decoder.dit.no_condition.device))
    return torch.cat(list(decode_pieces(decoder.autoencoder, [latents[None]])), dim=-1)[0, :, : stem.shape[1]].cpu()


def _means(songs: Sequence[dict[str, float]]) -> dict[str, float]:
    means = {name: float(np.mean([song[name] for song in songs])) for name in songs[0]}
    wins = {f"wins_{rival}": float(np.mean([song["decoded"] < song[rival] for song in songs])) for rival in RIVALS}
    return means | wins
