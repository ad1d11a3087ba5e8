"""The stages' configurations, at paper and CPU size, and the command line that trains them in a row."""

from __future__ import annotations

import pytest
import torch
from make_songs import dump, four_songs, small_config, songs_of
from typer.testing import CliRunner, Result

import duotok
from duotok.cli import app
from duotok.config import ConfigError
from duotok.training.stages import load_config, make_stage
from duotok.training.task import Batch

SHALLOW = ("model.trunk.front_blocks=1", "model.trunk.back_blocks=1", "data.crop_s=0.8", "data.batch_size=1")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return four_songs(tmp_path_factory.mktemp("songs"))


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_paper_size_builds_and_trains_a_step_at_reduced_depth(manifest, stage):
    songs = songs_of(manifest)
    config = load_config(f"stage{stage}")
    with torch.device("meta"):
        trunk = make_stage(config, songs).model.trunk
    blocks = sum(p.numel() for p in (*trunk.front.parameters(), *trunk.back.parameters()))
    assert 302_000_000 < blocks < 303_000_000 and (len(trunk.front.blocks), len(trunk.back.blocks)) == (12, 12)
    shallow = make_stage(load_config(f"stage{stage}", SHALLOW), songs).train()
    shallow(shallow.batch(1, 0), torch.tensor([0, 1]))["loss"].backward()
    trained = [p for group in shallow.parameter_groups() for p in group["params"]]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)


@pytest.mark.parametrize("size", ["", "tiny/"])
def test_stages_share_sizes_and_end_in_the_tokenizers(size):
    stages = [load_config(f"{size}stage{n}") for n in (1, 2, 3)]
    assert [stage.model.bottleneck.kind for stage in stages] == ["plain", "gaussian", "simvq"]
    assert len({repr((stage.model.mel, stage.model.trunk)) for stage in stages}) == 1
    assert stages[1].model.bottleneck.quantizer.dim == stages[2].model.bottleneck.quantizer.dim
    tokenizer = duotok.DuoTok.from_config(f"{size}tokenizer").config
    assert (tokenizer.model.trunk, tokenizer.model.mel) == (stages[2].model.trunk, stages[2].model.mel)
    assert tokenizer.model.bottleneck.quantizer == stages[2].model.bottleneck.quantizer
    assert (tokenizer.model.heads, tokenizer.windows) == (stages[2].model.heads, stages[2].windows)


@pytest.mark.parametrize(
    ("stage", "override", "message"),
    [
        ("stage1", "train.lr=.nan", "expected lr of at least 0; got nan"),
        ("stage1", "train.clip=-1", "expected clip of at least 0; got -1.0"),
        ("stage1", "masking.p=1.5", "p of 0 to 1 .*; got 0.4, 1.5 and 0.1"),
        ("stage2", "model.bottleneck.replace_sigma=-1", "replace_sigma of at least 0; got 0.2 and -1.0"),
        ("stage2", "masks_s=0", "expected masks_s above 0"),
        ("stage4", "condition_dropout=2", "condition_dropout of 0 to 1 .*; got 2.0 and 0.2"),
        ("stage4", "overlap=0.9", "overlap of 0 to 0.5; got 0.1 and 0.9"),
    ],
)
def test_values_that_cannot_be_meant_are_named(stage, override, message):
    with pytest.raises(ConfigError, match=f"{message}.*; correct"):
        load_config(f"tiny/{stage}", [override])


def test_wrong_configurations_are_named(tmp_path, manifest):
    with pytest.raises(ConfigError, match=r"config: expected a .yaml file, or vae, stage1 .*; got 'stage9'"):
        load_config("stage9")
    (tmp_path / "x.yaml").write_text("stage: 7\n")
    with pytest.raises(ConfigError, match=r"x.yaml: stage: expected one of 1, 2, 3, 4, vae, lm; got 7"):
        load_config(tmp_path / "x.yaml")
    with pytest.raises(ConfigError, match=r"data.crops: expected one of manifest"):
        load_config("tiny/stage1", ["data.crops=3"])
    with pytest.raises(ConfigError, match=r"data: expected crop_s > 0.*; got -1.0, 24 and 32"):
        load_config("tiny/stage1", ["data.crop_s=-1"])
    with pytest.raises(ValueError, match=r"vocab_size of at least 256, as lyrics are spelt in bytes; got 99; raise it"):
        make_stage(small_config(2, "model.heads.vocab_size=99"), songs_of(manifest))
    with pytest.raises(ValueError, match=r"expected model.bottleneck.kind plain in stage 1; got gaussian"):
        make_stage(small_config(1, "model.bottleneck.kind=gaussian"), songs_of(manifest))


def test_settings_tell_what_is_learned_but_not_where_it_lies(manifest):
    first = make_stage(small_config(1), songs_of(manifest)).settings()
    again = make_stage(small_config(1, "data.manifest=elsewhere.jsonl", "train.steps=9"), songs_of(manifest)).settings()
    other = make_stage(small_config(1, "masking.p=0.5"), songs_of(manifest)).settings()
    assert first == again != other and set(first["songs"]) == {"song0", "song1", "song2", "song3"}


def test_batches_pass_through_devices(manifest):
    stage = make_stage(small_config(2), songs_of(manifest))
    assert isinstance(stage.batch(1, 0).to("meta"), Batch)


def test_the_command_line_trains_all_stages_and_tokenizes(tmp_path, manifest):
    """Three stages of a few steps, a bad song that is named, a resumed run, and tokens at the end."""
    songs = manifest.parent / "with_a_bad_one.jsonl"
    songs.write_text(manifest.read_text() + '{"id": "gone", "vocal_path": "no.wav", "accompaniment_path": "no.wav"}\n')

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(app, [*map(str, arguments)])

    for stage in (1, 2, 3):
        short = ("train.evaluate_every=2", "train.save_every=2", "train.warmup_steps=1")
        config = dump(small_config(stage, *short), tmp_path / f"stage{stage}.yaml")
        init = ("--init", tmp_path / f"run{stage - 1}") if stage > 1 else ()
        last = ("--export", tmp_path / "tokenizer") if stage == 3 else ()
        out = tmp_path / f"run{stage}"
        done = run("train", config, "train.steps=2", "--data", songs, "-o", out, "--plot", *init, *last)
        assert done.exit_code == 0, done.output
        assert "left out: gone: missing: " in done.stderr and "3 songs to train on, 1 held out, 1 left out" in done.stderr
        assert all((out / name).exists() for name in ("step-000002", "config.yaml", "curves.png"))
    longer = run("train", config, "train.steps=4", "--data", songs, "-o", out, "--init", tmp_path / "nowhere")
    assert longer.exit_code == 0 and "step 4: held out loss" in longer.stdout and "started from" not in longer.stderr
    assert "note: going on from" in longer.stderr and "--init is not read" in longer.stderr
    alone = run("train", config, "--data", songs, "-o", tmp_path / "run4")
    assert "--init: expected a run of stage 2" in str(alone.exception) and not (tmp_path / "run4").exists()
    tokens = run("tokenize", manifest, "-o", tmp_path / "tokens", "--tokenizer", tmp_path / "tokenizer")
    assert tokens.exit_code == 0 and "4 songs" in tokens.stdout and "untrained" not in tokens.stderr
    again = run("export", out, "-o", tmp_path / "again")
    assert again.exit_code == 0 and duotok.load(tmp_path / "again").fingerprint[:16] in again.stdout
