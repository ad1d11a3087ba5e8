"""Separated stems on disk, so that a second run over the same songs need not separate again.

A file is named by the audio's sha256, the separator's identity and the segment. It is FLAC of 24 bits with two channels, vocals
and accompaniment, mono as the tokenizer hears them, at a quarter of their level, as stems of a loud mixture exceed full scale.
What FLAC can hold is what is tokenized, whether or not it is kept: `quantize` puts stems on its grid.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile

from duotok.audio import open_audio
from duotok.files import WriteError, make_folder
from duotok.integrity import AudioError

Pair = tuple[np.ndarray, np.ndarray]
_HEADROOM = 4
# Steps of a sample of 24 bits.
_STEPS = 2**23 // _HEADROOM


def cached_name(audio_sha256: str, separator: str, start: float, duration: float | None) -> str:
    """Name the file of a song's stems, or of a segment's, which begins at `start` and lasts `duration` seconds."""
    segment = f"{start}-{'end' if duration is None else duration}"
    return f"{audio_sha256}_{separator}_{segment}.flac".replace(":", "-")


def quantize(pairs: Iterable[Pair]) -> Iterator[Pair]:
    """Round stems (n,) float32 to the steps of 2^-21 (-126 dBFS) in which they are kept."""
    for vocals, accompaniment in pairs:
        yield _rounded(vocals), _rounded(accompaniment)


def _rounded(wave: np.ndarray) -> np.ndarray:
    return np.rint(wave * np.float32(_STEPS)) / np.float32(_STEPS)


def read_stems(path: Path) -> Iterator[Pair]:
    """Yield the (vocals, accompaniment), (n,) float32 each, that `keep_stems` wrote.

    Raises:
        AudioError: if the file was damaged since.
    """
    with open_audio(path) as reader:
        for block in reader.blocks():
            vocals, accompaniment = block * np.float32(_HEADROOM)
            yield vocals, accompaniment


def kept_samples(path: Path) -> int:
    """Count the samples of kept stems, reading them to their end; 0 if there are none, or damaged ones, which are removed."""
    try:
        return sum(len(vocals) for vocals, _ in read_stems(path)) if path.is_file() else 0
    except AudioError:
        path.unlink(missing_ok=True)
        return 0


def keep_stems(pairs: Iterable[Pair], path: Path, sample_rate: int) -> Iterator[Pair]:
    """Pass quantized stems (n,) float32 on while writing them to a file that appears whole or not at all.

    Stems beyond 12 dB over full scale do not fit; they are passed on, and not kept.

    Raises:
        WriteError: if the disk is full, or the folder cannot be written to.
    """
    make_folder(path.parent)
    # Workers and threads that come upon the same song write files of their own.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}-{threading.get_ident()}.tmp.flac")
    fits = True
    try:
        with _writing(path):
            file = soundfile.SoundFile(temporary, "w", sample_rate, 2, "PCM_24")
        with file:
            for pair in pairs:
                samples = np.stack(pair, axis=1) * np.float32(_STEPS)  # (n, 2), whole numbers
                fits = fits and bool((np.abs(samples) < 2**23).all())
                if fits:
                    with _writing(path):
                        file.write(samples.astype(np.int32) << 8)
                yield pair
        if fits:
            with _writing(path), temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn a failed write into the machine's error, apart from those of the song."""
    try:
        yield
    except (soundfile.LibsndfileError, OSError) as error:
        raise WriteError(f"{path}: expected to keep stems; got {error}; free space, or leave --stem-cache out") from error
