"""Which song is meant, which part of it is listened to, and that its codes are those of the whole song."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from make_audio import music, write
from make_page import EVIL, EXCERPT_S, RATE, SONG_S, START_S

import duotok
from duotok.corpus.reader import MixturePolicy
from duotok.corpus.songs import PlanError
from duotok.listen.excerpt import find_song, name_of, read_excerpt


@pytest.fixture(scope="module")
def tokenizer(decoding):
    return duotok.load(decoding)


@pytest.mark.parametrize("place", ["A Song_vocals.wav", "A Song_accomp.wav", "A Song", "A So"])
def test_a_pair_is_found_by_either_stem_and_by_the_start_of_their_names(songs, place):
    song = find_song(str(songs / place))
    assert song.vocal_path == str(songs / "A Song_vocals.wav")
    assert song.accompaniment_path == str(songs / "A Song_accomp.wav")
    assert name_of(song, place) == "A Song"


def test_folders_mixtures_stem_files_and_manifests(songs, stem_file, tmp_path):
    for name in ("vocals", "accomp"):
        (tmp_path / "Name").mkdir(exist_ok=True)
        shutil.copy(songs / f"A Song_{name}.wav", tmp_path / "Name" / f"{name}.wav")
    song = find_song(str(tmp_path / "Name"))
    assert song.accompaniment_path and name_of(song, "") == "Name"
    mixture = write(tmp_path / "mixture.wav", music(1, 8000), 8000)
    assert find_song(str(mixture)).is_mixture
    song = find_song(str(stem_file))
    assert song.stems_path == str(stem_file) and name_of(song, "") == stem_file.name.removesuffix(".stem.mp4")
    assert name_of(find_song(str(songs / "evil.jsonl")), str(songs / "evil.jsonl")) == EVIL


def test_several_songs_and_none_are_refused(songs, tmp_path):
    with pytest.raises(PlanError, match="expected one song; got 2; name one by its file"):
        find_song(str(songs / "two.jsonl"))
    with pytest.raises(PlanError, match=r"expected an audio file, a folder or a \.jsonl manifest; got nothing there"):
        find_song(str(songs / "Another Song"))


def read(tokenizer, songs, **options):
    return read_excerpt(tokenizer, find_song(str(songs / "A Song")), MixturePolicy(), **options)


def test_the_loudest_vocals_are_chosen_and_keep_the_codes_of_the_whole_song(tokenizer, songs, stems):
    seen = []
    excerpt = read(tokenizer, songs, seconds=EXCERPT_S, progress=seen.append)
    assert (excerpt.start_s, excerpt.song_s, sum(seen)) == (START_S, SONG_S, pytest.approx(SONG_S))
    assert excerpt.stems.shape == (2, EXCERPT_S * 24_000)
    whole = tokenizer.encode(*stems, sample_rate=RATE)[0]
    assert torch.equal(excerpt.codes, whole[:, START_S * 25 : (START_S + EXCERPT_S) * 25])
    assert excerpt.codes.unique().numel() > 15
    alone = tokenizer.encode(*(stem[START_S * RATE : (START_S + EXCERPT_S) * RATE] for stem in stems), sample_rate=RATE)[0]
    assert not torch.equal(excerpt.codes, alone)
    for wave, stem in zip(excerpt.stems.numpy(), stems, strict=True):  # the sound is of the same place as the codes
        part = stem[START_S * RATE : (START_S + EXCERPT_S) * RATE]
        levels = [np.sqrt((w.reshape(100, -1) ** 2).mean(1)) for w in (wave, part)]
        np.testing.assert_allclose(*levels, atol=0.02)


@pytest.mark.parametrize(("start", "seconds", "length"), [(0, 2, 2), (3, 2, 2), (4, 20, 2), (None, 20, SONG_S)])
def test_a_part_can_be_named_and_ends_with_the_song(tokenizer, songs, start, seconds, length):
    excerpt = read(tokenizer, songs, seconds=seconds, start=start)
    assert excerpt.start_s == (start or 0)
    assert excerpt.codes.shape == (2, 25 * length) and excerpt.stems.shape == (2, 24_000 * length)


def test_a_start_behind_the_end_is_refused(tokenizer, songs):
    for start in (SONG_S, 100):
        with pytest.raises(ValueError, match=rf"start: expected a second before the song's end at 6.0 s; got {start}"):
            read(tokenizer, songs, start=start)


def test_the_accompaniment_decides_where_there_are_no_vocals(tokenizer, tmp_path):
    wave = music(4.5, RATE)
    wave[: 3 * RATE] *= 0.1
    song = find_song(str(write(tmp_path / "mixture.wav", wave, RATE)))
    excerpt = read_excerpt(tokenizer, song, MixturePolicy(track="accompaniment"), seconds=1)
    assert excerpt.start_s == 3 and not excerpt.stems[0].any()
