"""All experiments on one page: what was found of each claim, and the chart of predictability against reconstruction.

The chart is the paper's figure 1: PPL@1024 and Mel L1 of codecs, the area of a bubble their bit rate.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from matplotlib.figure import Figure

from duotok.model.bottleneck import TRACKS

from .report import RESULTS, Report, table


@dataclass(frozen=True)
class Point:
    """A codec in the chart: PPL@1024, Mel L1, kilobits per second, and whether the paper published it or we measured it."""

    codec: str
    ppl_1024: float
    mel_l1: float
    kbps: float
    published: bool


# Table 2 of DUO-TOK (arXiv 2511.20224); its own Mel L1 is the mean of vocals (0.74) and accompaniment (1.12), as in figure 1.
PUBLISHED = (
    Point("DAC", 194.0, 0.73, 6.0, True),
    Point("EnCodec", 141.3, 0.78, 6.0, True),
    Point("SemantiCodec", 15.5, 0.98, 1.3, True),
    Point("WavTokenizer", 38.2, 1.15, 0.48, True),
    Point("X-Codec", 47.5, 0.91, 4.0, True),
    Point("YuE", 46.2, 0.90, 4.0, True),
    Point("MuCodec-LeVo", 8.10, 1.37, 0.70, True),
    Point("Duo-Tok", 4.75, 0.93, 0.75, True),
)
_ABOUT = (
    "Every experiment trains its arms on a small corpus, with several seeds, and says of each claim whether it shows: whether "
    "the 95 % interval of the difference, paired by seed, excludes zero, and on which side. Nothing is corrected for the "
    "number of claims, so that about one in twenty would show by chance; what does not show may need more training or more "
    "seeds."
)
_CAUTION = (
    "Hollow bubbles are the paper's Table 2, published, not measured here: music of MTG-Jamendo and GTZAN, language models of "
    "100 M parameters and 100,000 steps. Filled ones are ours, measured on the songs and with the language model that their "
    "files name. The two kinds are no ranking of one another."
)


def overview(experiments: Path, evaluation: Path) -> Report:
    """Gather results.

    Args:
        experiments: folder with a folder of each experiment, as `write_report` leaves it.
        evaluation: folder of files that `duotok evaluate perplexity` and `reconstruction` wrote; it need not exist.

    Raises:
        ValueError: if there is no experiment.
    """
    found = {path.parent.name: json.loads(path.read_text()) for path in sorted(experiments.glob(f"*/{RESULTS}"))}
    if not found:
        raise ValueError(f"{experiments}: expected folders with {RESULTS}; got none; run an experiment first")
    points = [*PUBLISHED, *measured(evaluation)]
    sections = [_section(name, results) for name, results in found.items()]
    rows = [(p.codec, p.ppl_1024, p.mel_l1, p.kbps, "published" if p.published else "measured here") for p in points]
    chart = f"## Predictability against reconstruction\n\n{_CAUTION}\n\n"
    chart += table(rows, ("codec", "PPL@1024", "Mel L1", "kbit/s", ""))
    claims = {name: results["claims"] for name, results in found.items() if "claims" in results}
    text = "\n\n".join((_ABOUT, *sections, chart))
    return Report("Experiments", text, {"claims": claims, "points": [*map(asdict, points)]}, ("pareto", draw(points)))


def measured(evaluation: Path) -> list[Point]:
    """Read the points of codecs of which there is a perplexity and a reconstruction, in the order of their files."""
    files = [json.loads(path.read_text()) for path in sorted(evaluation.glob("*.json"))]
    files = [file for file in files if isinstance(file, Mapping)]
    sounds = {_identity(file): file["tracks"] for file in files if "mel_l1" in file.get("tracks", {}).get("mix", {})}
    points = []
    for file in files:
        mean = file.get("results", {}).get("mean", {})
        if "ppl_1024" in mean and (tracks := sounds.get(_identity(file))):
            parts = [tracks[name]["mel_l1"] for name in TRACKS]
            kbps = file["nominal_bits_per_second"] / 1000
            points.append(Point(_name(file), mean["ppl_1024"], sum(parts) / len(parts), kbps, False))
    return points


def _identity(file: Mapping) -> str:
    """Tell which codec made a file: its fingerprint, or its name where it has none."""
    return str(file.get("fingerprint") or file.get("codec"))


def _name(file: Mapping) -> str:
    return f"{file.get('codec', 'duotok')}, {file['size']} LM" if "size" in file else str(file.get("codec", "duotok"))


def draw(points: Sequence[Point]) -> Figure:
    """Draw the chart: down and to the left is better."""
    figure = Figure(figsize=(8, 5.5), layout="constrained")
    axes = figure.subplots()
    styles = {
        "published, the paper's Table 2": {"facecolors": "none", "edgecolors": "0.4"},
        "measured here": {"color": "C1", "alpha": 0.7},
    }
    for kind, (label, style) in enumerate(styles.items()):
        chosen = [point for point in points if point.published == (kind == 0)]
        if chosen:
            x, y, area = zip(*((point.ppl_1024, point.mel_l1, 120 * point.kbps) for point in chosen), strict=True)
            axes.scatter(x, y, s=area, label=label, **style)
    for number, point in enumerate(points):  # names above and below in turn, for those that lie close
        above, off = number % 2 == 0, (120 * point.kbps) ** 0.5 / 2 + 2
        place = {"xytext": (0, off if above else -off), "va": "bottom" if above else "top"}
        axes.annotate(point.codec, (point.ppl_1024, point.mel_l1), textcoords="offset points", ha="center", fontsize=8, **place)
    axes.set(xscale="log", xlabel="PPL@1024", ylabel="Mel L1", title="area of a bubble: bit rate")
    axes.margins(0.12)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def _section(name: str, results: Mapping) -> str:
    lines = [f"## [{results.get('title', name)}]({name}/README.md)"]
    claims = [f"- {_claim(claim)}" for claim in results.get("claims", ())]
    return "\n\n".join([*lines, "\n".join(claims)] if claims else lines)


def _claim(claim: Mapping) -> str:
    if claim["mean"] is None:
        return f"{claim['text']}: **{claim['verdict']}**"
    half = "" if claim["half"] is None else f" ± {claim['half']:.2g}"
    compared = f"{claim['measure']}, {claim['arm']} minus {claim['other']}"
    return f"{claim['text']}: **{claim['verdict']}** ({compared}: {claim['mean']:.4g}{half}, {claim['count']} seeds)"
