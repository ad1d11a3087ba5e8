"""Small songs and a run of stage 1 for the experiments."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from make_songs import SMALL, write_manifest, write_song

from duotok.experiments.runs import run
from duotok.experiments.sweep import Setting

FEW = (
    *SMALL, "train.steps=2", "train.warmup_steps=1", "train.evaluate_every=2", "train.save_every=2", "data.batch_size=2",
    "data.eval_crops=2", "fit_batches=1",
)  # fmt: skip
HEADS = ("stage2.model.heads.hidden=16", "stage3.model.heads.hidden=16", "stage3.model.bottleneck.quantizer.codebook_size=64")


@pytest.fixture(scope="session")
def setting(tmp_path_factory) -> Setting:
    """Four songs of 12 s with notes, the last one held out, and stage 1 trained on them for two steps."""
    folder = tmp_path_factory.mktemp("sweeps")
    rows = []
    for number in range(4):
        row = write_song(folder, f"song{number}", 2 * "ab cda bcdab", seed=number)
        (folder / f"notes{number}.json").write_text(json.dumps({"accompaniment": [[2.0, 0.5, 64], [0.5, 1.0, 60]]}))
        rows.append(row | {"notes_path": f"notes{number}.json", "split": "held_out" if number == 3 else "train"})
    manifest = write_manifest(folder, rows)
    run("tiny/stage1", [f"data.manifest={manifest}", *FEW], folder / "stage1")
    return Setting(manifest, folder / "out", folder / "stage1", None, False, (*FEW, *HEADS), 1.0, 11.0, 2)


@pytest.fixture
def fresh(setting, tmp_path) -> Setting:
    """The same with an empty folder to write to."""
    return replace(setting, out=tmp_path)
