"""Tagging on a made-up MagnaTagATune: scores beside scikit-learn and torchmetrics, and a probe that finds what there is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from make_audio import write
from make_codecs import SampleCodec
from torch import Tensor
from typer.testing import CliRunner

from duotok import DuoTok
from duotok.cli import app
from duotok.evaluation.codec import DuoTokCodec, Encoded
from duotok.evaluation.probe import average_precision
from duotok.evaluation.tagging import TaggingConfig, TagProbe, macro, measure_tagging
from duotok.evaluation.tagging_data import CodedClips, code_clips, read_magnatagatune

RATE = 16_000
TAGS = ("loud", "high", "rare", "never")


class LevelCodec(SampleCodec):
    """A frame of a hundredth of a second is its level and its zero crossings."""

    sample_rate, frame_rate, num_codebooks, codebook_size = RATE, 100.0, 2, 256

    def encode(self, waves: Tensor) -> Encoded:
        frames = waves[:, 0, 0].unflatten(-1, (-1, 160))
        level = frames.abs().mean(-1) * 400
        crossings = (frames[..., 1:] * frames[..., :-1] < 0).sum(-1)
        codes = torch.stack((level.long(), crossings), dim=1).clamp(0, 255)
        return Encoded(codes, self.embed(codes))

    def embed(self, codes: Tensor) -> Tensor:
        return (codes / 100.0).repeat_interleave(8, dim=1)


def magnatagatune(folder: Path, seconds: float = 1.1) -> Path:
    """Six clips in each of the sixteen folders, loud or not, high or not."""
    rows = []
    for number, name in enumerate("0123456789abcdef"):
        (folder / name).mkdir()
        for i in range(6):
            loud, high = i % 2, (i // 2 + number) % 2
            t = np.arange(round(seconds * RATE)) / RATE
            wave = (0.4 if loud else 0.1) * np.sin(2 * np.pi * (2010 if high else 310) * t + i)
            write(folder / name / f"clip{i}.wav", wave.astype(np.float32), RATE)
            rows.append([str(len(rows)), str(loud), str(int(number + i == 0)), str(high), "0", f"{name}/clip{i}.wav"])
    header = ["clip_id", "loud", "rare", "high", "never", "mp3_path"]
    lines = ["\t".join(f'"{cell}"' for cell in row) for row in [header, *rows]]
    (folder / "annotations_final.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return magnatagatune(tmp_path_factory.mktemp("mtt"))


def test_scores_are_scikit_learn_s_and_torchmetrics_s():
    metrics = pytest.importorskip("sklearn.metrics")
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(30, (200, 5), generator=generator) / 30  # with ties
    labels = torch.rand(200, 5, generator=generator) < torch.tensor([0.5, 0.1, 0.02, 0.3, 0.0])
    expected = metrics.average_precision_score(labels[:, :4].numpy(), scores[:, :4].numpy(), average=None)
    for tag in range(4):
        assert average_precision(scores[:, tag], labels[:, tag]) == pytest.approx(expected[tag])
    found = macro(scores, labels)
    assert found["ap"] == pytest.approx(expected.mean()) and found["tags"] == 4
    assert found["auroc"] == pytest.approx(metrics.roc_auc_score(labels[:, :4].numpy(), scores[:, :4].numpy()))
    assert found["chance_ap"] == pytest.approx(labels[:, :4].double().mean().item())
    multilabel = pytest.importorskip("torchmetrics.functional.classification")
    theirs = multilabel.multilabel_average_precision(scores[:, :4], labels[:, :4].long(), 4)
    assert found["ap"] == pytest.approx(theirs.item(), abs=1e-5)
    better = macro(scores + labels.float(), labels)
    assert better["ap"] == better["auroc"] == 1 > found["ap"]
    with pytest.raises(ValueError, match=r"expected a tag that some clips have and others lack; got none of 5"):
        macro(scores, torch.zeros_like(labels))


def test_annotations_give_the_frequent_tags_and_the_folders_the_splits(folder):
    found = read_magnatagatune(folder, num_tags=3)
    assert found.tags == ("high", "loud", "rare")
    assert (len(found.train), len(found.valid), len(found.test)) == (72, 6, 18)
    assert found.train[1].path == folder / "0" / "clip1.wav" and found.train[1].labels == (False, True, False)
    assert {clip.path.parent.name for clip in found.test} == {"d", "e", "f"}
    assert len(read_magnatagatune(folder, limit=2).test) == 2
    with pytest.raises(ValueError, match=r"expected the annotations of MagnaTagATune; got .*; name the file"):
        read_magnatagatune(folder, folder / "none.csv")
    with pytest.raises(ValueError, match=r"expected columns clip_id, tags and mp3_path, parted by tabs; got others"):
        read_magnatagatune(folder, Path(__file__))


def test_chunks_are_equal_and_carry_their_clip(folder):
    clips = read_magnatagatune(folder).test[:3]
    coded = code_clips(LevelCodec(), clips, 0.5)
    assert coded.codes.shape == (6, 2, 50) and coded.clips.tolist() == [0, 0, 1, 1, 2, 2]
    assert coded.labels.tolist() == [list(clip.labels) for clip in clips]
    long = code_clips(LevelCodec(), clips, 2.0)  # a clip that is too short is filled up with silence
    assert long.codes.shape == (3, 2, 200) and long.codes[0, 0, 150] == 0


def test_our_codec_takes_a_clip_as_accompaniment_whole_or_apart(folder):
    class Halves:
        identity, sample_rate = "halves", 24_000

        def vocals(self, mixture: np.ndarray) -> np.ndarray:
            return 0.5 * mixture

    tokenizer = DuoTok.from_config("tiny/tokenizer", seed=1)
    clips = read_magnatagatune(folder).test[:1]
    whole, apart = (code_clips(DuoTokCodec(tokenizer), clips, 0.52, separator) for separator in (None, Halves()))
    assert whole.codes.shape == apart.codes.shape == (2, 2, 13)
    assert len(whole.codes[:, 0].unique()) == 1 < len(apart.codes[:, 0].unique())  # silence on the vocals


def test_a_clip_that_cannot_be_read_is_named(folder, tmp_path):
    clips = read_magnatagatune(folder).test[:2]
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF")
    coded = code_clips(LevelCodec(), [type(clips[0])(broken, clips[0].labels), clips[1]], 0.5)
    assert len(coded.labels) == 1 and len(coded.problems) == 1 and coded.problems[0].startswith(f"{broken}: ")
    with pytest.raises(ValueError, match=r"expected clips that can be read; got none"):
        code_clips(LevelCodec(), [type(clips[0])(broken, clips[0].labels)], 0.5)


def test_probe_is_as_large_as_the_benchmark_s():
    probe = TagProbe(128, 250, 50)
    attention = 3 * 2 * (250 * 15 + 125 * 7)
    convolutions = 250 * 3 + 250 * 125 + 125 * 3 + 125 * 62
    assert sum(p.numel() for p in probe.parameters()) == attention + convolutions + 128 * 8 + 8 + 62 * 8 * 50 + 50
    assert probe(torch.randn(3, 128, 250)).shape == (3, 50)
    with pytest.raises(ValueError, match=r"expected chunks of at least 32 frames and embeddings of width 16; got 25 and 128"):
        TagProbe(128, 25, 50)


def test_probe_finds_tags_in_codes_and_nothing_in_shuffled_ones(folder):
    tagset, codec = read_magnatagatune(folder, num_tags=2), LevelCodec()
    splits = [code_clips(codec, clips, 0.5) for clips in (tagset.train, tagset.valid, tagset.test)]
    config = TaggingConfig(lr=1e-2, batch_size=8, epochs=12)
    found = measure_tagging(codec, *splits, config)
    assert found["chunk_ap"] > 0.95 and found["clip_auroc"] > 0.95 and found["clip_tags"] == 2
    order = torch.randperm(len(splits[0].labels), generator=torch.Generator().manual_seed(0))
    shuffled = CodedClips(splits[0].codes, splits[0].clips, splits[0].labels[order], [])
    worse = measure_tagging(codec, shuffled, *splits[1:], config)
    assert worse["clip_auroc"] < 0.8 and worse["clip_ap"] < found["clip_ap"]
    assert measure_tagging(codec, *splits, config) == found


def test_clip_scores_are_means_of_chunks(folder):
    """Chunks of one clip that say the opposite cancel out."""
    codec = LevelCodec()
    codes = torch.zeros(8, 2, 50, dtype=torch.int64)
    codes[0::2] = 200
    labels = torch.tensor([[True], [False], [True], [False]])
    split = CodedClips(codes, torch.arange(4).repeat_interleave(2), labels, [])
    found = measure_tagging(codec, split, split, split, TaggingConfig(epochs=1))
    assert found["clip_auroc"] == 0.5 and found["chunk_auroc"] == 0.5


def test_the_command_writes_results(folder, tmp_path):
    out = tmp_path / "tagging.json"
    options = ["-o", out, "--chunk-s", 1.3, "--epochs", 1, "--limit", 2, "--tags", 2]
    done = CliRunner().invoke(app, [*map(str, ["evaluate", "tagging", folder, *options])])
    assert done.exit_code == 0, done.output
    found = json.loads(out.read_text())
    assert found["tags"] == ["high", "loud"] and found["clips"] == {"train": 2, "valid": 2, "test": 2}
    assert found["results"]["clip_tags"] == 1 and "chunk_auroc" in done.stdout
