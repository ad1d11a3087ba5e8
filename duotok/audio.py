"""Audio files in blocks: decode, check, resample. Nothing here holds more than a block, however long the song.

soundfile (libsndfile) reads wav, flac and mp3; PyAV (FFmpeg) reads m4a, aac, webm and files with several streams, and of ogg
and opus the packets, faster than libsndfile (benchmarks/bench_pipeline.py). A file that cannot be trusted raises `AudioError`
with a short reason; a clean end is part of the check, so read a file to its end before believing its first block.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile
import soxr

from . import integrity
from .integrity import AudioError

if TYPE_CHECKING:
    from av import AudioStream
    from av.container import InputContainer

# A compressed file may decode to a little less than its header estimates; below this share it is truncated.
COMPLETE_SHARE = 0.98
# A sample rate outside these, in Hz, is a header that was damaged, and would make a song of days or of nothing.
RATES = range(1_000, 1_000_001)
SUFFIXES = frozenset(
    f".{name}"
    for name in "wav flac mp3 ogg oga opus aif aiff aifc caf au w64 rf64 m4a mp4 aac webm mka wma alac".split()  # noqa: SIM905
)
_BLOCK_S = 1
# Error numbers of libsndfile: unrecognised format, and what its mp3 decoder says of other data.
_UNKNOWN_FORMAT = (1, 7)
# Containers that PyAV may open: those that tell how long a song should be, or whose decoder sees damage. Not mp3, in which
# FFmpeg finds stray frames in any data, and no playlists, which would open other files.
_PYAV_FORMATS = "mov,matroska,asf,aac"


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
            found = f"expected {expected} samples as its header says; got {self.num_samples}"
            raise AudioError("decode", "truncated", f"{self.path}: {found}; replace the file")


@contextmanager
def open_audio(path: str | Path, stream: int = 0) -> Iterator[AudioReader]:
    """Open an audio file.

    Args:
        path: the file.
        stream: which audio stream of a file that has several (PyAV only).

    Raises:
        AudioError: if it is missing, empty, damaged or not audio.
    """
    path = Path(path)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise AudioError("open", "missing", f"{path}: expected a file; got {found}; correct the path")
    integrity.check_head(path)
    file = _open_soundfile(path) if stream == 0 else None
    if file:
        with file:
            yield _soundfile_reader(file, path)
    else:
        with _open_pyav(path, stream) as reader:
            yield reader


def _read_info(path: Path, rate: int | None, channels: int, samples: int | None, exact: bool, decoder: str) -> AudioInfo:
    if rate not in RATES or not channels:
        found = f"expected a channel or more at 1 to 1000 kHz; got {channels} at {rate} Hz"
        raise AudioError("open", "damaged", f"{path}: {found}; replace the file")
    return AudioInfo(rate, channels, samples, exact, decoder)


class _ForwardFile(soundfile.SoundFile):
    """Reads on without the seek that soundfile adds to every read.

    A seek resets the mp3 decoder, so that samples would depend on the size of blocks, and fails at the end of a flac that
    does not know its length.
    """

    def seekable(self) -> bool:
        return False


def _open_soundfile(path: Path) -> _ForwardFile | None:
    """Open a file with libsndfile, if it is for it."""
    if path.suffix.lower() == ".raw":  # samples without a header
        return None
    try:
        return _ForwardFile(os.fsencode(path) if os.name == "posix" else path)
    except soundfile.LibsndfileError as error:
        if error.code not in _UNKNOWN_FORMAT:
            found = f"expected a whole file; got one of which libsndfile says: {error.error_string}"
            raise AudioError("open", "damaged", f"{path}: {found}; replace the file") from error
        return None


def _soundfile_reader(file: _ForwardFile, path: Path) -> AudioReader:
    if file.format == "RAW":  # what libsndfile takes any data for by a suffix like .au or .vox
        raise AudioError("open", "not_audio", f"{path}: expected a format with a header; got samples alone; convert it to wav")
    integrity.check_size(path, file.extra_info)
    if file.format == "OGG":
        integrity.check_ogg(path)
    is_mp3 = file.format == "MP3"
    start, announced = integrity.mp3_start(path) if is_mp3 else (0, True)
    frames = file.frames if announced and 0 < file.frames < 2**62 else None
    # libsndfile decodes Opus to the rate of the recording, FFmpeg to 48 kHz.
    packets = file.subtype == "VORBIS" or (file.subtype, file.samplerate) == ("OPUS", 48_000)
    info = _read_info(path, file.samplerate, file.channels, frames, not is_mp3, "pyav" if packets else "soundfile")
    if packets:
        return AudioReader(info, path, _ogg_blocks(info, path))
    return AudioReader(info, path, _soundfile_blocks(file, path) if announced else _endless_blocks(path, start))


def _soundfile_blocks(file: _ForwardFile, path: Path) -> Iterator[np.ndarray]:
    try:
        while len(block := file.read(file.samplerate * _BLOCK_S, dtype="float32", always_2d=True)):
            yield np.ascontiguousarray(block.T)  # what looks at one channel after the other is ten times faster
    except soundfile.LibsndfileError as error:
        found = f"expected {file.format}; got damaged data ({error.error_string})"
        raise AudioError("decode", "damaged", f"{path}: {found}; replace the file") from error


def _endless_blocks(path: Path, start: int) -> Iterator[np.ndarray]:
    """Read an mp3 that does not announce its length to its true end."""
    try:
        with integrity.EndlessFile(path, start) as endless, _ForwardFile(endless) as file:
            yield from _soundfile_blocks(file, path)
            whole = endless.share_read() >= COMPLETE_SHARE
    except soundfile.LibsndfileError:  # it found a frame behind junk that this search took for one
        whole = False
    if not whole:
        raise AudioError("decode", "damaged", f"{path}: expected MP3 to its end; got other data inside; replace the file")


def _ogg_blocks(info: AudioInfo, path: Path) -> Iterator[np.ndarray]:
    """Decode with FFmpeg an Ogg file that libsndfile has opened and whose pages have been checked."""
    with _container(path, "ogg") as container:
        yield from _pyav_blocks(container, container.streams.audio[0], info, path)


@contextmanager
def _open_pyav(path: Path, stream: int) -> Iterator[AudioReader]:
    import av

    with _container(path, _PYAV_FORMATS) as container:
        streams = container.streams.audio
        if len(streams) <= stream:
            raise AudioError("open", "no_stems", f"{path}: expected at least {stream + 1} audio streams; got {len(streams)}; "
                             "check the file")  # fmt: skip
        chosen, samples = streams[stream], None
        if container.format.name != "aac":  # FFmpeg estimates the length of raw AAC from its bit rate
            stated = chosen.duration and chosen.duration * chosen.time_base  # Matroska leaves it to the container
            samples = round((stated or Fraction(container.duration or 0, av.time_base)) * (chosen.rate or 0)) or None
        info = _read_info(path, chosen.rate, len(chosen.codec_context.layout.channels), samples, False, "pyav")
        if chosen.codec_context.name == "flac":  # FFmpeg looks at the checksums of its frames only when told to
            chosen.codec_context.options = {"err_detect": "crccheck+explode"}
        yield AudioReader(info, path, _pyav_blocks(container, chosen, info, path))


def _container(path: Path, formats: str) -> InputContainer:
    """Open a file of one of FFmpeg's formats, named with commas between."""
    import av

    try:
        # "file:", lest FFmpeg take a name with a colon for an address.
        return av.open(f"file:{path}", options={"format_whitelist": formats})
    except (av.FFmpegError, OSError) as error:
        with path.open("rb") as file:  # an mp4 whose index was cut off cannot be opened, but still begins like one
            cut = file.read(8).endswith(b"ftyp")
        found = "an mp4 without its index" if cut else "data that no decoder knows"
        reason = "truncated" if cut else "not_audio"
        raise AudioError("open", reason, f"{path}: expected audio; got {found}; replace the file") from error


def _pyav_blocks(container: InputContainer, stream: AudioStream, info: AudioInfo, path: Path) -> Iterator[np.ndarray]:
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
    except (av.FFmpegError, ValueError) as error:  # ValueError: the channels change within the stream
        found = f"expected audio; got damaged data ({error})"
        raise AudioError("decode", "damaged", f"{path}: {found}; replace the file") from error
    if held:
        yield np.concatenate(pending, axis=1)


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
