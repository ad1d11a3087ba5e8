"""Separation: two stems that are as long as the mixture and add up to it, without seams; Demucs from safetensors alone."""

from __future__ import annotations

import json
import sys
from fractions import Fraction
from pathlib import Path

import huggingface_hub
import make_audio
import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from runs import command
from safetensors.torch import save_file

from duotok.audio import AudioError
from duotok.corpus.reader import MixturePolicy, open_song
from duotok.corpus.songs import Song
from duotok.separation import STRIDE_S, WINDOW_S, Demucs, apply_demucs, make_separator, separate

RATE = 100  # of the fake separators; a window is 3,000 samples, and starts every 2,500
WINDOW, STRIDE = WINDOW_S * RATE, STRIDE_S * RATE
LENGTHS = [1, 2, *(edge + d for edge in (STRIDE, WINDOW, 2 * STRIDE, STRIDE + WINDOW, 3 * STRIDE) for d in (-1, 0, 1))]


class Fake:
    """Separates by a function of the window and its number."""

    identity = "fake:1"

    def __init__(self, function, sample_rate: int = RATE) -> None:
        self.function, self.sample_rate, self.num_windows = function, sample_rate, 0

    def vocals(self, mixture: np.ndarray) -> np.ndarray:
        assert mixture.shape == (2, WINDOW_S * self.sample_rate)
        self.num_windows += 1
        return self.function(mixture, self.num_windows - 1)


def mixture_of(length: int) -> np.ndarray:
    return np.random.default_rng(length).uniform(-1, 1, (2, length)).astype(np.float32)


def stems(mixture: np.ndarray, function, cuts: list[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
    pairs = list(separate(np.split(mixture, cuts or [], axis=1), Fake(function)))
    return tuple(np.concatenate([pair[i] for pair in pairs], axis=1) for i in range(2))


def by_loudness(mixture: np.ndarray, number: int) -> np.ndarray:
    """Depends on the whole window, as a real separator does."""
    return mixture * np.abs(mixture).mean()


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("function", [by_loudness, lambda mixture, number: 0.3 * mixture])
def test_stems_are_as_long_as_the_mixture_and_add_up_to_it(length, function):
    mixture = mixture_of(length)
    vocals, accompaniment = stems(mixture, function)
    assert vocals.shape == accompaniment.shape == mixture.shape and vocals.dtype == accompaniment.dtype == np.float32
    assert np.abs(vocals + accompaniment - mixture).max() <= np.finfo(np.float32).eps


@pytest.mark.parametrize("length", LENGTHS)
def test_what_does_not_depend_on_windows_has_no_seams(length):
    mixture = mixture_of(length)
    assert np.abs(stems(mixture, lambda part, number: 0.3 * part)[0] - 0.3 * mixture).max() < 1e-6


def test_a_window_fades_into_the_next():
    vocals = stems(mixture_of(11_000), lambda part, number: np.full_like(part, number))[0][0]
    assert np.abs(np.diff(vocals)).max() <= 1 / (WINDOW - STRIDE - 1) + 1e-6
    assert [vocals[second * RATE] for second in (0, 24, 30, 49, 55, 74, 80, 105)] == [0, 0, 1, 1, 2, 2, 3, 4]


def test_cutting_the_input_changes_nothing():
    mixture = mixture_of(8_765)
    whole = stems(mixture, by_loudness)
    generator = np.random.default_rng(0)
    random = [sorted(generator.integers(0, 8_765, 20)) for _ in range(9)]
    for cuts in ([1, 2, 3], [WINDOW], [STRIDE], list(range(0, 8_765, 7)), *random):
        for one, other in zip(stems(mixture, by_loudness, cuts), whole, strict=True):
            assert np.array_equal(one, other)


@pytest.mark.parametrize("length", [3_000, 5_499, 5_500, 9_999])
def test_what_follows_a_window_does_not_change_it(length):
    mixture = mixture_of(12_000)
    decided = (length - WINDOW) // STRIDE * STRIDE + STRIDE  # windows that lie before the cut answer for so much
    for cut, whole in zip(stems(mixture[:, :length], by_loudness), stems(mixture, by_loudness), strict=True):
        assert np.array_equal(cut[:, :decided], whole[:, :decided])


def test_a_separator_may_return_its_input():
    mixture = mixture_of(6_000)
    vocals, accompaniment = stems(mixture.copy(), lambda part, number: part)
    assert np.abs(vocals - mixture).max() < 1e-6 and np.abs(accompaniment).max() < 1e-6


KLASS = "demucs.htdemucs.HTDemucs"
SIZE = {"channels": 4, "dconv_comp": 4, "depth": 3, "t_layers": 1, "t_heads": 4, "nfft": 512, "samplerate": 8_000}
ARGUMENTS = {"sources": ["drums", "bass", "other", "vocals"], **SIZE}
SEGMENT = {"_type": "fraction", "numerator": 39, "denominator": 5}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The last bit of a convolution on the CPU depends on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model():
    """An HTDemucs of 8 kHz with random weights."""
    from demucs.htdemucs import HTDemucs

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return HTDemucs(**ARGUMENTS, segment=Fraction(39, 5)).eval()


@pytest.fixture(scope="module")
def save(model, tmp_path_factory):
    def write(name: str, klass: str = KLASS, state: dict | None = None, **changes: object) -> Path:
        path = tmp_path_factory.mktemp("weights") / name
        arguments = json.dumps({**ARGUMENTS, "segment": SEGMENT, **changes.pop("kwargs", {})})
        save_file(state or model.state_dict(), path, {"klass": klass, "args": "[]", "kwargs": arguments, **changes})
        return path

    return write


@pytest.fixture(scope="module")
def weights(save) -> Path:
    """The model in the format of the hub repository."""
    return save("htdemucs.safetensors")


def test_demucs_is_the_saved_model(weights, model):
    from demucs.apply import apply_model

    separator = Demucs(weights)
    mixture = np.stack([make_audio.music(9, 8_000, seed) for seed in range(2)])
    vocals = separator.vocals(mixture)
    assert separator.sample_rate == 8_000
    assert vocals.shape == mixture.shape and vocals.dtype == np.float32
    assert np.array_equal(separator.vocals(mixture), vocals)
    wave = torch.from_numpy(mixture)
    mean, std = wave.mean(), wave.mean(0).std() + 1e-8
    expected = apply_model(model, ((wave - mean) / std)[None], shifts=0, overlap=0.25)[0, 3] * std + mean
    assert np.abs(vocals - expected.numpy()).max() < 1e-6
    assert np.abs(separator.vocals(0.25 * mixture) - 0.25 * vocals).max() < 1e-5 * np.abs(vocals).max()


@pytest.mark.parametrize("length", [100, 62_400, 70_001, WINDOW_S * 8_000])
def test_segments_at_once_are_segments_one_by_one(model, length):
    wave = torch.randn(2, length, generator=torch.Generator().manual_seed(length))
    one_by_one, at_once = (apply_demucs(model, wave, at_once) for at_once in (False, True))
    assert one_by_one.shape == at_once.shape == (4, 2, length)
    assert (one_by_one - at_once).abs().max() < 1e-5 * one_by_one.abs().max()


def test_identity_is_that_of_the_weights(weights, save, model):
    other = save("other.safetensors", state={name: value + 0 for name, value in model.state_dict().items()}, note="x")
    assert Demucs(weights).identity == Demucs(weights).identity != Demucs(other).identity
    assert Demucs(weights).identity.startswith("htdemucs:")


def test_other_models_are_refused_before_demucs_sees_them(save, tmp_path, monkeypatch):
    trap = {"_dict": [["x", {"_class": "antigravity.open"}]]}
    for path, found in (
        (save("a", klass="os.system"), "got 'os.system'"),
        (save("b", klass="demucs.hdemucs.HDemucs"), "got 'demucs.hdemucs.HDemucs'"),
        (save("c", structure=json.dumps(trap)), "got a quantized one"),
    ):
        monkeypatch.setattr("demucs.hf.load_safetensors_model", lambda path: pytest.fail("demucs saw it"))
        with pytest.raises(ValueError, match="expected an htdemucs model") as error:
            Demucs(path)
        assert found in str(error.value) and str(path) in str(error.value)


def test_pickle_is_never_read(tmp_path):
    class Trap:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "sprung",)

    torch.save({"klass": Trap()}, tmp_path / "htdemucs.th")
    with pytest.raises(ValueError, match="expected safetensors of htdemucs"):
        Demucs(tmp_path / "htdemucs.th")
    assert not (tmp_path / "sprung").exists()
    torch.load(tmp_path / "htdemucs.th", weights_only=False)
    assert (tmp_path / "sprung").exists(), "the trap works"


def test_weights_that_do_not_fit_are_one_line(save, model, tmp_path):
    state = {name: value + 0 for name, value in model.state_dict().items()}
    first, *others = state
    (tmp_path / "noise.safetensors").write_bytes(make_audio.noise(5_000))
    cut = make_audio.cut(save("whole"), 0.5, tmp_path / "cut.safetensors")
    for path in (
        tmp_path / "none.safetensors", tmp_path, tmp_path / "noise.safetensors", cut,
        save("lack", state={name: state[name] for name in others}), save("shape", state={**state, first: state[first][:1] + 0}),
        save("kwargs", kwargs={"sources": ["a", "b", "c", "d"]}), save("json", args="{"), save("depth", kwargs={"depth": "x"}),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="expected") as error:
            Demucs(path)
        assert str(path) in str(error.value) and "download the file again" in str(error.value)


def test_what_is_missing_is_one_line_with_its_remedy(monkeypatch):
    assert make_separator("none") is None
    with pytest.raises(ValueError, match="expected one of demucs, spleeter, none; got 'magic'"):
        make_separator("magic")

    def offline(*arguments: object) -> str:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(ValueError, match="go online once, or pass a copy with --separator-weights"):
        make_separator("demucs")
    monkeypatch.setitem(sys.modules, "demucs.hf", None)
    with pytest.raises(ValueError, match=r"not installed; install the extra: pip install 'duotok\[separate\]'"):
        make_separator("demucs")


def read_song(path: Path, policy: MixturePolicy, **fields: float) -> np.ndarray:
    with open_song(Song("x", path.name, mixture_path=str(path), **fields), policy) as opened:
        return np.concatenate([np.stack(pair) for pair in opened.blocks()], axis=1)


def test_cached_stems_are_those_that_were_separated(tmp_path):
    path = make_audio.write(tmp_path / "song.flac", make_audio.music(3), 44_100)
    policy = MixturePolicy(Fake(by_loudness, 8_000), cache=tmp_path / "stems")
    plain = read_song(path, MixturePolicy(Fake(by_loudness, 8_000)))
    assert np.array_equal(read_song(path, policy), plain)
    [cached] = (tmp_path / "stems").iterdir()
    assert (soundfile.info(cached).format, soundfile.info(cached).subtype) == ("FLAC", "PCM_24")
    assert np.array_equal(4 * soundfile.read(cached, dtype="float32")[0].T, plain)
    assert np.array_equal(read_song(path, policy), plain) and policy.separator.num_windows == 1
    for start in (0.25, 0.2500001, 0.25):
        expected = read_song(path, MixturePolicy(policy.separator), start=start, duration=1.5)
        assert np.array_equal(read_song(path, policy, start=start, duration=1.5), expected)
    assert len(list((tmp_path / "stems").iterdir())) == 3


def test_kept_stems_that_are_damaged_or_another_song_s_are_made_anew(tmp_path):
    path = make_audio.write(tmp_path / "song.flac", make_audio.music(3), 44_100)
    policy = MixturePolicy(Fake(by_loudness, 8_000), cache=tmp_path / "stems")
    plain = read_song(path, policy)
    [cached] = (tmp_path / "stems").iterdir()
    make_audio.cut(cached, 0.9, cached)
    assert np.array_equal(read_song(path, policy), plain) and policy.separator.num_windows == 2
    soundfile.write(cached, np.zeros((8_000, 2)), 8_000, "PCM_24")
    with pytest.raises(AudioError, match=r"expected kept stems of 24000 samples; got 8000 in .*\.flac, which is removed; try"):
        read_song(path, policy)
    assert np.array_equal(read_song(path, policy), plain) and policy.separator.num_windows == 3


def test_stems_are_rounded_to_24_bits_whether_kept_or_not_and_what_exceeds_them_is_not_kept(tmp_path):
    path = make_audio.write(tmp_path / "song.wav", make_audio.music(3), 44_100, "FLOAT")
    for gain, kept in ((0.7, 1), (10, 1), (400, 0)):
        policy = MixturePolicy(Fake(lambda part, number, gain=gain: gain * part, 8_000), cache=tmp_path / str(gain))
        first = read_song(path, policy)
        assert np.array_equal(first, read_song(path, policy)) and policy.separator.num_windows == 2 - kept
        assert len(list((tmp_path / str(gain)).iterdir())) == kept
        assert not np.any(first[np.abs(first) < 4] * 2**21 % 1) and np.abs(first).max() > 0.2 * gain


def test_a_song_that_fails_leaves_no_stems(tmp_path):
    make_audio.write(tmp_path / "song.wav", make_audio.music(3), 44_100)
    cut = make_audio.cut(make_audio.write(tmp_path / "a.mp3", make_audio.music(60, 8_000), 8_000), 0.8, tmp_path / "cut.mp3")
    with pytest.raises(AudioError, match="samples as its header says"):
        read_song(cut, MixturePolicy(Fake(by_loudness, 8_000), cache=tmp_path / "stems"))
    assert not list((tmp_path / "stems").iterdir())


def test_a_mixture_through_the_command_line(tmp_path, weights, real_song, tokenizer):
    vocals, accompaniment, rate = real_song
    (songs := tmp_path / "songs").mkdir()
    soundfile.write(songs / "mix.flac", vocals + accompaniment, rate)
    for run in ("first", "second"):
        options = ("--separate", "demucs", "--separator-weights", weights, "--stem-cache", tmp_path / "stems")
        done = command(songs, "-o", tmp_path / run, *options)
        assert done.returncode == 0, done.stderr
    first, second = (pq.read_table(tmp_path / run / "data" / "unit-00000.parquet") for run in ("first", "second"))
    assert first.equals(second) and first.schema.metadata == second.schema.metadata
    assert json.loads(first.schema.metadata[b"duotok"])["separator"] == Demucs(weights).identity
    [row] = first.to_pylist()
    assert row["sample_rate"] == rate and row["num_samples"] == len(vocals) and row["n_frames"] == -(-len(vocals) * 25 // rate)
    separated = read_song(songs / "mix.flac", MixturePolicy(Demucs(weights)))
    codes = tokenizer.stream(8_000)
    expected = torch.cat((codes.push(*separated), codes.finish(row["n_frames"])), dim=1)
    assert torch.equal(expected, torch.tensor([row["vocal_codes"], row["accomp_codes"]]))
    assert [path.suffix for path in (tmp_path / "stems").iterdir()] == [".flac"]
