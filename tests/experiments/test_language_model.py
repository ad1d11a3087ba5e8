"""The diagnostics of language models: they rise where tracks depend on one another, and nowhere else; and the page."""

from __future__ import annotations

import json

import pytest
import torch
from make_lm import SIZE, codes_of, paired_songs, small_model, write_tokens
from typer.testing import CliRunner

from duotok.cli import app
from duotok.dataset.tokens import load_tokens
from duotok.experiments.language_model import CORRUPTIONS, corrupted, measure_contexts, measure_corruption
from duotok.language import LanguageModel, LanguageModelFile, load_language_model
from duotok.model.protocols import code_losses
from duotok.training.loop import train
from duotok.training.stages import export, load_config, make_stage, read_songs

SMALL = [
    "tokenizer=null", "model={codebook_size: 16, width: 32, num_blocks: 2, num_heads: 2, num_key_heads: 1, ffn_width: 64}",
    "data.crop_s=2", "data.min_s=1", "data.batch_size=16", "data.eval_crops=2", "train.steps=120", "train.micro_batches=1",
    "train.lr=1.0e-2", "train.evaluate_every=120", "train.save_every=120",
]  # fmt: skip


@pytest.fixture(scope="module", params=[True, False], ids=["dependent", "independent"])
def trained(request, tmp_path_factory):
    """A language model for accompaniments, its run of tokens, and whether these depend on the vocals."""
    folder = tmp_path_factory.mktemp("lm")
    run = write_tokens(folder / "run", paired_songs(request.param), held_out=3)
    config = load_config("tiny/lm", [*SMALL, f"data.manifest={run}", "protocol=accompaniment"])
    stage = make_stage(config, read_songs(config))
    stage.start()
    train(stage, config.train, folder / "out")
    export(folder / "out", folder / "lm")
    return folder / "lm", run, request.param


def test_corruption_costs_bits_where_tracks_depend_and_nowhere_else(trained):
    folder, run, is_dependent = trained
    songs = [torch.from_numpy(song.codes.astype("int64")) for song in load_tokens(run).held_out]
    bits = measure_corruption(load_language_model(folder), songs, shift=7)["accompaniment"]
    assert all(len(values) == 3 for values in bits.values())
    true = sum(bits["true"]) / 3
    assert true < 1.0 if is_dependent else abs(true - 4) < 0.2
    for name in CORRUPTIONS:
        rise = sum(bits[name]) / 3 - true
        assert rise > 3 if is_dependent else abs(rise) < 0.1, name


def test_corruptions_are_what_they_are_called():
    first, second = codes_of(10)[0], codes_of(4, seed=1)[0]
    assert torch.equal(corrupted([first, second], 0, "other song", 3, SIZE), second.repeat(1, 3)[:, :10])
    assert torch.equal(corrupted([second, first], 0, "other song", 3, SIZE), first[:, :4])
    assert torch.equal(corrupted([first], 0, "time shift", 3, SIZE), torch.cat((first[:, 7:], first[:, :7]), dim=1))
    drawn = corrupted([torch.zeros(2, 4000, dtype=torch.int64)], 0, "random codes", 3, SIZE)
    assert torch.bincount(drawn.flatten(), minlength=SIZE).min() > 400 and drawn.max() < SIZE


@pytest.mark.parametrize("protocol", ["unconditional", "accompaniment"])
def test_contexts_score_the_same_codes(protocol):
    lm = LanguageModel(LanguageModelFile(protocol=protocol), small_model())
    songs = [codes_of(21)[0], codes_of(9, seed=1)[0], codes_of(16, seed=2)[0]]
    found = measure_contexts(lm, songs, [4, 8, 16], block=2, stride=4)
    for place, context in enumerate((4, 8, 16)):
        windows = [songs[0][:, 16 - context : 16], songs[0][:, 20 - context : 20], songs[2][:, 16 - context : 16]]
        losses = torch.cat([code_losses(lm.model, protocol, window[None])[..., -2:] for window in windows], dim=-1)
        for track, expected in zip(found.values(), losses[0].mean(-1) / torch.tensor(2.0).log(), strict=True):
            assert track[place] == pytest.approx(expected.item(), rel=1e-6)
    with pytest.raises(ValueError, match=r"expected a held-out song of at least 32 frames; got none"):
        measure_contexts(lm, songs, [32], block=4, stride=4)


def diagnose(run, lm, out, *options: str) -> None:
    arguments = ["experiment", "language-model", run, "--lm", lm, "-o", out, *options]
    CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)


def test_the_page_says_what_was_found(trained, tmp_path):
    folder, run, is_dependent = trained
    diagnose(run, folder, tmp_path, "--contexts", "8", "--contexts", "16", "--block", "4", "--shift", "7")
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["models"].keys() == {"accompaniment"} and results["unigram_bits"]["vocals"] == pytest.approx(4, abs=0.1)
    assert len(results["models"]["accompaniment"]["context"]["accompaniment"]) == 2
    page = (tmp_path / "README.md").read_text()
    claim = "corrupting the other track costs bits in every song for other song, time shift, random codes"
    assert (claim in page or not is_dependent) and "![The other track, corrupted](corruption.png)" in page
    assert all((tmp_path / name).stat().st_size > 1000 for name in ("curves.png", "corruption.png"))


def test_models_of_other_tokens_are_refused(trained, tmp_path):
    folder, _, _ = trained
    other = write_tokens(tmp_path / "run", paired_songs(True, count=3), fingerprint="e" * 64, held_out=2)
    with pytest.raises(ValueError, match=r"expected a language model of the tokens' tokenizer, e{16}; got one of f{16}"):
        diagnose(other, folder, tmp_path / "out")
    one = write_tokens(tmp_path / "one", paired_songs(True, count=3))
    with pytest.raises(ValueError, match=r"expected two held-out songs, one to corrupt the other; got 1"):
        diagnose(one, folder, tmp_path / "out")
