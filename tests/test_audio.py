"""Decoding: every format in blocks, the same samples however they are asked for, to the file's true end."""

from __future__ import annotations

import hashlib
from pathlib import Path

import make_audio
import numpy as np
import pytest
import soundfile
import soxr

from duotok import audio
from duotok.audio import AudioError, AudioInfo, Resampler, file_sha256, open_audio, to_mono

# suffix, subtype of libsndfile, format where the suffix does not tell, bits to which a sample is right
LOSSLESS = [
    ("wav", "PCM_16", None, 15), ("wav", "PCM_24", None, 23), ("wav", "PCM_32", None, 24), ("wav", "PCM_U8", None, 7),
    ("wav", "FLOAT", None, 99), ("wav", "DOUBLE", None, 99), ("wav", "ULAW", None, 5), ("wav", "PCM_16", "WAVEX", 15),
    ("flac", "PCM_16", None, 15), ("flac", "PCM_24", None, 23), ("aiff", "PCM_24", None, 23), ("w64", "PCM_16", None, 15),
    ("rf64", "PCM_16", None, 15), ("caf", "ALAC_16", None, 15), ("au", "PCM_16", None, 15),
]  # fmt: skip


def read(path: Path, stream: int = 0) -> tuple[AudioInfo, np.ndarray]:
    with open_audio(path, stream) as reader:
        blocks = list(reader.blocks())
        assert reader.num_samples == sum(block.shape[1] for block in blocks)
    assert all(block.dtype == np.float32 and block.shape[1] <= 1.2 * reader.info.sample_rate for block in blocks)
    return reader.info, np.concatenate(blocks, axis=1)


def write_any(path: Path, wave: np.ndarray, rate: int) -> Path:
    """Write by suffix: what libsndfile cannot write, PyAV does."""
    codecs = {".m4a": "aac", ".aac": "aac", ".mp4": "aac", ".webm": "libopus", ".mka": "flac"}
    if path.suffix in codecs:
        return make_audio.encode(path, wave, rate, codecs[path.suffix])
    kind = ("OPUS", "OGG") if path.suffix == ".opus" else ()
    return make_audio.write(path, wave, rate, *kind)


def lag_and_error(original: np.ndarray, decoded: np.ndarray) -> tuple[int, float]:
    """By how many samples (0 to 3000) `decoded` is late, and the energy of what then differs, of 1."""
    length = len(original) - 6_000
    piece = original[2_000 : 2_000 + length]
    size = 2 ** int(np.ceil(np.log2(len(decoded) + length)))
    match = np.fft.irfft(np.fft.rfft(decoded, size) * np.conj(np.fft.rfft(piece, size)), size)[2_000:5_000]
    lag = int(match.argmax())
    rest = decoded[2_000 + lag : 2_000 + lag + length] - piece
    return lag, float((rest**2).sum() / (piece**2).sum())


@pytest.mark.parametrize(("suffix", "subtype", "kind", "bits"), LOSSLESS)
@pytest.mark.parametrize(("channels", "rate"), [(1, 8_000), (2, 44_100), (6, 48_000)])
def test_samples_of_lossless_formats(tmp_path, suffix, subtype, kind, bits, channels, rate):
    wave = np.stack([make_audio.music(1.3, rate, seed) for seed in range(channels)])
    info, decoded = read(make_audio.write(tmp_path / f"a.{suffix}", wave, rate, subtype, kind))
    assert info == AudioInfo(rate, channels, wave.shape[1], True, "soundfile")
    assert decoded.shape == wave.shape
    assert np.abs(decoded - wave).max() <= 2**-bits


@pytest.mark.parametrize(
    ("suffix", "rate", "decoder", "late", "padding"),
    [
        ("mp3", 44_100, "soundfile", 0, 0), ("mp3", 16_000, "soundfile", 0, 0), ("ogg", 44_100, "pyav", 0, 0),
        ("opus", 48_000, "pyav", 0, 0), ("opus", 8_000, "soundfile", 0, 0), ("m4a", 44_100, "pyav", 0, 1024),
        ("mp4", 32_000, "pyav", 0, 1024), ("aac", 44_100, "pyav", 1024, 2048), ("webm", 48_000, "pyav", 0, 960),
        ("mka", 44_100, "pyav", 0, 0),
    ],
)  # fmt: skip
@pytest.mark.parametrize("channels", [1, 2])
def test_lossy_formats_sound_like_the_original(tmp_path, suffix, rate, decoder, late, padding, channels):
    wave = np.stack([make_audio.music(2.5, rate, seed) for seed in range(channels)])
    info, decoded = read(write_any(tmp_path / f"a.{suffix}", wave, rate))
    assert (info.sample_rate, info.channels, info.decoder) == (rate, channels, decoder)
    assert wave.shape[1] <= decoded.shape[1] <= wave.shape[1] + padding
    for channel, original in zip(decoded, wave, strict=True):
        lag, error = lag_and_error(original, channel)
        assert lag == late
        assert error < 0.05  # channels swapped or doubled would differ by more than 1


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "ogg", "opus", "m4a", "aac", "webm"])
@pytest.mark.parametrize("channels", [1, 2])
def test_samples_do_not_depend_on_the_size_of_blocks(tmp_path, monkeypatch, suffix, channels):
    """The seek that soundfile adds to each read spoils mono mp3 files at 48 kHz by up to a third of full scale."""
    wave = np.stack([make_audio.music(3.3, 48_000, seed) for seed in range(channels)])
    path = write_any(tmp_path / f"a.{suffix}", wave, 48_000)
    first = read(path)[1]
    for seconds in (2, 7):
        monkeypatch.setattr(audio, "_BLOCK_S", seconds)
        with open_audio(path) as reader:
            blocks = list(reader.blocks())
        assert len(blocks) == -(-first.shape[1] // (seconds * 48_000))
        assert np.array_equal(np.concatenate(blocks, axis=1), first)


@pytest.mark.parametrize(
    ("suffix", "rate", "largest"), [("wav", 44_100, 0), ("flac", 44_100, 0), ("ogg", 22_050, 1e-6), ("opus", 48_000, 2e-3)]
)
def test_blocks_are_what_soundfile_reads_at_once(tmp_path, suffix, rate, largest):
    """Opus leaves noise in empty bands to its decoders, which differ in that."""
    path = write_any(tmp_path / f"a.{suffix}", make_audio.music(3.1, rate), rate)
    decoded, expected = read(path)[1], soundfile.read(path, dtype="float32", always_2d=True)[0].T
    assert decoded.shape == expected.shape
    assert np.abs(decoded - expected).max() <= largest


@pytest.mark.parametrize("quality", [0, 9])
@pytest.mark.parametrize("reverse", [False, True])
def test_an_mp3_without_xing_header_is_read_to_its_true_end(tmp_path, quality, reverse):
    """libsndfile guesses the length from the first frames and stops there: here after half a song, or a sixth."""
    wave = np.concatenate([make_audio.music(4) * 1e-3, make_audio.noise_wave(4)])
    wave = wave[::-1] if reverse else wave
    info, decoded = read(make_audio.mp3_without_length(tmp_path / "a.mp3", wave, 44_100, quality))
    assert info.header_samples is None
    assert len(wave) <= decoded.shape[1] <= len(wave) + 3 * 1152
    lag, error = lag_and_error(wave, decoded[0])
    assert lag == 1105 and error < 0.9  # the delay of encoder and decoder; at quality 9 most of the noise's treble is gone


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize("wrap", ["big_picture", "two_tags", "zeros", "junk", "id3v1", "ape"])
def test_tags_around_an_mp3_are_not_music(tmp_path, announced, wrap):
    path = tmp_path / "plain.mp3"
    write = make_audio.write if announced else make_audio.mp3_without_length
    write(path, make_audio.music(3), 44_100)
    data, tag = path.read_bytes(), b"TAG" + b"title".ljust(125, b"\0")
    ape = b"APETAGEX" + (2000).to_bytes(4, "little") + (9_000).to_bytes(4, "little")
    ape_header = ape + (1).to_bytes(4, "little") + (0xA0000000).to_bytes(4, "little") + bytes(8)
    ape_footer = ape + (1).to_bytes(4, "little") + (0x80000000).to_bytes(4, "little") + bytes(8)
    wrapped = {
        "big_picture": make_audio.id3(1_500_000) + data,
        "two_tags": make_audio.id3(5_000) + make_audio.id3(90_000) + data,
        "zeros": make_audio.id3(300_000) + bytes(1_000) + data,
        "junk": b"junk" * 20 + data,
        "id3v1": data + tag,
        "ape": data + ape_header + make_audio.noise(9_000 - 32) + ape_footer + tag,
    }[wrap]
    (tmp_path / "tagged.mp3").write_bytes(wrapped)
    assert np.array_equal(read(tmp_path / "tagged.mp3")[1], read(path)[1])


def test_a_flac_of_unknown_length_is_read_to_its_end(tmp_path):
    path = make_audio.write(tmp_path / "a.flac", make_audio.music(3.7), 44_100)
    (tmp_path / "piped.flac").write_bytes(make_audio.without_total(path.read_bytes()))
    info, decoded = read(tmp_path / "piped.flac")
    assert info.header_samples is None
    assert np.array_equal(decoded, read(path)[1])


@pytest.mark.parametrize("name", ["a: b", "http:x", "new\nline", "☃ ünï", "-o", "%d", "a|b", "caf\udce9"])
@pytest.mark.parametrize("suffix", ["wav", "m4a"])
def test_any_file_name_will_do(tmp_path, monkeypatch, name, suffix):
    plain = write_any(tmp_path / f"plain.{suffix}", make_audio.music(1), 44_100)
    monkeypatch.chdir(tmp_path)
    Path(f"{name}.{suffix}").write_bytes(plain.read_bytes())
    assert np.array_equal(read(Path(f"{name}.{suffix}"))[1], read(plain)[1])


def test_streams_of_one_file_are_told_apart(stem_file):
    infos, waves = zip(*(read(stem_file, stream) for stream in range(5)), strict=True)
    assert {(info.sample_rate, info.channels, info.decoder) for info in infos} == {(44_100, 2, "pyav")}
    mixture, *stems = waves
    assert np.corrcoef(mixture.ravel(), sum(stems).ravel())[0, 1] > 0.98
    assert all(not np.array_equal(stem, waves[0]) for stem in stems)
    with pytest.raises(AudioError, match="expected at least 6 audio streams; got 5") as error:
        read(stem_file, 5)
    assert (error.value.stage, error.value.reason) == ("open", "no_stems")


def test_to_mono_is_the_mean_of_channels():
    block = np.array([[0.5, -1, 0.25], [0.5, 1, 0], [0.5, 0, -0.25]], np.float32)
    assert np.array_equal(to_mono(block), np.array([0.5, 0, 0], np.float32))
    assert to_mono(block).dtype == np.float32
    assert np.array_equal(to_mono(block[:1]), block[0])


def test_file_sha256_is_that_of_all_bytes(tmp_path):
    data = make_audio.noise(3 * 2**20 + 7)
    (tmp_path / "a").write_bytes(data)
    assert file_sha256(tmp_path / "a") == hashlib.sha256(data).hexdigest()


RATES = [(44_100, 24_000), (48_000, 24_000), (8_000, 24_000), (22_050, 24_000), (44_099, 24_000), (24_000, 24_000)]


def resample(wave: np.ndarray, in_rate: int, out_rate: int, cuts: list[int]) -> np.ndarray:
    resampler = Resampler(in_rate, out_rate)
    return np.concatenate([*(resampler.push(piece) for piece in np.split(wave, cuts)), resampler.finish()])


@pytest.mark.parametrize(("in_rate", "out_rate"), RATES)
def test_resampling_in_pieces_is_bit_identical(in_rate, out_rate):
    wave = make_audio.music(3.7, in_rate)
    generator = np.random.default_rng(in_rate)
    whole = resample(wave, in_rate, out_rate, [])
    singles = list(range(1, 400)) + list(range(in_rate - 200, in_rate + 200))
    random = [sorted(generator.integers(0, len(wave), size)) for size in (1, 5, 50, 500)]
    for cuts in (singles, [in_rate], [in_rate, in_rate], list(range(0, len(wave), 1_000)), *random):
        assert np.array_equal(resample(wave, in_rate, out_rate, cuts), whole)


@pytest.mark.parametrize(("in_rate", "out_rate"), RATES)
@pytest.mark.parametrize("seconds", [0.01, 0.5, 1, 2.4])
def test_resampling_is_that_of_soxr_and_as_long(in_rate, out_rate, seconds):
    wave = make_audio.music(seconds, in_rate)
    streamed = resample(wave, in_rate, out_rate, list(range(0, len(wave), 777)))
    at_once = soxr.resample(wave, in_rate, out_rate, "HQ")
    assert abs(len(streamed) - len(wave) * out_rate / in_rate) <= 1
    assert len(streamed) == len(at_once)
    assert np.abs(streamed - at_once).max() < 1e-6


def test_resampling_keeps_a_tone_in_its_place():
    """A 1 kHz tone stays where it was: no delay, no change of level."""
    tone, at_rate = (np.sin(2 * np.pi * 1000 * np.arange(2 * rate) / rate).astype(np.float32) for rate in (44_100, 24_000))
    streamed = resample(tone, 44_100, 24_000, [5, 44_100])
    assert np.abs(streamed - at_rate)[1_000:-1_000].max() < 1e-4


def test_nothing_resamples_to_nothing():
    assert resample(np.zeros(0, np.float32), 44_100, 24_000, []).size == 0
