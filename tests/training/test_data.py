"""Manifests and crops: bad songs are named and left out, decoding happens once, and batches are functions of their numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from make_songs import RATE, four_songs, songs_of, voice, write_manifest, write_song

from duotok.config import ConfigError
from duotok.dataset import songs as song_files
from duotok.training.data import Crop, CropSampler, stack_lyrics


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return four_songs(tmp_path_factory.mktemp("songs"))


def test_bad_songs_are_named_and_the_rest_is_used(tmp_path):
    rows = [write_song(tmp_path, f"good{i}", "abcd abcd", seed=i) for i in range(2)]
    rows.append(write_song(tmp_path, "other rate", "abcd abcd", seed=2, rate=44_100))
    rows.append(write_song(tmp_path, "no words", "abcd abcd", seed=3) | {"words": [], "text": "  "})
    rows.append({**rows[0], "id": "gone", "vocal_path": "nowhere.wav"})
    rows.append(write_song(tmp_path, "unequal", "abcd abcd", seed=4))
    soundfile.write(tmp_path / "unequal_vocals.wav", voice("ab"), RATE)
    rows.append(write_song(tmp_path, "broken", "abcd", seed=5))
    (tmp_path / "broken_accompaniment.wav").write_bytes(b"no audio at all, but some text")
    rows.append(write_song(tmp_path, "nan", "abcd", seed=6))
    soundfile.write(tmp_path / "nan_vocals.wav", np.full(2 * RATE, np.nan, np.float32), RATE, "FLOAT")
    rows.append(write_song(tmp_path, "short", "a", seed=7))
    rows.append(rows[1])
    rows.append({"id": "pathless"})
    path = write_manifest(tmp_path, rows)
    path.write_text(path.read_text() + "{not json\n[1]\n")
    found = songs_of(path)
    assert {song.id for song in (*found.train, *found.held_out)} == {"good0", "good1", "other rate", "no words"}
    expected = [
        *("line 11: ", "line 12: ", "line 13: ", "good1: expected a unique id", "gone: missing: "),
        *("unequal: length_mismatch: ", "broken: not_audio: ", "nan: nan: ", "short: too_short: "),
    ]
    assert len(found.problems) == len(expected)
    assert all(any(problem.startswith(start) for problem in found.problems) for start in expected), found.problems
    by_id = {song.id: song for song in (*found.train, *found.held_out)}
    assert by_id["no words"].text is None and by_id["no words"].words == ()
    assert abs(by_id["other rate"].num_samples - by_id["good0"].num_samples) <= 1


def test_other_rates_are_resampled(tmp_path):
    rows = [write_song(tmp_path, "plain", "abcd", seed=1), write_song(tmp_path, "high", "abcd", seed=1, rate=48_000)]
    waves = {song.id: song.read("vocals", 0, 2 * RATE) / 32768 for part in _parts(tmp_path, rows) for song in part}
    assert np.abs(waves["plain"] - waves["high"]).max() < 0.01 < waves["plain"].max()


def _parts(folder, rows):
    found = songs_of(write_manifest(folder, rows))
    return found.train, found.held_out


def test_nothing_usable_is_an_error(tmp_path):
    row = write_song(tmp_path, "alone", "abcd", seed=0)
    with pytest.raises(ConfigError, match=r"expected at least two usable songs, one to hold out; got 1 \(gone: missing"):
        songs_of(write_manifest(tmp_path, [row, {**row, "id": "gone", "vocal_path": "nowhere.wav"}]))
    with pytest.raises(ConfigError, match="expected a manifest in UTF-8"):
        songs_of(tmp_path / "nothing.jsonl")
    rows = [{**row, "id": str(i), "split": "train"} for i in range(2)]
    with pytest.raises(ConfigError, match="got none held out; set their split"):
        songs_of(write_manifest(tmp_path, rows))


def test_split_is_the_manifests_or_a_hash_of_the_id(manifest, tmp_path):
    assert [song.id for song in songs_of(manifest).held_out] == ["song3"]
    row = write_song(tmp_path, "x", "abcd", seed=0)
    rows = [{**row, "id": f"s{i}"} for i in range(200)]
    held = {song.id for song in songs_of(write_manifest(tmp_path, rows)).held_out}
    assert 8 <= len(held) <= 35
    named = [{**row, "split": split} for row, split in zip(rows, ("valid", "test", "dev", "train"), strict=False)]
    assert [song.id for song in songs_of(write_manifest(tmp_path, named)).train] == ["s3"]
    some = songs_of(write_manifest(tmp_path, rows[:49:-1]))
    assert {song.id for song in some.held_out} == held & {row["id"] for row in rows[50:]}


def test_files_are_decoded_once_and_again_when_they_change(tmp_path, monkeypatch):
    manifest = write_manifest(tmp_path, [write_song(tmp_path, f"s{i}", "abcd", seed=i) for i in range(2)])
    decoded, decode = [], song_files._decode
    monkeypatch.setattr(song_files, "_decode", lambda path, *rest: decoded.append(path.name) or decode(path, *rest))
    songs_of(manifest)
    assert len(decoded) == 4
    songs_of(manifest)
    assert len(decoded) == 4
    soundfile.write(tmp_path / "s0_vocals.wav", voice("abca"), RATE, "FLOAT")
    songs_of(manifest)
    assert decoded[4:] == ["s0_vocals.wav"]
    assert not list((tmp_path / "waves").glob("*.tmp"))


def test_draws_are_functions_of_seed_step_and_micro(manifest):
    songs = songs_of(manifest).train
    sampler = CropSampler(songs, RATE, seed=1)

    def places(sampler, step, micro):
        return [(crop.song.id, crop.start) for crop in sampler.draw(step, micro, 5)]

    later = places(sampler, 3, 1)
    assert places(CropSampler(songs, RATE, seed=1), 3, 1) == later
    others = [places(sampler, 3, 0), places(sampler, 4, 1), places(CropSampler(songs, RATE, seed=2), 3, 1)]
    assert all(other != later for other in others)


def test_long_songs_are_drawn_more_often(manifest):
    first, second, *_ = songs_of(manifest).train
    sampler = CropSampler([replace(first, num_samples=2 * RATE), replace(second, num_samples=6 * RATE)], RATE, seed=0)
    crops = [crop for step in range(100) for crop in sampler.draw(step, 0, 20)]
    share = np.mean([crop.song.id == second.id for crop in crops])
    assert abs(share - 0.75) < 0.03
    starts = [crop.start for crop in crops if crop.song.id == second.id]
    assert min(starts) < 0.1 * RATE and max(starts) > 4.9 * RATE and max(starts) <= 5 * RATE


def test_held_out_crops_cover_every_song(manifest):
    songs = songs_of(manifest).train
    crops = CropSampler(songs, RATE, seed=0).spread(12)
    assert [crop.song.id for crop in crops] == [song.id for song in songs for _ in range(4)]
    assert [crop.start for crop in crops[:4]] == [crop.start for crop in crops[4:8]] == sorted({c.start for c in crops[:4]})


def test_waves_are_the_files_and_silence_follows_the_end(manifest):
    song = songs_of(manifest).train[0]
    vocals, _ = soundfile.read(manifest.parent / "song0_vocals.wav", dtype="float32")
    other, _ = soundfile.read(manifest.parent / "song0_accompaniment.wav", dtype="float32")
    crop = Crop(song, 1000, 5000)
    torch.testing.assert_close(crop.wave("vocals"), torch.from_numpy(vocals[1000:6000]), rtol=0, atol=2e-5)
    torch.testing.assert_close(crop.wave("mixture"), torch.from_numpy((vocals + other)[1000:6000]), rtol=0, atol=4e-5)
    end = Crop(song, song.num_samples - 10, 30).wave("accompaniment")
    assert end[:10].abs().max() > 0 and end[10:].abs().max() == 0


def test_a_part_of_a_song_is_what_sounds_there(manifest):
    song = songs_of(manifest).train[0]
    part = song.part(12_000, 60_000, RATE).part(12_000, 48_000, RATE)  # 1 s to 2.5 s
    assert (part.id, part.num_samples, part.held_out) == (song.id, 36_000, song.held_out)
    np.testing.assert_array_equal(part.read("vocals", 0, 36_000), song.read("vocals", 24_000, 60_000))
    assert not part.read("vocals", 36_000, 40_000).any(), "silence follows the end"
    assert [(word.text, word.start, word.end) for word in part.words] == [("c", 0.5, 1.0), ("d", 1.0, 1.5)]


def test_lyrics_are_the_words_inside(manifest):
    song = songs_of(manifest).train[0]  # "ab cda bcdab", half a second each
    assert Crop(song, 0, 6 * RATE).lyrics(RATE) == "a b c d a b c d a b"
    assert Crop(song, RATE // 4, 2 * RATE).lyrics(RATE) == "b c"  # 0.25 to 2.25 s; "a" and "d" are cut
    assert Crop(song, RATE, RATE // 4).lyrics(RATE) == ""
    timeless = replace(song, words=(), text="all of it")
    assert Crop(timeless, 0, song.num_samples).lyrics(RATE) == "all of it"
    assert Crop(timeless, 0, song.num_samples - 1).lyrics(RATE) == Crop(timeless, 1, song.num_samples).lyrics(RATE) == ""
    assert Crop(replace(song, words=(), text=None), 0, song.num_samples).lyrics(RATE) == ""


def test_units_are_padded_with_blanks():
    units, lengths = stack_lyrics(["ab", "", "é"])
    assert lengths.tolist() == [2, 0, 2]
    assert units.tolist() == [[98, 99], [0, 0], [0xC3 + 1, 0xA9 + 1]]
    assert stack_lyrics(["", ""])[0].shape == (2, 1)
