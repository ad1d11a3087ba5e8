"""Audio files in blocks: decode, check, resample. Nothing here holds more than a block, however long the song.

soundfile (libsndfile) reads wav, flac, mp3, ogg and opus; PyAV, in the extra `ffmpeg`, reads m4a, aac, webm and files with
several streams. A file that cannot be trusted raises `AudioError` with a short reason; a clean end is part of the check, so
read a file to its end before believing its first block.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import soundfile
import soxr

from . import integrity

MIN_DURATION_S = 0.5
# Below -90 dBFS (three steps of 16 bits) a whole song counts as silent.
SILENCE_PEAK = 10 ** (-90 / 20)
# A compressed file may decode to a little less than its header estimates; below this share it is truncated.
COMPLETE_SHARE = 0.98
SUFFIXES = frozenset(
    [".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aif", ".aiff", ".aifc", ".caf", ".au", ".w64", ".rf64", ".m4a", ".mp4", ".aac", ".webm", ".mka", ".wma", ".alac"]
)
_BLOCK_S = 1
# Error numbers of libsndfile: unrecognised format, and what its mp3 decoder says of other data.
_UNKNOWN_FORMAT = (1, 7)
# Containers that PyAV may open: those that tell how long a song should be, or whose decoder sees damage. Not mp3, in which
# FFmpeg finds stray frames in any data, and no playlists, which would open other files.
_PYAV_FORMATS = "mov,matroska,asf,aac"


class AudioError(ValueError):
    """A song that cannot be trusted.

    Attributes:
        stage: where it showed: "open", "decode", "silence", "separate" or "validate".
        reason: a short name: "missing", "empty_file", "not_audio", "unsupported", "damaged", "truncated", "nan", "silent",
            "constant", "too_short", "length_mismatch", "rate_mismatch", "no_stems".
    """

    def __init__(self, stage: str, reason: str, message: str) -> None:
        super().__init__(message)
        self.stage, self.reason = stage, reason

    def __reduce__(self) -> tuple:
        return type(self), (self.stage, self.reason, str(self))


@dataclass(frozen=True)
class AudioInfo:
    """What an opened file says of itself.

    Attributes:
        sample_rate: in Hz.
        channels: C.
        header_samples: samples per channel the header announces; None where it does not.
        exact: whether that count is exact (wav, flac) or an estimate (mp3, aac).
        decoder: "soundfile" or "pyav".
    """

    sample_rate: int
    channels: int
    header_samples: int | None
    exact: bool
    decoder: str


class AudioReader:
    """An opened audio stream: `info`, and `blocks()` to read it once from start to end."""

    def __init__(self, info: AudioInfo, path: Path, blocks: Iterator[np.ndarray]) -> None:
        self.info, self.path = info, path
        self._blocks = blocks
        self.num_samples = 0

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield blocks (C, n) float32, n of about a second, and count them in `num_samples`.

        Raises:
            AudioError: "damaged" or "truncated" when the end shows that samples are missing.
        """
        for block in self._blocks:
            self.num_samples += block.shape[1]
            yield block
        expected = self.info.header_samples
        if expected and self.num_samples < expected * (1 if self.info.exact else COMPLETE_SHARE):
            raise AudioError(
                "decode", "truncated",
                f"{self.path}: expected {expected} samples as its header says; got {self.num_samples}; replace the file",
            )  # fmt: skip


@contextmanager
def open_audio(path: str | Path, stream: int = 0) -> Iterator[AudioReader]:
    """Open an audio file.

    Args:
        path: the file.
        stream: which audio stream of a file that has several (PyAV only).

    Raises:
        AudioError: if it is missing, empty, not audio, or of a format that needs the extra `ffmpeg`.
    """
    path = Path(path)
    _refuse_non_audio(path)
    if stream == 0:
        try:
            file = soundfile.SoundFile(os.fsencode(path) if os.name == "posix" else path)
        except soundfile.LibsndfileError as error:
            reason = str(error)
            if error.code not in _UNKNOWN_FORMAT:
                raise AudioError("open", "damaged", f"{path}: expected a whole file; got {reason}; replace the file") from error
        except TypeError:  # the suffix .raw
            reason = "samples without a header"
        else:
            with file:
                yield _soundfile_reader(file, path)
            return
    else:
        reason = f"stream {stream} asked for"
    if not has_pyav():
        raise AudioError(
            "open", "unsupported",
            f"{path}: expected a format of libsndfile; got {path.suffix or 'no suffix'} ({reason}); "
            "install the extra: pip install 'duotok[ffmpeg]'",
        )  # fmt: skip
    with _open_pyav(path, stream) as reader:
        yield reader


def has_pyav() -> bool:
    """Tell whether PyAV is installed."""
    return importlib.util.find_spec("av") is not None


def _refuse_non_audio(path: Path) -> None:
    if not path.is_file():
        raise AudioError("open", "missing", f"{path}: expected a file; got {'a folder' if path.is_dir() else 'nothing'}; "
                         "correct the path")  # fmt: skip
    with path.open("rb") as file:
        _raise("open", path, integrity.head_defect(file.read(512)))


def _raise(stage: str, path: Path, defect: integrity.Defect | None) -> None:
    if defect is not None:
        raise AudioError(stage, defect[0], f"{path}: {defect[1]}; replace the file")


def _soundfile_reader(file: soundfile.SoundFile, path: Path) -> AudioReader:
    if file.format == "RAW":  # what libsndfile takes any data for by a suffix like .au or .vox
        raise AudioError("open", "not_audio", f"{path}: expected a format with a header; got samples alone; convert it to wav")
    _raise("decode", path, integrity.size_defect(file.extra_info) or (integrity.ogg_defect(path) if file.format == "OGG" else None))
    frames = file.frames if 0 < file.frames < 2**62 else None
    info = AudioInfo(file.samplerate, file.channels, frames, file.format != "MP3", "soundfile")
    if file.format == "MP3":
        start, announced = integrity.mp3_start(path)
        if not announced:
            return AudioReader(replace(info, header_samples=None), path, _endless_blocks(path, start))
    return AudioReader(info, path, _soundfile_blocks(file, path))


def _soundfile_blocks(file: soundfile.SoundFile, path: Path) -> Iterator[np.ndarray]:
    try:
        while len(block := file.read(file.samplerate * _BLOCK_S, dtype="float32", always_2d=True)):
            yield block.T
    except soundfile.LibsndfileError as error:
        raise AudioError(
            "decode", "damaged", f"{path}: expected {file.format}; got damaged data ({error}); replace the file"
        ) from error


def _endless_blocks(path: Path, start: int) -> Iterator[np.ndarray]:
    """Read an mp3 that does not announce its length to its true end."""
    with integrity.EndlessFile(path, start) as endless, soundfile.SoundFile(endless) as file:
        yield from _soundfile_blocks(file, path)
        if endless.share_read() < COMPLETE_SHARE:
            raise AudioError("decode", "damaged", f"{path}: expected MP3 to its end; got other data inside; replace the file")


@contextmanager
def _open_pyav(path: Path, stream: int) -> Iterator[AudioReader]:
    import av

    try:
        # "file:", lest FFmpeg take a name with a colon for an address.
        container = av.open(f"file:{path}", options={"format_whitelist": _PYAV_FORMATS})
    except (av.FFmpegError, OSError) as error:
        raise AudioError("open", "not_audio", f"{path}: expected audio; got data no decoder knows ({error}); replace it") from error
    with container:
        streams = container.streams.audio
        if len(streams) <= stream:
            raise AudioError("open", "no_stems", f"{path}: expected at least {stream + 1} audio streams; got {len(streams)}; "
                             "check the file")  # fmt: skip
        chosen = streams[stream]
        header = None
        if container.format.name != "aac":  # FFmpeg estimates the length of raw AAC from its bit rate
            stated = chosen.duration and chosen.duration * chosen.time_base  # a Matroska stream leaves it to the container
            header = round((stated or Fraction(container.duration or 0, av.time_base)) * chosen.rate) or None
        info = AudioInfo(chosen.rate, chosen.codec_context.layout.nb_channels, header, False, "pyav")
        yield AudioReader(info, path, _pyav_blocks(container, chosen, info, path))


def _pyav_blocks(container, stream, info: AudioInfo, path: Path) -> Iterator[np.ndarray]:
    import av

    resampler = av.AudioResampler(format="fltp", layout=stream.codec_context.layout, rate=info.sample_rate)
    pending: list[np.ndarray] = []
    held = 0
    try:
        for frame in container.decode(stream):
            for converted in resampler.resample(frame):
                pending.append(converted.to_ndarray())
                held += pending[-1].shape[1]
            if held >= info.sample_rate * _BLOCK_S:
                yield np.concatenate(pending, axis=1)
                pending, held = [], 0
    except (av.FFmpegError, ValueError) as error:  # ValueError: the format changes within the stream
        raise AudioError("decode", "damaged", f"{path}: expected audio; got damaged data ({error}); replace the file") from error
    if held:
        yield np.concatenate(pending, axis=1)


class SignalCheck:
    """Watches the samples of a whole song go by; `finish` refuses one that holds no music."""

    def __init__(self, name: str, sample_rate: int) -> None:
        self._name, self._sample_rate = name, sample_rate
        self._num_samples = 0
        self._low, self._high = np.inf, -np.inf  # of every channel of every part

    def push(self, *parts: np.ndarray) -> None:
        """Look at simultaneous blocks (C, n) of the song's parts.

        Raises:
            AudioError: "nan" for a NaN or infinite sample.
        """
        low = np.concatenate([part.min(axis=1) for part in parts])
        high = np.concatenate([part.max(axis=1) for part in parts])
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise AudioError("decode", "nan", f"{self._name}: expected finite samples; got NaN or infinity; replace the file")
        self._num_samples += parts[0].shape[1]
        self._low, self._high = np.minimum(self._low, low), np.maximum(self._high, high)

    def finish(self) -> None:
        """Judge the whole.

        Raises:
            AudioError: "too_short", "silent" or "constant".
        """
        seconds = self._num_samples / self._sample_rate
        if seconds < MIN_DURATION_S:
            raise AudioError("validate", "too_short", f"{self._name}: expected at least {MIN_DURATION_S} s; got {seconds:.3f} s; "
                             "leave it out")  # fmt: skip
        if np.maximum(-self._low, self._high).max() < SILENCE_PEAK:
            raise AudioError("silence", "silent", f"{self._name}: expected sound; got a peak below -90 dBFS; leave it out")
        if (self._high - self._low).max() < SILENCE_PEAK:
            raise AudioError("silence", "constant", f"{self._name}: expected sound; got a constant; leave it out")


class Resampler:
    """Streaming resampler (soxr, HQ) of one mono signal: the result does not depend on how the input is cut."""

    def __init__(self, in_rate: int, out_rate: int) -> None:
        self._block = in_rate * _BLOCK_S
        self._held = np.empty(0, np.float32)
        self._stream = None if in_rate == out_rate else soxr.ResampleStream(in_rate, out_rate, 1, "float32", "HQ")

    def push(self, samples: np.ndarray) -> np.ndarray:
        """Take samples (n,) float32 and return those (m,) that are ready; whole seconds of input are handled at a time."""
        if self._stream is None:
            return samples
        held = np.concatenate((self._held, samples))
        whole = len(held) // self._block * self._block
        self._held = held[whole:]
        pieces = [self._stream.resample_chunk(held[i : i + self._block]) for i in range(0, whole, self._block)]
        return np.concatenate(pieces) if pieces else np.empty(0, np.float32)

    def finish(self) -> np.ndarray:
        """Return the rest (m,)."""
        return np.empty(0, np.float32) if self._stream is None else self._stream.resample_chunk(self._held, last=True)


def to_mono(block: np.ndarray) -> np.ndarray:
    """Mix a block (C, n) down to (n,) float32 by the mean of its channels."""
    return block[0] if len(block) == 1 else block.mean(axis=0, dtype=np.float32)


def file_sha256(path: str | Path) -> str:
    """Hash a file's bytes."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
