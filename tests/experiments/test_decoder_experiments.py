"""The experiments on the decoder: each runs from its command and leaves results, a picture and a page."""

from __future__ import annotations

import json

import pytest
from make_decoder import TINY_DIT, decoding_tokenizer
from make_songs import four_songs

from duotok.experiments import sampler_steps, si_snr_term
from duotok.training.log import read_log


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("experiments")
    four_songs(folder)
    decoding_tokenizer(folder / "tokenizer")
    return folder


def test_the_si_snr_term_on_and_off(places, tmp_path):
    dit = "{" + ", ".join(f"{name}: {str(value).lower()}" for name, value in vars(TINY_DIT).items()) + "}"
    changes = [f"dit={dit}", "data.crop_s=2", "data.min_s=2", "data.batch_size=2", "data.eval_crops=2", "train.steps=4",
               "train.evaluate_every=2", "train.save_every=4", "train.warmup_steps=1"]  # fmt: skip
    arguments = ["--data", places / "manifest.jsonl", "--tokenizer", places / "tokenizer", "-o", tmp_path, *changes]
    si_snr_term.main([*map(str, arguments)])
    found = json.loads((tmp_path / "results.json").read_text())["evaluations"]
    assert [row["step"] for row in found["on"]] == [row["step"] for row in found["off"]] == [2, 4]
    on, off = (found[name][-1]["scores"] for name in ("on", "off"))
    assert off["loss"] == off["epsilon"] and on["loss"] == pytest.approx(on["epsilon"] - 0.01 * on["si_snr_improvement"])
    assert on["epsilon"] != off["epsilon"]
    first = [read_log(tmp_path / name)[0] for name in ("on", "off")]
    assert first[0]["step"] == first[1]["step"]
    page = (tmp_path / "README.md").read_text()
    assert f"| L_eps | {on['epsilon']:.4g} | {off['epsilon']:.4g} |" in page and "train.steps=4" in page
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_sampler_quality_against_steps(places, tmp_path):
    arguments = ["--tokenizer", places / "tokenizer", "--steps", 1, 4, "--reference-steps", 4, "--seconds", 1, "--songs", 1,
                 "--cache", places / "waves", "-o", tmp_path]  # fmt: skip
    sampler_steps.main([*map(str, [places / "manifest.jsonl", *arguments])])
    rows = {(row["sampler"], row["steps"]): row for row in json.loads((tmp_path / "results.json").read_text())["rows"]}
    assert set(rows) == {("ddim", 1), ("ddim", 4), ("dpm", 1), ("dpm", 4)}
    assert rows["dpm", 4]["to_reference"] == 0 < rows["ddim", 4]["to_reference"]
    assert rows["dpm", 1]["to_reference"] == rows["ddim", 1]["to_reference"] and rows["dpm", 1]["real_time"] > 0
    assert "| ddim | 4 |" in (tmp_path / "README.md").read_text() and (tmp_path / "curves.png").stat().st_size > 1000
