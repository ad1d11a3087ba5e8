"""Recipes for pipelines of others: the same codes as `DuoTok.encode`, and bad songs named instead of tokenized."""

from __future__ import annotations

import json
import pickle
import re
import textwrap
from pathlib import Path

import datasets
import make_audio
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from duotok.corpus import recipes
from duotok.corpus.recipes import COLUMNS, TokenizeRows, TokenizeTables


@pytest.fixture(scope="module")
def manifest(tmp_path_factory, real_song) -> Path:
    """Three good pairs of different rates and lengths, a mixture, and songs that cannot be trusted, as a manifest of paths."""
    folder = tmp_path_factory.mktemp("recipes")
    vocals, accompaniment, rate = real_song
    rows = []
    for number, (seconds, factor) in enumerate(((2, 1), (3.3, 2), (1, 1))):
        for name, wave in (("vocals", vocals), ("accompaniment", accompaniment)):
            soundfile.write(folder / f"{number}_{name}.flac", wave[: int(seconds * rate) : factor], rate // factor)
        rows.append({"vocal_path": f"{number}_vocals.flac", "accompaniment_path": f"{number}_accompaniment.flac"})
    soundfile.write(folder / "mix.wav", (vocals + accompaniment)[:rate], rate)
    make_audio.cut(folder / "mix.wav", 0.5, folder / "cut.wav")
    rows[1:1] = [{"mixture_path": "cut.wav"}, {"mixture_path": "none.wav"}, {"vocal_path": "0_vocals.flac"}]
    rows += [{"mixture_path": "mix.wav"}, {"mixture_path": "mix.wav", "start": 0.25, "duration": 0.6}, {}]
    (folder / "songs.jsonl").write_text("".join(json.dumps({"title": f"song {i}", **row}) + "\n" for i, row in enumerate(rows)))
    return folder / "songs.jsonl"


ERRORS = {1: "decode: truncated: ", 2: "open: missing: ", 3: "open: no_partner: ", 8: "open: no_partner: "}


def check(rows: list[dict], manifest: Path, tokenizer) -> None:
    """Compare rows with codes of whole waves, and errors with their reasons."""
    planned = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    assert [row["title"] for row in rows] == [row["title"] for row in planned] and len(rows) == 9
    for number, (row, plan) in enumerate(zip(rows, planned, strict=True)):
        if number in ERRORS:
            assert row["error"].startswith(ERRORS[number]) and "expected" in row["error"]
            assert (row["n_frames"], list(row["vocal_codes"]), list(row["accomp_codes"])) == (0, [], [])
            continue
        names = [plan[name] for name in ("vocal_path", "accompaniment_path", "mixture_path") if plan.get(name)]
        waves = [soundfile.read(manifest.parent / name, dtype="float32") for name in names]
        rate, start = waves[0][1], round(plan.get("start", 0) * waves[0][1])
        waves = [wave[start : start + round(plan.get("duration", 99) * rate)] for wave, _ in waves]
        if len(waves) == 1:
            waves.insert(0, np.zeros_like(waves[0]))
        codes = tokenizer.encode(*waves, rate)[0].numpy()
        assert row["error"] == "" and row["n_frames"] == codes.shape[1]
        assert np.array_equal(codes, [row["vocal_codes"], row["accomp_codes"]])
        assert len(row["vocal_activity"]) == (0 if "mixture_path" in plan else -(-len(waves[0]) // rate))


def table_of(manifest: Path) -> pa.Table:
    planned = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    names = dict.fromkeys(name for row in planned for name in row)
    return pa.table({name: [row.get(name) for row in planned] for name in names})


def run_recipe(which: int, changes: dict[str, str], **names: object) -> dict:
    """Run a recipe of the module's docstring, with the changes that a small machine needs."""
    code = textwrap.dedent(re.findall(r"\n\n((?:    .*\n)+)", recipes.__doc__)[which])
    assert len(code.splitlines()) <= 10
    for old, new in changes.items():
        assert old in code
        code = code.replace(old, new)
    exec(code, names)
    return names


def test_datasets_map(manifest, spread_folder, spread_tokenizer, tmp_path, monkeypatch):
    torch.randn(300, 300) @ torch.randn(300, 300)  # whose threads the forked workers do not have
    monkeypatch.chdir(manifest.parent)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    changes = {
        '"tiny"': repr(str(spread_folder)),
        '"cuda"': '"cpu"',
        "batch_size=64": "batch_size=4",
        "num_proc=8": "num_proc=2",
    }
    found = run_recipe(0, changes, datasets=datasets, TokenizeRows=TokenizeRows)
    rows = found["rows"]
    assert rows.features["vocal_codes"].feature.dtype == "uint16" and rows.features["error"].dtype == "string"
    check(list(rows), manifest, spread_tokenizer)
    assert found["bad"]["title"][:] == [f"song {i}" for i in ERRORS]


def test_ray_data_map_batches(manifest, spread_folder, spread_tokenizer, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="needs the package ray[data]")
    pytest.importorskip("ray.data", reason="needs the package ray[data]")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    changes = {
        '"songs.jsonl"': repr(str(manifest)), '"tiny"': repr(str(spread_folder)), "batch_size=64": "batch_size=4",
        '"device": "cuda"': f'"device": "cpu", "folder": {str(manifest.parent)!r}', '"tokens"': repr(str(tmp_path / "tokens")),
        "num_gpus=1, concurrency=8": "concurrency=1",
    }  # fmt: skip
    try:
        run_recipe(1, changes, ray=ray, TokenizeTables=TokenizeTables)
    finally:
        ray.shutdown()
    table = pq.read_table(tmp_path / "tokens")
    assert table.schema.field("vocal_codes").type == pa.list_(pa.uint16())
    check(sorted(table.to_pylist(), key=lambda row: row["title"]), manifest, spread_tokenizer)


def test_tables_have_the_documented_columns_whatever_became_of_their_songs(manifest, spread_folder, spread_tokenizer):
    tokenize = TokenizeTables(str(spread_folder), folder=str(manifest.parent), num_decoders=2)
    whole = tokenize(table_of(manifest))
    check(whole.to_pylist(), manifest, spread_tokenizer)
    bad = tokenize(pa.table({"mixture_path": ["none.wav"]}))
    for table in (whole, bad):
        assert [table.schema.field(field.name) for field in COLUMNS] == list(COLUMNS)


def test_a_worker_loads_one_model_and_a_copy_of_the_recipe_none(manifest, monkeypatch):
    built, build = [], recipes.Setup.build
    monkeypatch.setattr(recipes.Setup, "build", lambda setup: built.append(setup) or build(setup))
    recipes._tools.cache_clear()
    tokenize = pickle.loads(pickle.dumps(TokenizeRows("tiny", folder=str(manifest.parent))))
    assert built == []
    for _ in range(3):
        assert tokenize({"mixture_path": ["mix.wav"]})["error"] == [""]
    assert len(built) == 1


def test_a_rank_chooses_its_device(manifest, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    seen: list[str] = []

    def tools(setup: recipes.Setup) -> None:
        seen.append(setup.device)
        raise ValueError("no such device here")

    monkeypatch.setattr(recipes, "_tools", tools)
    for device, rank in (("cuda", 3), ("cuda", None), ("cuda:1", 2), ("cpu", 1)):
        with pytest.raises(ValueError, match="no such device"):
            TokenizeRows(device=device)({"mixture_path": ["x"]}, rank)
    assert seen == ["cuda:1", "cuda", "cuda:1", "cpu"]


def test_what_cannot_work_is_said(manifest):
    with pytest.raises(ValueError, match="expected a column of vocal_path"):
        TokenizeRows()({"audio": ["x.wav"]})
    with pytest.raises(ValueError, match="separator"):
        TokenizeRows(separate="magic")({"mixture_path": ["x.wav"]})
