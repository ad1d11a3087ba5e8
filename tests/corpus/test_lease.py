"""Leases: one of many gets a unit, signs of life keep it, and no clock but the observer's own decides that it is void."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import subprocess
import sys
import time

import pytest

from duotok.corpus import lease as leases
from duotok.corpus.lease import Claims, LeaseLost, read_beats
from duotok.files import WriteError


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def elsewhere(tmp_path):
    """Claims of unit 3 by a process of another host: the claim's file, and how that process shows a sign of life."""
    folder = tmp_path / "leases"
    folder.mkdir()
    path = folder / "00003.000.jsonl"
    path.write_text(json.dumps({"place": "other:boot:pid", "host": "other", "pid": os.getpid()}) + "\n")
    return path


def beat(path) -> None:
    with path.open("a") as file:
        file.write("{}\n")


def test_a_unit_is_claimed_once_and_free_when_given_back(tmp_path):
    mine, others = Claims(tmp_path, 60), Claims(tmp_path, 60)
    held = mine.claim(3)
    assert held and others.claim(3) is None and others.claim(4)
    held.release()
    assert others.claim(3)


def test_a_claim_without_a_sign_of_life_is_taken_over(tmp_path, elsewhere, caplog):
    clock = Clock()
    claims = Claims(tmp_path, 60, clock)
    assert claims.claim(3) is None
    clock.now += 59
    assert claims.claim(3) is None
    clock.now += 1
    assert claims.claim(3)
    assert "unit 3: took it over from process" in caplog.text and "of host other: no sign of life for 60 s" in caplog.text


def test_a_sign_of_life_keeps_a_claim(tmp_path, elsewhere):
    clock = Clock()
    claims = Claims(tmp_path, 60, clock)
    for _ in range(5):
        assert claims.claim(3) is None
        clock.now += 50
        beat(elsewhere)
    assert claims.claim(3) is None, "it changed since the last look, so the wait begins again"


@pytest.mark.parametrize("jump", [-1e9, 1e9])
def test_a_clock_that_jumps_takes_nothing_away(tmp_path, elsewhere, monkeypatch, jump):
    """The wall clock of this host, and with it the times of files, may say anything."""
    claims = Claims(tmp_path, 60)
    assert claims.claim(3) is None
    real = time.time()
    monkeypatch.setattr(time, "time", lambda: real + jump)
    os.utime(elsewhere, (max(real + jump, 0), max(real + jump, 0)))
    assert claims.claim(3) is None


def test_a_dead_process_of_this_host_holds_nothing(tmp_path):
    script = (
        "import sys; from pathlib import Path; from duotok.corpus.lease import Claims; Claims(Path(sys.argv[1]), 60).claim(3)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    assert len(list((tmp_path / "leases").iterdir())) == 1
    assert Claims(tmp_path, 1e9).claim(3)


def test_whoever_lost_a_unit_learns_it_and_cannot_give_it_back(tmp_path):
    clock = Clock()
    sleeper, other = Claims(tmp_path, 60), Claims(tmp_path, 60, clock)
    lost = sleeper.claim(3)
    assert other.claim(3) is None
    clock.now += 61
    taken = other.claim(3)
    assert taken
    with pytest.raises(LeaseLost):
        lost.beat()
    assert lost.lost
    lost.release()
    taken.beat(songs=2)
    assert read_beats(tmp_path)[3]["songs"] == 2
    taken.release()
    assert list((tmp_path / "leases").iterdir()) == []


def test_beats_are_read_by_others_and_a_torn_one_is_no_beat(tmp_path):
    held = Claims(tmp_path, 60).claim(3)
    held.beat(songs=1, speed=2.0)
    held.beat(songs=2, speed=2.5)
    [path] = (tmp_path / "leases").iterdir()
    with path.open("a") as file:
        file.write('{"songs": 9')
    found = read_beats(tmp_path)[3]
    assert (found["songs"], found["speed"], found["pid"]) == (2, 2.5, os.getpid())


@pytest.mark.parametrize(
    "line", [b"{}", b'{"songs": 9', b"\xff\xfe\x00", b"[1]", b"7", b'{"songs": "9"}', b'{"pid": "x"}', b"[" * 9_999, b"\0" * 9]
)
def test_a_line_that_cannot_be_read_is_no_beat(tmp_path, line):
    """Whether it stands where the claim's maker should, or after it."""
    clock = Clock()
    held, other = Claims(tmp_path, 60).claim(3), Claims(tmp_path, 60, clock)
    [path] = (tmp_path / "leases").iterdir()
    held.beat(songs=1, speed=2.0)
    with path.open("ab") as file:
        file.write(line + b"\n")
    expected = (1, os.getpid()) if line != b"{}" else (None, os.getpid())
    assert (read_beats(tmp_path)[3].get("songs"), read_beats(tmp_path)[3]["pid"]) == expected
    path.write_bytes(line + b"\n")
    assert all((beat["host"], beat["pid"]) == ("unknown", 0) for beat in read_beats(tmp_path).values())
    assert leases.holder(path) == "process unknown of host unknown" and other.claim(3) is None
    clock.now += 61
    assert other.claim(3), "it shows no sign of life"


def test_claims_are_counted_beyond_a_thousand(tmp_path, elsewhere):
    elsewhere.rename(elsewhere.with_name("00003.999.jsonl"))
    for number in (1000, 1001):
        clock = Clock()
        other = Claims(tmp_path, 60, clock)
        assert other.claim(3) is None
        clock.now += 61
        taken = other.claim(3)
        taken.beat(songs=number)
        assert read_beats(tmp_path)[3]["songs"] == number
    taken.release()
    assert list((tmp_path / "leases").iterdir()) == []


def test_without_room_for_a_claim_there_is_none(tmp_path):
    """As on a full disk, on which a file can be made and not filled."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(WriteError, match=r"expected to claim a unit; got File too large; free space, or choose"):
            Claims(tmp_path, 60).claim(3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list((tmp_path / "leases").iterdir()) == []


def _race(run, barrier, won) -> None:
    claims = Claims(run, 0.0)
    barrier.wait(20)
    if claims.claim(0):
        with won.get_lock():
            won.value += 1
    barrier.wait(20)  # the winner stays alive until all have tried


@pytest.mark.parametrize("void", [False, True])
def test_one_of_many_that_run_for_a_unit_gets_it(tmp_path, void):
    """A unit that is free, or held by a process that is gone."""
    if void:
        (tmp_path / "leases").mkdir()
        gone = {"place": leases._place(), "host": "here", "pid": 2**22 + 1}
        (tmp_path / "leases" / "00000.000.jsonl").write_text(json.dumps(gone) + "\n")
    context = multiprocessing.get_context("fork")
    barrier, won = context.Barrier(4), context.Value("i", 0)
    racers = [context.Process(target=_race, args=(tmp_path, barrier, won)) for _ in range(4)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(30)
    assert won.value == 1
