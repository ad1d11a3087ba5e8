"""Corpus jobs on real songs: where a worker's time goes, two workers beside one, and a job beside a plain loop.

Each round is a whole command in processes of its own, start-up included. The songs are three minutes each of those in the
folder DUOTOK_SONGS (pairs X_vocals.*, X_accomp.*), or of ../shared/data/songs; without them there is nothing to measure.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from duotok.corpus.songs import collect

SHARED = Path(__file__).parents[2] / "shared" / "data" / "songs"
SECONDS, NUM_SONGS = 180, 8
# What people write first: for each file load the tokenizer, decode, encode, save.
PLAIN_LOOP = """
import json, sys
import numpy as np, soundfile
import duotok
for line in open(sys.argv[1]):
    row = json.loads(line)
    rate = soundfile.info(row["vocal_path"]).samplerate
    at = {"start": int(row["start"] * rate), "frames": int(row["duration"] * rate), "dtype": "float32", "always_2d": True}
    vocals, accompaniment = (soundfile.read(row[name], **at)[0].T for name in ("vocal_path", "accompaniment_path"))
    length = min(vocals.shape[1], accompaniment.shape[1])
    tokenizer = duotok.load("tiny")
    codes = tokenizer.encode([vocals[:, :length]], [accompaniment[:, :length]], sample_rate=rate)[0]
    np.save(f"{sys.argv[2]}/{row['id']}.npy", codes.numpy().astype(np.uint16))
"""


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of `NUM_SONGS` pieces, one or more of each song."""
    folder = Path(os.environ.get("DUOTOK_SONGS", SHARED))
    if not folder.is_dir():
        pytest.skip(f"needs real songs in {folder}, or DUOTOK_SONGS")
    songs = [song for song in collect([folder]) if song.accompaniment_path]
    rows = [
        {"id": f"{i}", "vocal_path": song.vocal_path, "accompaniment_path": song.accompaniment_path, "start": 0.0,
         "duration": float(SECONDS - i)}
        for i, song in ((i, songs[i % len(songs)]) for i in range(NUM_SONGS))
    ]  # fmt: skip
    path = tmp_path_factory.mktemp("songs") / "songs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def measure(benchmark: Callable, *line: object) -> dict[str, float]:
    """Time a command once; return its seconds on the clock and on the processor."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    benchmark.pedantic(subprocess.run, ([*map(str, line)],), {"check": True, "capture_output": True}, rounds=1)
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - start
    audio = sum(SECONDS - i for i in range(NUM_SONGS))
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found = {"wall_s": wall, "cpu_s": cpu, "times_real_time": audio / wall, "load_average": os.getloadavg()[0]}
    benchmark.extra_info.update(found)
    return found


@pytest.fixture(scope="module")
def measured() -> dict[str, dict[str, float]]:
    """What has been measured so far, for ratios."""
    return {}


def tokenize(benchmark: Callable, manifest: Path, run: Path, *options: object) -> dict[str, float]:
    """Measure a job, and where its workers' time went."""
    line = [sys.executable, "-m", "duotok", "tokenize", manifest, "-o", run, "--songs-per-unit", NUM_SONGS // 4]
    found = measure(benchmark, *line, *options)
    report = json.loads((run / "report.json").read_text())
    assert (report["num_songs"], report["num_missing"]) == (NUM_SONGS, 0)
    shares = report["shares"]
    # The encoder waits for nothing but the decoders, which run beside it the rest of the time.
    found["share_decode_features_encode"] = shares["features"] + shares["encode"] + min(shares["wait"], shares["decode"])
    found["times_real_time_at_work"] = report["hours_per_hour"]  # without the start-up
    benchmark.group = "job"
    benchmark.extra_info.update(found, shares=shares)
    return found


@pytest.mark.parametrize("threads", [1, os.cpu_count()])
def bench_one_worker(benchmark, manifest, measured, tmp_path, threads):
    """One worker; its encoder on one thread, and on as many as there are processors."""
    measured[f"one, {threads}"] = tokenize(benchmark, manifest, tmp_path / "run", "--threads", threads)


def bench_two_workers(benchmark, manifest, measured, tmp_path):
    """Two workers of one thread each, and the speed-up over one of them."""
    measured["two"] = found = tokenize(benchmark, manifest, tmp_path / "run", "--workers", 2, "--threads", 1)
    one = measured["one, 1"]
    benchmark.extra_info["ratio_to_one_worker"] = one["wall_s"] / found["wall_s"]
    benchmark.extra_info["ratio_at_work"] = found["times_real_time_at_work"] / one["times_real_time_at_work"]


def bench_plain_loop(benchmark, manifest, measured, tmp_path):
    """The loop that loads, encodes and saves file by file, and how much faster the job of two workers is."""
    (tmp_path / "out").mkdir()
    found = measure(benchmark, sys.executable, "-c", PLAIN_LOOP, manifest, tmp_path / "out")
    run = tmp_path / "run"
    line = [sys.executable, "-m", "duotok", "tokenize", manifest, "-o", run, "--workers", 2]
    subprocess.run([*map(str, line)], check=True, capture_output=True)
    for row in pq.read_table(run / "data").to_pylist():
        assert np.array_equal(np.load(tmp_path / "out" / f"{row['id']}.npy"), [row["vocal_codes"], row["accomp_codes"]])
    benchmark.group = "job"
    benchmark.extra_info["ratio_of_two_workers"] = found["wall_s"] / measured["two"]["wall_s"]
