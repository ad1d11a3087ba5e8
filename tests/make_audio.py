"""Audio files for tests: music from a formula, encoders that need no ffmpeg binary, and the ways in which files go bad."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import soundfile


def music(seconds: float, rate: int = 44_100, seed: int = 0) -> np.ndarray:
    """Plucked chords over noise bursts, (n,) float32 below 0.5: broadband, and never the same twice."""
    generator = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    wave = np.zeros(len(t))
    for start in np.arange(0, seconds, 0.25):
        part = slice(round(start * rate), round((start + 1) * rate))
        local = t[part] - start
        for pitch in generator.choice(np.arange(24), 3, replace=False):
            frequency = 110 * 2 ** (pitch / 12)
            wave[part] += np.sin(2 * np.pi * frequency * local) * np.exp(-4 * local)
        wave[part] += 0.3 * generator.standard_normal(len(local)) * np.exp(-30 * local)
    return (0.4 * wave / np.abs(wave).max(initial=1e-9)).astype(np.float32)


def write(path: Path, wave: np.ndarray, rate: int, subtype: str | None = None, format: str | None = None) -> Path:
    """Write (n,) or (C, n) with soundfile, in blocks: libsndfile crashes on a long Vorbis file written at once."""
    channels = 1 if wave.ndim == 1 else len(wave)
    with soundfile.SoundFile(path, "w", rate, channels, subtype, format=format) as file:
        for start in range(0, wave.shape[-1], rate):
            file.write(wave[..., start : start + rate].T)
    return path


def encode(path: Path, wave: np.ndarray, rate: int, codec: str, quality: int | None = None, **container: str) -> Path:
    """Write (n,) or (C, n) with PyAV: `codec` of FFmpeg, `quality` for a variable bit rate, `container` options."""
    import av

    wave = np.atleast_2d(wave)
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[len(wave)]
    with av.open(str(path), "w", options=container) as file:
        # FFmpeg counts quality in units of its lambda, 118
        variable = {} if quality is None else {"flags": "+qscale", "global_quality": str(quality * 118)}
        stream = file.add_stream(codec, rate=rate, layout=layout, options=variable)
        for start in range(0, wave.shape[1], 1024):
            piece = np.ascontiguousarray(wave[:, start : start + 1024])
            frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout=layout)
            frame.sample_rate, frame.pts = rate, start
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def mp3_without_length(path: Path, wave: np.ndarray, rate: int, quality: int | None = None) -> Path:
    """Write an mp3 whose first frame is music: no Xing header, so nothing announces the length."""
    return encode(path, wave, rate, "libmp3lame", quality, write_xing="0", id3v2_version="0")


def noise(size: int, seed: int = 0) -> bytes:
    """Random bytes."""
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8).tobytes()


def cut(source: Path, share: float, target: Path) -> Path:
    """Keep the first `share` of a file's bytes, as an interrupted download does."""
    data = source.read_bytes()
    target.write_bytes(data[: int(len(data) * share)])
    return target


def damage(source: Path, share: float, target: Path, size: int = 20_000) -> Path:
    """Overwrite `size` bytes with noise, from `share` of the file on."""
    data = bytearray(source.read_bytes())
    start = int(len(data) * share)
    data[start : start + size] = noise(len(data[start : start + size]), seed=start)
    target.write_bytes(data)
    return target


def chunk(name: bytes, body: bytes, size: int | None = None) -> bytes:
    """A RIFF chunk, padded to an even length; `size` is what it announces."""
    return name + struct.pack("<I", len(body) if size is None else size) + body + b"\0" * (len(body) % 2)


def wav(
    data: bytes, rate: int = 8_000, channels: int = 1, bits: int = 16, tag: int = 1, *, before: bytes = b"", after: bytes = b"",
    riff_size: int | None = None, data_size: int | None = None,
) -> bytes:  # fmt: skip
    """A wav by hand: chunks before and after the data, and sizes that may lie."""
    block = channels * bits // 8
    form = chunk(b"fmt ", struct.pack("<HHIIHH", tag, channels, rate, rate * block & 0xFFFFFFFF, block, bits))
    body = b"WAVE" + form + before + chunk(b"data", data, data_size) + after
    return b"RIFF" + struct.pack("<I", len(body) if riff_size is None else riff_size) + body


def pcm16(wave: np.ndarray) -> bytes:
    """(n,) as 16-bit little-endian samples."""
    return np.round(wave * 32_767).astype("<i2").tobytes()


def id3(size: int) -> bytes:
    """An ID3v2 tag with a picture of `size` bytes in it."""
    frame = b"APIC" + struct.pack(">IH", size, 0) + noise(size)
    digits = [len(frame) >> shift & 0x7F for shift in (21, 14, 7, 0)]
    return b"ID3\x03\0\0" + bytes(digits) + frame


def without_total(flac: bytes) -> bytes:
    """A flac whose header does not know the number of samples, as an encoder that writes into a pipe leaves it."""
    assert flac[:4] == b"fLaC", "expected the STREAMINFO block first"
    return flac[:21] + bytes([flac[21] & 0xF0]) + bytes(4) + flac[26:]


def noise_wave(seconds: float, rate: int = 44_100) -> np.ndarray:
    """White noise (n,) float32, which costs an encoder of variable bit rate the most."""
    return (0.1 * np.random.default_rng(1).standard_normal(round(seconds * rate))).astype(np.float32)
