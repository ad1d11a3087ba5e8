"""The engine: what is done is not done again, what was stopped goes on, and a run that fails takes no other with it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from duotok.experiments import sweep as engine
from duotok.experiments.report import write_report
from duotok.experiments.sweep import Arm, Claim, Outcome, Setting, Stage, Sweep, run_sweep
from duotok.experiments.sweep_page import describe
from duotok.training import checkpoint, loop


def sweep(*arms: Arm, claims: tuple[Claim, ...] = ()) -> Sweep:
    return Sweep("toy", "Toys", "About toys.", arms, claims, {"score": "score"})


def test_a_failing_and_a_diverging_run_are_reported_and_the_others_go_on(fresh):
    def broken(trained):
        raise RuntimeError("no such luck")

    arms = (
        Arm("base", (), lambda trained: {"score": float(trained.seed)}),
        Arm("broken", (), broken),
        Arm("nan", (), lambda trained: {"score": float("nan")}),
        Arm("diverging", (Stage("stage2", ("train.lr=1e30", "train.clip=0")),), lambda trained: {"score": 0.0}),
        Arm("better", (), lambda trained: {"score": trained.seed + 1.0}),
    )
    claims = (
        Claim("better is better", "score", "better", "base", 1),
        Claim("better is worse", "score", "better", "base", -1),
        Claim("broken is better", "score", "broken", "base", 1),
    )
    found = run_sweep(sweep(*arms), fresh, (0, 1))
    assert {seed: one.measures["score"] for seed, one in found["better"].items()} == {0: 1.0, 1: 2.0}
    assert found["broken"][0].failed == "RuntimeError: no such luck"
    assert "expected finite measures; got score nan" in found["nan"][1].failed
    assert found["diverging"][0].failed.startswith("DivergedError: step 2: expected finite losses")
    report = describe(sweep(*arms, claims=claims), fresh, found)
    assert [claim["verdict"] for claim in report.results["claims"]] == ["shown", "the opposite is shown", "not tested"]
    assert report.results["differences"]["better"]["score"] == {"mean": 1.0, "half": 0.0, "count": 2}
    assert "## Runs that failed" in report.text and "broken, seed 1: RuntimeError: no such luck" in report.text
    write_report(fresh.out / "toy", report, "a command")
    results = json.loads((fresh.out / "toy" / "results.json").read_text())
    assert results["runs"]["nan"]["0"]["failed"].startswith("ValueError") and results["command"] == "a command"
    assert (fresh.out / "toy" / "means.png").read_bytes().startswith(b"\x89PNG")


def test_a_sweep_of_which_nothing_is_left_is_an_error(setting):
    with pytest.raises(ValueError, match="toy: expected runs that end; got 1 that failed, first a, seed 0: Error"):
        describe(sweep(Arm("a", (), dict)), setting, {"a": {0: Outcome(failed="Error")}})


def test_what_is_measured_is_kept_until_the_settings_change(fresh):
    calls = []

    def count(trained):
        calls.append(trained.seed)
        return {"score": 1.0}

    toy = sweep(Arm("a", (), count))
    for setting in (fresh, fresh, replace(fresh, model_steps=3)):
        run_sweep(toy, setting, (0, 1))
    assert calls == [0, 1, 0, 1]


def test_arms_share_the_stages_in_which_they_are_alike(fresh, monkeypatch):
    trained = []
    monkeypatch.setattr(engine, "run", lambda config, changes, folder, init: trained.append((config, folder, init)))
    arms = [
        Arm(name, (Stage("stage2"), Stage("stage3", more)), lambda trained: {"score": 0.0})
        for name, more in (("hard", ()), ("soft", ("routing=soft",)))
    ]
    run_sweep(sweep(*arms), fresh, (0,))
    (_, first, init), (_, third, before), (_, second, _), (_, fourth, _) = trained
    assert first == second and third != fourth and before == first and init == fresh.init
    assert [config for config, *_ in trained] == ["tiny/stage2", "tiny/stage3"] * 2


def test_a_stopped_sweep_goes_on_where_it_was(fresh, monkeypatch):
    """Stop in the middle of the second arm: the first is not trained again, the second goes on from its checkpoint."""
    changes = ("train.steps=3", "train.save_every=1", "train.evaluate_every=3")
    toy = sweep(
        *(Arm(name, (Stage("stage2", (*changes, f"train.lr={lr}")),), steps_of) for name, lr in (("a", 0.1), ("b", 0.2)))
    )
    update, begun = loop._Run.update, []

    def stopping(run, data, stop):
        begun.append(run.step)
        stopped = update(run, data, stop)
        return stopped or len(begun) == 5

    monkeypatch.setattr(loop._Run, "update", stopping)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(toy, fresh, (0,))
    assert begun == [0, 1, 2, 0, 1]
    found = run_sweep(toy, fresh, (0,))
    assert begun == [0, 1, 2, 0, 1, 2]
    assert found["a"][0].measures == found["b"][0].measures == {"score": 3.0}


def steps_of(trained) -> dict[str, float]:
    return {"score": float(checkpoint.latest(trained.runs[-1]).step)}


def test_changes_reach_the_stages_that_they_name():
    setting = Setting("m.jsonl", "out", cache="waves", changes=("train.steps=7", "stage3.train.lr=1", "stage2.masks_s=2"))
    two, three = setting.changes_of("stage2"), setting.changes_of("stage3")
    assert two[-2:] == ["train.steps=7", "masks_s=2"] and three[-2:] == ["train.steps=7", "train.lr=1"]
    assert not any("codebook_size" in change for change in replace(setting, full=True).changes_of("stage3"))
