"""Calls of the C ABI's fused spectra: cases of every shape, their float64 answers, and the arguments as the ABI wants them.

python tests/spectra_cases.py LIBRARY        run every case on a library that the tests built with sanitizers
"""

from __future__ import annotations

import ctypes
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
ORDERS = (0, 1, 2)  # of threads in tests/csrc/phases.cpp: forward, backward, shuffled
LOGS = {0: lambda x: x, 1: lambda x: 10 * np.log10(x), 2: np.log, 3: np.log10}


def fields_of_abi() -> list[tuple[str, type]]:
    """Read duotok_mel_chroma_args from the header."""
    header = (ROOT / "csrc" / "duotok_native.h").read_text(encoding="utf-8")
    body = header.split("typedef struct duotok_mel_chroma_args {")[1].split("} duotok_mel_chroma_args;")[0]
    kinds = {"int64_t": ctypes.c_int64, "int32_t": ctypes.c_int32, "float": ctypes.c_float}
    found = re.findall(r"^    (?:const )?(\w+) (\*?)(\w+);", body, flags=re.MULTILINE)
    return [(name, ctypes.c_void_p if star else kinds[kind]) for kind, star, name in found]


class Args(ctypes.Structure):
    _fields_ = fields_of_abi()


@dataclass(frozen=True)
class Case:
    n_fft: int
    hop: int
    samples: int
    batch: int = 2
    channels: int = 1
    pad: int | None = None  # None: n_fft // 2
    pad_mode: int = 0
    lengths: tuple[int, ...] | None = None
    pcm: bool = False
    power: int = 2
    bands: int = 40
    bands_first: bool = False
    log: int = 0
    floor: float = 1e-3
    mean: float = 0.0
    scale: float = 1.0
    normalize: bool = False

    @property
    def padding(self) -> int:
        return self.n_fft // 2 if self.pad is None else self.pad

    def num_frames(self, samples: int) -> int:
        room = samples + 2 * self.padding - self.n_fft
        return 0 if room < 0 else room // self.hop + 1


CASES = [
    Case(256, 64, 5000, bands=23),  # 32 frames a block, the last one partial
    Case(256, 77, 6001, batch=3, lengths=(6001, 1, 4000), pcm=True, channels=2, bands_first=True),
    Case(256, 300, 9000, pad=0, pad_mode=1, power=1, normalize=True),  # hop beyond a window
    Case(512, 128, 4444, log=1, mean=-3.0, scale=0.5, bands_first=True),
    Case(512, 171, 300, batch=3, lengths=(300, 299, 2), normalize=True),  # clips shorter than a window
    Case(1024, 256, 9999, pad=1024, pad_mode=1, bands=200, log=2, power=1),
    Case(1024, 341, 3001, batch=1, channels=3, bands=1, bands_first=True, log=3),
    Case(2048, 480, 12_000, bands=128, log=1, lengths=(12_000, 5431)),
    Case(2048, 479, 9001, pcm=True, channels=2, lengths=(9001, 700), bands=300, normalize=True),
    Case(2048, 2048, 7000, pad=0, power=1, bands_first=True),
    Case(2048, 10_000, 30_000, pad=3, pad_mode=1, pcm=True),
    Case(2048, 1, 3, bands=64),
    Case(4096, 240, 8000, normalize=True, bands=128),
    Case(4096, 1365, 9100, batch=3, lengths=(9100, 4097, 1), channels=2, log=1, bands_first=True),
    Case(4096, 4097, 20_000, pad=0, pcm=True, power=1, lengths=(20_000, 4095)),
]


@dataclass(frozen=True)
class Problem:
    """A case's arrays: wave (B, C, S), window (n_fft,), Mel bank (K, F) and chroma bank (K, 12)."""

    case: Case
    wave: np.ndarray
    window: np.ndarray
    mel_bank: np.ndarray
    chroma_bank: np.ndarray


def problem(case: Case) -> Problem:
    """Draw a case's arrays."""
    random = np.random.default_rng(case.samples)
    wave = 0.1 * random.standard_normal((case.batch, case.channels, case.samples))
    wave = (wave * 32767).astype(np.int16) if case.pcm else wave.astype(np.float32)
    bins = np.arange(case.n_fft // 2 + 1)[:, None]
    edges = np.linspace(-1, case.n_fft // 2, case.bands + 2) ** 2 / (case.n_fft // 2)  # narrow bands below, wide above
    mel_bank = np.minimum((bins - edges[:-2]) / (edges[1:-1] - edges[:-2]), (edges[2:] - bins) / (edges[2:] - edges[1:-1]))
    return Problem(
        case,
        wave,
        np.hanning(case.n_fft + 1)[:-1].astype(np.float32),
        mel_bank.clip(min=0).astype(np.float32),
        random.random((len(bins), 12)).astype(np.float32),
    )


def answer(given: Problem, dtype: type = np.float64) -> tuple[np.ndarray, np.ndarray]:
    """Compute Mel and chroma (B, T, bands) in the given precision."""
    case = given.case
    mono = (given.wave.astype(dtype) / (32768 if case.pcm else 1)).mean(1)
    spectrum = np.zeros((case.batch, case.num_frames(case.samples), len(given.mel_bank)), dtype)
    for clip, length in enumerate(case.lengths or (case.samples,) * case.batch):
        edge = "constant" if case.pad_mode else "reflect" if length > 1 else "edge"
        padded = np.pad(mono[clip, :length], case.padding, mode=edge)
        for t in range(case.num_frames(length)):
            frame = padded[t * case.hop : t * case.hop + case.n_fft] * given.window.astype(dtype)
            spectrum[clip, t] = np.abs(np.fft.rfft(frame).astype(np.result_type(dtype, np.complex64))) ** case.power
    sums = spectrum @ given.mel_bank.astype(dtype)
    mel = (LOGS[case.log](np.maximum(sums, case.floor) if case.log else sums) - case.mean) * case.scale
    chroma = spectrum @ given.chroma_bank.astype(dtype)
    if case.normalize:
        peak = chroma.max(-1, keepdims=True, initial=0)
        chroma = chroma / np.where(peak < 1e-10, 1, peak)
    return mel, chroma


def arguments(given: Problem, place=lambda array: array.ctypes.data) -> tuple[Args, np.ndarray, np.ndarray, list[object]]:
    """Fill the ABI's structure.

    Args:
        given: the arrays.
        place: gives the address of what a GPU would read or write, the host's by default.

    Returns:
        the structure, the NaN that the outputs hold before the call, and what must live as long as the structure does.
    """
    case, bank = given.case, given.mel_bank
    used = bank != 0
    first = np.where(used.any(0), used.argmax(0), 0).astype(np.int32)
    count = np.where(used.any(0), len(bank) - used[::-1].argmax(0) - first, 1)
    weights = np.concatenate([bank[a : a + n, f] for f, (a, n) in enumerate(zip(first, count, strict=True))])
    offset = np.concatenate(([0], np.cumsum(count))).astype(np.int64)
    frames = case.num_frames(case.samples)
    shapes = [(case.batch, n, frames) if case.bands_first else (case.batch, frames, n) for n in (case.bands, 12)]
    mel, chroma = (np.full(shape, np.nan, np.float32) for shape in shapes)
    lengths = None if case.lengths is None else np.array(case.lengths, np.int64)
    host = [given.window, first, offset, weights, given.chroma_bank]
    window, band_first, band_offset, band_weights, chroma_bank = (array.ctypes.data for array in host)
    args = Args(
        wave=place(given.wave), lengths=None if lengths is None else place(lengths), batch=case.batch,
        channels=case.channels, samples=case.samples, row_stride=case.channels * case.samples, channel_stride=case.samples,
        hop=case.hop, pad=case.padding, window=window, n_fft=case.n_fft, sample_type=case.pcm, power=case.power,
        num_threads=1, pad_mode=case.pad_mode, bands_first=case.bands_first, mel=place(mel), mel_size=mel.size,
        band_first=band_first, band_offset=band_offset, band_weights=band_weights, band_size=len(weights),
        num_bands=case.bands, band_bins=len(bank), log_mode=case.log, floor=case.floor, mean=case.mean, scale=case.scale,
        chroma=place(chroma), chroma_size=chroma.size, chroma_bank=chroma_bank, chroma_bins=len(bank),
        chroma_normalize=case.normalize,
    )  # fmt: skip
    return args, mel, chroma, [given, lengths, *host]


def in_order(case: Case, output: np.ndarray) -> np.ndarray:
    """View an output as (B, T, bands)."""
    return output.swapaxes(1, 2) if case.bands_first else output


def run_phases(library: ctypes.CDLL, given: Problem, order: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Run a case on the library of tests/csrc/phases.cpp; returns Mel and chroma (B, T, bands)."""
    args, mel, chroma, _alive = arguments(given)
    library.duotok_last_error.restype = ctypes.c_char_p
    assert library.run_phases(ctypes.byref(args), order) == 0, library.duotok_last_error()
    return in_order(given.case, mel), in_order(given.case, chroma)


if __name__ == "__main__":
    for each in CASES:
        for name, found in zip(("mel", "chroma"), run_phases(ctypes.CDLL(sys.argv[1]), problem(each)), strict=True):
            assert np.isfinite(found).all(), f"{name} of {each} holds values that nobody wrote"
