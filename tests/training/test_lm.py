"""Language models trained by the loop: batches, losses, a toy that is learned by heart, a resumed run, and songs at the end."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
from make_decoder import random_codes
from make_lm import END, paired_songs, write_tokens
from toy_task import tensors, timeless
from typer.testing import CliRunner

from duotok.cli import app
from duotok.config import ConfigError
from duotok.dataset.manifest import split_of
from duotok.dataset.tokens import load_tokens
from duotok.language import load_language_model
from duotok.model.protocols import IGNORED, make_steps
from duotok.storage import CheckpointError
from duotok.training.loop import train
from duotok.training.stages import export, load_config, make_stage, read_songs, read_state

SEED = torch.tensor([0, 0])
SMALL = [
    "tokenizer=null", "model={codebook_size: 16, width: 32, num_blocks: 2, num_heads: 2, num_key_heads: 1, ffn_width: 64}",
    "data.crop_s=2", "data.min_s=1", "data.batch_size=4", "data.eval_crops=4", "train.micro_batches=1", "train.log_every=5",
    "train.warmup_steps=5", "train.evaluate_every=10", "train.save_every=10",
]  # fmt: skip


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return write_tokens(tmp_path_factory.mktemp("tokens") / "run", paired_songs(dependent=True, count=4, frames=200))


def make(tokens, *overrides: str):
    config = load_config("tiny/lm", [*SMALL, f"data.manifest={tokens}", *overrides])
    stage = make_stage(config, read_songs(config))
    stage.start()
    return stage


def test_songs_are_parted_as_everywhere_else(tmp_path):
    songs = {f"song{i}": np.full((2, 30 + i), i, np.uint16) for i in range(9)}
    found = load_tokens(write_tokens(tmp_path / "run", songs, held_out=3), min_s=1.25)
    assert [song.id for song in found.train] == ["song2", "song3", "song4", "song5"] and len(found.held_out) == 3
    assert found.problems[0] == "song0: too_short: expected at least 1.25 s; got 1.20 s; leave it out"
    assert (found.train[0].codes == 2).all() and found.train[0].num_samples == 32
    with pytest.raises(ConfigError, match=r"expected songs to train on and songs held out; got none held out"):
        load_tokens(write_tokens(tmp_path / "none", songs, held_out=0))
    with pytest.raises(ConfigError, match=r"expected at least two songs, one to hold out; got 0; tokenize more"):
        load_tokens(tmp_path / "none", min_s=9)
    free = load_tokens(write_tokens(tmp_path / "free", {f"piece{i}": songs["song0"] for i in range(40)}, held_out=None))
    assert {song.id for song in free.held_out} == {f"piece{i}" for i in range(40) if split_of(f"piece{i}") == "held_out"}


@pytest.mark.parametrize("protocol", ["unconditional", "accompaniment"])
def test_a_batch_s_loss_is_the_mean_over_its_songs_own_codes(tokens, protocol):
    stage = make(tokens, f"protocol={protocol}").eval()
    crops = stage.train_crops.draw(1, 0, 64)
    ends = [crop.start + 50 >= 200 for crop in crops]
    assert any(ends) and not all(ends)
    expected = {track: [] for track in ((0, 1) if protocol == "unconditional" else (1,))}
    for crop, is_end in zip(crops, ends, strict=True):
        codes = torch.tensor(crop.song.codes[:, crop.start : crop.start + 50].astype(np.int64))
        hidden = stage.model.read(make_steps(protocol, codes[None]))[0, -codes.shape[1] - 1 :]
        for track, losses in expected.items():
            wanted = torch.cat((codes[track], torch.tensor([END if is_end else IGNORED])))
            losses.append(F.cross_entropy(stage.model.logits(hidden, track), wanted, reduction="none", ignore_index=IGNORED))
    counts = sum(crop.song.codes[0, crop.start : crop.start + 50].size for crop in crops) + sum(ends)
    means = {("vocals", "accompaniment")[track]: torch.cat(losses).sum() / counts for track, losses in expected.items()}
    found = stage(stage.collate(crops), SEED)
    values = {name: getattr(value, "value", value).item() for name, value in found.items()}
    assert values == pytest.approx(
        {"loss": (sum(means.values()) / len(means)).item()} | {name: value.item() for name, value in means.items()}, rel=1e-5
    )


def test_it_begins_at_how_often_codes_occur(tmp_path):
    songs = {f"s{i}": np.full((2, 50), 3, np.uint16) for i in range(3)}
    stage = make(write_tokens(tmp_path / "run", songs))
    prior = stage.model.heads[0].bias.exp()
    assert prior[[3, END]].tolist() == pytest.approx([100.5 / 110.5, 2.5 / 110.5], rel=1e-4)


@pytest.mark.parametrize("protocol", ["unconditional", "accompaniment"])
def test_a_periodic_toy_is_learned_by_heart(tmp_path, protocol):
    beat = np.stack((np.arange(60) % 7, (3 * np.arange(60)) % 5)).astype(np.uint16)
    run = write_tokens(tmp_path / "run", {f"s{i}": np.roll(beat, i, 1)[:, :50] for i in range(4)})
    stage = make(run, f"protocol={protocol}", "train.steps=60", "train.lr=1.0e-2", "train.evaluate_every=60")
    before = stage.eval().evaluate()["loss"]
    result = train(stage, stage.config.train, tmp_path / "out")
    assert before > 1.5 and result.scores["loss"] < 0.35, "no more than where the crop and the song begin"
    made = export(tmp_path / "out", tmp_path / "lm")
    again = load_language_model(tmp_path / "lm")
    assert (again.fingerprint, again.config.protocol) == (made.fingerprint, protocol) and again.config.context_frames == 50
    assert again.training["steps"] == 60 and again.training["scores"] == result.scores
    other = make(run, f"protocol={protocol}", "train.steps=60", "train.lr=1.0e-2")
    for place in ("out", "lm"):
        other.start(read_state(tmp_path / place, "lm"))
        assert torch.equal(other.model.norm.weight, stage.model.norm.weight)


def test_a_stopped_run_ends_as_one_that_was_not(tokens, tmp_path):
    changes = ("train.steps=20", "train.schedule=constant", "train.ema_decay=0.9")
    whole = make(tokens, *changes)
    train(whole, whole.config.train, tmp_path / "whole")
    first = make(tokens, *changes)
    train(first, dataclasses.replace(first.config.train, steps=10), tmp_path / "parts")
    second = make(tokens, *changes, "train.prefetch=1")
    train(second, second.config.train, tmp_path / "parts")
    ours, theirs = tensors(tmp_path / "parts"), tensors(tmp_path / "whole")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs) and ours.keys() == theirs.keys()
    assert timeless(tmp_path / "parts") == timeless(tmp_path / "whole")
    with pytest.raises(CheckpointError, match=r"task.file.protocol: expected 'unconditional'"):
        train(make(tokens, *changes, "protocol=accompaniment"), second.config.train, tmp_path / "parts")


def test_what_does_not_fit_is_named(tokens):
    with pytest.raises(ValueError, match=r"model.codebook_size: expected 16, as the tokens have it; got 32; correct it"):
        make(tokens, "model.codebook_size=32")
    with pytest.raises(ValueError, match=r"tokenizer: expected that of the tokens, f{16}, with model.embedding_dim 16"):
        make(tokens, "tokenizer=tiny")


def test_paper_size_is_that_of_the_benchmark(tmp_path):
    songs = {f"s{i}": np.zeros((2, 150), np.uint16) for i in range(2)}
    config = load_config("lm", [f"data.manifest={write_tokens(tmp_path / 'run', songs, 32_768)}"])
    with torch.device("meta"):
        stage = make_stage(config, read_songs(config))
    trunk = sum(p.numel() for part in (stage.model.blocks, stage.model.norm) for p in part.parameters())
    whole = sum(p.numel() for p in stage.parameters())
    assert (round(trunk / 1e6, 1), round(whole / 1e6, 1)) == (84.6, 186.5) and stage.file.context_frames == 1024


def test_the_command_line_trains_exports_and_draws_sound(tmp_path, tokenizer):
    def duotok(*arguments: object):
        return CliRunner().invoke(app, [*map(str, arguments)])

    codes = {f"song {i}": random_codes(60, seed=i).numpy().astype(np.uint16) % 64 for i in range(3)}
    run = write_tokens(tmp_path / "run", codes, tokenizer.codebook_size, tokenizer.fingerprint)
    short = ["data.crop_s=1", "data.min_s=1", "data.eval_crops=1", "train.steps=2", "train.micro_batches=1"]
    for protocol in ("unconditional", "accompaniment"):
        done = duotok("train", "tiny/lm", f"protocol={protocol}", *short, "--data", run, "-o", tmp_path / f"run-{protocol}",
                      "--export", tmp_path / protocol)  # fmt: skip
        assert done.exit_code == 0, done.output
        assert "2 songs to train on, 1 held out" in done.stderr and "language model " in done.stdout
    quick = ("--steps", 1, "--guidance", 1, "--seconds", 1.2)
    drawn = tmp_path / "drawn"
    done = duotok("sample", tmp_path / "unconditional", "-o", drawn, "--count", 2, *quick)
    assert done.exit_code == 0 and "2 songs in" in done.stdout, done.output
    first = np.load(drawn / "song-0.npy")
    assert first.shape == (2, 30) and first.dtype == np.int64 and not np.array_equal(first, np.load(drawn / "song-1.npy"))
    sound = soundfile.info(drawn / "song-0.mix.wav")
    assert (sound.frames, sound.samplerate) == (round(1.2 * 24_000), 24_000)
    stamps = {path: path.stat().st_mtime_ns for path in drawn.iterdir()}
    assert len(stamps) == 9 and duotok("sample", tmp_path / "unconditional", "-o", drawn, "--count", 2, *quick).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in drawn.iterdir()} == stamps
    played = tmp_path / "played"
    prompt = ("--from", run, "--song", "song 1", "--start", 0.4, "--prompt", 0.2)
    done = duotok("sample", tmp_path / "accompaniment", "-o", played, *prompt, "--track", "accompaniment", *quick, "--top-k", 5)
    assert done.exit_code == 0, done.output
    [file] = played.glob("*.npy")
    song = np.load(file)
    assert np.array_equal(song[0], codes["song 1"][0, 10:40]) and np.array_equal(song[1, :5], codes["song 1"][1, 10:15])
    assert sorted(path.suffixes[-2] for path in played.glob("*.wav")) == [".accompaniment"]
    alone = duotok("sample", tmp_path / "accompaniment", "-o", tmp_path / "none", *quick)
    assert "--from: expected a run of tokens with vocals to accompany; got none" in str(alone.exception)
    late = duotok("sample", tmp_path / "unconditional", "-o", tmp_path / "none", "--from", run, "--start", 9, *quick)
    assert "song 0: expected a song of more than 9 s; got 2.4 s; start before" in str(late.exception)
    lost = duotok("sample", tmp_path / "unconditional", "-o", tmp_path / "none", "--from", run, "--song", "x", *quick)
    assert "expected ids of its songs; got 'x'" in str(lost.exception)
