"""Corpus jobs on real songs: where a worker's time goes, two workers beside one, and a job beside a plain loop.

Each round is a whole command in processes of its own, start-up included; what is compared with it runs right before. The songs
are three minutes each of those in the folder DUOTOK_SONGS (pairs X_vocals.*, X_accomp.*), or of ../shared/data/songs; without
them there is nothing to measure. Where others compute at the same time, run it before them (chrt -r 1): the load average then
counts those who wait.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from duotok.corpus.songs import collect

SHARED = Path(__file__).parents[2] / "shared" / "data" / "songs"
SECONDS, NUM_SONGS = 180, 12
# One worker as it is by default decodes in a thread beside its encoder; one that is to keep to a single core does not.
WORKERS = {"as by default": (), "of one core each": ("--threads", 1, "--decoders", 0)}
READ = {
    "soundfile": """
    rate = soundfile.info(row["vocal_path"]).samplerate
    at = {"start": int(row["start"] * rate), "frames": int(row["duration"] * rate), "dtype": "float32", "always_2d": True}
    vocals, accompaniment = (soundfile.read(row[name], **at)[0].T for name in ("vocal_path", "accompaniment_path"))
""",
    "librosa": """
    at = {"offset": row["start"], "duration": row["duration"]}
    (vocals, rate), (accompaniment, _) = (librosa.load(row[name], **at) for name in ("vocal_path", "accompaniment_path"))
""",
}
# What people write first, with either library as its own examples have it.
PLAIN_LOOP = """
import json, sys
import numpy as np, {library}
import duotok
tokenizer = duotok.load("tiny")
for line in open(sys.argv[1]):
    row = json.loads(line){read}
    length = min(vocals.shape[-1], accompaniment.shape[-1])
    codes = tokenizer.encode([vocals[..., :length]], [accompaniment[..., :length]], sample_rate=rate)[0]
    np.save(f"{{sys.argv[2]}}/{{row['id']}}.npy", codes.numpy().astype(np.uint16))
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


def measure(*line: object) -> dict[str, float]:
    """Run a command once; return its seconds on the clock and on the processor."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run([*map(str, line)], check=True, capture_output=True)
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - start
    audio = sum(SECONDS - i for i in range(NUM_SONGS))
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": wall, "cpu_s": cpu, "times_real_time": audio / wall, "load_average": os.getloadavg()[0]}


def share_of_work(shares: dict[str, float], beside: bool) -> float:
    """Add up what an encoder's thread spends on decoding, features and encoding.

    One with decoders beside it waits for nothing but them, which run at the same time as it the rest of the time.
    """
    return shares["features"] + shares["encode"] + (min(shares["wait"], shares["decode"]) if beside else shares["decode"])


def tokenize(manifest: Path, run: Path, *options: object) -> dict[str, float]:
    """Measure a job, and where its workers' time went."""
    found = measure(
        sys.executable, "-m", "duotok", "tokenize", manifest, "-o", run, "--songs-per-unit", NUM_SONGS // 4, *options
    )
    report = json.loads((run / "report.json").read_text())
    assert (report["num_songs"], report["num_missing"]) == (NUM_SONGS, 0)
    shares = report["shares"]
    found["share_decode_features_encode"] = share_of_work(shares, beside="--decoders" not in options)
    found["times_real_time_at_work"] = report["hours_per_hour"]  # without the start-up
    return {**found, "shares": shares}


@pytest.mark.parametrize("kind", WORKERS)
def bench_two_workers(benchmark, manifest, tmp_path, kind):
    """Two workers, and the speed-up over one of them."""
    one = tokenize(manifest, tmp_path / "one", *WORKERS[kind])
    line = (manifest, tmp_path / "two", "--workers", 2, *WORKERS[kind])
    two = benchmark.pedantic(tokenize, line, rounds=1)
    benchmark.group = "two workers"
    benchmark.extra_info.update(one_worker=one, two_workers=two, ratio=one["wall_s"] / two["wall_s"])
    benchmark.extra_info["ratio_at_work"] = two["times_real_time_at_work"] / one["times_real_time_at_work"]


@pytest.mark.parametrize("library", READ)
def bench_plain_loop(benchmark, manifest, tmp_path, library):
    """A loop that reads, encodes and saves song after song, and how much faster a job of two workers is."""
    pytest.importorskip(library)
    run, out = tmp_path / "run", tmp_path / "out"
    out.mkdir()
    job = tokenize(manifest, run, "--workers", 2, *WORKERS["of one core each"])
    loop = PLAIN_LOOP.format(library=library, read=READ[library])
    plain = benchmark.pedantic(measure, (sys.executable, "-c", loop, manifest, out), rounds=1)
    for row in pq.read_table(run / "data").to_pylist():
        codes = np.load(out / f"{row['id']}.npy")
        assert library != "soundfile" or np.array_equal(codes, [row["vocal_codes"], row["accomp_codes"]])
    benchmark.group = "plain loop"
    benchmark.extra_info.update(plain_loop=plain, two_workers=job, ratio=plain["wall_s"] / job["wall_s"])
    benchmark.extra_info["ratio_of_processor_time"] = plain["cpu_s"] / job["cpu_s"]
