"""Cuts for lhotse (github.com/lhotse-speech/lhotse) in its Shar format, which keeps them in order and in a few large files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .export_read import TokenSet, TokenSong
from .vocabulary import arrange


def write_lhotse(songs: Iterable[TokenSong], folder: Path, tokens: TokenSet, layout: str, songs_per_shard: int) -> None:
    """Write shar/cuts.000000.jsonl.gz with codes.000000.tar and so on: `CutSet.from_shar(in_dir=folder / "shar")`.

    A cut's `codes` are a TemporalArray of `vocabulary.arrange`, its text is its supervision, and the run's other columns are
    custom fields. A cut lasts as long as its codes, up to a frame longer than the song.

    Raises:
        ValueError: if lhotse is not installed.
    """
    try:
        from lhotse.shar import SharWriter
    except ImportError:
        raise ValueError(
            "format lhotse: expected the package lhotse; it is not installed; install the extra: pip install 'duotok[lhotse]'"
        ) from None
    frame_shift = 1 / tokens.metadata["frame_rate"] / (2 if layout == "interleaved" else 1)
    (folder / "shar").mkdir()
    with SharWriter(folder / "shar", fields={"codes": "numpy"}, shard_size=songs_per_shard) as writer:
        for song in songs:
            writer.write(_cut(song, layout, frame_shift))


def _cut(song: TokenSong, layout: str, frame_shift: float) -> Any:
    from lhotse import MonoCut, SupervisionSegment

    array, row = arrange(song.codes, layout), song.row
    duration, said = len(array) * frame_shift, []
    if row["text"]:
        said = [SupervisionSegment(row["id"], row["id"], 0, row["duration"], text=row["text"], language=row["language"])]
    custom = {name: value for name, value in row.items() if name not in ("id", "text", "language") and value is not None}
    cut = MonoCut(row["id"], 0, duration, 0, said, custom={"seconds": custom.pop("duration"), **custom})
    return cut.attach_tensor("codes", array, frame_shift=frame_shift, temporal_dim=0)
