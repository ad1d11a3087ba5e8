"""The bars that were set before the work, and where what was measured stands: a file of results, a benchmark or keys, a key.

reached(bar) -> the number, or None where it has not been measured
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
CPU, ROOFLINE = ("cpu-epyc.json",), ("roofline.json",)


@dataclass(frozen=True)
class Bar:
    """One bar.

    Attributes:
        what: is measured.
        bar: to reach.
        files: of results, the first that holds the number counts.
        keys: way to the number in the file; a benchmark's name first where pytest-benchmark wrote it.
        unit: "x", "%", "MB", "dB" or "".
        at_most: whether less is better.
        why: said where the bar is missed.
        main: whether README.md names it; it names those that are missed in any case.
    """

    what: str
    bar: float
    files: tuple[str, ...]
    keys: tuple[str, ...]
    unit: str = "x"
    at_most: bool = False
    why: str = ""
    main: bool = False


_CONFORMER = "six of its layers have as many parameters as twelve blocks, and half their attention"
_FRONT = "no benchmark here breaks down what the rest is spent on"

BARS = (
    *(
        Bar(
            f"`nearest_code` of a prepared codebook, d = {width}, against faiss IndexFlatL2", bar, CPU,
            (f"bench_search[{width}]", "faiss_over_ours"), main=width == 128,
        )
        for width, bar in ((64, 2.5), (128, 2.5), (256, 1.6), (512, 1.6))
    ),
    *(
        Bar(
            f"`nearest_code` of a prepared codebook, d = {width}, against torch.cdist", 3, CPU,
            (f"bench_search[{width}]", "cdist_over_ours"), main=width == 128,
        )
        for width in (64, 128, 256, 512)
    ),
    Bar(
        "`nearest_code`, d = 512, memory beyond its input and the prepared codebook", 64, CPU,
        ("bench_search[512]", "peak_extra_mb"), "MB", True,
    ),
    Bar(
        "`replace_noise`, forward, against eager torch", 3, CPU,
        ("bench_replace_noise[forward-frames]", "eager_over_ours"), main=True,
    ),
    Bar(
        "`simvq_loss`, forward and backward, against vector-quantize-pytorch", 3, CPU,
        ("bench_simvq_after_the_search", "peer_over_ours"), main=True,
    ),
    Bar(
        "SimVQ with its search: memory, of vector-quantize-pytorch's", 0.10, CPU,
        ("bench_simvq_with_the_search", "share_of_peer_memory"), "%", True,
    ),
    Bar("`log_mel` against torchaudio", 8, CPU, ("bench_torchaudio", "torchaudio_over_ours"), main=True),
    Bar("`log_mel` against librosa", 5, CPU, ("bench_librosa", "librosa_over_ours")),
    Bar("`log_mel` against kaldi-native-fbank, one thread each", 10, CPU, ("bench_kaldi", "kaldi_over_ours")),
    Bar("Mel and chroma at once, over Mel alone", 1.4, CPU, ("bench_both", "ours_over_mel_alone"), "x", True),
    Bar("`log_mel`, memory, output included", 32, CPU, ("bench_memory_and_peaks", "peak_extra_mb"), "MB", True),
    *(
        Bar(
            f"front half at paper size, {dtype}: of what {rival} reaches at its shapes", bar, CPU,
            (f"bench_front_half[paper-{dtype}]", key), "%", why=_FRONT, main=key == "share_of_products",
        )
        for dtype, bar in (("float32", 0.90), ("bfloat16", 0.80))
        for rival, key in (("torch.mm", "share_of_mm"), ("the faster of torch.mm and oneDNN", "share_of_products"))
    ),
    *(
        Bar(
            f"front blocks against {rival}, {dtype}", 1, CPU,
            (f"bench_other_encoders[paper-{dtype}]", f"{key}_over_ours"), why=why, main=True,
        )
        for rival, key, why in (
            ("Wav2Vec2-Conformer", "conformer", _CONFORMER),
            ("transformers' BERT, which has the same layers", "bert", ""),
        )
        for dtype in ("float32", "bfloat16")
    ),
    Bar("calling an op, beyond the bare function", 5, CPU, ("bench_dispatch_overhead", "overhead_us"), "us", True),
    *(
        Bar(
            f"coarse search on sm_90, d = {width}: instructions for a (row, code) pair", 2.2, ROOFLINE,
            (f"nearest_code coarse d={width}", "instructions_per_unit", "H100"), "", True,
        )
        for width in (64, 128)
    ),
    Bar(
        "noise on sm_90: instructions for an element", 60, ROOFLINE,
        ("replace_noise elements", "instructions_per_unit", "H100"), "", True,
    ),
    Bar(
        "a job: share of decoding, features and encoding", 0.85, CPU,
        ("bench_two_workers[of one core each]", "two_workers", "share_decode_features_encode"), "%", main=True,
    ),
    Bar(
        "a job: two workers of a core each against one", 1.7, CPU, ("bench_two_workers[of one core each]", "ratio"),
        why="start-up counts in jobs of 20 s", main=True,
    ),
    Bar(
        "a job: two workers against one, as by default", 1.7, CPU, ("bench_two_workers[as by default]", "ratio"),
        why="one worker's thread that decodes already fills the second of the two cores",
    ),
    Bar(
        "a job against a plain loop, songs in Opus", 3, CPU, ("bench_plain_loop", "ratio"), main=True,
    ),
    Bar("kills of a running job that changed no byte", 100, ("jobs-kills.json",), ("total",), "", main=True),
    *(
        Bar(
            f"separation: vocal SDR of the released Spleeter model, {name}, median", 8, ("separation.json",),
            ("mixes", mix, "all", "sdr_vocals", "median"), "dB", why=why, main=True,
        )
        for mix, name, why in (
            ("equally loud", "vocals as loud as the accompaniment (the bar names no balance)", ""),
            ("as released", "in the songs' own mixes", "vocals of these songs are 7 dB below the accompaniment"),
        )
    ),
)  # fmt: skip


@functools.cache
def results(name: str) -> dict:
    """Read a file of results; benchmarks and kernels of the roofline by name, without the prefix of their file."""
    path = RESULTS / name
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if "benchmarks" in found:
        return {run["name"]: run["extra_info"] for run in found["benchmarks"]}
    if name == "roofline.json":
        return {f"{row['op']} {row['kernel']}": row for row in found.get("rows", [])}
    return found


def measured(bar: Bar) -> tuple[float, str] | None:
    """Look up what was measured, and the file that has it; None if none has."""
    for name in bar.files:
        value: object = results(name)
        for key in bar.keys:
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, int | float):
            return float(value), name
    return None


def reached(bar: Bar) -> float | None:
    """Look up what was measured; None if no file has it."""
    found = measured(bar)
    return found[0] if found else None


def holds(bar: Bar) -> bool | None:
    """Whether the bar is reached; None if it has not been measured."""
    value = reached(bar)
    return None if value is None else value <= bar.bar if bar.at_most else value >= bar.bar
