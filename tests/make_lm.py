"""Small language models, and runs of tokens for them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from duotok.corpus.store import SCHEMA
from duotok.model.language_model import DualTrackLM, LanguageModelConfig

SIZE = END = 16  # codes of a track; the number of <EOA>


def small_model(ends: bool = True) -> DualTrackLM:
    """A model of 16 codes, in float64, with random weights, whose songs may be endless."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        made = DualTrackLM(LanguageModelConfig(SIZE, 2, 32, 2, 2, 1, 64, embedding_dim=8, has_end=True)).double()
        for mark in (made.start, made.prefix):
            torch.nn.init.normal_(mark)
    for head in () if ends else made.heads:
        head.bias.data[END] = -50.0
    return made.eval()


def codes_of(frames: int, items: int = 1, seed: int = 0) -> Tensor:
    """Random codes (B, 2, T)."""
    return torch.randint(SIZE, (items, 2, frames), generator=torch.Generator().manual_seed(seed))


def write_tokens(
    folder: Path, songs: Mapping[str, np.ndarray], size: int = SIZE, fingerprint: str = "f" * 64, held_out: int | None = 1
) -> Path:
    """Write songs, codes (2, T) by id, as `duotok tokenize` would; the last `held_out` are held out, or no split is named."""
    folder.mkdir(parents=True)
    rows = []
    for number, (name, codes) in enumerate(songs.items()):
        frames = codes.shape[1]
        split = None if held_out is None else "held_out" if number >= len(songs) - held_out else "train"
        rows.append(
            {"id": name, "vocal_codes": codes[0], "accomp_codes": codes[1], "n_frames": frames, "duration": frames / 25,
             "sample_rate": 24_000, "num_samples": frames * 960, "channels": 1, "start_time": 0.0, "gain_db": 0.0,
             "source": name, "audio_sha256": "", "extra": json.dumps({"split": split})}
        )  # fmt: skip
    made = {"fingerprint": fingerprint, "separator": "none", "codebook_size": size, "frame_rate": 25}
    table = pa.Table.from_pylist(rows, schema=SCHEMA.with_metadata({"duotok": json.dumps(made)}))
    pq.write_table(table, folder / "unit-00000.parquet")
    return folder


def paired_songs(dependent: bool, count: int = 12, frames: int = 1000) -> dict[str, np.ndarray]:
    """Songs whose accompaniment at each frame is that of a random vocal code, 5 v + 3, or that of one nobody hears."""
    generator = np.random.default_rng(0)
    songs = {}
    for number in range(count):
        vocals, hidden = generator.integers(SIZE, size=(2, frames))
        heard = vocals if dependent else hidden
        songs[f"song{number:02d}"] = np.stack((vocals, (5 * heard + 3) % SIZE)).astype(np.uint16)
    return songs
