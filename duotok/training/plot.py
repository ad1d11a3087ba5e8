"""Curves of a run as a picture, from its log."""

from __future__ import annotations

from pathlib import Path

from .log import FILE, read_log


def plot(run: Path) -> Path:
    """Draw losses, held-out scores, the gradient norm and what the task monitors (codebook use) over the steps.

    Args:
        run: folder of a run.

    Returns:
        the picture, curves.png in that folder.

    Raises:
        ValueError: if the run has no log, or matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("plot: expected matplotlib; it is not installed; pip install 'duotok[train]'") from None

    curves = {title: found for title, found in _curves(read_log(run)).items() if found}
    if not curves:
        raise ValueError(f"{run}: expected rows in {FILE}; got none; train first")
    figure = Figure(figsize=(6 * len(curves), 4), layout="constrained")
    for axes, (title, found) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        for name, points in found.items():
            axes.plot(*zip(*points, strict=True), label=name, marker="." if len(points) < 50 else None)
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(run / "curves.png", dpi=120)
    return run / "curves.png"


def _curves(rows: list[dict]) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Points (step, value) of every curve of every panel."""
    panels: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for row in rows:
        gradient = {"norm": row["gradient_norm"]} if row["kind"] == "train" else {}
        groups = {"losses": row.get("losses"), "evaluation": row.get("scores"), "gradient": gradient}
        for title, values in {**groups, "monitor": row.get("monitor")}.items():
            for name, value in (values or {}).items():
                panels.setdefault(title, {}).setdefault(name, []).append((row["step"], value))
    return panels
