"""A small tokenizer that decodes, a song whose name is not to be trusted, and its page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from make_audio import music, write
from make_decoder import decoding_tokenizer
from make_page import EVIL, EXCERPT_S, QUICK, RATE, SONG_S, START_S, listen


@pytest.fixture(scope="session")
def decoding(tmp_path_factory, spread_tokenizer) -> Path:
    """A folder with an untrained tokenizer, whose codes spread, and a decoder of random weights."""
    folder = tmp_path_factory.mktemp("decoding")
    decoding_tokenizer(folder, spread_tokenizer, window=(60, 10))
    return folder


@pytest.fixture(scope="session")
def stems() -> tuple[np.ndarray, np.ndarray]:
    """Vocals and accompaniment (S,); the vocals are loudest from second 1 to 5."""
    vocals, accompaniment = music(SONG_S, RATE, seed=1), music(SONG_S, RATE, seed=2)
    vocals[: START_S * RATE] *= 0.1
    vocals[(START_S + EXCERPT_S) * RATE :] *= 0.1
    return vocals, accompaniment


@pytest.fixture(scope="session")
def songs(tmp_path_factory, stems) -> Path:
    """A folder with the stems and two manifests: of the song under a bad name, and of two songs."""
    folder = tmp_path_factory.mktemp("songs")
    named = zip(("vocals", "accomp"), stems, strict=True)
    paths = [write(folder / f"A Song_{name}.wav", wave, RATE, "FLOAT").name for name, wave in named]
    row = {"vocal_path": paths[0], "accompaniment_path": paths[1]}
    (folder / "evil.jsonl").write_text(json.dumps(row | {"id": EVIL}), encoding="utf-8")
    two = "\n".join(json.dumps(row | {"id": id}) for id in "ab")
    (folder / "two.jsonl").write_text(two, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def page(tmp_path_factory, songs, decoding) -> Path:
    """The page of the song with the bad name."""
    path = tmp_path_factory.mktemp("page") / "page.html"
    done = listen(songs / "evil.jsonl", "-o", path, "--tokenizer", decoding, "--credit", "<b>Someone</b>", *QUICK)
    assert done.exit_code == 0, done.output
    return path
