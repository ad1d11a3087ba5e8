"""What every experiment leaves in its folder: results.json, curves.png and README.md."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from duotok.files import make_folder, write_atomically

# Of a panel, the curves by name: points (x, y).
Curves = Mapping[str, Sequence[tuple[float, float]]]


@dataclass(frozen=True)
class Report:
    """An experiment's outcome.

    Attributes:
        name: of its file here.
        title, text: of the page.
        results: plain values.
        panels: curves by the name of their y axis.
        x_label, log_x: of the x axis, which all panels share.
    """

    name: str
    title: str
    text: str
    results: dict
    panels: Mapping[str, Curves]
    x_label: str
    log_x: bool = False


def write_report(folder: Path, report: Report, arguments: Sequence[str]) -> None:
    """Write a report's files; `arguments` are those of the command that made it."""
    command = f"python -m duotok.experiments.{report.name} {shlex.join(arguments)}"
    panels = report.panels
    make_folder(folder)
    write_atomically(folder / "results.json", (json.dumps({"command": command, **report.results}, indent=1) + "\n").encode())
    figure = Figure(figsize=(6 * len(panels), 4), layout="constrained")
    for axes, (label, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for name, points in curves.items():
            axes.plot(*zip(*points, strict=True), label=name, marker=".")
        axes.set(xlabel=report.x_label, ylabel=label, xscale="log" if report.log_x else "linear")
        if report.log_x:
            places = sorted({x for points in curves.values() for x, _ in points})
            axes.set_xticks(places, [f"{x:g}" for x in places])
            axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(folder / "curves.png", dpi=120)
    page = f"# {report.title}\n\n{report.text}\n\n![{report.title}](curves.png)\n\n```bash\n{command}\n```\n"
    write_atomically(folder / "README.md", page.encode())


def table(rows: Sequence[Sequence[object]], header: Sequence[str]) -> str:
    """Draw a Markdown table; numbers get four digits."""
    cells = [[f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *cells))
