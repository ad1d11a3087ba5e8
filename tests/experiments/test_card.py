"""The card: gathered from logs and results, and the one that ships is what its results give."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

import duotok
from duotok.cli import app
from duotok.experiments import card

TINY = Path(duotok.__file__).parent / "checkpoints" / "tiny"


def test_the_card_that_ships_is_made_of_its_results():
    results = json.loads((TINY / "results.json").read_text())
    assert results["quality"]["tokenizer"] == duotok.load("tiny").fingerprint
    assert results["decoding"]["decoder"] == duotok.load("tiny").decoder.fingerprint
    text = (TINY / "about.md").read_text(encoding="utf-8")
    assert f"{card.page(text, results)}\n" == (TINY / "README.md").read_text(encoding="utf-8")


def test_runs_are_gathered_with_their_cost_and_scores(tmp_path):
    for name in card.RUNS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text("data: {crop_s: 15.0, batch_size: 24, eval_crops: 32}\n")
        rows = [
            {"kind": "train", "step": 10, "seconds_per_step": 0.5},
            {"kind": "evaluation", "step": 10, "scores": {"loss": 2.0}},
            {"kind": "train", "step": 14, "seconds_per_step": 0.25},
            {"kind": "evaluation", "step": 14, "scores": {"loss": 1.0}},
        ]
        (tmp_path / name / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    results = json.loads((TINY / "results.json").read_text())
    for part in ("quality", "decoding"):
        (tmp_path / f"{part}.json").write_text(json.dumps(results[part]))
    places = [argument for part in ("quality", "decoding") for argument in (f"--{part}", str(tmp_path / f"{part}.json"))]
    about = ["--about", str(TINY / "about.md"), "--trained-on", "a toaster"]
    vae = results["runs"]["vae"]["evaluations"][-1]
    log = tmp_path / "vae" / "log.jsonl"
    log.write_text(log.read_text() + json.dumps({"kind": "evaluation", "step": 14, "scores": vae}) + "\n")
    arguments = ["experiment", "card", *about, "--runs", str(tmp_path), *places, "-o", str(tmp_path)]
    outcome = CliRunner().invoke(app, arguments)
    assert outcome.exit_code == 0, outcome.output
    found = json.loads((tmp_path / "results.json").read_text())["runs"]["stage1"]
    assert found == {
        "steps": 14, "seconds": 6.0, "crop_s": 15.0, "batch_size": 24,
        "evaluations": [{"step": 10, "loss": 2.0}, {"step": 14, "loss": 1.0}],
    }  # fmt: skip
    page = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "## Training, on a toaster" in page and "| stage1 | 14 | 24 x 15 s | 6 | loss 1 |" in page
