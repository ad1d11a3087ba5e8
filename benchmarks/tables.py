"""The tables and charts of the documentation, made from the results: every bar that was set, those missed too, and why.

python benchmarks/tables.py            write them: between `<!-- results: NAME -->` and `<!-- /results -->` in README.md and
                                       docs/benchmarks.md, and docs/speed.png and docs/roofline.png
python benchmarks/tables.py --check    exit code 1, and the names, where they are not what would be written
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from bars import BARS, CPU, RESULTS, Bar, holds, measured, reached, results

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/benchmarks.md")
MARKED = re.compile(r"(<!-- results: (\w+) -->\n).*?(<!-- /results -->)", re.DOTALL)


def quantity(value: float, unit: str) -> str:
    """Write a number with its unit: 2.7x, 93 %, 12 MB."""
    if unit == "%":
        return f"{100 * value:.0f} %"
    text = f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.2g}" if value < 1 else f"{value:.3g}"
    return text + {"x": "x", "": ""}.get(unit, f" {unit}")


def line(*cells: str) -> str:
    """Write a row of a table."""
    return "| " + " | ".join(cells) + " |\n"


def head(*names: str) -> str:
    """Write the first two rows of a table."""
    return line(*names) + "|---" * len(names) + "|\n"


def bars_table(bars: Sequence[Bar] | None = None) -> str:
    """Bars, what was measured, and why where one is missed."""
    rows = []
    for bar in BARS if bars is None else bars:
        value, file = measured(bar) or (None, "-")
        verdict = {None: "not measured", True: "yes", False: f"**no**: {bar.why}".rstrip(": ")}[holds(bar)]
        set_to = ("at most " if bar.at_most else "") + quantity(bar.bar, bar.unit)
        rows.append(line(bar.what, set_to, "-" if value is None else quantity(value, bar.unit), verdict, file))
    return head("what", "bar", "measured", "held", "benchmarks/results/") + "".join(rows)


def main_bars_table() -> str:
    """The bars of the README: the main ones, and all that are missed."""
    return bars_table([bar for bar in BARS if bar.main or not holds(bar)])


def machine(name: str) -> str:
    """Name a file of pytest-benchmark and the machine that wrote it, a sentence."""
    info = json.loads((RESULTS / name).read_text(encoding="utf-8"))["machine_info"]
    cpu = f"{info['cpu']['brand_raw']}, {info['torch_threads']} threads, {info['cpu_capability']}"
    chip = "one NVIDIA H100" if name.startswith("h100") else cpu
    return (
        f"`benchmarks/results/{name}`: {chip}; torch {info['torch']}. Rivals that take less than 1x are faster than ours.\n\n"
    )


def _rivals(info: dict) -> str:
    names = [key.removesuffix("_over_ours") for key in info if key.endswith("_over_ours")]
    return ", ".join(f"{name} {quantity(info[f'{name}_over_ours'], 'x')}" for name in names)


def cpu_table() -> str:
    """Every benchmark of the processor: time, rivals' time over it, rates, shares of the measured peaks."""
    rows = []
    for name, info in results(CPU[0]).items():
        if "ours_ms" not in info:
            continue
        rates = [f"{info[key]:.0f} {unit}" for key, unit in (("gbytes_s", "GB/s"), ("gflops", "GFLOP/s")) if key in info]
        peaks = [
            f"{100 * info[key]:.0f} % of {peak}"
            for key, peak in (("of_copy_peak", "copy"), ("of_gemm_peak", "GEMM"), ("share_of_products", "products"))
            if key in info
        ]
        rows.append(
            line(
                f"`{name.removeprefix('bench_')}`", f"{info['ours_ms']:.3g}", _rivals(info), ", ".join(rates), ", ".join(peaks)
            )
        )
    return machine(CPU[0]) + head("benchmark", "ms", "rivals take", "rate", "peak") + "".join(rows)


def gpu_table() -> str:
    """Every benchmark of the H100."""
    rows = []
    for name, info in results("h100.json").items():
        if "ours_ms" in info:
            peak = f"{100 * info['of_copy_peak']:.0f} % of copy" if "of_copy_peak" in info else ""
            peak = peak or (f"{100 * info['of_float16_peak']:.0f} % of product" if "of_float16_peak" in info else "")
            rows.append(line(f"`{name.removeprefix('bench_')}`", f"{info['ours_ms']:.3g}", _rivals(info), peak))
    plans = json.loads((RESULTS / "h100-search.json").read_text(encoding="utf-8"))["plans"]
    rows += [line(f"`nearest_code[{p['width']}]`", f"{p['total_ms']:.3g}", "", "") for p in plans if p["default"]]
    return machine("h100.json") + head("benchmark", "ms", "rivals take", "peak") + "".join(rows)


def roofline_table() -> str:
    """What roofline.py wrote."""
    return (RESULTS / "roofline.md").read_text(encoding="utf-8")


# Stage -> what goes in, what comes out, and the scores of its log that count.
STAGES = {
    "stage1": ("mixtures", "a run", {"cross_entropy": "cross-entropy", "accuracy": "accuracy"}),
    "stage2": ("mixtures, stems, lyrics; stage 1", "a run", {"mel": "Mel L1", "chroma": "chroma L1", "masks": "masks L1"}),
    "stage3": (
        "stems, lyrics; stage 2", "a tokenizer",
        {"mel": "Mel L1", "chroma": "chroma L1", "character_errors": "character errors"},
    ),
    "vae": ("mixtures, stems", "an autoencoder", {"mel_distance": "Mel distance"}),
    "stage4": (
        "stems; tokenizer and autoencoder", "a tokenizer that decodes",
        {"epsilon": "L_eps", "si_snr_improvement": "SI-SNR improvement (dB)"},
    ),
}  # fmt: skip


def stages_table() -> str:
    """What each stage of the shipped tokenizer took, cost and reached."""
    found = json.loads((ROOT / "duotok" / "checkpoints" / "tiny" / "results.json").read_text(encoding="utf-8"))
    rows = []
    for name, (takes, gives, scores) in STAGES.items():
        run = found["runs"][name]
        told = ", ".join(f"{label} {run['evaluations'][-1][key]:.3g}" for key, label in scores.items())
        rows.append(line(f"`tiny/{name}`", takes, gives, f"{run['steps']} steps, {run['seconds']:.0f} s", told))
    return head("`duotok train`", "input", "output", f"cost on {found['trained_on']}", "held-out score") + "".join(rows)


# Module -> what it replaces, the benchmark that has both (file, name, key), and what was compared there.
DROP_INS = {
    "MelSpectrogram": (
        "torchaudio.transforms'; `log=\"db\"` adds AmplitudeToDB in the same pass",
        ("cpu-epyc.json", "bench_torchaudio", "torchaudio_over_ours"), "with AmplitudeToDB, n_fft 2048, hop 480, 48 kHz",
    ),
    "ChromaSpectrogram": ("torchaudio.prototype.transforms'", None, ""),
    "SimVQ": (
        "vector-quantize-pytorch's", ("cpu-epyc.json", "bench_simvq_with_the_search", "peer_over_ours"),
        "forward and backward of 4,096 rows, 32,768 codes, d = 128",
    ),
    "RandomProjectionQuantizer": (
        "vector-quantize-pytorch's", ("cpu-epyc.json", "bench_search[64]", "cdist_over_ours"),
        "torch.cdist and argmin against `nearest_code` of a prepared codebook, d = 64; not the whole module",
    ),
    "SimVQ1D": ("the SimVQ authors'", None, ""),
    "Attention": ("torch.nn.MultiheadAttention, with lengths instead of a mask, by arguments of its own", None, ""),
}  # fmt: skip


def drop_ins_table() -> str:
    """Modules, what they replace, and how much faster they are on a CPU where that was measured."""
    rows = []
    for name, (replaces, place, compared) in DROP_INS.items():
        value = results(place[0]).get(place[1], {}).get(place[2]) if place else None
        rows.append(line(f"`{name}`", replaces, *(("-", "") if value is None else (quantity(value, "x"), compared))))
    return head("module", "replaces", "faster, 2 CPU cores", "compared") + "".join(rows)


TABLES = {
    "bars": bars_table,
    "main_bars": main_bars_table,
    "cpu": cpu_table,
    "gpu": gpu_table,
    "roofline": roofline_table,
    "stages": stages_table,
    "dropins": drop_ins_table,
}


def filled(page: str) -> str:
    """Put every table between its marks.

    Raises:
        ValueError: for a mark with an unknown name.
    """

    def fill(found: re.Match) -> str:
        if found[2] not in TABLES:
            raise ValueError(f"tables: expected one of {', '.join(TABLES)}; got {found[2]!r}; correct the mark")
        return f"{found[1]}{TABLES[found[2]]()}{found[3]}"

    return MARKED.sub(fill, page)


def speeds() -> list[tuple[Bar, float]]:
    """Bars of the first chart: how many times faster than a rival."""
    return [(bar, value) for bar in BARS if bar.unit == "x" and not bar.at_most and (value := reached(bar)) is not None]


def draw_speeds(path: Path, stamp: str) -> None:
    """Draw times of rivals over ours, and the bars that were set."""
    import matplotlib.pyplot as plt

    chosen = speeds()[::-1]
    figure, axes = plt.subplots(figsize=(11, 0.34 * len(chosen) + 1.2), layout="constrained")
    colours = ["#2a6f97" if holds(bar) else "#c1121f" for bar, _ in chosen]
    axes.barh([bar.what.replace("`", "") for bar, _ in chosen], [value for _, value in chosen], color=colours)
    for place, (bar, value) in enumerate(chosen):
        axes.plot([bar.bar] * 2, [place - 0.45, place + 0.45], color="black", linewidth=2)
        axes.text(value, place, f" {value:.1f}x", va="center")
    axes.set(xscale="log", xlim=(0.9, 1.3 * max(value for _, value in chosen)))
    axes.set_xticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
    axes.set_xlabel("rival's time over ours; black: the bar that was set; red: missed")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110, metadata={"Description": stamp})
    plt.close(figure)


def draw_roofline(path: Path, stamp: str) -> None:
    """Draw floor, estimate and measurement of every GPU kernel on the H100."""
    import matplotlib.pyplot as plt

    rows = [row for row in list(results("roofline.json").values())[::-1] if "H100" in row["chips"]]
    figure, axes = plt.subplots(figsize=(9, 0.3 * len(rows) + 1.2), layout="constrained")
    for place, row in enumerate(rows):
        chip = row["chips"]["H100"]
        axes.barh(place, max(chip["bytes_us"], chip["arithmetic_us"]), color="#bcd4e6", label="floor" if not place else None)
        axes.plot(chip["estimate_us"], place, "|", color="black", markersize=12, label="estimate" if not place else None)
        if "H100" in row["measured_us"]:
            axes.plot(row["measured_us"]["H100"], place, "o", color="#c1121f")
    axes.plot([], [], "o", color="#c1121f", label="measured")
    axes.set_yticks(range(len(rows)), [f"{row['op']}, {row['kernel']}" for row in rows])
    axes.set(xscale="log", xlabel="microseconds on an H100")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=110, metadata={"Description": stamp})
    plt.close(figure)


def charts() -> dict[str, tuple[object, str]]:
    """For each chart what draws it, and a hash of what it shows, which goes into the file."""
    shown = {
        "docs/speed.png": (draw_speeds, [(bar.what, bar.bar, value) for bar, value in speeds()]),
        "docs/roofline.png": (draw_roofline, results("roofline.json")),
    }
    return {
        name: (draw, hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest())
        for name, (draw, data) in shown.items()
    }


def stale(root: Path) -> list[str]:
    """Name the pages and charts under a folder that are not what would be written."""
    pages = [root / name for name in PAGES]
    found = [str(page.relative_to(root)) for page in pages if (text := page.read_text(encoding="utf-8")) != filled(text)]
    for name, (_, stamp) in charts().items():
        if not (root / name).exists() or stamp.encode() not in (root / name).read_bytes():
            found.append(name)
    return found


def main(arguments: Sequence[str], root: Path = ROOT) -> int:
    """Write everything, or check it."""
    parser = argparse.ArgumentParser(prog="python benchmarks/tables.py", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if something is stale")
    given = parser.parse_args(arguments)
    if given.check:
        found = stale(root)
        print("\n".join(f"{name}: not what benchmarks/tables.py writes" for name in found))
        return 1 if found else 0
    for page in (root / name for name in PAGES):
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
    for name, (draw, stamp) in charts().items():
        draw(root / name, stamp)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
