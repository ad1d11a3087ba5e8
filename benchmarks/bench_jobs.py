"""Corpus jobs on real songs: where a worker's time goes, two workers beside one, and a job beside a plain loop.

Each round is a whole command in processes of its own, start-up included; what is compared with it runs right before. The songs
are three minutes each of those in the folder DUOTOK_SONGS (pairs X_vocals.*, X_accomp.*), or of ../shared/data/songs; without
them there is nothing to measure. Where others compute at the same time, run it before them (chrt -r 1): the load average then
counts those who wait.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from duotok.corpus.songs import Song, collect

SHARED = Path(__file__).parents[2] / "shared" / "data" / "songs"
SECONDS = 180
# One worker as it is by default decodes in a thread beside its encoder; one that is to keep to a single core does not.
WORKERS = {"as by default": (), "of one core each": ("--threads", 1, "--decoders", 0)}
# What people write first, with the library as its own examples have it.
PLAIN_LOOP = """
import json, sys
import numpy as np, soundfile
import duotok
tokenizer = duotok.load("tiny")
for line in open(sys.argv[1]):
    row = json.loads(line)
    vocals, rate = soundfile.read(row["vocal_path"], frames=row["frames"], dtype="float32", always_2d=True)
    accompaniment, _ = soundfile.read(row["accompaniment_path"], frames=row["frames"], dtype="float32", always_2d=True)
    codes = tokenizer.encode([vocals.T], [accompaniment.T], sample_rate=rate)[0]
    np.save(f"{sys.argv[2]}/{row['id']}.npy", codes.numpy().astype(np.uint16))
"""


@pytest.fixture(scope="module")
def songs() -> list[Song]:
    """Songs with stems."""
    folder = Path(os.environ.get("DUOTOK_SONGS", SHARED))
    if not folder.is_dir():
        pytest.skip(f"needs real songs in {folder}, or DUOTOK_SONGS")
    return [song for song in collect([folder]) if song.accompaniment_path]


def write_manifest(path: Path, songs: list[Song], number: int) -> Path:
    """Write a manifest of so many pieces, about three minutes each, of one song after another."""
    rows = []
    for i in range(number):
        song, seconds = songs[i % len(songs)], SECONDS - i % 12
        files = {"vocal_path": song.vocal_path, "accompaniment_path": song.accompaniment_path}
        frames = seconds * soundfile.info(song.vocal_path).samplerate
        rows.append({"id": f"{i}", **files, "duration": float(seconds), "frames": frames})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def measure(*line: object) -> dict[str, float]:
    """Run a command once; return its seconds on the clock."""
    start = time.monotonic()
    subprocess.run([*map(str, line)], check=True, capture_output=True)
    return {"wall_s": time.monotonic() - start, "load_average": os.getloadavg()[0]}


def share_of_work(shares: dict[str, float], beside: bool) -> float:
    """Add up what an encoder's thread spends on decoding, features and encoding.

    One with decoders beside it waits for nothing but them, which run at the same time as it the rest of the time.
    """
    return shares["features"] + shares["encode"] + (min(shares["wait"], shares["decode"]) if beside else shares["decode"])


def tokenize(manifest: Path, run: Path, *options: object) -> dict[str, float]:
    """Measure a job of four units, and where its workers' time went."""
    number = len(manifest.read_text(encoding="utf-8").splitlines())
    line = (sys.executable, "-m", "duotok", "tokenize", manifest, "-o", run, "--songs-per-unit", number // 4, *options)
    found = measure(*line)
    report = json.loads((run / "report.json").read_text())
    assert (report["num_songs"], report["num_refused"], report["num_missing"]) == (number, 0, 0)
    shares = report["shares"]
    found["share_decode_features_encode"] = share_of_work(shares, beside="--decoders" not in options)
    found["times_real_time"] = 3600 * report["hours"] / found["wall_s"]
    found["times_real_time_at_work"] = report["hours_per_hour"]  # without the start-up
    return {**found, "shares": shares}


@pytest.mark.parametrize("kind", WORKERS)
def bench_two_workers(benchmark, songs, tmp_path, kind):
    """Two workers, and the speed-up over one of them."""
    manifest = write_manifest(tmp_path / "songs.jsonl", songs, 24)
    one = tokenize(manifest, tmp_path / "one", *WORKERS[kind])
    line = (manifest, tmp_path / "two", "--workers", 2, *WORKERS[kind])
    two = benchmark.pedantic(tokenize, line, rounds=1)
    benchmark.group = "two workers"
    benchmark.extra_info.update(one_worker=one, two_workers=two, ratio=one["wall_s"] / two["wall_s"])
    benchmark.extra_info["ratio_at_work"] = two["times_real_time_at_work"] / one["times_real_time_at_work"]


def bench_plain_loop(benchmark, songs, tmp_path):
    """A loop that reads, encodes and saves song after song, and how much faster a job of two workers is."""
    manifest, run, out = write_manifest(tmp_path / "songs.jsonl", songs, 48), tmp_path / "run", tmp_path / "out"
    out.mkdir()
    job = tokenize(manifest, run, "--workers", 2, *WORKERS["of one core each"])
    plain = benchmark.pedantic(measure, (sys.executable, "-c", PLAIN_LOOP, manifest, out), rounds=1)
    for row in pq.read_table(run / "data").to_pylist():  # libsndfile and FFmpeg decode Opus alike, not equally
        same = np.load(out / f"{row['id']}.npy") == [row["vocal_codes"], row["accomp_codes"]]
        assert same.mean() > 0.99
    benchmark.group = "plain loop"
    benchmark.extra_info.update(plain_loop=plain, two_workers=job, ratio=plain["wall_s"] / job["wall_s"])
