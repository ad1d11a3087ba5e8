"""A dataset for the Hugging Face hub: Parquet files and a card whose YAML says which they are."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from .export_read import TokenSet, TokenSong
from .export_records import shards
from .store import SCHEMA
from .vocabulary import FIRST_FREE, SPECIALS, TRACK_SIZE, arrange

_CODES = ("vocal_codes", "accomp_codes")
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (10_000_000, "1M<n<10M"))
_COLUMNS = {
    "parallel": "`vocal_codes` and `accomp_codes`, one list of codes for each track, position by position",
    "delayed": "`vocal_ids` and `accomp_ids`, the accompaniment a frame later, filled up with <pad>",
    "interleaved": "`input_ids`, vocals and accompaniment in turns",
}


def write_hf(songs: Iterable[TokenSong], folder: Path, tokens: TokenSet, layout: str, songs_per_shard: int) -> None:
    """Write data/train-00000.parquet and so on, with all the run's columns, and README.md.

    The parallel layout keeps the run's own columns of codes; the others replace them by ids.
    """
    (folder / "data").mkdir()
    schema, made = _schema(layout), {**tokens.metadata, "layout": layout, "fingerprints": tokens.fingerprints}
    schema = schema.with_metadata({"duotok": json.dumps(made, sort_keys=True)})
    num_songs, seconds = 0, 0.0
    for shard, part in enumerate(shards(songs, songs_per_shard)):
        rows = [song.row | _arrays(song, layout) for song in part]
        pq.write_table(pa.Table.from_pylist(rows, schema), folder / "data" / f"train-{shard:05d}.parquet", compression="zstd")
        num_songs, seconds = num_songs + len(rows), seconds + sum(row["duration"] for row in rows)
    (folder / "README.md").write_text(_card(tokens, layout, num_songs, seconds), encoding="utf-8")


def _schema(layout: str) -> pa.Schema:
    if layout == "parallel":
        return SCHEMA
    names = ("input_ids",) if layout == "interleaved" else ("vocal_ids", "accomp_ids")
    ids = [pa.field(name, pa.list_(pa.uint32()), nullable=False) for name in names]
    first, *rest = (field for field in SCHEMA if field.name not in _CODES)
    return pa.schema([first, *ids, *rest])


def _arrays(song: TokenSong, layout: str) -> dict[str, Any]:
    if layout == "interleaved":
        return {"input_ids": arrange(song.codes, layout)}
    names = _CODES if layout == "parallel" else ("vocal_ids", "accomp_ids")
    return dict(zip(names, arrange(song.codes, layout).T, strict=True))


def _card(tokens: TokenSet, layout: str, num_songs: int, seconds: float) -> str:
    made = tokens.metadata
    size = next((name for limit, name in _SIZES if num_songs < limit), "n>10M")
    head = {
        "pretty_name": "Music tokens of duotok",
        "tags": ["music", "audio-tokens", "duotok"],
        "size_categories": [size],
        "configs": [{"config_name": layout, "data_files": [{"split": "train", "path": "data/*.parquet"}]}],
    }
    specials = ", ".join(f"{name} {number}" for name, number in SPECIALS.items())
    trained = "" if made.get("trained", True) else "\nThe tokenizer was not trained: its tokens mean nothing.\n"
    return f"""---
{yaml.safe_dump(head, sort_keys=False).strip()}
---

# Music tokens of duotok

{num_songs} songs, {seconds / 3600:.2f} hours: vocals and accompaniment, {made.get("frame_rate")} codes a second each.
{trained}
- Layout {layout}: {_COLUMNS[layout]}.
- Ids: v for a vocal code v, {TRACK_SIZE} + a for an accompaniment code a; {specials}; yours from {FIRST_FREE} on.
- Fingerprint of the tokenizer, whose codes do not mix with those of others: {_quoted(tokens.fingerprints)}.
- Stems of songs that came without their own: {_quoted(tokens.separators)}.
- Every Parquet file says in its metadata, under `duotok`, how it was made.

Licence: the songs' own; name it here, and in the YAML above, before you publish.
"""


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
