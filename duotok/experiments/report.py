"""What every experiment leaves in its folder: results.json, a picture and README.md."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from duotok.files import make_folder, whole_file, write_atomically

RESULTS = "results.json"
# Of a panel, the curves by name: points (x, y).
Curves = Mapping[str, Sequence[tuple[float, float]]]


@dataclass(frozen=True)
class Report:
    """An experiment's outcome.

    Attributes:
        title, text: of the page.
        results: plain values.
        picture: its name without the ending, and what it shows.
    """

    title: str
    text: str
    results: dict
    picture: tuple[str, Figure]


def write_report(folder: Path, report: Report, command: str) -> None:
    """Write a report's files; `command` is what made it."""
    name, figure = report.picture
    make_folder(folder)
    results = json.dumps({"title": report.title, "command": command, **report.results}, indent=1)
    write_atomically(folder / RESULTS, f"{results}\n".encode())
    with whole_file(folder / f"{name}.png", "a picture") as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    page = f"# {report.title}\n\n{report.text}\n\n![{report.title}]({name}.png)\n\n```bash\n{command}\n```\n"
    write_atomically(folder / "README.md", page.encode())


def draw_curves(panels: Mapping[str, Curves], x_label: str) -> Figure:
    """Draw curves over a logarithmic x axis, which all panels share, with ticks where the points are."""
    figure = Figure(figsize=(6 * len(panels), 4), layout="constrained")
    for axes, (label, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for name, points in curves.items():
            axes.plot(*zip(*points, strict=True), label=name, marker=".")
        places = sorted({x for points in curves.values() for x, _ in points})
        axes.set(xlabel=x_label, ylabel=label, xscale="log")
        axes.set_xticks(places, [f"{x:g}" for x in places])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def table(rows: Sequence[Sequence[object]], header: Sequence[str]) -> str:
    """Draw a Markdown table; numbers get four digits."""
    cells = [[f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *cells))
