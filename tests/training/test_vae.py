"""Training of autoencoders: held-out distances fall, the discriminator joins late, and runs end in a folder that loads."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from make_audio import music, write
from make_songs import dump, four_songs, write_manifest
from make_vae import small, task_of
from toy_task import run_processes, tensors, timeless
from typer.testing import CliRunner

from duotok import autoencoder as autoencoders
from duotok.cli import app
from duotok.config import ConfigError
from duotok.dataset.songs import load_songs
from duotok.training import checkpoint
from duotok.training.loop import train
from duotok.training.stages import load_config, make_stage, read_songs

EAR = [
    "model.ear={width: 1, strides: [2, 4, 4, 5, 6]}", "sizes=[256, 32]", "phase_size=256", "data.crop_s=0.1", "data.min_s=1",
    "discriminator={sizes: [256], width: 2}", "data.batch_size=3", "data.eval_crops=3", "train.steps=2",
    "train.micro_batches=1", "train.warmup_steps=1",
]  # fmt: skip
SEED = torch.tensor([3, 0])


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return four_songs(tmp_path_factory.mktemp("songs"))


def test_held_out_distance_falls_below_noise(manifest, tmp_path):
    task = task_of(manifest)
    before = task.eval().evaluate()
    after = train(task.train(), task.config.train, tmp_path).scores
    assert after["loss"] < 0.7 * before["loss"] and after["mel_distance"] < 0.7 * before["mel_distance"]
    assert after["mel_distance"] < 0.7 * after["mel_distance_of_noise"]
    each = [after[f"mel_distance_{name}"] for name in ("vocals", "accompaniment", "mixture")]
    assert min(each) < after["mel_distance"] < max(each)
    statistics = task.model.latent_norm
    assert statistics.num_batches_tracked == 60 and statistics.running_mean.abs().max() > 0.01


def test_inputs_take_turns_and_scores_repeat(manifest):
    task = task_of(manifest).eval()
    crops = task.train_crops.draw(1, 0, 4)
    batch = task.collate(crops)
    expected = [
        crop.wave(name) for crop, name in zip(crops, ["accompaniment", "mixture", "vocals", "accompaniment"], strict=True)
    ]
    assert torch.equal(batch.tensors["wave"][:, 0], torch.stack(expected)) and batch.tensors["turns"].tolist() == [1, 2, 0, 1]
    state = torch.random.get_rng_state()
    assert task.evaluate() == pytest.approx(task.evaluate(), rel=1e-4)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_discriminator_joins_at_its_step(manifest, tmp_path):
    """Before, its weights stand still and its terms are 0 under the same names; from then on all of it learns."""
    task = task_of(manifest, "adversarial_start=3", "train.steps=2", "train.save_every=1")
    start = {name: p.clone() for name, p in task.discriminator.named_parameters()}
    early = train(task, task.config.train, tmp_path / "early").losses
    assert all(torch.equal(p, start[name]) for name, p in task.discriminator.named_parameters())
    late = task_of(manifest, "adversarial_start=1", "train.steps=2")
    losses = train(late, late.config.train, tmp_path / "late").losses
    assert early.keys() == losses.keys() and early["discriminator"] == early["features"] == 0 < losses["discriminator"]
    assert all(not torch.equal(p, start[name]) for name, p in late.discriminator.named_parameters())
    assert [group["lr_scale"] for group in late.parameter_groups()[1:]] == [2.0]
    assert "discriminator" not in task_of(manifest)(task.batch(1, 0), SEED)


def test_a_run_resumed_across_the_discriminators_start_is_the_same(manifest, tmp_path):
    changes = ("adversarial_start=3", "train.ema_decay=0.9", "train.evaluate_every=3", "train.save_every=2")
    for folder, stops in (("once", (5,)), ("twice", (2, 5))):
        for steps in stops:
            task = task_of(manifest, *changes, f"train.steps={steps}", "train.schedule=constant")
            train(task, task.config.train, tmp_path / folder)
    ours, theirs = tensors(tmp_path / "once"), tensors(tmp_path / "twice")
    assert ours.keys() == theirs.keys() and any(name.startswith("optimizer/discriminator.") for name in ours)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-6)
    assert [row["step"] for row in timeless(tmp_path / "once")][-2:] == [5, 5]


def test_two_processes_equal_one(manifest, tmp_path):
    changes = {"steps": 3, "micro_batches": 2, "lr": 1e-3, "evaluate_every": 3, "save_every": 3}
    arguments = {"task": functools.partial(task_of, manifest, "adversarial_start=2"), **changes}
    assert run_processes(tmp_path / "one", **arguments) == [0]
    assert run_processes(tmp_path / "two", num_processes=2, **arguments) == [0, 0]
    ours, theirs = tensors(tmp_path / "one"), tensors(tmp_path / "two")
    assert ours.keys() == theirs.keys()
    for name in ours:
        if name.startswith("model/"):
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-2, atol=1e-3)


def test_stereo_songs_train_the_narrow_ear_vae(tmp_path):
    """Channels stay apart from file to batch, a mono file fills both; every weight gets a gradient, at the paper's 50 Hz."""
    rate = 48_000
    pair = np.stack([music(2, rate, seed=seed) for seed in (1, 2)])
    write(tmp_path / "stereo.wav", pair, rate, "FLOAT")
    write(tmp_path / "mono.wav", pair[0], rate, "FLOAT")
    row = {"vocal_path": "stereo.wav", "accompaniment_path": "mono.wav"}
    rows = [{"id": split, "split": split, **row} for split in ("train", "held_out")]
    config = load_config("vae", [*EAR, f"data.manifest={write_manifest(tmp_path, rows)}"])
    songs = read_songs(config)
    read = {name: songs.train[0].read(name, 100, 2 * rate + 50).T / 32768 for name in ("vocals", "accompaniment")}
    assert read["vocals"].shape == (2, 2 * rate - 50) and not read["vocals"][:, -50:].any()
    np.testing.assert_allclose(read["vocals"][:, :-50], pair[:, 100:], atol=2e-5)
    np.testing.assert_allclose(read["accompaniment"][:, :-50], pair[[0, 0], 100:], atol=2e-5)
    mono = load_songs(tmp_path / "manifest.jsonl", tmp_path / "waves", rate, 1.0)
    np.testing.assert_allclose(mono.train[0].read("vocals", 0, 2 * rate) / 32768, pair.mean(0), atol=2e-5)
    task = make_stage(config, songs)
    batch = task.batch(1, 0)
    assert batch.tensors["wave"].shape == (3, 2, 4800)
    losses = task(batch, SEED)
    assert {"stft", "phase", "correlation", "kl", "adversarial", "features", "discriminator"} < losses.keys()
    losses["loss"].backward()
    inner = ("ff.ff.0.", "to_qkv.", "norm.gamma")  # behind projections that start as zeros
    assert all(p.grad.abs().sum() > 0 for n, p in task.model.named_parameters() if not any(part in n for part in inner))
    assert all(p.grad is not None for p in task.discriminator.parameters())


def test_paper_size_is_the_papers():
    config = load_config("vae")
    model = config.model
    assert (model.sample_rate, model.channels, model.latent_dim) == (48_000, 2, 64)
    assert model.sample_rate / model.sizes.hop_length == 50 and config.weights.features == 5
    tiny = load_config("tiny/vae").model
    assert (tiny.sample_rate, tiny.channels, tiny.latent_dim, tiny.sizes.hop_length) == (24_000, 1, 32, 480)
    with pytest.raises(ConfigError, match="expected at least one of inputs, and sizes and phase_size multiples of 8"):
        load_config("vae", ["sizes=[30]"])


def test_the_command_line_trains_exports_and_starts_again(manifest, tmp_path):
    config = dump(small(manifest, "train.steps=2", "train.ema_decay=0.5"), tmp_path / "vae.yaml")

    def run(*arguments: object) -> str:
        done = CliRunner().invoke(app, [*map(str, arguments)])
        assert done.exit_code == 0, done.output
        return done.stdout

    told = run("train", config, "--data", manifest, "-o", tmp_path / "run", "--export", tmp_path / "vae")
    model = autoencoders.load_autoencoder(tmp_path / "vae")
    assert f"autoencoder {autoencoders.fingerprint(model)[:16]} in" in told and "mel_distance" in told
    weights = checkpoint.read_weights(tmp_path / "run")
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, weights[f"model.{name}"], rtol=1e-3, atol=1e-4)  # stored in float16
    assert run("export", tmp_path / "run", "-o", tmp_path / "again").split()[1] == told.splitlines()[-1].split()[1]
    still = ("train.lr=0", "train.ema_decay=0")
    run("train", config, *still, "--data", manifest, "-o", tmp_path / "more", "--init", tmp_path / "vae")
    kept = checkpoint.read_weights(tmp_path / "more")
    assert all(torch.equal(kept[f"model.{name}"], p) for name, p in model.named_parameters())
