"""Reconstruction through codecs whose error is known, and through ours."""

from __future__ import annotations

import pytest
import torch
from make_codecs import SampleCodec
from make_decoder import decoding_tokenizer
from make_songs import four_songs, songs_of

from duotok.dataset.songs import load_songs
from duotok.decoder import Sampling
from duotok.evaluation.codec import DuoTokCodec
from duotok.evaluation.reconstruction import ReconstructionConfig, compare, measure_reconstruction

QUICK = ReconstructionConfig(24_000, 2.0, ("mel_l1", "mr_stft", "si_sdr_db", "chroma_cosine"))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return four_songs(tmp_path_factory.mktemp("songs"))


def test_a_noisier_codec_is_worse_in_every_measure_of_every_track(manifest):
    songs = songs_of(manifest).train[:2]
    fine, noisy = (measure_reconstruction(SampleCodec(noise), songs, songs, QUICK) for noise in (0.0, 0.05))
    assert list(fine["tracks"]) == ["vocals", "accompaniment", "mix"] and set(fine["songs"]) == {song.id for song in songs}
    for track, values in fine["tracks"].items():
        worse = noisy["tracks"][track]
        assert values["si_sdr_db"] > 50 > 25 > worse["si_sdr_db"] and values["chroma_cosine"] > worse["chroma_cosine"]
        assert values["mel_l1"] < worse["mel_l1"] and values["mr_stft"] < worse["mr_stft"]
        assert values["judged"] == dict.fromkeys(QUICK.measures, 2)
        mean = sum(song[track]["mel_l1"] for song in fine["songs"].values()) / 2
        assert values["mel_l1"] == pytest.approx(mean)


def test_a_codec_of_two_tracks_is_compared_track_by_track_and_in_sum(manifest, tmp_path):
    codec = DuoTokCodec(decoding_tokenizer(tmp_path), Sampling(steps=1, guidance=1.0))
    song = songs_of(manifest).train[0]
    found = measure_reconstruction(codec, [song], [song], QUICK)["songs"][song.id]
    stems = [torch.from_numpy(song.read(name, 48_000, 96_000) / 32768).float() for name in ("vocals", "accompaniment")]
    decoded = codec.rebuild(torch.stack(stems)[None, :, None])[0, :, 0]
    assert found["vocals"] == pytest.approx(compare(decoded[0], stems[0], 24_000, QUICK.measures), rel=1e-4)
    assert found["mix"] == pytest.approx(compare(decoded.sum(0), stems[0] + stems[1], 24_000, QUICK.measures), rel=1e-4)


@pytest.mark.parametrize(("rate", "seconds"), [(16_000, 2.0), (22_050, 1.3), (22_050, 0.77)])
def test_references_come_at_the_common_rate(manifest, rate, seconds):
    """The excerpt begins at a sample of both rates, however long it is."""
    low = load_songs(manifest, manifest.parent / "low", rate, 1.0).train[:1]
    config = ReconstructionConfig(rate, seconds, ("si_sdr_db",))
    found = measure_reconstruction(SampleCodec(), songs_of(manifest).train[:1], low, config)
    assert all(found["tracks"][track]["si_sdr_db"] > 40 for track in ("vocals", "accompaniment", "mix"))
