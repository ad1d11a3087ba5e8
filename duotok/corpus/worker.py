"""One song to one row of tokens, or to one failure with its stage and reason. Never to anything in between."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from duotok.audio import AudioError, file_sha256
from duotok.files import WriteError
from duotok.tokenizer import DuoTok

from .activity import VocalActivity
from .reader import MixturePolicy, open_song
from .songs import Song
from .store import TOKEN_FORMAT, check_row

logger = logging.getLogger(__name__)


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
    try:
        row = _row(tokenizer, song, policy)
    except AudioError as error:
        return Outcome(None, _failure(song, error.stage, error.reason, error), 0.0)
    except WriteError:
        raise
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise OSError(f"expected memory for {song.source}; got {error}; use fewer workers or a smaller batch") from error
    except OSError as error:
        return Outcome(None, _failure(song, "open", "io_error", error), 0.0)
    except (RuntimeError, ValueError, ArithmeticError, AssertionError, LookupError, TypeError) as error:
        # A defect of ours or of a decoder: reported with the song it needs, and with its traceback in the log.
        logger.debug("song %s", song.id, exc_info=True)
        return Outcome(None, _failure(song, "encode", "error", error), 0.0)
    return Outcome(row, None, row["duration"])


def _row(tokenizer: DuoTok, song: Song, policy: MixturePolicy) -> dict[str, Any]:
    with open_song(song, policy) as opened:
        stream, activity = tokenizer.stream(opened.sample_rate), VocalActivity(opened.sample_rate)
        # One block that grows, frame by frame: a small tensor for each second of three hours would fragment the heap.
        stored = bytearray()
        for vocals, accompaniment in opened.blocks():
            activity.push(vocals)
            stored += stream.push(vocals, accompaniment).T.numpy().tobytes()
        num_samples, rate, channels = opened.num_samples, opened.source_rate, opened.channels
        num_frames = tokenizer.num_frames(num_samples, rate)
        stored += stream.finish(num_frames).T.numpy().tobytes()
    codes = np.frombuffer(stored, np.int64).reshape(-1, 2).T  # (2, T)
    assert codes.shape == (2, num_frames), f"expected codes (2, {num_frames}), got {codes.shape}"
    row = {
        "id": song.id,
        "vocal_codes": codes[0].tolist(),
        "accomp_codes": codes[1].tolist(),
        "n_frames": num_frames,
        "duration": num_samples / rate,
        "sample_rate": rate,
        "num_samples": num_samples,
        "channels": channels,
        "start_time": song.start,
        "gain_db": 0.0,
        "vocal_activity": activity.finish(-(-num_samples // rate)) if opened.knows_vocals else None,
        "text": song.text,
        "language": song.language,
        "tags": song.tags,
        "segments": None if song.segments is None else [asdict(segment) for segment in song.segments],
        "source": song.source,
        "audio_sha256": _audio_sha256(song),
        "extra": json.dumps(song.extra, sort_keys=True) if song.extra else None,
    }
    check_row(row)
    return row


def _audio_sha256(song: Song) -> str:
    """Hash the song's bytes: the file's own hash, or the hash of two stems' hashes."""
    hashes = [file_sha256(path) for path in song.paths]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def _failure(song: Song, stage: str, reason: str, error: BaseException) -> dict[str, Any]:
    sizes = [Path(path).stat().st_size for path in song.paths if Path(path).is_file()]
    return {
        "id": song.id,
        "source": song.source,
        "paths": list(song.paths),
        "stage": stage,
        "reason": reason,
        "error": type(error).__name__,
        "message": str(error),
        "bytes": sum(sizes),
    }


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
