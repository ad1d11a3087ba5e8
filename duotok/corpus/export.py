"""Tokens of runs as what trainers of language models read: one folder, which appears whole or not at all.

    hf           Parquet with a dataset card: datasets.load_dataset(folder)
    webdataset   tar files of songs: NUMBER.codes.npy and NUMBER.json
    npy          a .npy a song
    lhotse       cuts in lhotse's Shar format, with the codes as a TemporalArray
    bin32        ids of all songs one after another, 32 bits each, as nanoGPT reads them (np.memmap, dtype uint32)
    megatron     the same ids as .bin and .idx of Megatron-LM's IndexedDataset, int32, a song a document

Ids and layouts are those of vocabulary.py. Every folder but that of hf has a duotok.json, which says how its tokens were made.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from duotok.files import new_folder

from .export_flat import write_bin32, write_megatron
from .export_hf import write_hf
from .export_lhotse import write_lhotse
from .export_read import TokenSet, TokenSong, find_tokens
from .export_records import write_npy, write_webdataset
from .vocabulary import FIRST_FREE, LAYOUTS, SPECIALS, TRACK_SIZE

FORMATS = {
    "hf": write_hf,
    "webdataset": write_webdataset,
    "npy": write_npy,
    "lhotse": write_lhotse,
    "bin32": write_bin32,
    "megatron": write_megatron,
}


@dataclass(frozen=True)
class ExportReport:
    """What was exported.

    Attributes:
        num_songs: of all runs.
        num_codes: of both tracks.
        hours: of audio.
    """

    num_songs: int = 0
    num_codes: int = 0
    hours: float = 0.0


def export(
    sources: Iterable[Path],
    folder: Path,
    format: str,
    layout: str = "parallel",
    songs_per_shard: int = 1000,
    force: bool = False,
    partial: bool = False,
    on_song: Callable[[int, int], None] = lambda done, total: None,
) -> ExportReport:
    """Export runs into a new folder, song by song.

    Args:
        sources: runs, folders with Parquet files of tokens, or such files, in the order in which they are to be read.
        folder: to make.
        format: see above.
        layout: see vocabulary.py.
        songs_per_shard: of formats that are cut into files; one shard is in memory at a time.
        force: take tokens of different tokenizers together.
        partial: take what is there of a run that is not finished.
        on_song: called with the songs done and their number.

    Raises:
        ValueError: for an unknown format or layout, a folder that is there already, tokens that are not whole or do not belong
            together, or a missing package.
        WriteError: if the folder cannot be written to.
    """
    for name, found, known in (("format", format, FORMATS), ("layout", layout, LAYOUTS)):
        if found not in known:
            raise ValueError(f"--{name}: expected one of {', '.join(known)}; got {found!r}; choose one of those")
    tokens = find_tokens(sources, force, partial)
    counted = _Counted(tokens, on_song)
    with new_folder(folder) as temporary:
        FORMATS[format](counted, temporary, tokens, layout, songs_per_shard)
        if format != "hf":
            (temporary / "duotok.json").write_text(json.dumps(_about(format, layout, tokens, counted.report), indent=1) + "\n")
    return counted.report


class _Counted:
    """The songs of a set, once, counted as they go by."""

    def __init__(self, tokens: TokenSet, on_song: Callable[[int, int], None]) -> None:
        self._tokens, self._on_song, self.report = tokens, on_song, ExportReport()

    def __iter__(self) -> Iterator[TokenSong]:
        total = self._tokens.num_songs
        for song in self._tokens.songs():
            yield song
            before = self.report
            self.report = replace(
                before, num_songs=before.num_songs + 1, num_codes=before.num_codes + song.codes.size,
                hours=before.hours + song.row["duration"] / 3600,
            )  # fmt: skip
            self._on_song(self.report.num_songs, total)


def _about(format: str, layout: str, tokens: TokenSet, report: ExportReport) -> dict[str, object]:
    return {
        "format": format,
        "layout": layout,
        "num_songs": report.num_songs,
        "num_codes": report.num_codes,
        "hours": report.hours,
        "vocabulary": {"vocals": 0, "accompaniment": TRACK_SIZE, **SPECIALS, "first_free": FIRST_FREE},
        "fingerprints": tokens.fingerprints,
        "separators": tokens.separators,
        "made": tokens.metadata,
    }
