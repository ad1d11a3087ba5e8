"""Exports come back whole through the programs that they are for, and through readers written from the formats' description."""

from __future__ import annotations

import io
import json
import struct
import sys
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from duotok.cli import app
from duotok.corpus import export_read
from duotok.corpus.export import FORMATS, export
from duotok.corpus.plan import make_plan
from duotok.corpus.songs import Song
from duotok.corpus.store import SCHEMA, UnitOutcome, data_path, write_note, write_unit
from duotok.corpus.vocabulary import LAYOUTS, arrange, streams

NAMES = ["first", "two\nlines", "ünïcode/with.dots", "4", "five", "six", "seven"]


def row_of(number: int, id: str) -> tuple[dict, np.ndarray]:
    frames = 1 + 37 * number
    codes = np.random.default_rng(number).integers(0, 32_768, (2, frames), dtype=np.uint16)
    codes[:, 0] = 32_767
    said = number % 2 == 0
    return {
        "id": id, "vocal_codes": codes[0].tolist(), "accomp_codes": codes[1].tolist(), "n_frames": frames,
        "duration": (frames - 0.5) / 25, "sample_rate": 44_100, "num_samples": 1764 * frames - 882, "channels": 2,
        "start_time": 0.0, "gain_db": 0.0, "vocal_activity": [60] * (1 + frames // 25) if said else None,
        "text": "la la" if said else None, "language": "en" if said else None, "tags": ["pop", id], "segments": None,
        "source": f"{id}.flac", "audio_sha256": "0" * 64, "extra": None,
    }, codes  # fmt: skip


def make_run(folder: Path, names: list[str], fingerprint: str = "a" * 64, units_done: int | None = None) -> list[np.ndarray]:
    """A run of three songs a unit, as the engine leaves it; returns the codes (2, T) of its songs."""
    songs = [Song(name, name, mixture_path=f"{name}.flac") for name in names]
    plan = make_plan(folder, songs, fingerprint, "none:vocals", 3)
    rows = [row_of(number, name) for number, name in enumerate(names)]
    metadata = {"fingerprint": fingerprint, "separator": "none:vocals", "frame_rate": 25, "trained": False, "versions": {}}
    for unit in range(plan.num_units if units_done is None else units_done):
        write_note(
            folder, unit, write_unit(folder, unit, UnitOutcome([row for row, _ in rows[3 * unit : 3 * unit + 3]]), metadata)
        )
    return [codes for _, codes in rows]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    make_run(folder, NAMES)
    return folder


@pytest.fixture(scope="module")
def codes(tmp_path_factory) -> list[np.ndarray]:
    return [row_of(number, name)[1] for number, name in enumerate(NAMES)]


def lines_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "songs.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_hf_is_a_dataset(run, codes, tmp_path, layout):
    report = export([run], tmp_path / "out", "hf", layout, songs_per_shard=4)
    assert (report.num_songs, report.num_codes) == (7, sum(c.size for c in codes))
    found = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert found["id"][:] == NAMES and found["text"][:2] == ["la la", None] and found["tags"][1] == ["pop", NAMES[1]]
    for row, song in zip(found, codes, strict=True):
        expected = arrange(song, layout)
        if layout == "interleaved":
            assert np.array_equal(row["input_ids"], expected) and "vocal_codes" not in row
        else:
            names = ("vocal_codes", "accomp_codes") if layout == "parallel" else ("vocal_ids", "accomp_ids")
            assert np.array_equal(np.stack([row[name] for name in names], axis=1), expected)
    files = sorted((tmp_path / "out" / "data").iterdir())
    assert [path.name for path in files] == ["train-00000.parquet", "train-00001.parquet"]
    schema = pq.read_schema(files[0])
    assert json.loads(schema.metadata[b"duotok"])["fingerprint"] == "a" * 64 and (layout != "parallel" or schema.equals(SCHEMA))
    _, head, text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    card = yaml.safe_load(head)
    assert card["configs"] == [{"config_name": layout, "data_files": [{"split": "train", "path": "data/*.parquet"}]}]
    assert "7 songs" in text and "a" * 64 in text and "was not trained" in text and "65536" in text


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bin32_is_a_flat_array(run, codes, tmp_path, layout):
    export([run], tmp_path / "out", "bin32", layout)
    songs = [streams(song, layout) for song in codes]
    for name in songs[0]:
        flat = np.memmap(tmp_path / "out" / f"{name}.bin", dtype=np.uint32, mode="r")
        assert np.array_equal(flat, np.concatenate([song[name] for song in songs]))
        for line, song in zip(lines_of(tmp_path / "out"), songs, strict=True):
            assert np.array_equal(flat[line["first"] : line["first"] + line["length"]], song[name])
    assert [line["id"] for line in lines_of(tmp_path / "out")] == NAMES
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *(f"{name}.bin" for name in songs[0]),
        "songs.jsonl",
        "duotok.json",
    }
    about = json.loads((tmp_path / "out" / "duotok.json").read_text(encoding="utf-8"))
    assert about["vocabulary"]["accompaniment"] == 32_768 and about["fingerprints"] == ["a" * 64] and about["num_songs"] == 7


def read_megatron(prefix: Path) -> tuple[list[np.ndarray], np.ndarray]:
    """Sequences and document bounds, read as Megatron-LM's documentation of the index describes it."""
    index, data = prefix.with_suffix(".idx").read_bytes(), prefix.with_suffix(".bin").read_bytes()
    assert index[:9] == b"MMIDIDX\x00\x00"
    version, kind, sequences, documents = struct.unpack_from("<QBQQ", index, 9)
    assert version == 1
    dtype = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 6: "<f8", 7: "<f4", 8: "<u2"}[kind]
    lengths = np.frombuffer(index, "<i4", sequences, 34)
    pointers = np.frombuffer(index, "<i8", sequences, 34 + lengths.nbytes)
    bounds = np.frombuffer(index, "<i8", documents, 34 + lengths.nbytes + pointers.nbytes)
    assert 34 + lengths.nbytes + pointers.nbytes + bounds.nbytes == len(index)
    return [np.frombuffer(data, dtype, n, at) for n, at in zip(lengths, pointers, strict=True)], bounds


@pytest.mark.parametrize("layout", LAYOUTS)
def test_megatron_comes_back(run, codes, tmp_path, layout):
    export([run], tmp_path / "out", "megatron", layout)
    songs = [streams(song, layout) for song in codes]
    for name in songs[0]:
        sequences, bounds = read_megatron(tmp_path / "out" / name)
        assert len(sequences) == 7 and bounds.tolist() == list(range(8))
        assert all(np.array_equal(found, song[name]) for found, song in zip(sequences, songs, strict=True))


def test_megatrons_own_reader_reads_it(run, codes, tmp_path):
    indexed = pytest.importorskip("megatron.core.datasets.indexed_dataset", reason="needs the package megatron-core")
    export([run], tmp_path / "out", "megatron", "interleaved")
    found = indexed.IndexedDataset(str(tmp_path / "out" / "tokens"))
    assert len(found) == 7 and found.document_indices.tolist() == list(range(8))
    assert all(np.array_equal(found[i], streams(song, "interleaved")["tokens"]) for i, song in enumerate(codes))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_npy_is_a_file_a_song(run, codes, tmp_path, layout):
    export([run], tmp_path / "out", "npy", layout, songs_per_shard=2)
    lines = lines_of(tmp_path / "out")
    assert [line["id"] for line in lines] == NAMES and lines[6]["path"] == "codes/00003/0000006.npy"
    for line, song in zip(lines, codes, strict=True):
        found, expected = np.load(tmp_path / "out" / line["path"]), arrange(song, layout)
        assert found.dtype == expected.dtype and np.array_equal(found, expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_webdataset_tars_hold_it(run, codes, tmp_path, layout):
    export([run], tmp_path / "out", "webdataset", layout, songs_per_shard=3)
    tars = sorted((tmp_path / "out").glob("*.tar"))
    assert [path.name for path in tars] == ["songs-00000.tar", "songs-00001.tar", "songs-00002.tar"]
    number = 0
    for path in tars:
        with tarfile.open(path) as tar:
            members = tar.getmembers()
            for array, row in zip(members[::2], members[1::2], strict=True):
                assert (array.name, row.name) == (f"{number:09d}.codes.npy", f"{number:09d}.json")
                assert np.array_equal(np.load(io.BytesIO(tar.extractfile(array).read())), arrange(codes[number], layout))
                assert json.load(tar.extractfile(row))["id"] == NAMES[number]
                number += 1
    assert number == 7


def test_webdatasets_own_reader_reads_it(run, codes, tmp_path):
    webdataset = pytest.importorskip("webdataset", reason="needs the package webdataset")
    export([run], tmp_path / "out", "webdataset", "delayed", songs_per_shard=3)
    tars = sorted(map(str, (tmp_path / "out").glob("*.tar")))
    rows = list(webdataset.WebDataset(tars, shardshuffle=False).decode().to_tuple("codes.npy", "json"))
    assert [row["id"] for _, row in rows] == NAMES
    assert all(np.array_equal(array, arrange(song, "delayed")) for (array, _), song in zip(rows, codes, strict=True))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_lhotse_reads_it(run, codes, tmp_path, layout):
    lhotse = pytest.importorskip("lhotse", reason="needs the package lhotse")
    export([run], tmp_path / "out", "lhotse", layout, songs_per_shard=3)
    cuts = list(lhotse.CutSet.from_shar(in_dir=str(tmp_path / "out" / "shar")))
    assert [cut.id for cut in cuts] == NAMES
    for number, (cut, song) in enumerate(zip(cuts, codes, strict=True)):
        expected = arrange(song, layout)
        assert np.array_equal(cut.load_codes(), expected) and cut.codes.temporal_dim == 0
        assert cut.duration == pytest.approx(len(expected) * cut.codes.frame_shift)
        assert [said.text for said in cut.supervisions] == ["la la"] * (number % 2 == 0)
        assert cut.custom["seconds"] == row_of(number, NAMES[number])[0]["duration"] and cut.custom["tags"] == ["pop", cut.id]


def test_lhotse_that_is_not_installed_is_one_line(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lhotse.shar", None)
    with pytest.raises(ValueError, match=r"pip install 'duotok\[lhotse\]'"):
        export([run], tmp_path / "out", "lhotse")
    assert not list(tmp_path.iterdir())


def test_other_fingerprints_are_refused_unless_forced(run, tmp_path):
    make_run(tmp_path / "other", ["x", "y"], "b" * 64)
    with pytest.raises(ValueError, match=f"fingerprints {'a' * 16}, {'b' * 16}; export them apart, or force it"):
        export([run, tmp_path / "other"], tmp_path / "out", "npy")
    export([run, tmp_path / "other"], tmp_path / "out", "npy", force=True)
    assert [line["id"] for line in lines_of(tmp_path / "out")] == [*NAMES, "x", "y"]
    assert json.loads((tmp_path / "out" / "duotok.json").read_text(encoding="utf-8"))["fingerprints"] == ["a" * 64, "b" * 64]
    assert json.loads((tmp_path / "out" / "duotok.json").read_text(encoding="utf-8"))["made"]["fingerprint"] == "mixed"


def test_a_song_that_is_there_twice_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match="expected unique ids; got 'first'"):
        export([run, run], tmp_path / "out", "npy")


def test_an_unfinished_run_is_refused_unless_asked_for(tmp_path):
    make_run(tmp_path / "run", NAMES, units_done=2)
    with pytest.raises(ValueError, match="lacks 1 of 3 units"):
        export([tmp_path / "run"], tmp_path / "out", "npy")
    export([tmp_path / "run"], tmp_path / "out", "npy", partial=True)
    assert [line["id"] for line in lines_of(tmp_path / "out")] == NAMES[:6]
    path = data_path(tmp_path / "run", 0)
    path.write_bytes(path.read_bytes()[:-1] + b"x")  # a damaged unit is a missing one
    with pytest.raises(ValueError, match="lacks 2 of 3 units"):
        export([tmp_path / "run"], tmp_path / "more", "npy")


@pytest.mark.parametrize("format", FORMATS)
def test_an_export_that_fails_leaves_nothing(run, tmp_path, monkeypatch, format):
    if format == "lhotse":
        pytest.importorskip("lhotse", reason="needs the package lhotse")
    monkeypatch.setattr(export_read, "_check", _refuse_the_fifth())
    with pytest.raises(ValueError, match="the fifth"):
        export([run], tmp_path / "out", format, songs_per_shard=2)
    assert not list(tmp_path.iterdir())
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="expected a new folder"):
        export([run], tmp_path / "out", format)


def _refuse_the_fifth():
    seen = []

    def check(codes: list[np.ndarray], name: str, path: Path) -> None:
        seen.append(name)
        if len(seen) == 5:
            raise ValueError("the fifth")

    return check


def test_tokens_that_are_none_are_refused(run, tmp_path):
    for sources, found in (
        ([tmp_path], "found none"),
        ([Path(datasets.__file__)], "expected a file that duotok tokenize wrote"),
    ):
        with pytest.raises(ValueError, match=found):
            export(sources, tmp_path / "out", "npy")
    export([run], tmp_path / "ids", "hf", "interleaved")
    with pytest.raises(ValueError, match=r"train-00000.parquet: expected a file that duotok tokenize wrote.*vocal_codes"):
        export([tmp_path / "ids"], tmp_path / "out", "npy")
    table = pq.read_table(data_path(run, 0))
    longer = pa.Table.from_pylist([row | {"vocal_codes": [*row["vocal_codes"], 1]} for row in table.to_pylist()], table.schema)
    pq.write_table(longer, tmp_path / "odd.parquet")
    with pytest.raises(ValueError, match="expected two tracks of one length"):
        export([tmp_path / "odd.parquet"], tmp_path / "out", "npy")


@pytest.mark.parametrize("format", [name for name in FORMATS if name != "lhotse"])
def test_the_same_run_makes_the_same_bytes(run, tmp_path, contents, format):
    for name in ("one", "two"):
        export([run], tmp_path / name, format, "interleaved", songs_per_shard=4)
    assert contents(tmp_path / "one") == contents(tmp_path / "two") != {}


def test_only_a_few_songs_are_read_ahead(tmp_path, monkeypatch):
    monkeypatch.setattr(export_read, "_SONGS_AT_A_TIME", 2)
    make_run(tmp_path / "run", [str(i) for i in range(12)])
    read, songs = [], export_read.find_tokens([tmp_path / "run"]).songs()
    monkeypatch.setattr(export_read, "_check", lambda codes, name, path: read.append(name))
    for number, song in enumerate(songs, 1):
        assert song.row["id"] == str(number - 1) and len(read) == number


def test_the_command_line(run, tmp_path):
    options = ["tokenize", "export", str(run), "-o", str(tmp_path / "out"), "--format", "bin32", "--layout", "interleaved"]
    done = CliRunner().invoke(app, options)
    assert done.exit_code == 0 and "7 songs" in done.output
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"tokens.bin", "songs.jsonl", "duotok.json"}
    for change, found in ((("--format", "mp3"), "expected one of hf"), (("--layout", "x"), "expected one of parallel")):
        failed = CliRunner().invoke(app, ["tokenize", "export", str(run), "-o", str(tmp_path / "new"), *change])
        assert found in str(failed.exception)
