"""Drop-in spectrograms side by side with torchaudio's where it imports, and against librosa everywhere."""

from __future__ import annotations

import importlib
import itertools

import librosa
import numpy as np
import pytest
import torch
from duotok.kernels import native
from duotok.kernels.modules import ChromaSpectrogram, MelSpectrogram
from signals import noise, pcm, relative_to_peak

MEL_OPTIONS = [
    {},
    {"sample_rate": 24_000, "n_fft": 2048, "hop_length": 240},
    {"sample_rate": 11_025, "n_fft": 1024, "win_length": 800, "n_mels": 40, "f_min": 50.0, "f_max": 4000.0},
    {"n_fft": 512, "power": 1.0, "norm": "slaney", "mel_scale": "slaney", "n_mels": 64},
    {"n_fft": 512, "power": 0.7, "n_mels": 20, "window_fn": torch.hamming_window},
    {"n_fft": 1024, "normalized": True, "pad": 37, "onesided": True},
    {"n_fft": 1024, "normalized": "frame_length", "center": False, "power": 1.0},
    {"n_fft": 1024, "normalized": "window", "pad_mode": "constant", "wkwargs": {"periodic": False}},
    {"n_fft": 601, "n_mels": 30},
]
CHROMA_OPTIONS = [
    {"sample_rate": 22_050, "n_fft": 2048},
    {"sample_rate": 44_100, "n_fft": 4096, "hop_length": 1000, "normalized": True, "power": 1.0},
    {"sample_rate": 11_025, "n_fft": 1024, "n_chroma": 24, "tuning": 0.2, "base_c": False, "octwidth": None},
    {"sample_rate": 16_000, "n_fft": 800, "win_length": 700, "norm": 1, "ctroct": 4.0, "pad": 5, "center": False},
]


def torchaudio_class(module: str, name: str) -> type:
    """A class of torchaudio, or a skip that says why there is none."""
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        pytest.skip(f"needs {module}: {type(error).__name__}: {error}")


def assert_replaces(ours: torch.nn.Module, theirs: torch.nn.Module, waves: list[torch.Tensor]) -> None:
    """Same keys and shapes, state_dicts that load both ways, results of all waves within twice the original's error."""
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value, rtol=1e-4, atol=3e-5)
    theirs.load_state_dict(ours.state_dict())
    for wave in waves:
        got, expected = ours(wave), theirs(wave)
        theirs.double()
        exact = theirs(wave.double())
        theirs.float()
        assert got.shape == expected.shape and got.dtype == expected.dtype
        errors = [relative_to_peak(x.transpose(-1, -2), exact.transpose(-1, -2)) for x in (got, expected)]
        assert errors[0] <= 2 * errors[1] + 1e-6
    ours.load_state_dict({key: 2 * value for key, value in theirs.state_dict().items()})
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(wave), theirs(wave), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("options", MEL_OPTIONS, ids=str)
@pytest.mark.filterwarnings("ignore:.*onesided.*", "ignore:At least one mel filterbank")
def test_mel_spectrogram_replaces_torchaudio_s(music, options):
    theirs = torchaudio_class("torchaudio.transforms", "MelSpectrogram")(**options)
    waves = [music(24_000)[0], noise(3000), noise(2, 3000), noise(2, 3, 2999)]
    assert_replaces(MelSpectrogram(**options), theirs, waves)


@pytest.mark.parametrize("options", CHROMA_OPTIONS, ids=str)
@pytest.mark.filterwarnings("ignore:.*has been deprecated.*")
def test_chroma_spectrogram_replaces_torchaudio_s(music, options):
    theirs = torchaudio_class("torchaudio.prototype.transforms", "ChromaSpectrogram")(**options)
    waves = [music(24_000)[0], noise(5000), noise(2, 3, 4999)]
    assert_replaces(ChromaSpectrogram(**options), theirs, waves)


@pytest.mark.parametrize("n_fft", [400, 1024])
@pytest.mark.filterwarnings("ignore:At least one mel filterbank")
def test_log_replaces_amplitude_to_db(music, n_fft):
    mel = torchaudio_class("torchaudio.transforms", "MelSpectrogram")(n_fft=n_fft, n_mels=40)
    to_db = torchaudio_class("torchaudio.transforms", "AmplitudeToDB")("power")
    ours = MelSpectrogram(n_fft=n_fft, n_mels=40, log="db")
    wave = music(16_000)
    torch.testing.assert_close(ours(wave), to_db(mel(wave)), rtol=0, atol=5e-3)


@pytest.mark.parametrize(("n_fft", "power"), [(2048, 2.0), (512, 1.0), (600, 2.0)])
def test_mel_spectrogram_agrees_with_librosa(music, n_fft, power):
    wave = music(22_050)
    module = MelSpectrogram(22_050, n_fft, hop_length=300, n_mels=40, norm="slaney", mel_scale="slaney", power=power)
    theirs = librosa.feature.melspectrogram(
        y=wave[0].double().numpy(), sr=22_050, n_fft=n_fft, hop_length=300, n_mels=40, power=power, pad_mode="reflect"
    )
    np.testing.assert_allclose(module(wave)[0].numpy(), theirs, rtol=1e-3, atol=1e-6 * theirs.max())
    decibels = MelSpectrogram(
        22_050, n_fft, None, 300, 0.0, None, 0, 40, power=power, norm="slaney", mel_scale="slaney", log="db"
    )
    expected = librosa.power_to_db(theirs, top_db=None)
    np.testing.assert_allclose(decibels(wave)[0].numpy(), expected, rtol=0, atol=5e-3)


def test_chroma_spectrogram_agrees_with_librosa(music):
    wave = music(22_050)
    theirs = librosa.feature.chroma_stft(
        y=wave[0].double().numpy(), sr=22_050, n_fft=2048, hop_length=512, norm=None, tuning=0.0, pad_mode="reflect"
    )
    ours = ChromaSpectrogram(22_050, 2048, hop_length=512)(wave)[0].numpy()
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * theirs.max())


MODULES = [
    lambda: MelSpectrogram(24_000, 1024, n_mels=20),
    lambda: MelSpectrogram(24_000, 1024, n_mels=20, normalized=True, log="ln"),
    lambda: ChromaSpectrogram(24_000, 1024),
]


@pytest.mark.parametrize("make", MODULES)
def test_buffers_are_used_as_they_are(make):
    wave, module, other = noise(2, 4000), make(), make()
    before = module(wave)
    key = next(name for name in module.state_dict() if name.endswith(".fb"))
    for change in (
        lambda: other.load_state_dict({**module.state_dict(), key: 3 * module.state_dict()[key]}),
        lambda: other.spectrogram.window.mul_(0.5),
        lambda: setattr(other.spectrogram, "window", torch.ones(1024)),
    ):
        change()
        got = other(wave)
        assert not torch.allclose(got, before)
        exact = other.double()(wave.double())
        other.float()
        torch.testing.assert_close(got.double(), exact, rtol=1e-3, atol=1e-4 * exact.abs().max().item())


@pytest.mark.parametrize("make", MODULES)
def test_int16_short_clips_gradients_and_graphs(make):
    module, samples = make(), pcm(2, 4000)
    torch.testing.assert_close(module(samples), module(samples / 32768), rtol=1e-5, atol=1e-6)
    assert module(noise(3)).isfinite().all()
    wave = noise(2, 4000).requires_grad_()
    module(wave).sum().backward()
    assert wave.grad.isfinite().all() and wave.grad.abs().sum() > 0
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(noise(2, 4000)), module(noise(2, 4000)))


def test_a_copy_owns_its_bank():
    first, second = MelSpectrogram(n_mels=20), MelSpectrogram(n_mels=20)
    first.mel_scale.fb.zero_()
    assert second.mel_scale.fb.abs().sum() > 0


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"pad_mode": "circular"}, "pad_mode: expected reflect or constant; got 'circular'"),
        ({"normalized": "peak"}, "expected normalized to be a bool, window or frame_length; got 'peak'"),
        ({"power": 0.0}, "power: expected a positive number; got 0.0"),
        ({"power": None}, "power: expected a number; got None"),
        ({"n_fft": 400.0}, "n_fft: expected a whole number; got 400.0"),
        ({"hop_length": 0}, "hop_length: expected at least 1; got 0"),
        ({"win_length": 401}, "win_length: expected 1 to n_fft = 400; got 401"),
        ({"f_min": 9000.0}, "f_min: expected 0 to below f_max = 8000.0 Hz; got 9000.0"),
        ({"log": "log2"}, "log: expected db, ln, log10 or none; got 'log2'"),
    ],
)
def test_refusals(options, text):
    with pytest.raises(ValueError, match="expected") as error:
        MelSpectrogram(**options)
    assert text in str(error.value)


def test_a_chromagram_needs_a_power():
    with pytest.raises(ValueError, match="Spectrogram: expected power to be a positive number; got None; take 2 or 1"):
        ChromaSpectrogram(16_000, 512, power=None)


@pytest.mark.parametrize("options", MEL_OPTIONS, ids=str)
@pytest.mark.filterwarnings("ignore:.*onesided.*", "ignore:At least one mel filterbank")
def test_parts_and_attributes_are_the_original_s(options):
    theirs, ours = torchaudio_class("torchaudio.transforms", "MelSpectrogram")(**options), MelSpectrogram(**options)
    names = [name for name, value in vars(theirs).items() if isinstance(value, int | float | str | None)]
    for name in [name for name in names if not name.startswith("_")]:
        assert getattr(ours, name) == (theirs.f_max if name == "f_max" and "f_max" in options else getattr(theirs, name)), name
    for wave in (noise(2, 3000), noise(2, 3, 2999)):
        spectrum = theirs.spectrogram(wave)
        torch.testing.assert_close(ours.spectrogram(wave), spectrum, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(ours.mel_scale(spectrum), theirs.mel_scale(spectrum), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", MODULES)
@pytest.mark.parametrize("module_dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_the_wider_dtype_is_the_answer_s(make, module_dtype, dtype):
    module, wave = make().to(module_dtype), noise(2, 4000).to(dtype)
    got = module(wave)
    assert got.dtype == torch.promote_types(module_dtype, dtype)
    exact = make().double()(wave.double())
    torch.testing.assert_close(got.double(), exact, rtol=1e-3, atol=1e-4 * exact.abs().max().item())


@pytest.mark.parametrize("make", MODULES)
def test_a_float64_module_of_int16_samples(make):
    samples = pcm(2, 4000)
    torch.testing.assert_close(make().double()(samples), make().double()(samples.double() / 32768))


@pytest.mark.parametrize("make", MODULES)
def test_other_integers_are_refused(make):
    for function in (make(), make().spectrogram):
        with pytest.raises(ValueError, match=r"expected a wave of floats or int16; got torch\.int32; convert"):
            function(pcm(2, 4000).int())


@pytest.mark.parametrize("n_fft", [400, 512])
def test_no_clips_have_no_spectra(n_fft):
    assert MelSpectrogram(n_fft=n_fft, n_mels=20)(noise(0, 4000)).shape == (0, 20, 4000 // (n_fft // 2) + 1)


@pytest.mark.skipif(native.why_not() is not None, reason=f"spectra on the CPU: {native.why_not()}")
def test_the_compiled_library_serves_powers_of_two(monkeypatch):
    calls = itertools.count()
    call = native._call
    monkeypatch.setattr(native, "_call", lambda *arguments: (next(calls), call(*arguments)))
    MelSpectrogram(n_fft=1024)(noise(2, 5000))
    ChromaSpectrogram(16_000, 1024)(noise(2, 5000))
    assert next(calls) == 2
