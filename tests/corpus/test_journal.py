"""A journal tells what is done, what was in flight, and a crash from a kill; torn lines are no lines."""

from __future__ import annotations

import resource

import numpy as np
import pytest

from duotok.corpus.journal import Journal, discard, replay
from duotok.corpus.worker import Outcome
from duotok.files import WriteError

ROW = {
    "id": "a",
    "vocal_codes": np.array([0, 65_535], np.uint16),
    "tags": ["x"],
    "text": "\u2028 ☃",
    "segments": [{"start": 1.0}],
}
FAILURE = {"id": "b", "reason": "silent"}


def test_outcomes_and_seconds_come_back(tmp_path):
    own = Journal(tmp_path, 3, "identity")
    own.begin("a")
    own.finish("a", Outcome(ROW, None, 2.0), {"encode": 1.5})
    own.finish("b", Outcome(None, FAILURE, 0.0), {"encode": 0.5})
    own.close()
    told = replay(tmp_path, 3, "identity")
    row = told.outcomes["a"].row
    assert {**row, "vocal_codes": None} == {**ROW, "vocal_codes": None} and list(row["vocal_codes"]) == [0, 65_535]
    assert row["vocal_codes"].dtype == np.uint16 and told.outcomes["a"].seconds == 2.0
    assert told.outcomes["b"].failure == FAILURE and told.seconds == {"encode": 2.0}
    assert not told.crashes and not told.kills
    assert not replay(tmp_path, 3, "another decoder").outcomes and not replay(tmp_path, 4, "identity").outcomes
    discard(tmp_path, 3)
    assert not list((tmp_path / "journal").iterdir())


@pytest.mark.parametrize("cut", [2, 10, 30])
def test_a_torn_line_is_no_line(tmp_path, cut):
    own = Journal(tmp_path, 0, "identity")
    own.finish("a", Outcome(ROW, None, 2.0), {})
    own.finish("b", Outcome(None, FAILURE, 0.0), {})
    data = own.path.read_bytes()
    own.path.write_bytes(data[:-cut])
    assert list(replay(tmp_path, 0, "identity").outcomes) == ["a"]
    own.path.write_bytes(data[:-cut] + b"\0" * cut)
    assert list(replay(tmp_path, 0, "identity").outcomes) == ["a"], "zeros, as a power cut leaves them"


def test_songs_in_flight_at_kills_and_crashes_are_counted(tmp_path):
    for ending in ("kill", "kill", "crash", "defect", "end"):
        own = Journal(tmp_path, 0, "identity")
        own.begin("done"), own.begin("flying"), own.begin(ending)
        own.finish("done", Outcome(None, FAILURE, 0.0), {})
        if ending == "crash":
            own._file.write(b"Fatal Python error: Segmentation fault\n\nThread 0x1 (most recent call first):\n")
        elif ending == "defect":
            own.crash(RuntimeError("no kernel image"))
        if ending in ("defect", "end"):
            own.close()
    told = replay(tmp_path, 0, "identity")
    assert told.crashes == {"flying": 2, "crash": 1, "defect": 1}
    assert told.kills == {"flying": 2, "kill": 2} and not told.lone_kills
    for _ in range(3):
        Journal(tmp_path, 0, "identity").begin("alone")
    assert replay(tmp_path, 0, "identity").lone_kills == {"alone": 3}


def test_a_full_disk_speaks_against_no_song(tmp_path):
    """Nothing more can be written, not even that the claim ends."""
    for _ in range(9):
        own = Journal(tmp_path, 0, "identity")
        own.begin("alone")
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (own.path.stat().st_size, before[1]))
        try:
            with pytest.raises(WriteError, match="expected to write; got File too large"):
                own.finish("alone", Outcome(ROW, None, 2.0), {})
            own.close()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    told = replay(tmp_path, 0, "identity")
    assert not told.outcomes and not told.crashes and not told.kills and not told.lone_kills


def test_a_song_whose_text_speaks_of_crashes_is_none(tmp_path):
    own = Journal(tmp_path, 0, "identity")
    own.begin("x")
    own.finish("a", Outcome({**ROW, "text": "la\nFatal Python error: la"}, None, 2.0), {})
    assert not replay(tmp_path, 0, "identity").crashes
