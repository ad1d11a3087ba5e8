"""A run of tokens back into sound files: every song streams through the decoder, a window at a time.

    WAVS/decode.json                 what the files were made with
    WAVS/NAME.TRACK.wav              one for each song and wanted track

Files appear whole or not at all, and those that are there are not made again. Ids of songs are not ours: names are made of
their safe characters, with a hash where that lost something.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq
import soundfile
import torch

from duotok.audio import Resampler
from duotok.codes import check_codes
from duotok.decoder import Sampling
from duotok.files import WriteError, make_folder, whole_file, write_atomically
from duotok.model.bottleneck import TRACKS
from duotok.tokenizer import DuoTok

from .plan import Plan, read_plan, read_unit
from .store import data_path

Output = Literal["mix", "vocals", "accompaniment"]
OUTPUTS: tuple[Output, ...] = ("mix", "vocals", "accompaniment")
SUBTYPES = {"wav": "PCM_16", "flac": "PCM_16", "ogg": "VORBIS"}
SETTINGS = "decode.json"
# libsndfile's Vorbis encoder overflows its stack when it is given much at once.
_BLOCK = 16_384
_COLUMNS = ["id", "vocal_codes", "accomp_codes", "num_samples", "sample_rate", "source"]


@dataclass(frozen=True)
class DecodeOptions:
    """How a run is decoded.

    Attributes:
        sampling: how latents are drawn.
        format: of the files: wav and flac of 16 bits, or ogg (Vorbis).
        sample_rate: of the files, in Hz; None is the decoder's.
    """

    sampling: Sampling = field(default_factory=Sampling)
    format: Literal["wav", "flac", "ogg"] = "wav"
    sample_rate: int | None = None


@dataclass
class DecodeReport:
    """What `decode_run` did: songs now on disk, those of them that were there before, and "id: reason" of those refused."""

    num_songs: int = 0
    num_present: int = 0
    refused: list[str] = field(default_factory=list)


def decode_run(
    run: Path,
    out: Path,
    tokenizer: DuoTok,
    options: DecodeOptions,
    outputs: Sequence[Output] = OUTPUTS,
    ids: Sequence[str] = (),
    progress: Callable[[float], None] | None = None,
) -> DecodeReport:
    """Decode the songs of a run.

    Args:
        run: folder that `duotok tokenize` wrote.
        out: folder of the files.
        tokenizer: that made the run, with a decoder.
        options, outputs: how, and what of each song.
        ids: songs to decode; all if empty.
        progress: called with the seconds of sound that were added to the files, or were there.

    Raises:
        PlanError: if the folder is no run.
        CheckpointError: if the tokenizer has no decoder.
        ValueError: if another tokenizer made the run, `out` holds files made otherwise, or an id is not in the run.
        WriteError: if the disk is full.
    """
    plan = _check_run(run, tokenizer, ids)
    settle(out / SETTINGS, {"tokenizer": plan.fingerprint, "decoder": tokenizer.decoder.fingerprint, **asdict(options)})
    report, left = DecodeReport(), set(ids)
    for row in _rows(run, plan.num_units):
        if ids and row["id"] not in left:
            continue
        left.discard(row["id"])
        paths = {name: out / f"{file_name(row['id'], row['source'])}.{name}.{options.format}" for name in outputs}
        wanted = {name: path for name, path in paths.items() if not path.exists()}
        try:
            codes = check_codes([torch.tensor(row[name]) for name in ("vocal_codes", "accomp_codes")], tokenizer.codebook_size)
        except ValueError as error:
            report.refused.append(f"{row['id']}: {error}")
            continue
        if wanted:
            length = Fraction(row["num_samples"], row["sample_rate"])
            decode_song(codes, length, wanted, tokenizer, options, progress)
        elif progress:
            progress(row["num_samples"] / row["sample_rate"])
        report.num_songs += 1
        report.num_present += not wanted
    report.refused += [f"{id}: expected its tokens; got none in {run}; see there why" for id in sorted(left)]
    return report


def _check_run(run: Path, tokenizer: DuoTok, ids: Sequence[str]) -> Plan:
    """Read a run's plan; refuse that of another tokenizer, and ids that are not in it."""
    plan = read_plan(run)
    if plan.fingerprint != tokenizer.fingerprint:
        raise ValueError(
            f"{run}: expected tokens of this tokenizer, {tokenizer.fingerprint[:16]}; got those of another, "
            f"{plan.fingerprint[:16]}; name the tokenizer that made them (--tokenizer)"
        )
    unknown = set(ids) - {song.id for unit in range(plan.num_units) for song in read_unit(run, unit)} if ids else ()
    if unknown:
        raise ValueError(f"{run}: expected ids of its songs; got {', '.join(map(repr, sorted(unknown)[:3]))}; correct them")
    return plan


def file_name(id: str, source: str) -> str:
    """Name a song's files: by its id; if that is the digest of a path, by the file's name and the digest's beginning."""
    return safe_name(f"{Path(source).stem}_{id[:8]}" if re.fullmatch(r"[0-9a-f]{40}", id) else id)


def safe_name(id: str) -> str:
    """Make a file name of a song's id, different for every id."""
    name = re.sub(r"[^\w.-]+", "_", id).strip("._-")[:50]
    plain = name and name == id and not re.search(r"(^|-)[0-9a-f]{8}$", id)
    return name if plain else f"{name}-{hashlib.sha256(id.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}".lstrip("-")


def settle(path: Path, settings: dict[str, Any]) -> None:
    """Note in a file what those beside it are made with.

    Raises:
        ValueError: if they were made otherwise.
        WriteError: if the folder cannot be written to.
    """
    out, text = path.parent, json.dumps(settings, indent=1, sort_keys=True) + "\n"
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: expected a folder; got a file; choose another name")
    if not path.exists():
        make_folder(out)
        write_atomically(path, text.encode())
    elif (before := path.read_text(encoding="utf-8")) != text:
        old, new = _flat(json.loads(before)), _flat(json.loads(text))
        changed = ", ".join(f"{name} {new.get(name)} instead of {old[name]}" for name in old if new.get(name) != old[name])
        raise ValueError(
            f"{out}: expected an empty folder, or files made with the same options; got {changed or 'others'}; choose another"
        )


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Lay nested settings side by side."""
    parts = (value.items() if isinstance(value, dict) else [(name, value)] for name, value in settings.items())
    return {name: value for part in parts for name, value in part}


def _rows(run: Path, num_units: int) -> Iterator[dict[str, Any]]:
    """Yield the songs of a run, one at a time."""
    for path in (data_path(run, unit) for unit in range(num_units)):
        if path.exists():
            for batch in pq.ParquetFile(path).iter_batches(batch_size=1, columns=_COLUMNS):
                yield from batch.to_pylist()


def decode_song(
    codes: torch.Tensor,
    seconds: Fraction,
    paths: dict[Output, Path],
    tokenizer: DuoTok,
    options: DecodeOptions,
    progress: Callable[[float], None] | None = None,
) -> None:
    """Decode one song.

    Args:
        codes: (2, T) int64.
        seconds: exact length of the files.
        paths: of the files, by what they are to hold.
        tokenizer: with a decoder.
        options: how.
        progress: called with the seconds of sound that were added to the files.

    Raises:
        WriteError: if the disk is full.
    """
    decoder = tokenizer.decoder
    rate = options.sample_rate or decoder.sample_rate
    length = math.ceil(seconds * rate)
    tracks = range(len(TRACKS)) if "mix" in paths else [i for i, name in enumerate(TRACKS) if name in paths]
    blocks = decoder.waves(tokenizer.model.trunk.bottleneck, codes, options.sampling, tracks)
    with ExitStack() as stack:
        files = {}
        for name, path in paths.items():
            temporary = stack.enter_context(whole_file(path, "a song"))
            files[name] = stack.enter_context(_SoundWriter(temporary, options.format, decoder.sample_rate, rate, length))
        for block in blocks:
            waves = dict(zip((TRACKS[i] for i in tracks), block.float().cpu().numpy(), strict=True))
            for name, file in files.items():
                file.push(sum(waves.values()) if name == "mix" else waves[name])
            if progress:
                progress(block.shape[-1] / decoder.sample_rate)


class _SoundWriter:
    """A sound file that takes waves (C, n) of one rate and holds `length` samples of another."""

    def __init__(self, path: Path, format: str, in_rate: int, out_rate: int, length: int) -> None:
        self._path, self._format, self._rates, self._left = path, format, (in_rate, out_rate), length
        self._resamplers: list[Resampler] = []
        self._file: soundfile.SoundFile | None = None

    def __enter__(self) -> _SoundWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._file is not None:
            if kind is None:
                self._write(np.stack([resampler.finish() for resampler in self._resamplers]))
            self._file.close()

    def push(self, wave: np.ndarray) -> None:
        """Append a wave (C, n)."""
        if self._file is None:
            self._resamplers = [Resampler(*self._rates) for _ in wave]
            name, options = str(self._path), (self._rates[1], len(wave), SUBTYPES[self._format])
            self._file = soundfile.SoundFile(name, "w", *options, format=self._format.upper())
        self._write(np.stack([resampler.push(channel) for resampler, channel in zip(self._resamplers, wave, strict=True)]))

    def _write(self, wave: np.ndarray) -> None:
        wave = wave[:, : self._left].T
        self._left -= len(wave)
        try:
            for start in range(0, len(wave), _BLOCK):
                self._file.write(wave[start : start + _BLOCK])
        except soundfile.SoundFileError as error:
            raise WriteError(
                f"{self._path}: expected to write a song; got {error}; free space or choose another folder"
            ) from error
