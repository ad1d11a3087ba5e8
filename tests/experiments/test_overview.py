"""The page of all experiments: claims from their results, and points from files of evaluations beside the published ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from duotok.cli import app
from duotok.experiments.overview import PUBLISHED, measured

CLAIM = {"text": "noise helps", "measure": "bits", "arm": "on", "other": "off", "sign": -1}


def write(path: Path, values: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


def evaluations(folder: Path) -> None:
    ours = {"fingerprint": "f00", "codec": "duotok tiny", "nominal_bits_per_second": 750.0}
    write(folder / "ppl.json", ours | {"size": "tiny", "results": {"mean": {"ppl_1024": 6.0}}})
    tracks = {"vocals": {"mel_l1": 1.0}, "accompaniment": {"mel_l1": 2.0}, "mix": {"mel_l1": 9.0}}
    write(folder / "sound.json", ours | {"tracks": tracks})
    write(folder / "other.json", {"codec": "dac", "results": {"mean": {"ppl_1024": 3.0}}})
    write(folder / "list.json", [1])


def test_a_point_needs_both_evaluations_of_one_codec(tmp_path):
    evaluations(tmp_path)
    (point,) = measured(tmp_path)
    assert (point.ppl_1024, point.mel_l1, point.kbps, point.published) == (6.0, 1.5, 0.75, False)
    assert measured(tmp_path / "none") == []


def test_the_page_tells_every_claim_and_marks_what_was_published(tmp_path):
    evaluations(tmp_path / "evaluation")
    claims = [CLAIM | {"verdict": "not shown", "mean": -0.25, "half": 0.5, "count": 3},
              CLAIM | {"verdict": "not tested", "mean": None, "half": None, "count": 0}]  # fmt: skip
    write(tmp_path / "experiments" / "noise" / "results.json", {"title": "Noise", "claims": claims})
    write(tmp_path / "experiments" / "samplers" / "results.json", {"rows": []})
    given = ["experiment", "report", str(tmp_path / "experiments"), "--evaluation", str(tmp_path / "evaluation")]
    outcome = CliRunner().invoke(app, given)
    assert outcome.exit_code == 0, outcome.output
    page = (tmp_path / "experiments" / "README.md").read_text()
    assert "## [Noise](noise/README.md)" in page and "## [samplers](samplers/README.md)" in page
    assert "- noise helps: **not shown** (bits, on minus off: -0.25 ± 0.5, 3 seeds)" in page
    assert "- noise helps: **not tested**\n" in page
    assert "| Duo-Tok | 4.75 | 0.93 | 0.75 | published |" in page
    assert "| duotok tiny, tiny LM | 6 | 1.5 | 0.75 | measured here |" in page
    assert (tmp_path / "experiments" / "pareto.png").read_bytes().startswith(b"\x89PNG")
    results = json.loads((tmp_path / "experiments" / "results.json").read_text())
    assert len(results["points"]) == len(PUBLISHED) + 1 and results["claims"]["noise"] == claims


def test_published_points_follow_from_the_table():
    """Raw perplexity of Duo-Tok, PPL@1024 x 32,768 / 1,024, is 152, and its Mel L1 the mean of 0.74 and 1.12."""
    ours = next(point for point in PUBLISHED if point.codec == "Duo-Tok")
    assert ours.ppl_1024 * 32 == 152 and ours.mel_l1 == pytest.approx((0.74 + 1.12) / 2)


def test_a_folder_without_experiments_is_refused(tmp_path):
    outcome = CliRunner().invoke(app, ["experiment", "report", str(tmp_path)])
    assert isinstance(outcome.exception, ValueError) and "expected folders with results.json" in str(outcome.exception)
