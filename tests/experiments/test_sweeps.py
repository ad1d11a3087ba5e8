"""Every sweep of the paper's claims runs end to end from its command, at smoke size."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from typer.testing import CliRunner

from duotok.cli import app
from duotok.cli_experiment import SWEEPS as COMMANDS
from duotok.experiments import separation
from duotok.experiments.catalogue import SWEEPS
from duotok.experiments.sweep import Setting

ON_STAGES_1_TO_3 = [name for name in SWEEPS if name != "si_snr_term"]


class HalfOfAll:
    """Takes half of a mixture for its vocals."""

    identity, sample_rate = "half", 44_100

    def vocals(self, mixture: np.ndarray) -> np.ndarray:
        return mixture / 2


def command(name: str, setting: Setting) -> None:
    options = {"data": setting.manifest, "out": setting.out, "init": setting.init, "seeds": 1, "minutes": setting.minutes,
               "excerpt": setting.excerpt_s, "model-steps": setting.model_steps}  # fmt: skip
    given = [text for option, value in options.items() for text in (f"--{option}", str(value))]
    outcome = CliRunner().invoke(app, ["experiment", name.replace("_", "-"), *setting.changes, *given])
    assert outcome.exit_code == 0, outcome.output


@pytest.mark.parametrize("name", ON_STAGES_1_TO_3)
def test_a_sweep_runs_from_its_command(name, setting, monkeypatch):
    monkeypatch.setattr(separation, "make_separator", lambda name: HalfOfAll())
    command(name, setting)
    folder, described = setting.out / name, SWEEPS[name](setting)
    results = json.loads((folder / "results.json").read_text())
    assert list(results["runs"]) == [arm.name for arm in described.arms]
    failed = {arm: run["0"]["failed"] for arm, run in results["runs"].items() if "failed" in run["0"]}
    assert not failed
    for claim in described.claims:
        for arm in (claim.arm, claim.other):
            assert math.isfinite(results["runs"][arm]["0"][claim.measure]), "a claim is about what is measured"
    assert set(described.charts) <= set().union(*(run["0"] for run in results["runs"].values()))
    page = (folder / "README.md").read_text()
    assert page.count("**not tested**") == len(described.claims), "one seed has no interval"
    assert (folder / "means.png").stat().st_size > 1000
    stamps = {path: path.stat().st_mtime_ns for path in folder.rglob("measures.json")}
    command(name, setting)
    assert stamps == {path: path.stat().st_mtime_ns for path in folder.rglob("measures.json")} and stamps


def test_the_commands_are_the_sweeps():
    assert list(COMMANDS) == list(SWEEPS)


def test_noise_arms_differ_in_what_they_learn(setting):
    """After the smoke run above, or alone: the arms of the noise sweep start alike and end apart."""
    command("noise", setting)
    runs = json.loads((setting.out / "noise" / "results.json").read_text())["runs"]
    scores = {arm: run["0"]["vocals_mel_l1"] for arm, run in runs.items()}
    assert len(set(scores.values())) == len(scores)


def test_leaky_stems_hold_a_fifth_of_each_other(setting):
    separation.prepare(setting, HalfOfAll())
    stems = {folder.name.partition("-")[0]: folder for folder in (setting.out / "stems").iterdir()}
    manifests = {
        name: [json.loads(row) for row in (folder / "manifest.jsonl").read_text().splitlines()]
        for name, folder in stems.items()
    }
    assert {len(rows) for rows in manifests.values()} == {4}

    def wave(name: str, track: str) -> np.ndarray:
        import soundfile

        row = next(row for row in manifests[name] if row["id"] == "song1")
        return soundfile.read(stems[name] / row[track], dtype="float64", always_2d=True)[0][:, 0]

    true = [wave("true_stems", track) for track in ("vocal_path", "accompaniment_path")]
    leaky = [wave("leaky_stems", track) for track in ("vocal_path", "accompaniment_path")]
    np.testing.assert_allclose(leaky[0], 0.8 * true[0] + 0.2 * true[1], atol=1e-4)
    np.testing.assert_allclose(leaky[0] + leaky[1], true[0] + true[1], atol=1e-4)
    np.testing.assert_allclose(wave("mixtures", "mixture_path"), true[0] + true[1], atol=1e-4)
    separated = [wave("separated_stems", track) for track in ("vocal_path", "accompaniment_path")]
    np.testing.assert_allclose(separated[0], separated[1], atol=1e-5)
