"""What Spleeter's vocals are worth: signal-to-distortion ratios on mixes made from a folder of songs with true stems.

    python benchmarks/separation_sdr.py SONGS -o benchmarks/results/separation.json

A song is cut into excerpts of 30 s; those are used in which vocals are heard (`vocal_activity` of 50 or more) for at least half
of the time. Each is separated twice: in the song's own mix, and in one with the vocals as loud as the accompaniment. The ratio
is that of the Music Demixing Challenge 2021 (Mitsufuji et al., arXiv 2108.13559), 10 log10(|s|^2 / |s - e|^2) over an excerpt
and both channels; its gain is over taking the whole mix for the stem. It falls with the vocals' share of the mix, which
is why both balances are measured. The exit code is 1 if in either the median for the vocals is less than `--at-least`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr

from duotok.corpus.activity import VocalActivity
from duotok.corpus.songs import Song, collect
from duotok.files import write_atomically
from duotok.separation import Separator, make_separator, separate

SECONDS, HEARD = 30, 50
TRACKS = ("vocals", "accompaniment")


def read_stereo(path: str, rate: int) -> np.ndarray:
    """Read a stem as (2, S) at a rate."""
    wave, found = soundfile.read(path, dtype="float32", always_2d=True)
    resampled = soxr.resample(wave, found, rate).T
    return np.broadcast_to(resampled, (2, resampled.shape[1]))


def excerpts(song: Song, rate: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield (start in seconds, vocals (2, n), accompaniment (2, n)) of the excerpts with vocals."""
    vocals, accompaniment = (read_stereo(path, rate) for path in (song.vocal_path, song.accompaniment_path))
    size = SECONDS * rate
    for start in range(0, vocals.shape[1] - size + 1, size):
        part = vocals[:, start : start + size]
        activity = VocalActivity(rate)
        activity.push(part.mean(axis=0))
        if sum(level >= HEARD for level in activity.finish(SECONDS)) >= SECONDS / 2:
            yield start // rate, part, accompaniment[:, start : start + size]


def ratio(signal: np.ndarray, rest: np.ndarray) -> float:
    """Decibels of one (2, n) over another (2, n)."""
    return round(10 * math.log10(np.square(signal, dtype=np.float64).sum() / np.square(rest, dtype=np.float64).sum()), 2)


def measure(separator: Separator, vocals: np.ndarray, accompaniment: np.ndarray) -> dict[str, float]:
    """Separate a mix of stems (2, n) and compare."""
    found = [np.concatenate(parts, axis=1) for parts in zip(*separate([vocals + accompaniment], separator), strict=True)]
    stems = (vocals, accompaniment)
    sdr = {f"sdr_{name}": ratio(true, true - made) for name, true, made in zip(TRACKS, stems, found, strict=True)}
    gain = {
        f"gain_{name}": round(sdr[f"sdr_{name}"] - ratio(true, other), 2)
        for name, true, other in zip(TRACKS, stems, stems[::-1], strict=True)
    }
    return sdr | gain


def summary(rows: list[dict]) -> dict[str, dict[str, float]]:
    """Median, mean, least and greatest of every figure."""
    columns = {name: [row[name] for row in rows] for name in rows[0] if name != "start_s"}
    kinds = {"median": np.median, "mean": np.mean, "least": min, "greatest": max}
    return {name: {kind: round(float(f(values)), 2) for kind, f in kinds.items()} for name, values in columns.items()}


def main() -> int:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("songs", type=Path, help="folder: X_vocals.* with X_accomp.*")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--separate", default="spleeter")
    parser.add_argument("--at-least", type=float, default=8.0, help="decibels: the bar for the median")
    options = parser.parse_args()
    separator = make_separator(options.separate)
    result: dict = {"separator": separator.identity, "at_least": options.at_least, "mixes": {}}
    rows: dict[str, dict[str, list[dict]]] = {"as released": {}, "equally loud": {}}
    for song in collect([options.songs]):
        name = Path(song.vocal_path).stem.rpartition("_")[0]
        for start, vocals, accompaniment in excerpts(song, separator.sample_rate):
            level = ratio(vocals, accompaniment)
            for mix, gain in (("as released", 1.0), ("equally loud", 10 ** (-level / 20))):
                row = measure(separator, np.float32(gain) * vocals, accompaniment)
                rows[mix].setdefault(name, []).append(
                    {"start_s": start, "vocals_over_accompaniment_db": level if gain == 1 else 0.0, **row}
                )
                print(mix, name, start, row, flush=True)
    medians: dict[str, float] = {}
    for mix, songs in rows.items():
        every = [row for excerpt in songs.values() for row in excerpt]
        good = sum(row["sdr_vocals"] >= options.at_least for row in every)
        result["mixes"][mix] = {
            "excerpts": len(every), "excerpts_that_reach_it": good,
            "all": summary(every), "songs": {name: {**summary(found), "excerpts": found} for name, found in songs.items()},
        }  # fmt: skip
        medians[mix] = result["mixes"][mix]["all"]["sdr_vocals"]["median"]
        print(f"{mix}: median {medians[mix]} dB; {good} of {len(every)} excerpts reach {options.at_least} dB")
    write_atomically(options.out, (json.dumps(result, indent=1) + "\n").encode())
    return int(min(medians.values()) < options.at_least)


if __name__ == "__main__":
    sys.exit(main())
