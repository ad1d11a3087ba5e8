"""Three hours need no more memory than ten minutes, and what the first minutes sound like does not depend on the rest."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import soxr

from duotok import DuoTok

RATE = 8_000
SMALL = (
    "model.trunk.front_blocks=1", "model.trunk.block.width=64", "model.trunk.downsample_channels=8",
    "model.bottleneck.quantizer.codebook_size=1024",
)  # fmt: skip
MINUTES = {"short": 10, "long": 180}
# Linux counts into ru_maxrss what the process that started this one held; the high-water mark of its own memory is here.
SCRIPT = """
import sys
from pathlib import Path
from runs import finish, plan
song, run, tokenizer = map(Path, sys.argv[1:])
finish(run, plan(song, run, tokenizer=tokenizer))
[peak] = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print("peak", peak)
"""


def write_minutes(path: Path, loop: np.ndarray, minutes: int) -> None:
    """Write the loop again and again, each minute at another level and speed, a minute at a time, plus one sample."""
    with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
        for minute in range(minutes):
            at = np.arange(60 * RATE) * (1 + 0.002 * minute) % (len(loop) - 1)
            file.write((0.3 + 0.7 * (minute % 7) / 7) * np.interp(at, np.arange(len(loop)), loop))
        file.write(np.zeros(1))


@pytest.fixture(scope="module")
def runs(tmp_path_factory, real_song) -> dict[str, tuple[Path, int]]:
    """Both files tokenized, at the same time: the run's folder and the process's peak in kB."""
    if not Path("/proc/self/status").exists():
        pytest.skip("reads the peak of memory in /proc, which this system does not have")
    folder = tmp_path_factory.mktemp("long")
    DuoTok.from_config("tiny/tokenizer", SMALL).save(folder / "tokenizer")
    loop = soxr.resample(real_song[0] + real_song[1], real_song[2], RATE)
    processes = {}
    for name, minutes in MINUTES.items():
        write_minutes(folder / f"{name}.flac", loop, minutes)
        line = [folder / f"{name}.flac", folder / name, folder / "tokenizer"]
        processes[name] = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *map(str, line)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])},
        )  # fmt: skip
    found = {}
    for name, process in processes.items():
        output, errors = process.communicate()
        assert "peak" in output, errors
        found[name] = (folder / name, int(output.split("peak")[1].split()[0]))
    return found


def codes(run: Path) -> np.ndarray:
    [row] = pq.read_table(run / "data").to_pylist()
    return np.array([row["vocal_codes"], row["accomp_codes"]])


def test_three_hours_take_the_memory_of_ten_minutes(runs):
    peaks = {name: peak / 1024 for name, (_, peak) in runs.items()}
    assert peaks["long"] - peaks["short"] < 200, f"peak memory in MB: {peaks}"
    assert peaks["short"] > 100, "the measure works"


def test_frames_are_exact(runs):
    for name, minutes in MINUTES.items():
        [row] = pq.read_table(runs[name][0] / "data").to_pylist()
        assert row["num_samples"] == minutes * 60 * RATE + 1
        assert row["n_frames"] == len(row["vocal_codes"]) == len(row["accomp_codes"]) == minutes * 60 * 25 + 1


def test_the_first_minutes_do_not_depend_on_the_rest(runs):
    short, long = codes(runs["short"][0]), codes(runs["long"][0])
    decided = 23 * 625  # windows that end before 600 s: the last of them answers for 550 s to 575 s
    assert np.array_equal(short[:, :decided], long[:, :decided])
    assert len(np.unique(long[1])) > 1, "random weights know few codes, but more than one"
