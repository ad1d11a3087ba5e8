"""Turn songs that the user has, a folder or JSON lines, into a manifest: every file decoded, nothing left out in silence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from duotok.audio import open_audio
from duotok.files import WriteError, make_folder
from duotok.integrity import AudioError

from .decoding import measure_stems
from .folders import PARTS, FolderSong, find_songs
from .jsonl import RowError, read_rows
from .lyric_files import read_lyrics
from .manifest import hash_rank, relative, split_of, write_manifest

# Streams of MUSDB18's .stem.mp4: mix, drums, bass, other, vocals.
_MULTI_STREAMS = (4, 1, 2, 3)
_SAME_TIME_S = 0.05
_JSONL = (".jsonl", ".jsonl.gz", ".json.gz")


@dataclass(frozen=True)
class Report:
    """What became of the songs.

    Attributes:
        num_songs, duration_s: in the manifest.
        problems: for each song left out, its name and why.
        remarks: for songs that are in, what was not as it should be.
    """

    num_songs: int
    duration_s: float
    problems: tuple[str, ...]
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class _Outcome:
    """A row of the manifest, or why there is none; and a remark."""

    row: dict[str, Any] | None = None
    problem: str | None = None
    remark: str | None = None


def index(
    source: Path, manifest: Path, num_threads: int = 2, on_song: Callable[[int, int, float], None] = lambda done, total, s: None
) -> Report:
    """Write a manifest of songs.

    Args:
        source: a folder (X_vocals with X_accompaniment; vocals, drums, bass and other in a folder of their own; .stem.mp4;
            mixtures; lyrics as .lrc or .txt beside them), or a .jsonl or .jsonl.gz of duotok, NeMo or lhotse.
        manifest: the file to write. Where stems have no accompaniment of their own, their sum is written beside it.
        num_threads: that decode.
        on_song: called with the songs done, their total, and the seconds of the one just finished.

    Raises:
        ValueError: if the source holds nothing to read, or no song is left.
        WriteError: if something cannot be written.
    """
    jobs = _folder_jobs(source, manifest) if source.is_dir() else _row_jobs(source, manifest.parent)
    outcomes: list[_Outcome] = []
    pool = ThreadPoolExecutor(num_threads)
    try:
        for done, outcome in enumerate(pool.map(lambda job: job(), jobs), 1):
            outcomes.append(outcome)
            on_song(done, len(jobs), outcome.row["duration"] if outcome.row else 0.0)
    finally:
        pool.shutdown(cancel_futures=True)
    rows, problems = _unique(outcome.row for outcome in outcomes if outcome.row)
    problems = [*(outcome.problem for outcome in outcomes if outcome.problem), *problems]
    if not rows:
        raise ValueError(f"{source}: expected at least one song that can be used; got none ({problems[0]}); add songs")
    if source.is_dir() and len(rows) > 1 and all(row["split"] == "train" for row in rows):
        min(rows, key=lambda row: hash_rank(row["id"]))["split"] = "held_out"  # what is learned has to be measured by something
    write_manifest(manifest, rows)
    remarks = tuple(outcome.remark for outcome in outcomes if outcome.remark)
    return Report(len(rows), sum(row["duration"] for row in rows), tuple(problems), remarks)


def _unique(rows: Iterable[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    kept: dict[str, dict[str, Any]] = {}
    problems = []
    for row in rows:
        if row["id"] in kept:
            problems.append(f"{row['id']}: expected a unique id; got it twice; rename one")
        kept.setdefault(row["id"], row)
    return list(kept.values()), problems


def _folder_jobs(folder: Path, manifest: Path) -> list[Callable[[], _Outcome]]:
    return [lambda song=song: _index_song(song, manifest) for song in find_songs(folder)]


def _row_jobs(source: Path, folder: Path) -> list[Callable[[], _Outcome]]:
    if not source.is_file() or not source.name.endswith(_JSONL):
        raise ValueError(f"{source}: expected a folder, a .jsonl or a .jsonl.gz; got {source.name}; correct the path")
    return [lambda n=n, row=row: _index_row(row, f"{source.name}:{n}", folder) for n, row in read_rows(source)]


def _index_song(song: FolderSong, manifest: Path) -> _Outcome:
    """Decode a folder's song and describe it."""
    try:
        files, streams = _choose(song), (0,)
        if "stems_path" in files:
            streams = _MULTI_STREAMS
        duration = measure_stems([(path, stream) for path in files.values() for stream in streams])
        if "accompaniment_path" not in files and set(PARTS) <= set(files):
            files["accompaniment_path"] = _add_up(song.id, [files[part] for part in PARTS], manifest)
    except AudioError as error:
        return _Outcome(problem=f"{song.id}: {error.reason}: {error}")
    row = {"id": song.id} | {role: str(path) for role, path in files.items() if role not in PARTS}
    row |= {"stems": {part: str(files[part]) for part in PARTS}} if set(PARTS) <= set(files) else {}
    row |= {"duration": duration, "split": split_of(song.id)}
    lyrics = read_lyrics(song.lyrics, duration) if song.lyrics else {}
    remark = f"{song.id}: empty lyrics in {song.lyrics}; kept without text" if song.lyrics and not lyrics else None
    return _Outcome(relative(row, manifest.parent) | lyrics, remark=remark)


def _choose(song: FolderSong) -> dict[str, Path]:
    """Pick the files that make up a song: true stems before a file of stems before a mixture.

    Raises:
        AudioError: if a role is taken twice, or a stem has no partner.
    """
    for role, paths in song.files.items():
        if len(paths) > 1:
            names = ", ".join(path.name for path in paths)
            raise AudioError("open", "ambiguous", f"expected one file of {role}; got {names}; remove all but one")
    files = {role: paths[0] for role, paths in song.files.items()}
    parts = {part: files[part] for part in PARTS if part in files}
    parts = parts if len(parts) == len(PARTS) else {}
    if "vocals" in files and ("accompaniment" in files or parts):
        pair = {"vocal_path": files["vocals"]}
        pair |= {"accompaniment_path": files["accompaniment"]} if "accompaniment" in files else {}
        return pair | parts
    for role, name in (("stems", "stems_path"), ("mixture", "mixture_path")):
        if role in files:
            return {name: files[role]}
    found = ", ".join(sorted(files))
    raise AudioError(
        "open", "no_partner",
        f"expected vocals with accompaniment, or with drums, bass and other; got {found} alone; add what is missing",
    )  # fmt: skip


def _add_up(song_id: str, parts: list[Path], manifest: Path) -> Path:
    """Write the accompaniment of a song that has only its parts, as 24-bit FLAC, unless it is there.

    Raises:
        AudioError: "clipping" if the sum exceeds full scale.
    """
    folder = manifest.with_name(f"{manifest.stem}-accompaniments")
    target = folder / f"{song_id.replace('/', '__')}.flac"
    if target.is_file():
        return target
    make_folder(folder)
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        rate, channels = 0, 0
        for part in parts:
            with open_audio(part) as reader:
                rate, channels = reader.info.sample_rate, max(channels, reader.info.channels)
        with soundfile.SoundFile(temporary, "w", rate, channels, "PCM_24", format="FLAC") as file:
            for block in _sums(parts, channels):
                if np.abs(block).max(initial=0) > 1:
                    raise AudioError("validate", "clipping", "expected parts whose sum stays in range; got more; lower them")
                file.write(block.T)
        temporary.replace(target)
    except (soundfile.LibsndfileError, OSError) as error:
        raise WriteError(f"{target}: expected to write the sum of stems; got {error}; free space") from error
    finally:
        temporary.unlink(missing_ok=True)
    return target


def _sums(parts: list[Path], channels: int) -> Iterator[np.ndarray]:
    """Add files up, (C, n) at a time; a mono one goes to every channel, and one that ends early goes on in silence."""
    whole = []
    for path in parts:
        with open_audio(path) as reader:
            wave = np.concatenate(list(reader.blocks()), axis=1)
            whole.append(np.broadcast_to(wave, (channels, wave.shape[1])) if len(wave) == 1 else wave)
    longest, step = max(wave.shape[1] for wave in whole), 1 << 16
    for start in range(0, longest, step):
        pieces = [wave[:, start : start + step] for wave in whole]
        yield sum(np.pad(piece, ((0, 0), (0, min(step, longest - start) - piece.shape[1]))) for piece in pieces)


def _index_row(row: dict[str, Any] | RowError, place: str, folder: Path) -> _Outcome:
    """Decode what a line names and describe it as seen from the manifest's folder."""
    if isinstance(row, RowError):
        return _Outcome(problem=f"{place}: {row}")
    names, streams = ("mixture_path",), (0,)
    if row.get("vocal_path") and row.get("accompaniment_path"):
        names = ("vocal_path", "accompaniment_path")
    elif row.get("stems_path"):
        names, streams = ("stems_path",), _MULTI_STREAMS
    try:
        whole = measure_stems([(Path(row[name]), stream) for name in names for stream in streams])
        start, asked = float(row.get("start") or 0), float(row.get("duration") or whole - float(row.get("start") or 0))
        if start < 0 or asked <= 0 or start + asked > whole + _SAME_TIME_S:
            found = f"expected {start:g} to {start + asked:g} s of it; got {whole:.3f} s"
            raise AudioError("validate", "truncated", f"{found}; correct start and duration")
    except AudioError as error:
        return _Outcome(problem=f"{row['id']}: {error.reason}: {error}")
    text = str(row.get("text") or "").strip()
    remark = None if text or "text" not in row else f"{row['id']}: empty text; kept without"
    kept = {name: value for name, value in row.items() if name != "text"} | ({"text": text} if text else {})
    described = kept | {"duration": min(asked, whole - start), "split": split_of(row["id"], row.get("split"))}
    return _Outcome(relative(described, folder), remark=remark)
