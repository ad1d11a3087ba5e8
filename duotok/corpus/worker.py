"""One song to one row of tokens, or to one failure with its stage and reason. Never to anything in between."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from duotok.audio import AudioError, file_sha256
from duotok.files import WriteError
from duotok.tokenizer import DuoTok

from . import remote
from .activity import VocalActivity
from .reader import MixturePolicy, open_song
from .songs import Song
from .store import TOKEN_FORMAT, check_row

logger = logging.getLogger(__name__)

_MAX_CHANNELS = 127  # the column of the token file holds no more


@dataclass(frozen=True)
class Outcome:
    """What became of a song: a `row` of the token file, or a `failure`; `seconds` of audio read."""

    row: dict[str, Any] | None
    failure: dict[str, Any] | None
    seconds: float


def tokenize_song(tokenizer: DuoTok, song: Song, policy: MixturePolicy) -> Outcome:
    """Tokenize a song; whatever is wrong with it becomes its failure and stops no other song.

    Raises:
        OSError: if the machine fails, not the song: a full disk, no memory.
    """
    reading = SongWindows(tokenizer, song, policy)
    codes = SongCodes(tokenizer)
    try:
        for track, piece in tokenizer.encode_windows((track, track, wave) for track, wave in reading):
            codes.push(track, piece)
        row = make_row(reading, codes)
    except Exception as error:  # noqa: BLE001 - `blame` raises again what is not the song's
        return blame(song, error)
    return Outcome(row, None, row["duration"])


class SongWindows:
    """A song's canonical windows, once, in order: (track, wave (S,) float32).

    Attributes:
        song: as it was planned.
        num_windows, num_frames, num_samples, sample_rate, channels, audio_sha256, vocal_activity: complete once the windows
            have ended.
    """

    def __init__(self, tokenizer: DuoTok, song: Song, policy: MixturePolicy) -> None:
        self.song, self._tokenizer, self._policy = song, tokenizer, policy
        self.num_windows = self.num_frames = self.num_samples = self.sample_rate = self.channels = 0
        self.audio_sha256, self.vocal_activity = "", None

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        """Read the song.

        Raises:
            AudioError: if it cannot be trusted; many of its defects show only at its end.
        """
        for window in self._windows():
            self.num_windows += 1
            yield window

    def _windows(self) -> Iterator[tuple[int, np.ndarray]]:
        with remote.fetched(self.song) as song, open_song(song, self._policy) as opened:
            if opened.channels > _MAX_CHANNELS:
                found = f"expected {_MAX_CHANNELS} channels at most; got {opened.channels}"
                raise AudioError("open", "unsupported", f"{song.source}: {found}; mix them down to stereo")
            before = _states(song)
            stream, activity = self._tokenizer.stream(opened.sample_rate), VocalActivity(opened.sample_rate)
            for vocals, accompaniment in opened.blocks():
                activity.push(vocals)
                yield from stream.feed(vocals, accompaniment)
            self.num_samples, self.sample_rate, self.channels = opened.num_samples, opened.source_rate, opened.channels
            self.num_frames = self._tokenizer.num_frames(self.num_samples, self.sample_rate)
            yield from stream.end(self.num_frames)
            if opened.knows_vocals:
                self.vocal_activity = activity.finish(-(-self.num_samples // self.sample_rate))
            self.audio_sha256 = _audio_sha256(song)
            if _states(song) != before:
                found = "expected a file that stays as it is while it is read; got one that changed"
                raise AudioError("validate", "changed", f"{song.source}: {found}; try it again")


class SongCodes:
    """The codes of a song as they come, two bytes each: many small tensors would fragment the heap over three hours."""

    def __init__(self, tokenizer: DuoTok) -> None:
        assert tokenizer.codebook_size <= 1 << 16, f"expected codes of 16 bits, got a codebook of {tokenizer.codebook_size}"
        self._tracks = [bytearray() for _ in range(tokenizer.num_tracks)]
        self.num_windows = 0

    def push(self, track: int, codes: Tensor) -> None:
        """Take the codes (stride_frames,) of a track's next window."""
        self._tracks[track] += codes.numpy().astype(np.uint16).tobytes()
        self.num_windows += 1

    def take(self, num_frames: int) -> list[np.ndarray]:
        """Return each track's codes (num_frames,) uint16."""
        tracks = [np.frombuffer(codes, np.uint16)[:num_frames] for codes in self._tracks]
        assert {len(codes) for codes in tracks} == {num_frames}, f"expected {num_frames} codes, got {[*map(len, tracks)]}"
        return tracks


def make_row(reading: SongWindows, codes: SongCodes) -> dict[str, Any]:
    """Make the row of a song whose windows have all been read and encoded.

    Raises:
        ValueError, TypeError, OverflowError: if what the manifest says of it fits no column.
    """
    song = reading.song
    vocals, accompaniment = codes.take(reading.num_frames)
    row = {
        "id": song.id,
        "vocal_codes": vocals,
        "accomp_codes": accompaniment,
        "n_frames": reading.num_frames,
        "duration": reading.num_samples / reading.sample_rate,
        "sample_rate": reading.sample_rate,
        "num_samples": reading.num_samples,
        "channels": reading.channels,
        "start_time": song.start,
        "gain_db": 0.0,
        "vocal_activity": reading.vocal_activity,
        "text": song.text,
        "language": song.language,
        "tags": song.tags,
        "segments": None if song.segments is None else [asdict(segment) for segment in song.segments],
        "source": song.source,
        "audio_sha256": reading.audio_sha256,
        "extra": json.dumps(song.extra, sort_keys=True) if song.extra else None,
    }
    check_row(row)
    return row


def _audio_sha256(song: Song) -> str:
    """Hash the song's bytes: the file's own hash, or the hash of two stems' hashes."""
    hashes = [file_sha256(path) for path in song.paths]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def _states(song: Song) -> list[tuple[int, int, int]]:
    """Tell a song's files from others that take their places, or that somebody writes to."""
    return [(found.st_ino, found.st_size, found.st_mtime_ns) for found in (Path(path).stat() for path in song.paths)]


def blame(song: Song, error: Exception) -> Outcome:
    """Turn what went wrong with a song into its failure.

    Raises:
        OSError: if the machine fails, not the song.
    """
    if isinstance(error, AudioError):
        return refusal(song, error.stage, error.reason, error)
    if isinstance(error, WriteError):
        raise error
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        raise OSError(f"expected memory for {song.source}; got {error}; use fewer workers or a smaller batch") from error
    if isinstance(error, OSError):
        found = f"expected files that can be read; got {error}; correct the path, or make its folder reachable"
        return refusal(song, "open", "io_error", OSError(f"{song.source}: {found}"))
    # A defect of ours or of a decoder: reported with the song it needs, and with its traceback in the log.
    logger.debug("song %s", song.id, exc_info=error)
    return refusal(song, "encode", "error", error)


def refusal(song: Song, stage: str, reason: str, error: Exception) -> Outcome:
    """Refuse a song: a line of the failures, the same wherever and whenever it is written."""
    failure = {
        "id": song.id,
        "source": song.source,
        "paths": list(song.paths),
        "stage": stage,
        "reason": reason,
        "error": type(error).__name__,
        "message": str(error),
        "bytes": sum(map(remote.size, song.paths)),
    }
    return Outcome(None, failure, 0.0)


def run_metadata(tokenizer: DuoTok, policy: MixturePolicy) -> dict[str, Any]:
    """Describe how tokens were made, for the token files."""
    packages = ("torch", "numpy", "soundfile", "soxr", "av", "demucs")
    return {
        "format_version": TOKEN_FORMAT,
        "tokenizer": "duotok",
        "trained": tokenizer.config.trained,
        "fingerprint": tokenizer.fingerprint,
        "codebook_size": tokenizer.codebook_size,
        "num_tracks": tokenizer.num_tracks,
        "frame_rate": tokenizer.frame_rate,
        "sample_rate": tokenizer.sample_rate,
        "windows": asdict(tokenizer.config.windows),
        "dtype": str(tokenizer.dtype).removeprefix("torch."),
        "tf32": False,
        "device": torch.cuda.get_device_name(tokenizer.device) if tokenizer.device.type == "cuda" else tokenizer.device.type,
        "separator": policy.identity,
        "gain_policy": "none",
        "resampler": "soxr HQ",
        "versions": {name: found for name in packages if (found := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
