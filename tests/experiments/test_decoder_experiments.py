"""The experiments on the decoder: each runs from its command and leaves results, a picture and a page."""

from __future__ import annotations

import json

import pytest
from make_decoder import TINY_DIT, decoding_tokenizer
from make_songs import four_songs
from typer.testing import CliRunner

from duotok.cli import app
from duotok.training.log import read_log


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("experiments")
    four_songs(folder)
    decoding_tokenizer(folder / "tokenizer")
    return folder


def command(*arguments: object) -> None:
    outcome = CliRunner().invoke(app, ["experiment", *map(str, arguments)])
    assert outcome.exit_code == 0, outcome.output


def test_the_si_snr_term_on_and_off(places, tmp_path):
    dit = "{" + ", ".join(f"{name}: {str(value).lower()}" for name, value in vars(TINY_DIT).items()) + "}"
    changes = [f"dit={dit}", "data.crop_s=2", "data.min_s=2", "data.batch_size=2", "data.eval_crops=2", "train.steps=4",
               "train.evaluate_every=2", "train.save_every=4", "train.warmup_steps=1"]  # fmt: skip
    command(
        "si-snr-term", "--data", places / "manifest.jsonl", "--tokenizer", places / "tokenizer", "-o", tmp_path, "--seeds", 2,
        *changes,
    )  # fmt: skip
    found = json.loads((tmp_path / "si_snr_term" / "results.json").read_text())
    on, off = (found["runs"][name]["0"] for name in ("on", "off"))
    assert on["epsilon"] != off["epsilon"], "the term changes what is learned"
    logs = [read_log(run)[-1]["scores"] for run in (tmp_path / "stages").iterdir()]
    kept = [run["epsilon"] for arm in found["runs"].values() for run in arm.values()]
    assert sorted(scores["epsilon"] for scores in logs) == sorted(kept)
    differing = [scores for scores in logs if scores["loss"] != scores["epsilon"]]
    assert len(logs) == 4 and len(differing) == 2
    for scores in differing:
        assert scores["loss"] == pytest.approx(scores["epsilon"] - 0.01 * scores["si_snr_improvement"])
    page = (tmp_path / "si_snr_term" / "README.md").read_text()
    assert "the term costs L_eps: **" in page and "(2 seeds), an interval that" in page


def test_sampler_quality_against_steps(places, tmp_path):
    steps = [argument for number in (1, 4) for argument in ("--steps", number)]
    arguments = [
        "--tokenizer",
        places / "tokenizer",
        *steps,
        "--reference-steps",
        4,
        "--seconds",
        1,
        "--songs",
        1,
        "-o",
        tmp_path,
    ]
    command("sampler-steps", places / "manifest.jsonl", *arguments)
    rows = {(row["sampler"], row["steps"]): row for row in json.loads((tmp_path / "results.json").read_text())["rows"]}
    assert set(rows) == {("ddim", 1), ("ddim", 4), ("dpm", 1), ("dpm", 4)}
    assert rows["dpm", 4]["to_reference"] == 0 < rows["ddim", 4]["to_reference"]
    assert rows["dpm", 1]["to_reference"] == rows["ddim", 1]["to_reference"] and rows["dpm", 1]["real_time"] > 0
    assert "| ddim | 4 |" in (tmp_path / "README.md").read_text() and (tmp_path / "curves.png").stat().st_size > 1000
