"""The page: template, style and script become one file, which asks no server for anything.

A content security policy names the hashes of the style and the script, and allows nothing else: text from outside, such as a
song's name, cannot run even if it were not escaped, which it is.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
from dataclasses import dataclass
from pathlib import Path
from string import Template

import numpy as np
import soundfile
import torch
from torch import Tensor

from duotok import __version__
from duotok.decoder import Sampling
from duotok.evaluation.decoding import decode_song, score
from duotok.model.bottleneck import TRACKS
from duotok.tokenizer import DuoTok

from .excerpt import Excerpt
from .pictures import BANDS, chromagrams, spectrograms

_WEB = Path(__file__).parent / "web"
_SCRIPTS = ("player.js", "pictures.js", "page.js")
_NAMES = ("Mix", *(track.capitalize() for track in TRACKS))
# Samples that are given to the encoder of sound at a time.
_BLOCK = 16_384


@dataclass(frozen=True)
class Labels:
    """Text of others on the page: the song's name, and who made it under which licence."""

    title: str
    credit: str = ""


def make_page(tokenizer: DuoTok, excerpt: Excerpt, sampling: Sampling, labels: Labels) -> str:
    """Decode an excerpt and make its page; the same arguments give the same page on a CPU.

    Args:
        tokenizer: with a decoder.
        excerpt: of a song.
        sampling: how latents are drawn.
        labels: plain text, not trusted.

    Raises:
        CheckpointError: if there is no decoder.
        ValueError: if MP3 has no such sample rate as the decoder's.
    """
    decoder = tokenizer.decoder
    decoded = decode_song(decoder, tokenizer.model.trunk.bottleneck, excerpt.codes, sampling).float().cpu()
    stems = excerpt.stems[:, None].expand_as(decoded)
    waves = torch.stack([wave for track in zip(_with_mix(stems), _with_mix(decoded), strict=True) for wave in track])
    data = {
        "seconds": excerpt.stems.shape[1] / decoder.sample_rate,
        "sampleRate": decoder.sample_rate,
        "frameRate": tokenizer.frame_rate,
        "codebookSize": tokenizer.codebook_size,
        "codes": excerpt.codes.tolist(),
        "bands": BANDS,
        "sounds": _sounds(waves, decoder.sample_rate),
        "scores": score(decoder, decoded, stems),
    }
    return _fill(tokenizer, excerpt, sampling, labels, data)


def _with_mix(tracks: Tensor) -> Tensor:
    """Put the sum of tracks (2, C, S) before them."""
    return torch.cat((tracks.sum(0, keepdim=True), tracks))


def _sounds(waves: Tensor, rate: int) -> list[dict[str, str]]:
    """Encode sounds (6, C, S), original and decoded of each name; one gain for all keeps them from clipping."""
    mono = waves.mean(1)
    pictures = zip(spectrograms(mono, rate), chromagrams(mono, rate), strict=True)
    waves = waves / waves.abs().amax().clamp(min=1.0)
    kinds = [{"name": name, "kind": kind} for name in _NAMES for kind in ("Original", "Decoded")]
    return [
        {**kind, "audio": _base64(_mp3(wave.numpy(), rate)), "mel": _picture(mel), "chroma": _picture(pitches)}
        for kind, wave, (mel, pitches) in zip(kinds, waves, pictures, strict=True)
    ]


def _mp3(wave: np.ndarray, rate: int) -> bytes:
    """Encode a wave (C, S) at the highest quality of variable bit rate: every browser plays MP3, on phones too."""
    file = io.BytesIO()
    options = {"format": "MP3", "bitrate_mode": "VARIABLE", "compression_level": 0.0}
    try:
        with soundfile.SoundFile(file, "w", rate, len(wave), "MPEG_LAYER_III", **options) as sound:
            for start in range(0, wave.shape[1], _BLOCK):
                sound.write(wave[:, start : start + _BLOCK].T)
    except soundfile.LibsndfileError as error:
        raise ValueError(f"decoder: expected a sample rate that MP3 has; got {rate} Hz ({error}); train another") from error
    return file.getvalue()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _picture(values: Tensor) -> str:
    return _base64(values.numpy().tobytes())


def _fill(tokenizer: DuoTok, excerpt: Excerpt, sampling: Sampling, labels: Labels, data: dict) -> str:
    style, script = _web("page.css"), "\n".join(map(_web, _SCRIPTS))
    facts = _facts(tokenizer, excerpt, sampling, data)
    rate = f"{_bits_per_second(tokenizer) / 1000:g} kbit/s"
    lead = f"{data['seconds']:.0f} seconds, from {_clock(excerpt.start_s)} of {_clock(excerpt.song_s)}"
    note = "" if tokenizer.config.trained else "This tokenizer is untrained: its codes mean nothing."
    return Template(_web("page.html")).substitute(
        policy="; ".join([f"script-src '{_hash(script)}'", f"style-src '{_hash(style)}'"]),
        style=style,
        script=script,
        title=_text(labels.title),
        lead=_text(f"{lead}. On the left as recorded, on the right as {rate} of codes give it back."),
        note=_text(note),
        facts="".join(f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>" for name, value in facts.items()),
        credit=_text(labels.credit),
        data=json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
    )


def _web(name: str) -> str:
    return (_WEB / name).read_text(encoding="utf-8")


def _facts(tokenizer: DuoTok, excerpt: Excerpt, sampling: Sampling, data: dict) -> dict[str, str]:
    decoder, tracks = tokenizer.decoder, tokenizer.num_tracks
    bits = _bits_per_second(tokenizer)
    used = [len(codes.unique()) for codes in excerpt.codes]
    ratio, khz = tracks * decoder.sample_rate * 16 / bits, f"{decoder.sample_rate / 1000:g} kHz"
    decoded = "mono" if decoder.autoencoder.channels == 1 else "stereo"
    return {
        "Bit rate": f"{bits / 1000:g} kbit/s: {tracks} tracks, {tokenizer.frame_rate} codes a second of "
        f"{(tokenizer.codebook_size - 1).bit_length()} bits",
        "Compression": f"{ratio:,.0f} : 1, from {tracks} tracks of 16 bits, mono, at {khz}",
        "Codes here": f"{excerpt.codes.shape[1]:,} for each track; {used[0]:,} different ones for vocals, "
        f"{used[1]:,} for accompaniment",
        "Decoding": f"{sampling.steps} steps, guidance {sampling.guidance:g}, seed {sampling.seed}, sampler {sampling.sampler}",
        "Sound": f"originals in mono, as the tokenizer hears them; decoded in {decoded}; all at {khz}, as MP3",
        "Tokenizer": tokenizer.fingerprint[:16],
        "Decoder": decoder.fingerprint[:16],
        "Made by": f"duotok {__version__}",
    }


def _bits_per_second(tokenizer: DuoTok) -> int:
    return tokenizer.num_tracks * tokenizer.frame_rate * (tokenizer.codebook_size - 1).bit_length()


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _text(text: str) -> str:
    """Make text of anything: one line, printable (no controls that turn the direction of writing), escaped."""
    return html.escape(" ".join("".join(char if char.isprintable() else " " for char in text).split()))


def _hash(text: str) -> str:
    return f"sha256-{_base64(hashlib.sha256(text.encode()).digest())}"
