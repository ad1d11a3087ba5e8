"""What a run says of itself while it works and afterwards, and what can be done with it then: retry, merge, estimate."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from make_audio import music, write
from runs import RATE, command, failures, finish, outputs, plan, write_songs

from duotok import DuoTok
from duotok.cli import app
from duotok.corpus import report as reports
from duotok.corpus.estimate import estimate
from duotok.corpus.job import Job, Options
from duotok.corpus.launch import Launch, launch
from duotok.corpus.merge import merge
from duotok.corpus.plan import choose_units
from duotok.corpus.report import covered, make_report, write_report
from duotok.corpus.retry import reopen
from duotok.corpus.setup import read_setup
from duotok.corpus.songs import PlanError, collect
from duotok.corpus.status import StatusReader, failure_classes
from duotok.corpus.unit import run_unit
from duotok.corpus.verify import verify

SECONDS = (1.0, 2.0, 1.5, 3.0)


@pytest.fixture(scope="module")
def songs(tmp_path_factory) -> Path:
    return write_songs(tmp_path_factory.mktemp("songs"), SECONDS)


@pytest.fixture(scope="module")
def run(songs, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    finish(folder, plan(songs, folder))
    write_report(folder)
    return folder


def test_the_report_adds_up(run):
    report = json.loads((run / "report.json").read_text())
    assert report == asdict(make_report(run))
    assert (report["num_songs"], report["num_refused"], report["num_missing"]) == (4, 1, 0)
    assert report["hours"] == pytest.approx(sum(SECONDS) / 3600) and report["num_codes"] == 2 * 25 * sum(SECONDS) + 1
    assert report["failures"] == {"open: not_audio": 1}
    assert report["data_bytes"] == sum(path.stat().st_size for path in (run / "data").iterdir())
    assert report["shares"].keys() == {"decode", "separate", "features", "encode", "write", "wait"}
    assert report["shares"]["encode"] > 0 and report["shares"]["features"] > 0 and report["shares"]["separate"] == 0
    own = sum(report["shares"][stage] for stage in ("features", "encode", "wait"))
    assert 0 < own <= 1, "the encoder's own thread does one thing at a time"
    assert report["hours_per_worker_hour"] == pytest.approx(report["hours"] / report["worker_hours"])
    assert (run / "throughput.png").read_bytes().startswith(b"\x89PNG")
    text = (run / "report.md").read_text()
    assert "| open: not_audio | 1 |" in text and "![Units by throughput](throughput.png)" in text


def test_without_matplotlib_the_report_says_so(run, tmp_path, monkeypatch):
    monkeypatch.setattr(reports.importlib.util, "find_spec", lambda name: None)
    (run / "report.json").unlink()
    write_report(run)
    assert "matplotlib is not installed (pip install 'duotok[train]')" in (run / "report.md").read_text()


def test_a_report_tells_of_units_that_others_finish_meanwhile(songs, tmp_path, monkeypatch):
    """Two tasks end together; and a report that was left behind is put right by the next command."""
    setup = plan(songs, tmp_path)
    job, draw = Job(tmp_path, setup, Options()), reports._histogram

    def finish_another(speeds):
        run_unit(job, 0)
        return draw(speeds)

    monkeypatch.setattr(reports, "_histogram", finish_another)
    write_report(tmp_path)
    assert json.loads((tmp_path / "report.json").read_text())["num_missing"] == 3
    finish(tmp_path, setup)
    seen = []
    launch(tmp_path, setup, [0, 1, 2], Launch(), Options(), seen.append)
    assert json.loads((tmp_path / "report.json").read_text())["num_missing"] == 0
    assert [(status.songs, status.num_songs) for status in seen] == [(5, 5)], "a run that is done shows so"
    before = (tmp_path / "report.md").stat()
    launch(tmp_path, setup, [0, 1, 2], Launch(), Options(), seen.append)
    assert (tmp_path / "report.md").stat() == before


def test_the_limit_of_refused_songs_holds_for_a_run_that_is_done(run):
    for _ in range(2):
        with pytest.raises(PlanError, match=r"expected at most 0.1 of the songs to be refused; got 1 of 5"):
            launch(run, read_setup(run), [0, 1, 2], Launch(max_failure_rate=0.1), Options(), lambda status: None)


def test_time_spans_are_joined():
    assert covered([]) == 0
    assert covered([(0, 2), (1, 3), (10, 11), (10.5, 10.7)]) == 4


def test_status_tells_of_units_under_way(songs, tmp_path):
    """After one unit, and within the second."""
    setup = plan(songs, tmp_path)
    job = Job(tmp_path, setup, Options())
    reader = StatusReader(tmp_path)
    assert (reader.read().songs, reader.read().num_songs, reader.read().units) == (0, 5, 0)
    run_unit(job, 0)
    held = job.claims.claim(1)
    held.beat(songs=1, failed=1, audio_s=36.0, speed=7.0)
    found = reader.read()
    assert (found.songs, found.failed, found.units, found.num_units) == (3, 1, 1, 3)
    assert found.hours == pytest.approx((1.0 + 2.0 + 36) / 3600) or found.hours > 0.01
    [worker] = found.workers
    assert (worker.unit, worker.songs, worker.speed) == (1, 1, 7.0)


def test_status_from_another_shell(run):
    done = command("status", run)
    assert done.returncode == 0, done.stderr
    assert "5 of 5 songs, 3 of 3 units, 0.0021 hours of audio, 1 refused" in done.stdout
    assert "| open: not_audio | 1 |" in done.stdout


def test_refused_songs_are_tried_again_and_the_others_keep_their_rows(tmp_path):
    folder = write_songs(tmp_path / "songs", (1.0, 2.0))
    (folder / "later.mp3").write_bytes(b"")
    finish(tmp_path / "run", plan(folder, tmp_path / "run", songs_per_unit=9))
    [before] = pq.read_table(tmp_path / "run" / "data").slice(0, 1).to_pylist()
    write(folder / "later.mp3", music(1.0, RATE), RATE)
    (folder / "000_vocals.wav").unlink()  # a row that is kept needs its song no more
    assert reopen(tmp_path / "run", [0]) == 2
    finish(tmp_path / "run", read_setup(tmp_path / "run"))
    rows = pq.read_table(tmp_path / "run" / "data").to_pylist()
    assert len(rows) == 3 and before in rows
    assert failures(tmp_path / "run").keys() == {"page.mp3"} and verify(tmp_path / "run").problems == []
    assert failure_classes(tmp_path / "run") == {"open: not_audio": 1}


def test_retry_of_kept_rows_gives_the_same_bytes(songs, tmp_path):
    finish(tmp_path, plan(songs, tmp_path, songs_per_unit=9))
    before = outputs(tmp_path)
    assert reopen(tmp_path, [0]) == 1
    finish(tmp_path, read_setup(tmp_path))
    assert outputs(tmp_path) == before


def test_merged_files_hold_all_rows_in_order(run, tmp_path):
    assert merge([run], tmp_path / "out", songs_per_file=3) == (4, 2)
    files = sorted((tmp_path / "out").iterdir())
    tables = [pq.read_table(path) for path in files]
    assert [len(table) for table in tables] == [3, 1]
    whole = pq.read_table(run / "data")
    assert [row for table in tables for row in table.to_pylist()] == whole.to_pylist()
    assert tables[0].schema.metadata[b"duotok"] == pq.read_schema(run / "data" / "unit-00000.parquet").metadata[b"duotok"]


def test_runs_that_do_not_fit_are_not_merged(songs, run, tmp_path):
    with pytest.raises(PlanError, match=r"expected unique ids; got '.*' in .* and .*; leave one of the runs out"):
        merge([run, run], tmp_path / "twice")
    DuoTok.from_config("tiny/tokenizer", seed=5).save(tmp_path / "other")
    only = write_songs(tmp_path / "songs", ()) / "mine.wav"
    write(only, music(1.0, RATE), RATE)
    finish(tmp_path / "run", plan(only, tmp_path / "run", tokenizer=tmp_path / "other"))
    with pytest.raises(PlanError, match=r"expected tokens of one tokenizer; got fingerprint .* or pass --mix"):
        merge([run, tmp_path / "run"], tmp_path / "mixed")
    assert not (tmp_path / "mixed").exists()
    assert merge([run, tmp_path / "run"], tmp_path / "mixed", mix=True) == (5, 1)
    metadata = json.loads(pq.read_schema(tmp_path / "mixed" / "part-00000.parquet").metadata[b"duotok"])
    assert metadata["fingerprint"] == "mixed" and len(metadata["fingerprints"]) == 2
    with pytest.raises(PlanError, match="expected a new or an empty folder"):
        merge([run], tmp_path / "mixed")


def test_an_estimate_comes_from_a_sample(songs, run):
    found = estimate(collect([songs]), read_setup(run).build(), 5)
    assert (found.num_songs, found.num_sampled, found.num_refused) == (5, 5, 1)
    assert found.hours == pytest.approx(sum(SECONDS) / 3600)
    assert found.hours_per_hour == pytest.approx(found.hours / found.worker_hours)
    assert found.num_bytes == round(50 * sum(SECONDS) * 1.9 + 5 * 500)
    assert estimate(collect([songs]), read_setup(run).build(), 2).num_sampled == 2


@pytest.mark.parametrize("name", ["all", "plan", "run", "retry", "status", "verify", "estimate", "merge"])
def test_each_command_shows_an_example(name, capsys):
    with pytest.raises(SystemExit):
        app(["tokenize", name, "--help"])
    assert "Example: duotok tokenize" in capsys.readouterr().out


def test_commands_of_a_run_in_steps(songs, run, tmp_path):
    """Plan, estimate, run a share of the units, the rest, retry, merge: by the command line, in this process."""

    def duotok(*words: object) -> int:
        try:
            return app(["tokenize", *map(str, words)], standalone_mode=False) or 0
        except SystemExit as leave:
            return leave.code

    steps = tmp_path / "run"
    assert duotok("plan", songs, "-o", steps, "--separate", "none", "--songs-per-unit", 2) == 0
    assert duotok("estimate", songs, "--separate", "none", "--sample", 1) == 0
    assert duotok("run", steps, "--units", "1/2") == 0, "the song that is refused is in another unit"
    assert duotok("verify", steps) == 1
    assert duotok("run", steps) == 3
    assert duotok("verify", steps) == 0
    assert duotok("merge", steps, "-o", tmp_path / "merged") == 0
    assert duotok("retry", steps) == 3
    assert outputs(steps) == outputs(run) and (steps / "report.md").exists()


@pytest.mark.parametrize("units", ["5", "3-", "a", "0-1-2", "2/2", "-1/2", "", "2-1", "0-99999999999999"])
def test_units_that_do_not_exist_are_refused(units):
    with pytest.raises(PlanError, match=r"units: expected ranges like 0-3,7 below 3, or a share like 0/16; got"):
        choose_units(units, 3)


def test_units_are_chosen():
    assert choose_units(None, 3) == [0, 1, 2] and choose_units("0,2-3", 9) == [0, 2, 3]
    assert choose_units("1/3", 8) == [1, 4, 7] and choose_units("7/8", 3) == []
