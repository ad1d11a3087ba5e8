"""Gaussian replacement on and off, at smoke size: both arms are trained and measured, and a second call only reads."""

from __future__ import annotations

import json

from make_songs import SMALL, write_manifest, write_song

from duotok.experiments import gaussian_noise
from duotok.experiments.runs import run

FEW = [*SMALL, "train.steps=2", "train.evaluate_every=1", "train.save_every=2", "train.precision=fp32", "data.batch_size=2"]


def test_both_arms_are_trained_measured_and_reported(tmp_path):
    rows = [write_song(tmp_path, f"song{i}", 2 * "ab cda bcdab", seed=i) for i in range(3)]
    manifest = write_manifest(tmp_path, [row | {"split": "held_out" if i == 2 else "train"} for i, row in enumerate(rows)])
    data, heads = f"data.manifest={manifest}", ["model.heads.hidden=16", "fit_batches=1"]
    run("tiny/stage1", [data, *FEW, "fit_batches=1"], tmp_path / "stage1")
    out = tmp_path / "out"
    arguments = [
        "--data", str(manifest), "--init", str(tmp_path / "stage1"), "-o", str(out), "--cache", str(tmp_path / "cache"),
        "--lm-steps", "2", "--stage2", *FEW, *heads, "--stage3", *FEW, *heads,
    ]  # fmt: skip
    gaussian_noise.main(arguments)
    results = json.loads((out / "results.json").read_text())
    assert {"on", "off"} == set(results["arms"])
    scores = [results["arms"][arm]["evaluations"]["stage2"][-1]["scores"]["mel"] for arm in ("on", "off")]
    assert scores[0] != scores[1], "the noise changes what is learned"
    page = (out / "README.md").read_text()
    assert "noise on | noise off" in page and (out / "curves.png").stat().st_size > 1000
    stamp = (out / "on" / "measures.json").stat().st_mtime_ns
    gaussian_noise.main(arguments)
    assert (out / "on" / "measures.json").stat().st_mtime_ns == stamp
    assert json.loads((out / "results.json").read_text()) == results
