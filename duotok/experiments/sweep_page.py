"""The page of a sweep: what was found of each claim, failures, means with intervals, differences, and their picture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from matplotlib.figure import Figure

from .intervals import Interval, interval, verdict
from .report import RESULTS, Report, table
from .sweep import Claim, Outcome, Setting, Sweep

Outcomes = Mapping[str, Mapping[int, Outcome]]


@dataclass(frozen=True)
class Compared:
    """What a sweep's outcomes come to.

    Attributes:
        means: by arm and measure.
        differences: from the first arm, paired by seed, by each other arm and measure.
        claims: the difference that each is about, in the sweep's order.
        failed: a line for each run that failed.
    """

    means: dict[str, dict[str, Interval | None]]
    differences: dict[str, dict[str, Interval | None]]
    claims: list[tuple[Claim, Interval | None]]
    failed: list[str]


def describe(sweep: Sweep, setting: Setting, outcomes: Outcomes) -> Report:
    """Lay out what `run_sweep` found.

    Raises:
        ValueError: if every run failed.
    """
    compared = compare(sweep, outcomes)
    if len(compared.failed) == sum(map(len, outcomes.values())):
        count, first = len(compared.failed), compared.failed[0]
        raise ValueError(f"{sweep.name}: expected runs that end; got {count} that failed, first {first}; correct that")
    runs = {arm: {str(seed): _run(one) for seed, one in found.items()} for arm, found in outcomes.items()}
    results = {
        "experiment": sweep.name,
        "size": _size(sweep, setting),
        "runs": runs,
        "means": {arm: _plain(found) for arm, found in compared.means.items()},
        "differences": {"from": sweep.arms[0].name, **{arm: _plain(found) for arm, found in compared.differences.items()}},
        "claims": [{**vars(claim), "verdict": _verdict(claim, found), **_numbers(found)} for claim, found in compared.claims],
    }
    return Report(sweep.title, _text(sweep, compared, results["size"]), results, ("means", _draw(sweep, compared.means)))


def compare(sweep: Sweep, outcomes: Outcomes) -> Compared:
    """Compute means, differences, and what the claims are about."""
    base = sweep.arms[0].name
    names = dict.fromkeys(name for runs in outcomes.values() for one in runs.values() for name in one.measures)
    means = {arm: {name: _mean(runs, name) for name in names} for arm, runs in outcomes.items()}
    others = {arm: {name: difference(outcomes, name, arm, base) for name in names} for arm in outcomes if arm != base}
    claims = [(claim, difference(outcomes, claim.measure, claim.arm, claim.other)) for claim in sweep.claims]
    failed = [f"{arm}, seed {seed}: {one.failed}" for arm, runs in outcomes.items() for seed, one in runs.items() if one.failed]
    return Compared(means, others, claims, failed)


def difference(outcomes: Outcomes, measure: str, arm: str, other: str) -> Interval | None:
    """Compare two arms by the seeds that both ended with; None if there is none."""
    pairs = [(one.measures, outcomes[other][seed].measures) for seed, one in outcomes[arm].items()]
    values = [left[measure] - right[measure] for left, right in pairs if measure in left and measure in right]
    return interval(values) if values else None


def _text(sweep: Sweep, compared: Compared, size: str) -> str:
    """Write the page's text; of the measures, what charts and claims are about."""
    findings = "\n".join(_sentence(claim, found) for claim, found in compared.claims)
    parts = [sweep.about, f"{size}.", f"## What was found\n\n{findings}"]
    if compared.failed:
        parts += ["## Runs that failed", "\n".join(f"- {line}" for line in compared.failed)]
    measured = compared.means[sweep.arms[0].name]
    shown = [name for name in dict.fromkeys([*sweep.charts, *(claim.measure for claim in sweep.claims)]) if name in measured]
    parts += [f"## Means and 95 % intervals\n\nAll {len(measured)} measures are in {RESULTS}.", _table(shown, compared.means)]
    if others := compared.differences:
        heading = f"## Differences from {sweep.arms[0].name}, paired by seed"
        parts += [heading, _chance(others), _table(shown, others, marked=True)]
    return "\n\n".join(parts)


def _run(one: Outcome) -> dict:
    return {"failed": one.failed} if one.failed else dict(one.measures)


def _verdict(claim: Claim, found: Interval | None) -> str:
    return verdict(found, claim.sign) if found else "not tested"


def _size(sweep: Sweep, setting: Setting) -> str:
    """Say how small everything is."""
    stages = {stage.name: None for arm in sweep.arms for stage in arm.stages}
    sizes = "; ".join(f"{name}: {', '.join(setting.size_of(name)) or 'as configured'}" for name in stages)
    return (
        f"{sizes}. Measured on {setting.excerpt_s:g} s from the middle of every held-out song; what learns to measure learns "
        f"from {setting.minutes:g} minutes of training songs, {setting.model_steps} steps where it takes steps"
    )


def _mean(runs: Mapping[int, Outcome], name: str) -> Interval | None:
    values = [one.measures[name] for one in runs.values() if name in one.measures]
    return interval(values) if values else None


def _numbers(found: Interval | None) -> dict[str, float | int | None]:
    """Give plain values; JSON knows no NaN."""
    if found is None:
        return {"mean": None, "half": None, "count": 0}
    return {"mean": found.mean, "half": None if math.isnan(found.half) else found.half, "count": found.count}


def _plain(found: Mapping[str, Interval | None]) -> dict[str, dict]:
    return {name: _numbers(value) for name, value in found.items() if value}


def _sentence(claim: Claim, found: Interval | None) -> str:
    """Say in one line whether a claim shows."""
    compared = f"{claim.measure} of {claim.arm} minus {claim.other}"
    if found is None:
        return f"- {claim.text}: **not tested**; no seed ended with both {claim.arm} and {claim.other}."
    said = _verdict(claim, found)
    seeds = f"{found.count} seed{'s' if found.count > 1 else ''}"
    if found.count < 2:
        return f"- {claim.text}: **{said}**; {compared} is {found} in {seeds}, which gives no interval."
    zero = "excludes" if found.excludes_zero else "includes"
    return f"- {claim.text}: **{said}**; {compared} is {found} ({seeds}), an interval that {zero} zero."


def _chance(others: Mapping[str, Mapping[str, Interval | None]]) -> str:
    """Say how many intervals exclude zero, and how many would where nothing differs."""
    found = [one for arm in others.values() for one in arm.values() if one and one.count > 1]
    tested = [one for one in found if one.mean or one.half]  # what no arm can change is no test
    outside = sum(one.excludes_zero for one in tested)
    return (
        f"Of all measures, {outside} of {len(tested)} intervals exclude zero (in bold below); were there no differences, "
        f"about {0.05 * len(tested):.0f} would."
    )


def _table(names: list[str], columns: Mapping[str, Mapping[str, Interval | None]], marked: bool = False) -> str:
    def cell(found: Interval | None) -> str:
        if found is None:
            return ""
        return f"**{found}**" if marked and found.excludes_zero else str(found)

    return table([(name, *(cell(found[name]) for found in columns.values())) for name in names], ("", *columns))


def _draw(sweep: Sweep, means: Mapping[str, Mapping[str, Interval | None]]) -> Figure:
    """Draw each chart's mean and interval by arm."""
    charts = {name: label for name, label in sweep.charts.items() if any(found.get(name) for found in means.values())}
    figure = Figure(figsize=(4.5 * len(charts) + 1.5, 1.5 + 0.4 * len(means)), layout="constrained")
    places = {arm: -number for number, arm in enumerate(means)}
    for axes, (name, label) in zip(figure.subplots(1, len(charts), sharey=True, squeeze=False)[0], charts.items(), strict=True):
        for arm, found in means.items():
            if value := found[name]:
                half = 0 if math.isnan(value.half) else value.half
                axes.errorbar(value.mean, places[arm], xerr=half, fmt="o", capsize=4, color="C0")
        axes.set(xlabel=label)
        axes.set_yticks(list(places.values()), list(places))
        axes.grid(alpha=0.3)
    return figure
