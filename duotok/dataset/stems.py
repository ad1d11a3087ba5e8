"""Separate the mixtures of a manifest once, and keep their stems: training and tokenizing then need no separator.

Each song becomes a folder with vocals.flac and accompaniment.flac (24 bits, stereo, the separator's rate, of one length), which
appears whole or not at all. Where one of them would exceed full scale, both are lowered by the same gain.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from duotok.audio import AudioReader, Resampler, open_audio, to_mono
from duotok.integrity import AudioError, SignalCheck
from duotok.separation import Separator, separate

from .jsonl import RowError, read_rows
from .manifest import relative, split_of, write_manifest
from .song_folder import prepare_songs, song_folder

MANIFEST, SONGS = "manifest.jsonl", "songs"
_STEMS = ("vocals", "accompaniment")
_FULL_SCALE = 1 - 2**-23


@dataclass(frozen=True)
class Report:
    """What became of a manifest's songs.

    Attributes:
        num_songs: in the new manifest.
        num_separated: of them, now or in an earlier run.
        duration_s: of all of them.
        problems: for each song left out, its name and why.
    """

    num_songs: int
    num_separated: int
    duration_s: float
    problems: tuple[str, ...]


def separate_manifest(
    manifest: Path, folder: Path, separator: Separator, on_song: Callable[[int, int, float], None] = lambda done, total, s: None
) -> Report:
    """Separate the mixtures of a manifest into a folder, and write a manifest there that has the stems of every song.

    Args:
        manifest: JSON lines; songs that have both stems are taken over as they are.
        folder: of the stems; songs that are there from an earlier run with the same separator are kept.
        separator: that separates.
        on_song: called with the songs done, their total, and the seconds of the one just finished.

    Raises:
        ValueError: if the manifest cannot be read, or no song is left.
        WriteError: if the folder cannot be written to.
    """
    prepare_songs(folder / SONGS)
    lines, problems = list(read_rows(manifest)), []
    rows: dict[str, dict[str, Any]] = {}
    for done, (number, row) in enumerate(lines, 1):
        seconds = 0.0
        try:
            stemmed = _with_stems(row, folder / SONGS, separator)
            if stemmed["id"] in rows:
                raise RowError(f"expected a unique id; got {stemmed['id']!r} twice; rename one")
            split = split_of(stemmed["id"], stemmed.get("split"))
            rows[stemmed["id"]] = relative(stemmed | {"split": split}, folder)
            seconds = stemmed.get("duration", 0.0)
        except AudioError as error:
            problems.append(f"{row['id']}: {error.reason}: {error}")
        except RowError as error:
            problems.append(f"{manifest.name}:{number}: {error}")
        on_song(done, len(lines), seconds)
    if not rows:
        found = problems[0] if problems else "an empty file"
        raise ValueError(f"{manifest}: expected at least one song that can be used; got none ({found}); check it")
    write_manifest(folder / MANIFEST, rows.values())
    seconds = sum(row.get("duration", 0.0) for row in rows.values())
    return Report(len(rows), sum("separator" in row for row in rows.values()), seconds, tuple(problems))


def _with_stems(row: dict[str, Any] | RowError, songs: Path, separator: Separator) -> dict[str, Any]:
    """Add the stems of a row that has only a mixture, from an earlier run or now; times in the row then start at its own."""
    if isinstance(row, RowError):
        raise row
    if (row.get("vocal_path") and row.get("accompaniment_path")) or row.get("stems_path"):
        return row
    mixture, start = Path(row["mixture_path"]), float(row.get("start") or 0)
    size = mixture.stat().st_size if mixture.is_file() else 0
    key = f"{row['id']}\n{mixture}\n{size}\n{start}\n{row.get('duration')}\n{separator.identity}"
    name = re.sub(r"[^\w.-]+", "_", row["id"]).strip("._")[:60]
    target = songs / f"{name}-{hashlib.sha1(key.encode('utf-8', 'surrogatepass'), usedforsecurity=False).hexdigest()[:10]}"
    if not (target / "song.json").is_file():
        with song_folder(target) as temporary:
            _separate(mixture, start, row.get("duration"), separator, temporary)
    made = json.loads((target / "song.json").read_text(encoding="utf-8"))
    stems = {"vocal_path": str(target / "vocals.flac"), "accompaniment_path": str(target / "accompaniment.flac")}
    return {key: value for key, value in row.items() if key not in ("mixture_path", "start")} | stems | made


def _separate(mixture: Path, start: float, duration: float | None, separator: Separator, folder: Path) -> None:
    """Separate a song into a folder: first in floating point, as only its end shows how loud it is."""
    rate, peak, count = separator.sample_rate, 0.0, 0
    draft = folder / "draft.wav"
    # RF64, as a wav ends at 4 GB.
    with soundfile.SoundFile(draft, "w", rate, 4, "FLOAT", format="RF64") as file, open_audio(mixture) as reader:
        for vocals, accompaniment in separate(_stereo(reader, start, duration, rate), separator):
            both = np.concatenate((vocals, accompaniment))  # (4, n)
            peak, count = max(peak, float(np.abs(both).max(initial=0))), count + both.shape[1]
            file.write(both.T)
    gain = min(1.0, _FULL_SCALE / peak) if peak else 1.0
    with ExitStack() as stack:
        source = stack.enter_context(soundfile.SoundFile(draft))
        outs = [stack.enter_context(soundfile.SoundFile(folder / f"{stem}.flac", "w", rate, 2, "PCM_24")) for stem in _STEMS]
        while len(block := source.read(rate * 10, dtype="float32")):
            for out, stem in zip(outs, (block[:, :2], block[:, 2:]), strict=True):
                out.write(stem * gain)
    draft.unlink()
    facts = {"duration": count / rate, "separator": separator.identity, "gain_db": round(20 * float(np.log10(gain)), 3)}
    (folder / "song.json").write_text(json.dumps(facts), encoding="utf-8")


def _stereo(reader: AudioReader, start: float, duration: float | None, rate: int) -> Iterator[np.ndarray]:
    """Read a song or a segment of it as stereo (2, n) at a separator's rate, and check it; further channels are mixed down.

    Raises:
        AudioError: if it cannot be trusted, or ends before its segment.
    """
    source_rate = reader.info.sample_rate
    check, channels = SignalCheck(str(reader.path), source_rate), (Resampler(source_rate, rate), Resampler(source_rate, rate))
    first, now = round(start * source_rate), 0
    last = None if duration is None else first + round(duration * source_rate)
    for block in reader.blocks():
        piece = block[:, max(0, first - now) : None if last is None else max(0, last - now)]
        now += block.shape[1]
        if piece.shape[1]:
            check.push(piece)
            pair = piece if len(piece) == 2 else np.broadcast_to(to_mono(piece), (2, piece.shape[1]))
            yield np.stack([channel.push(samples) for channel, samples in zip(channels, pair, strict=True)])
    if now < (last or first):
        found = f"expected a segment up to {(last or first) / source_rate:.3f} s; got {now / source_rate:.3f} s"
        raise AudioError("validate", "truncated", f"{reader.path}: {found}; correct start and duration")
    check.finish()
    yield np.stack([channel.finish() for channel in channels])
