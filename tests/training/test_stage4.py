"""Stage 4: its losses by hand, latents from the cache, a held-out score that falls, and a tokenizer that decodes."""

from __future__ import annotations

import json

import pytest
import torch
from duotok.kernels import replace_noise
from make_decoder import TINY_DIT, toy_autoencoder
from make_songs import RATE, four_songs, songs_of
from safetensors import safe_open
from typer.testing import CliRunner, Result

import duotok
from duotok import DuoTok
from duotok.autoencoder import load_autoencoder, save_autoencoder
from duotok.cli import app
from duotok.config import ConfigError, dump
from duotok.model.diffusion import draw_times, schedule, si_snr
from duotok.storage import CheckpointError
from duotok.training import checkpoint, latents
from duotok.training.loop import train
from duotok.training.stages import export, load_config, make_stage, read_songs

SEED = torch.tensor([3, 0])


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Folders of songs, a tokenizer and an autoencoder."""
    folder = tmp_path_factory.mktemp("stage4")
    four_songs(folder)
    DuoTok.from_config("tiny/tokenizer", seed=3).save(folder / "tokenizer")
    save_autoencoder(folder / "vae", toy_autoencoder())
    return folder


@pytest.fixture(scope="module")
def small(places):
    def make(*overrides: str):
        dit = "{" + ", ".join(f"{name}: {str(value).lower()}" for name, value in vars(TINY_DIT).items()) + "}"
        changes = [
            f"data.manifest={places / 'manifest.jsonl'}", f"tokenizer={places / 'tokenizer'}", f"autoencoder={places / 'vae'}",
            "data.crop_s=2", "data.min_s=2", "data.batch_size=4", "data.eval_crops=6", "fit_batches=2", f"dit={dit}",
            "train.steps=60", "train.lr=3.0e-3", "train.warmup_steps=5", "train.evaluate_every=60", "train.save_every=60",
            "train.ema_decay=0.9", "train.precision=fp32",
        ]  # fmt: skip
        return load_config("tiny/stage4", [*changes, *overrides])

    return make


@pytest.fixture(scope="module")
def songs(places):
    return songs_of(places / "manifest.jsonl")


@pytest.fixture
def stage(small, songs):
    made = make_stage(small(), songs)
    made.prepare()
    made.start()
    return made


@pytest.fixture(scope="module")
def run(small, songs, tmp_path_factory):
    """A trained stage with its scores before and after, and its folder."""
    config, folder = small(), tmp_path_factory.mktemp("run")
    stage = make_stage(config, songs)
    stage.prepare()
    stage.start()
    before = stage.eval().evaluate()
    result = train(stage, config.train, folder)
    (folder / "config.yaml").write_text(dump(config), encoding="utf-8")
    return stage, before, result, folder


def test_held_out_scores_improve(run):
    _, before, result, _ = run
    assert result.scores["epsilon"] < 0.97 * before["epsilon"]
    assert result.scores["latent_error"] < before["latent_error"]


def test_losses_are_those_of_the_equations(stage):
    stage.eval()
    batch = stage.batch(1, 0)
    terms = stage.terms(batch, SEED)
    z0 = batch.tensors["latents"]
    t, _ = draw_times(len(z0), SEED)
    alpha, sigma = (x[:, None, None] for x in schedule(t))
    noise = replace_noise(torch.zeros_like(z0), 1.0, 1.0, SEED)
    z = alpha * z0 + sigma * noise
    # A new DiT's velocity is 0: eps_hat = sigma z, z0_hat = alpha z, which improves nothing.
    torch.testing.assert_close(terms["epsilon"].value, (noise - sigma * z).square().mean())
    torch.testing.assert_close(terms["latent_error"].value, (z0 - alpha * z).square().mean())
    assert abs(terms["si_snr_improvement"].value) < 1e-2
    for block in (stage.dit.modulation, stage.dit.leave):
        torch.nn.init.normal_(block.weight, std=0.1)
    velocity = stage.dit(z, t, stage._items(batch)[1], batch.tensors["tracks"])
    clean, counted = alpha * z - sigma * velocity, alpha[:, 0, 0] >= 0.3
    expected = (si_snr(clean, z0) - si_snr(z, z0)).clamp(max=30)[counted].mean()
    terms = stage.terms(batch, SEED)
    torch.testing.assert_close(terms["si_snr_improvement"].value, expected)
    losses = stage(batch, SEED)
    assert losses["loss"].item() == pytest.approx(losses["epsilon"].value.item() - 0.01 * expected.item(), rel=1e-5)


def test_the_term_can_be_switched_off(small, songs, stage):
    off = make_stage(small("si_weight=0"), songs)
    off.prepare()
    off.start()
    batch = off.batch(1, 0)
    losses = off.eval()(batch, SEED)
    assert losses["loss"] == losses["epsilon"].value and "si_snr_improvement" in losses
    assert torch.equal(stage.eval()(batch, SEED)["epsilon"].value, losses["epsilon"].value)


def test_batches_hold_each_track_with_its_codes(stage, places):
    crops = stage.train_crops.draw(1, 0, 4)
    batch = stage.collate(crops)
    assert batch.names[4] == f"{crops[0].song.id} accompaniment" and batch.tensors["tracks"].tolist() == [0] * 4 + [1] * 4
    autoencoder, tokenizer = load_autoencoder(places / "vae"), duotok.load(places / "tokenizer")
    crop, first = crops[2], crops[2].start // 480
    waves = [torch.from_numpy(crop.song.read(name, 0, crop.song.num_samples)) for name in ("vocals", "accompaniment")]
    codes = tokenizer.encode(*waves, sample_rate=RATE)[0]
    for track, wave in enumerate(waves):
        latents = autoencoder.encode(wave[None, None] / 32768)[0, first : first + 100]
        torch.testing.assert_close(batch.tensors["latents"][2 + 4 * track], latents, rtol=2e-3, atol=2e-3)
        expected = codes[track, (first + torch.arange(100)) // 2]
        assert torch.equal(batch.tensors["codes"][2 + 4 * track], expected)


def test_conditions_come_in_normalised(stage):
    batches = [stage.batch(0, micro) for micro in range(stage.config.fit_batches)]
    for track in range(2):
        rows = torch.cat([stage._items(batch)[1][batch.tensors["tracks"] == track].flatten(0, 1) for batch in batches])
        moving = stage.dit.condition_std[track] > 1e-3
        torch.testing.assert_close(rows.mean(0), torch.zeros(128), rtol=0, atol=1e-2)
        torch.testing.assert_close(rows.std(0)[moving], torch.ones(int(moving.sum())), rtol=0, atol=1e-3)
    assert moving.any()


def test_latents_are_computed_once_for_what_made_them(small, songs, places, monkeypatch):
    stage = make_stage(small(), songs)
    stage.prepare()
    files = set((places / "latents").iterdir())
    with safe_open(stage._songs["song0"].path, "pt") as file:
        assert file.metadata() == {
            "tokenizer": stage.decoder_config.tokenizer, "autoencoder": stage.decoder_config.autoencoder, "song": "song0",
        }  # fmt: skip
    seen = []
    monkeypatch.setattr(latents, "_tensors", lambda *_: pytest.fail("computed again"))
    make_stage(small(), songs).prepare(lambda done, total: seen.append((done, total)))
    assert seen == [(i, 4) for i in range(1, 5)]
    save_autoencoder(places / "other", toy_autoencoder(seed=8))
    monkeypatch.setattr(latents, "_tensors", lambda *_: {"latents": torch.zeros(2, 9, 4), "codes": torch.zeros(2, 5)})
    make_stage(small(f"autoencoder={places / 'other'}"), songs).prepare()
    assert len(set((places / "latents").iterdir()) - files) == 4


def test_condition_dropout_trains_the_network_without_condition(small, songs):
    stage = make_stage(small("condition_dropout=1"), songs)
    stage.prepare()
    torch.nn.init.normal_(stage.dit.modulation.weight)
    torch.nn.init.normal_(stage.dit.leave.weight)
    batch, other = stage.batch(1, 0), stage.batch(1, 0)
    other.tensors["codes"].copy_(batch.tensors["codes"].flip(1))
    assert torch.equal(stage.train()(batch, SEED)["loss"], stage(other, SEED)["loss"])
    assert not torch.equal(stage.eval()(batch, SEED)["loss"], stage(other, SEED)["loss"])


def test_joint_tracks_train(small, songs, tmp_path):
    config = small("dit.joint=true", "train.steps=2", "train.evaluate_every=2", "train.save_every=2")
    stage = make_stage(config, songs)
    stage.prepare()
    stage.start()
    latents, condition, tracks = stage._items(stage.batch(1, 0))
    whole = stage.batch(1, 0).tensors["latents"]
    assert latents.shape == (4, 100, 8) and condition.shape == (4, 100, 256) and len(tracks) == 4
    assert torch.equal(latents[1], torch.cat((whole[1], whole[5]), dim=-1))
    train(stage, config.train, tmp_path)
    (tmp_path / "config.yaml").write_text(dump(config), encoding="utf-8")
    decoded = export(tmp_path, tmp_path / "out").decode(torch.zeros(2, 10).long(), steps=2)
    assert decoded.mix.shape == (1, 1, 9600)


def test_export_adds_the_decoder_to_a_copy_of_the_tokenizer(run, places, tmp_path):
    stage, _, result, folder = run
    made = export(folder, tmp_path / "out")
    original = duotok.load(places / "tokenizer")
    assert made.fingerprint == original.fingerprint and not original.can_decode
    weights = (tmp_path / "out" / "model.safetensors").read_bytes()
    assert weights == (places / "tokenizer" / "model.safetensors").read_bytes()
    with safe_open(tmp_path / "out" / "decoder" / "model.safetensors", "pt") as file:
        notes = json.loads(file.metadata()["training"])
    assert notes["stage"] == 4 and notes["steps"] == result.step and notes["scores"] == result.scores
    assert made.decoder.config.window_frames == 100 and made.decoder.config.overlap_frames == 20
    codes = stage.batch(1, 0).tensors["codes"][[0, 4], ::2]
    assert made.decode(codes, steps=2).mix.isfinite().all()
    averaged = checkpoint.read_weights(folder)
    assert all(torch.equal(p, averaged[f"dit.{name}"].half().float()) for name, p in made.decoder.dit.named_parameters())
    with pytest.raises(CheckpointError, match="expected the tokenizer it was trained with"):
        other = places / "another"
        DuoTok.from_config("tiny/tokenizer", seed=4).save(other)
        text = (folder / "config.yaml").read_text().replace(str(places / "tokenizer"), str(other))
        (folder / "config.yaml").write_text(text)
        export(folder, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


def test_a_run_goes_on_only_with_its_own_tokenizer(run, small, songs, places):
    stage, *_, folder = run
    DuoTok.from_config("tiny/tokenizer", seed=6).save(places / "sixth")
    config = small(f"tokenizer={places / 'sixth'}", "train.steps=80")
    other = make_stage(config, songs)
    with pytest.raises(CheckpointError, match=r"task.decoder.tokenizer: expected .* as in"):
        train(other, config.train, folder)
    again = make_stage(small(), songs)
    again.start(stage.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), stage.parameters(), strict=True))


def test_the_command_line_trains_exports_and_decodes(small, places, tmp_path):
    config = tmp_path / "stage4.yaml"
    config.write_text(dump(small("train.evaluate_every=2", "train.save_every=2", "tokenizer=tiny", "autoencoder=null")))

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(app, [*map(str, arguments)])

    given = ("--tokenizer", places / "tokenizer", "--autoencoder", places / "vae", "-o", tmp_path / "run")
    done = run("train", config, "train.steps=2", *given, "--export", tmp_path / "out")
    assert done.exit_code == 0, done.output
    tokenizer = duotok.load(tmp_path / "out")
    assert f"tokenizer {tokenizer.fingerprint[:16]} in" in done.stdout
    first = tokenizer.decoder.fingerprint
    longer = run("train", config, "train.steps=4", *given)
    assert longer.exit_code == 0 and "step 4: held out loss" in longer.stdout
    assert run("export", tmp_path / "run", "-o", tmp_path / "out").exit_code == 0
    assert duotok.load(tmp_path / "out").decoder.fingerprint != first


def test_wrong_configurations_are_named(small, songs, places):
    with pytest.raises(ConfigError, match=r"expected data.crop_s of at most data.min_s.*; got 9.0 and 8.0"):
        load_config("tiny/stage4", ["data.crop_s=9"])
    with pytest.raises(ValueError, match=r"dit.latent_dim: expected 4, as tokenizer and autoencoder have it; got 32"):
        make_stage(small("dit.latent_dim=32"), songs)
    with pytest.raises(CheckpointError, match=r"autoencoder: expected its folder; got .*autoencoder', which is none"):
        read_songs(small("autoencoder=null"))


def test_paper_and_tiny_sizes():
    paper, tiny = load_config("stage4"), load_config("tiny/stage4")
    assert (paper.dit.width, paper.dit.depth, paper.dit.num_heads, paper.dit.latent_dim) == (1536, 24, 24, 64)
    assert paper.si_weight == tiny.si_weight == 0.01 and paper.condition_dropout == 0.1
    assert tiny.dit.condition_dim == DuoTok.from_config("tiny/tokenizer").config.model.trunk.block.width
    assert paper.train.ema_decay == 0.9999
