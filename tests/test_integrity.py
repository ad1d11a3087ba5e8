"""What may not be trusted is refused by name, wherever it is damaged; what only looks odd is read."""

from __future__ import annotations

import pickle
from pathlib import Path

import make_audio
import numpy as np
import pytest

from duotok.audio import open_audio
from duotok.integrity import AudioError, SignalCheck, mp3_start

RATE = 48_000
HTML = "<!DOCTYPE html><html><head><title>404</title></head><body>" + "<p>Not found.</p>" * 4_000 + "</body></html>"
# Bytes of these carry no redundancy, so damage among the samples is just other sound.
PLAIN = ["wav", "rf64", "w64", "aiff", "caf", "au"]
CODED = ["flac", "mp3", "long.mp3", "ogg", "opus", "m4a", "fast.m4a", "aac", "webm", "mka"]


@pytest.fixture(scope="module")
def songs(tmp_path_factory) -> Path:
    """Twelve seconds in every format; long.mp3 has no Xing header, fast.m4a its index in front."""
    folder, wave = tmp_path_factory.mktemp("songs"), make_audio.music(12, RATE)
    for suffix in ("wav", "rf64", "w64", "aiff", "caf", "au", "flac", "mp3", "ogg"):
        make_audio.write(folder / f"a.{suffix}", wave, RATE)
    make_audio.write(folder / "a.opus", wave, RATE, "OPUS", "OGG")
    make_audio.mp3_without_length(folder / "a.long.mp3", wave, RATE, quality=4)
    for suffix, codec, options in (
        ("m4a", "aac", {}), ("fast.m4a", "aac", {"movflags": "faststart"}), ("aac", "aac", {}), ("webm", "libopus", {}),
        ("mka", "flac", {}),
    ):  # fmt: skip
        make_audio.encode(folder / f"a.{suffix}", wave, RATE, codec, **options)
    return folder


def read(path: Path) -> int:
    with open_audio(path) as reader:
        for _ in reader.blocks():
            pass
        return reader.num_samples


def refusal(path: Path) -> str:
    with pytest.raises(AudioError) as error:
        read(path)
    message = str(error.value)
    assert str(path) in message and "expected" in message and "got" in message and "\n" not in message
    return error.value.reason


@pytest.mark.parametrize("suffix", PLAIN + CODED)
def test_whole_files_are_read_whole(songs, suffix):
    assert 0 <= read(songs / f"a.{suffix}") - 12 * RATE <= 3 * 1152


@pytest.mark.parametrize("suffix", PLAIN + CODED)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_cut_file_is_refused(songs, tmp_path, suffix, share):
    assert refusal(make_audio.cut(songs / f"a.{suffix}", share, tmp_path / f"cut.{suffix}")) in ("truncated", "damaged")


@pytest.mark.parametrize("suffix", CODED)
@pytest.mark.parametrize("share", [0.15, 0.5, 0.8])
def test_a_file_with_noise_inside_is_refused(songs, tmp_path, suffix, share):
    assert refusal(make_audio.damage(songs / f"a.{suffix}", share, tmp_path / f"noise.{suffix}")) in ("truncated", "damaged")


@pytest.mark.parametrize("suffix", ["flac", "ogg", "opus", "mka"])
def test_a_single_wrong_byte_is_refused_where_there_are_checksums(songs, tmp_path, suffix):
    data = bytearray((songs / f"a.{suffix}").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / f"bit.{suffix}").write_bytes(data)
    assert refusal(tmp_path / f"bit.{suffix}") in ("truncated", "damaged")


def test_a_gap_in_ogg_is_refused(songs, tmp_path):
    pages = (songs / "a.ogg").read_bytes().split(b"OggS")[1:]
    for name, kept in (("last", pages[:-1]), ("junk", [*pages[:3], pages[3] + b"junk" * 10, *pages[4:]])):
        (tmp_path / f"{name}.ogg").write_bytes(b"".join(b"OggS" + page for page in kept))
    assert refusal(tmp_path / "last.ogg") == "truncated"
    assert refusal(tmp_path / "junk.ogg") == "damaged"


@pytest.mark.parametrize("suffix", ["mp3", "wav", "flac", "ogg", "m4a", "webm", "wma", "caf", "au", "aiff"])
@pytest.mark.parametrize("seed", range(3))
def test_random_bytes_are_not_audio(tmp_path, suffix, seed):
    path = tmp_path / f"random.{suffix}"
    path.write_bytes(make_audio.noise(40_000 * (seed + 1), seed))
    assert refusal(path) == "not_audio"


@pytest.mark.parametrize("suffix", ["aac", "raw", "vox", "gsm", "snd"])
def test_random_bytes_under_other_names_are_refused(tmp_path, suffix):
    path = tmp_path / f"random.{suffix}"
    path.write_bytes(make_audio.noise(100_000))
    assert refusal(path) in ("not_audio", "damaged")


OTHER_THINGS = {
    "html": HTML.encode(),
    "bom": b"\xef\xbb\xbf\r\n" + HTML.encode(),
    "utf16": HTML.encode("utf-16"),
    "comment": b"<!-- saved -->" + HTML.encode(),
    "latin1": "<html><p>Gr\xfc\xdfe".encode("latin-1") * 900,
    "json": b'{"error": "not found"}',
    "array": b'[{"a": 1}]' * 900,
    "text": b"404: Not Found\n" * 900,
    "utf8": "Größe zählt\n".encode() * 300,
    "git_lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "zip": b"PK\x03\x04" + bytes(900),
    "png": b"\x89PNG\r\n\x1a\n" + bytes(9_000),
    "zeros": bytes(100_000),
    "byte": b"\0",
    "playlist": b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n",
}


@pytest.mark.parametrize("suffix", ["mp3", "wav", "m4a", "flac", "aac"])
@pytest.mark.parametrize("data", OTHER_THINGS.values(), ids=OTHER_THINGS)
def test_other_things_are_not_audio(tmp_path, suffix, data):
    path = tmp_path / f"thing.{suffix}"
    path.write_bytes(data)
    assert refusal(path) == "not_audio"


def test_a_playlist_does_not_open_other_files(songs, tmp_path):
    path = tmp_path / "list.m4a"
    path.write_bytes(b"ffconcat version 1.0\nfile '" + str(songs / "a.m4a").encode() + b"'\n# \x80\xff\n")
    assert refusal(path) == "not_audio"


def test_nothing_and_folders_are_named(tmp_path):
    (tmp_path / "empty.mp3").touch()
    (tmp_path / "song.mp3").mkdir()
    assert refusal(tmp_path / "empty.mp3") == "empty_file"
    for name, found in (("song.mp3", "got a folder"), ("none.mp3", "got nothing")):
        with pytest.raises(AudioError, match=found) as error:
            read(tmp_path / name)
        assert (error.value.stage, error.value.reason) == ("open", "missing")


SAMPLES = make_audio.music(1.5, 8_000)
DATA = make_audio.pcm16(SAMPLES)
TITLE = make_audio.chunk(b"LIST", b"INFO" + make_audio.chunk(b"INAM", b"title"))


ODD = {
    "list_after": make_audio.wav(DATA, after=TITLE),
    "list_before": make_audio.wav(DATA, before=TITLE),
    "broadcast": make_audio.wav(DATA, before=make_audio.chunk(b"bext", bytes(601))),
    "ffmpeg_pipe": make_audio.wav(DATA, riff_size=0xFFFFFFFF, data_size=0xFFFFFFFF),
    "sox_pipe": make_audio.wav(DATA, riff_size=0x7FFFF024, data_size=0x7FFFF000),
    "arecord": make_audio.wav(DATA, riff_size=0x80000024, data_size=0x80000000),
    "no_riff_size": make_audio.wav(DATA, riff_size=0),
    "counts_itself": make_audio.wav(DATA, riff_size=len(DATA) + 44),
    "junk": make_audio.wav(DATA) + make_audio.noise(999),
    "zeros": make_audio.wav(DATA) + bytes(4096),
    "id3": b"ID3\x03\0\0\0\0\0\x0a" + bytes(10) + make_audio.wav(DATA),
}


@pytest.mark.parametrize("data", ODD.values(), ids=ODD)
def test_odd_wav_headers_are_read(tmp_path, data):
    path = tmp_path / "odd.wav"
    path.write_bytes(data)
    with open_audio(path) as reader:
        decoded = np.concatenate(list(reader.blocks()), axis=1)
    assert np.abs(decoded[0] - SAMPLES).max() < 1e-4 and decoded.shape[1] == len(SAMPLES)


def test_an_odd_number_of_bytes_needs_no_pad(tmp_path):
    path = tmp_path / "odd.wav"
    path.write_bytes(make_audio.wav(make_audio.noise(8_001), bits=8)[:-1])
    assert read(path) == 8_001


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (make_audio.wav(DATA, data_size=2 * len(DATA)), "truncated"), (make_audio.wav(DATA)[:-100], "truncated"),
        (make_audio.wav(DATA, after=TITLE)[: -len(TITLE) - 50], "truncated"), (make_audio.wav(DATA)[:12], "damaged"),
        (make_audio.wav(DATA, rate=0), "damaged"), (make_audio.wav(DATA, rate=1), "damaged"), (b"RIFF", "not_audio"),
        (make_audio.wav(DATA, rate=0x7FFFFFFF), "damaged"), (make_audio.wav(DATA, channels=0), "damaged"),
    ],
)  # fmt: skip
def test_lying_wav_headers_are_refused(tmp_path, data, reason):
    path = tmp_path / "lie.wav"
    path.write_bytes(data)
    assert refusal(path) == reason


def test_mp3_start_is_behind_tags_and_zeros(songs, tmp_path):
    for suffix, announced in (("mp3", True), ("long.mp3", False)):
        data = (songs / f"a.{suffix}").read_bytes()
        tagged = make_audio.id3(70_000) + make_audio.id3(10) + bytes(500)
        (tmp_path / suffix).write_bytes(tagged + data)
        assert mp3_start(songs / f"a.{suffix}") == (0, announced)
        assert mp3_start(tmp_path / suffix) == (len(tagged), announced)


def check(*parts: np.ndarray, rate: int = 8_000, pieces: int = 4) -> str:
    watcher = SignalCheck("song", rate)
    try:
        for blocks in zip(*(np.array_split(part, pieces, axis=1) for part in parts), strict=True):
            watcher.push(*blocks)
        watcher.finish()
    except AudioError as error:
        assert str(error).startswith("song: expected ")
        return error.reason
    return "fine"


def test_the_signal_is_judged_over_the_whole_song():
    wave = np.stack([make_audio.music(1, 8_000, seed) for seed in range(2)])
    silent, constant = np.zeros_like(wave), np.full_like(wave, 0.25)
    late = np.concatenate((silent, wave * 1e-3), axis=1)
    spoiled = [wave.copy() for _ in range(3)]
    for part, value in zip(spoiled, (np.nan, np.inf, -np.inf), strict=True):
        part[1, 7_000] = value
    assert check(wave) == check(silent, wave) == check(constant, wave) == check(late) == check(wave[:1], wave) == "fine"
    assert check(silent) == check(wave * 1e-5) == check(silent, silent) == "silent"
    assert check(constant) == check(constant, silent) == "constant"
    assert {check(part) for part in spoiled} == {check(wave, part) for part in spoiled} == {"nan"}
    assert check(wave * 32_768) == check(wave, -wave * 1e20) == "out_of_range" and check(wave * 50) == "fine"
    assert check(wave[:, :3_999]) == "too_short" and check(wave[:, :4_000]) == "fine"


def test_a_refusal_survives_a_worker_process():
    error = pickle.loads(pickle.dumps(AudioError("decode", "nan", "x: expected; got")))
    assert (error.stage, error.reason, str(error)) == ("decode", "nan", "x: expected; got")
