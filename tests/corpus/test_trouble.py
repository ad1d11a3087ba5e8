"""What goes wrong with machines, and not with songs: each is one clear line, and leaves a run that goes on."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from make_audio import music, write
from runs import RATE, DefectiveSetup, command, failures, finish, outputs, plan, wait_for_journal, write_songs

import duotok
from duotok.cli import app
from duotok.corpus import songs as songs_module
from duotok.corpus import unit
from duotok.corpus.job import Job, Options
from duotok.corpus.launch import _Poll
from duotok.corpus.lease import Claims
from duotok.corpus.pipeline import EncoderError
from duotok.corpus.setup import read_setup
from duotok.corpus.songs import PlanError, collect
from duotok.corpus.unit import run_unit
from duotok.corpus.verify import verify


def one_error(done, *words: str) -> None:
    lines = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert len(lines) == 1 and all(word in lines[0] for word in words), done.stderr
    assert "Traceback" not in done.stderr


def test_a_full_disk(songs, sound, tmp_path):
    """Files larger than 1 kB cannot be written, as on a disk that fills up; the run goes on once there is room."""
    limit = (1024, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    setup = plan(songs, tmp_path)
    done = command("run", tmp_path, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
    assert done.returncode == 1
    one_error(done, "expected to write", "File too large", "free space or choose another folder")
    assert not list(tmp_path.rglob("*.tmp")) and not list(tmp_path.rglob("*.parquet"))
    finish(tmp_path, setup)
    assert outputs(tmp_path) == outputs(sound)


def test_an_output_that_cannot_be_written(songs, tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    done = command(songs, "-o", blocker / "run", "--separate", "none")
    assert done.returncode == 1
    one_error(done, "expected to make a folder; got Not a directory; choose another place")


def test_a_folder_that_becomes_read_only(songs, tmp_path, monkeypatch):
    """Root may write anywhere, so that the refusal is made here, where the folder's claims are."""
    plan(songs, tmp_path)
    real = os.open

    def refuse(path, flags, *more, **options):
        if flags & os.O_CREAT and "leases" in str(path):
            raise PermissionError(30, "Read-only file system")
        return real(path, flags, *more, **options)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(OSError, match=r"expected to claim a unit; got Read-only file system; free space, or choose a folder"):
        Claims(tmp_path, 60).claim(0)


def test_a_clock_that_jumps(songs, sound, tmp_path, monkeypatch):
    """Years forth and back between any two looks at it."""
    setup = plan(songs, tmp_path)
    jumps = iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: 1e9 * (next(jumps) % 3))
    finish(tmp_path, setup)
    assert outputs(tmp_path) == outputs(sound) and verify(tmp_path).problems == []


def test_a_checkpoint_that_changed(songs, sound, tmp_path):
    duotok.DuoTok.from_config("tiny/tokenizer", seed=5).save(tmp_path / "tokenizer")
    plan(songs, tmp_path / "run", tokenizer=tmp_path / "tokenizer")
    duotok.DuoTok.from_config("tiny/tokenizer", seed=6).save(tmp_path / "tokenizer")
    before = outputs(tmp_path / "run")
    done = command("run", tmp_path / "run")
    assert done.returncode == 2
    one_error(done, "expected the tokenizer that the run was planned with", "pass that one, or tokenize into another folder")
    assert outputs(tmp_path / "run") == before
    again = command(
        songs, "-o", tmp_path / "run", "--tokenizer", tmp_path / "tokenizer", "--songs-per-unit", 2, "--separate=none"
    )
    assert again.returncode == 2
    one_error(again, "got a run with fingerprint")


def test_an_encoder_that_fails_is_blamed_on_the_song_at_the_second_time(songs, sound, tmp_path, monkeypatch):
    setup = plan(songs, tmp_path, songs_per_unit=4)
    tools = setup.build()
    encode = tools[0]._encode_batch

    def fail(batch):
        if any(key[0].reading.song.source.startswith("001") for key, _, _ in batch):
            raise RuntimeError("no kernel image")
        return encode(batch)

    monkeypatch.setattr(tools[0], "_encode_batch", fail)
    for _ in range(2):
        with pytest.raises(EncoderError, match="no kernel image"):
            run_unit(Job(tmp_path, setup, Options(), tools), 0)
    note = run_unit(Job(tmp_path, setup, Options(), tools), 0)
    assert (note.ok, note.failed) == (2, 2)
    assert {source: f["reason"] for source, f in failures(tmp_path).items()} == {
        "001_vocals.wav": "worker_crash", "page.mp3": "not_audio"
    }  # fmt: skip


@pytest.mark.parametrize(("kills", "refused"), [(7, {"page.mp3"}), (8, {"000_vocals.wav", "page.mp3"})])
def test_a_song_alone_under_way_at_eight_kills_is_refused(songs, tmp_path, kills, refused):
    """As one that takes all memory, which the system ends by a kill."""
    job = Job(tmp_path, plan(songs, tmp_path, songs_per_unit=4), Options())
    for _ in range(kills):
        unit.Journal(tmp_path, 0, job.identity).begin(collect([songs])[0].id)
    run_unit(job, 0)
    assert failures(tmp_path).keys() == refused


def test_a_defect_of_a_worker_ends_the_run(songs, tmp_path):
    setup = plan(songs, tmp_path)
    with pytest.raises(PlanError, match="got a defect of one, whose traceback stands above"):
        finish(tmp_path, DefectiveSetup(**vars(setup)), workers=1)
    assert not list(tmp_path.glob("data/*"))


def test_memory_that_runs_out_is_not_blamed_on_a_song(songs, tmp_path, monkeypatch):
    setup = plan(songs, tmp_path)
    tools = setup.build()
    monkeypatch.setattr(tools[0], "_encode_batch", lambda batch: (_ for _ in ()).throw(MemoryError("no more")))
    with pytest.raises(OSError, match=r"expected memory for a batch of windows; got no more; use fewer workers"):
        run_unit(Job(tmp_path, setup, Options(), tools), 0)


def test_a_job_that_is_asked_to_stop_gives_its_units_back(tmp_path):
    setup = plan(write_songs(tmp_path / "songs", (240.0,)), tmp_path / "run", songs_per_unit=1)
    line = [sys.executable, "-m", "duotok", "tokenize", "run", str(tmp_path / "run")]
    job = subprocess.Popen(line, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    wait_for_journal(tmp_path / "run")
    job.send_signal(signal.SIGTERM)
    _, errors = job.communicate()
    assert job.returncode == 130 and "stopped; run the same command to go on" in errors and "Traceback" not in errors
    assert list((tmp_path / "run" / "leases").iterdir()) == []
    finish(tmp_path / "run", setup)
    assert verify(tmp_path / "run").problems == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_asked_to_stop_while_it_plans_says_so(songs, tmp_path, monkeypatch, capsys, number):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(songs_module, "collect", lambda songs: os.kill(os.getpid(), number))
    try:
        with pytest.raises(SystemExit) as ended:
            app(["tokenize", str(songs), "-o", str(tmp_path / "run")])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 130 and capsys.readouterr().err == "stopped; run the same command to go on\n"


def test_too_many_refused_songs_stop_a_run_that_asked_for_it(songs, tmp_path):
    folder = tmp_path / "songs"
    write_songs(folder, (1.0,))
    for number in range(3):
        (folder / f"{number}.mp3").write_bytes(b"")
    options = ("--separate", "none", "--songs-per-unit", 1)
    done = command(folder, "-o", tmp_path / "run", *options, "--max-failure-rate", 0.5)
    assert done.returncode == 2
    one_error(done, "expected at most 0.5 of the songs to be refused; got", "run again with another --max-failure-rate")
    finish(tmp_path / "run", read_setup(tmp_path / "run"))
    assert verify(tmp_path / "run").problems == []


def test_a_song_whose_id_is_taken_is_refused(songs, tmp_path):
    manifest = tmp_path / "songs.jsonl"
    names = ("000_vocals.wav", "001_vocals.wav")
    manifest.write_text("\n".join(json.dumps({"id": "one", "mixture_path": str(songs / name)}) for name in names))
    done = command(manifest, "-o", tmp_path / "run", "--separate", "none")
    assert done.returncode == 3 and "refused: one#2: plan: duplicate_id: " in done.stderr
    [row] = pq.read_table(tmp_path / "run" / "data").to_pylist()
    assert row["id"] == "one" and row["source"].endswith(names[0])
    [failure] = failures(tmp_path / "run").values()
    assert (failure["id"], failure["stage"], failure["reason"]) == ("one#2", "plan", "duplicate_id")
    assert f"got that of {songs / names[0]}, which keeps it" in failure["message"]
    assert verify(tmp_path / "run").problems == []


def test_circles_of_links_end_and_links_are_followed(songs, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "song.wav").write_bytes((songs / "000_vocals.wav").read_bytes())
    (tmp_path / "real" / "up").symlink_to(tmp_path)
    (tmp_path / "itself").symlink_to(tmp_path / "itself")
    (tmp_path / "itself.wav").symlink_to(tmp_path / "itself.wav")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    found = sorted(song.source for song in collect([tmp_path]))
    assert found == ["itself.wav", "link/song.wav", "real/song.wav"], "a link to itself is refused when it is opened"


def test_a_song_that_is_deleted_meanwhile_is_refused(songs, tmp_path):
    folder = tmp_path / "songs"
    write_songs(folder, (1.0, 1.0, 1.0))
    setup = plan(folder, tmp_path / "run")
    (folder / "001_vocals.wav").unlink()
    finish(tmp_path / "run", setup)
    assert failures(tmp_path / "run")["001_vocals.wav"]["reason"] == "missing"
    assert verify(tmp_path / "run").problems == []


def test_a_path_that_cannot_be_looked_at_is_its_songs_fault(songs, tmp_path, monkeypatch):
    """A name that is too long, and a folder that the system refuses (root may look anywhere, so that it is made here)."""
    manifest, secret = tmp_path / "songs.jsonl", tmp_path / "secret" / "song.wav"
    paths = [tmp_path / f"{300 * 'x'}.wav", secret, songs / "000_vocals.wav"]
    lines = [json.dumps({"id": str(number), "mixture_path": str(path)}) for number, path in enumerate(paths)]
    manifest.write_text("\n".join(lines))
    real = Path.stat

    def stat(path: Path, **options: bool) -> os.stat_result:
        if path == secret:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, **options)

    monkeypatch.setattr(Path, "stat", stat)
    finish(tmp_path / "run", plan(manifest, tmp_path / "run", songs_per_unit=3))
    found = failures(tmp_path / "run")
    assert [found[str(path)]["bytes"] for path in paths[:2]] == [0, 0] and len(found) == 2
    for failure in found.values():  # Python 3.14 finds nothing where older ones tell why
        assert failure["reason"] in ("io_error", "missing")
        assert "expected files that can be read; got [Errno" in failure["message"] or failure["reason"] == "missing"


def test_a_song_of_more_channels_than_its_column_holds_is_refused(tmp_path):
    wave = music(1.0, RATE)
    for number in (127, 128):
        write(tmp_path / f"{number}.wav", np.stack([wave] * number), RATE)
    finish(tmp_path / "run", plan(tmp_path, tmp_path / "run"))
    [failure] = failures(tmp_path / "run").values()
    assert (failure["source"], failure["stage"], failure["reason"]) == ("128.wav", "open", "unsupported")
    assert "expected 127 channels at most; got 128; mix them down" in failure["message"]
    assert pq.read_table(tmp_path / "run" / "data")["channels"].to_pylist() == [127]


def test_workers_that_keep_dying_end_the_run(songs, sound, tmp_path):
    """17 deaths in a row without a song finished in between are too many; songs make up for deaths."""
    plan(songs, tmp_path)
    poll = _Poll(tmp_path, 1.0, lambda status: None)
    poll(16)
    finish(tmp_path, read_setup(tmp_path))
    poll(16)
    with pytest.raises(PlanError, match="expected workers to finish songs; got 17 that died one after another"):
        poll(1)
