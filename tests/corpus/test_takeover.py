"""A unit that is taken over: by whom, when, and what its former worker still does when it wakes up."""

from __future__ import annotations

import json
import time

import pytest
from runs import finish, outputs, plan

from duotok.corpus import unit
from duotok.corpus.job import Job, Options
from duotok.corpus.unit import run_unit


def test_a_unit_of_a_host_that_died_is_taken_over(songs, sound, tmp_path, caplog):
    setup = plan(songs, tmp_path)
    (tmp_path / "leases").mkdir()
    dead = {"place": "gone:boot:pid", "host": "gone", "pid": 7}
    (tmp_path / "leases" / "00000.000.jsonl").write_text(json.dumps(dead) + "\n")
    start = time.monotonic()
    finish(tmp_path, setup, expiry_s=1.0)
    assert time.monotonic() - start >= 1.0
    assert "unit 0: took it over from process 7 of host gone: no sign of life for 1 s" in caplog.text
    assert outputs(tmp_path) == outputs(sound)
    assert list((tmp_path / "leases").iterdir()) == []


def test_a_unit_that_was_taken_over_is_left_to_its_new_worker(songs, sound, tmp_path, monkeypatch):
    """A worker sleeps so long that another takes its unit over; it writes nothing more, and goes on with the next."""
    setup = plan(songs, tmp_path)
    job = Job(tmp_path, setup, Options(beat_s=1e9))
    write = unit.write_unit

    def sleep_before_commit(*arguments):
        pytest.fail("it wrote a unit that another holds")

    def taken_over(own, song_id):
        path = tmp_path / "leases" / "00000.001.jsonl"
        path.write_text(json.dumps({"place": "other", "host": "other", "pid": 7}) + "\n")
        return begin(own, song_id)

    begin = unit.Journal.begin
    monkeypatch.setattr(unit.Journal, "begin", taken_over)
    monkeypatch.setattr(unit, "write_unit", sleep_before_commit)
    assert run_unit(job, 0) is None
    monkeypatch.setattr(unit.Journal, "begin", begin)
    monkeypatch.setattr(unit, "write_unit", write)
    assert run_unit(job, 0) is None, "the other has it still"
    assert run_unit(job, 1)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("step", ["write_unit", "move", "make_folder"])
def test_a_worker_that_wakes_up_leaves_a_unit_to_who_has_it(songs, contents, tmp_path, monkeypatch, step, number):
    """It slept after it had made the files, after it had moved one, or all but the note; the other has claim 0 or 1.

    Number 0 where the unit was done, given back, and claimed anew, as by a retry.
    """
    job, real, seen = Job(tmp_path, plan(songs, tmp_path), Options(beat_s=1e9)), getattr(unit, step), {}

    def sleep_after(*arguments):
        found = real(*arguments)
        if step != "make_folder" or arguments[0].name == "done":
            (tmp_path / "leases" / f"00000.{number:03d}.jsonl").write_text(json.dumps({"host": "other", "pid": 7}) + "\n")
            unit._remove_partial(tmp_path, 0)
            (tmp_path / "data").mkdir(exist_ok=True)
            (tmp_path / "data" / "unit-00000.parquet").write_text("the other's")
            seen.update(contents(tmp_path))
        return found

    monkeypatch.setattr(unit, step, sleep_after)
    assert run_unit(job, 0) is None
    assert contents(tmp_path) == seen and "done/00000.json" not in seen
