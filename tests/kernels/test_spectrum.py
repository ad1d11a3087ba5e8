"""Framing and power spectra, and what log_mel, chroma and both at once share: edges, ragged batches, channels, gradients."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.signal
import torch
from duotok.kernels import ChromaSpec, Framing, MelSpec, chroma, filter_spectrum, log_mel, log_mel_chroma
from duotok.kernels.spectrum import power_spectrum, reflect
from signals import noise

SHORT_CHROMA = ChromaSpec(n_fft=2048, win_length=2048)
OPS = [(log_mel, (MelSpec(),)), (chroma, (ChromaSpec(),)), (log_mel_chroma, (MelSpec(), SHORT_CHROMA))]
each_op = pytest.mark.parametrize(("op", "specs"), OPS, ids=lambda value: getattr(value, "name", ""))


@pytest.mark.parametrize("pad_mode", ["reflect", "constant"])
@pytest.mark.parametrize("pad", [None, 0, 1, 300, 511])
@pytest.mark.parametrize(("n_fft", "win_length", "hop"), [(512, 512, 100), (512, 400, 512), (511, 511, 90), (600, 513, 601)])
def test_frames_are_those_of_numpy(pad_mode, pad, n_fft, win_length, hop):
    framing = Framing(n_fft=n_fft, win_length=win_length, hop_length=hop, pad=pad, pad_mode=pad_mode)
    window = np.zeros(n_fft)
    left = (n_fft - win_length) // 2
    window[left : left + win_length] = scipy.signal.get_window("hann", win_length)
    for num_samples in (2, 200, 510, 2000):
        wave = noise(1, num_samples).double()
        padded = np.pad(wave[0].numpy(), n_fft // 2 if pad is None else pad, mode=pad_mode)
        starts = range(0, len(padded) - n_fft + 1, hop)
        frames = np.array([padded[start : start + n_fft] for start in starts]).reshape(-1, n_fft)
        expected = np.abs(np.fft.rfft(frames * window)) ** 2
        ours = power_spectrum(wave, framing)[0].numpy()
        assert ours.shape == expected.shape == (framing.num_frames(num_samples), n_fft // 2 + 1)
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("name", "theirs"), [("hann", "hann"), ("hamming", "hamming"), ("blackman", "blackman"),
                                              ("rectangular", "boxcar")])  # fmt: skip
def test_windows_are_those_of_scipy(name, theirs):
    ours = Framing(window=name, win_length=1999).analysis_window().numpy()
    np.testing.assert_allclose(ours, scipy.signal.get_window(theirs, 1999), rtol=0, atol=1e-12)


def test_reflection_folds_any_position():
    index = torch.arange(-7, 9)
    assert reflect(index, 4).tolist() == [1, 0, 1, 2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1, 2]
    assert reflect(index, 1).tolist() == [0] * 16
    ours = reflect(torch.arange(-3, 8), 5)
    assert ours.tolist() == np.pad(np.arange(5), 3, mode="reflect").tolist()


def tensors(op, backend, wave, *arguments) -> tuple[torch.Tensor, ...]:
    out = op.run(backend, wave, *arguments)
    return out if isinstance(out, tuple) else (out,)


@each_op
def test_ragged_batch_equals_clips_alone(music, op, specs):
    wave = music(24_000)
    lengths = torch.tensor([60_001, 5_000, 1_000, 1])
    batch = wave.repeat(4, 1)
    for backend in [name for name, reason in op.explain(batch, *specs, lengths).items() if reason is None]:
        ragged = tensors(op, backend, batch, *specs, lengths)
        for item, length in enumerate(lengths.tolist()):
            alone = tensors(op, backend, batch[:1, :length], *specs)
            for ours, expected, silence in zip(ragged, alone, (0 if op is chroma else -100, 0), strict=False):
                count = expected.shape[1]
                torch.testing.assert_close(ours[item, :count], expected[0], rtol=0, atol=2e-3)
                beyond = ours[item, count:]
                torch.testing.assert_close(beyond, torch.full_like(beyond, silence), rtol=0, atol=1e-4)


@each_op
def test_channels_are_averaged(op, specs):
    stereo = noise(3, 2, 6001)
    for backend in [name for name, reason in op.explain(stereo, *specs).items() if reason is None]:
        for ours, expected in zip(
            tensors(op, backend, stereo, *specs), tensors(op, backend, stereo.mean(1), *specs), strict=True
        ):
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@each_op
def test_results_have_the_wave_s_dtype(op, specs, dtype):
    wave = noise(2, 3000).to(dtype)
    expected = tensors(op, "reference", wave.double(), *specs)
    for ours, exact in zip(op(wave, *specs) if op is log_mel_chroma else (op(wave, *specs),), expected, strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.double(), exact, rtol=2 * torch.finfo(dtype).eps, atol=1e-3)


def test_int16_is_read_as_fractions_of_full_scale(music):
    whole = (music(24_000) * 32768).round().clamp(-32768, 32767).to(torch.int16)
    out = log_mel(whole, MelSpec())
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, log_mel(whole.float() / 32768, MelSpec()), rtol=0, atol=1e-3)


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_gradients_are_right_and_finite_in_silence(power):
    framing = Framing(n_fft=32, win_length=24, hop_length=9)
    window, bank = torch.hann_window(24, dtype=torch.float64), torch.rand(17, 3, dtype=torch.float64)
    wave = noise(2, 50).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda w: filter_spectrum(w, framing, window, bank, power, "ln"), (wave,))
    silent = torch.zeros(1, 3000, requires_grad=True)
    log_mel(silent, MelSpec(power=power)).sum().backward()
    assert silent.grad.isfinite().all()


def test_gradient_flows_through_both(music):
    wave = music(24_000)[:, :3000].requires_grad_()
    mel, pitch_classes = log_mel_chroma(wave, MelSpec(floor=1e-5), SHORT_CHROMA)
    (mel.mean() + pitch_classes.mean()).backward()
    assert wave.grad.isfinite().all() and wave.grad.abs().sum() > 0


def test_tables_made_in_inference_mode_serve_training():
    spec = MelSpec(n_mels=17, win_length=1999)
    with torch.inference_mode():
        log_mel.reference(torch.randn(1, 3000), spec)
    wave = torch.randn(1, 3000, requires_grad=True)
    log_mel.reference(wave, spec).sum().backward()
    assert wave.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"hop_length": 0}, "hop_length: expected at least 1; got 0; correct this value"),
        ({"hop_length": -5}, "hop_length: expected at least 1; got -5"),
        ({"n_fft": -2048}, "n_fft: expected at least 1; got -2048"),
        ({"sample_rate": 0}, "sample_rate: expected at least 1; got 0"),
        ({"win_length": 0}, "win_length: expected 1 to n_fft = 2048; got 0"),
        ({"win_length": 2049}, "win_length: expected 1 to n_fft = 2048; got 2049"),
        ({"pad": -1}, "pad: expected None or 0 to n_fft = 2048; got -1"),
        ({"pad": 2049}, "pad: expected None or 0 to n_fft = 2048; got 2049"),
        ({"pad_mode": "edge"}, "pad_mode: expected reflect or constant; got 'edge'"),
        ({"window": "kaiser"}, "window: expected one of hann, hamming, blackman, rectangular; got 'kaiser'"),
        ({"n_mels": 0}, "n_mels: expected at least 1; got 0"),
        ({"f_min": -1.0}, "f_min: expected 0 to below f_max = 12000.0 Hz; got -1.0"),
        ({"f_max": 0.0}, "f_min: expected 0 to below f_max = 0.0 Hz; got 0.0"),
        ({"power": 0.0}, "power: expected a positive number; got 0.0"),
        ({"scale": "bark"}, "scale: expected htk or slaney; got 'bark'"),
        ({"norm": "area"}, "norm: expected None or slaney; got 'area'"),
        ({"log": "log2"}, "log: expected db, ln, log10 or none; got 'log2'"),
        ({"std": 0.0}, "std: expected a positive number; got 0.0"),
        ({"hop_length": "a"}, "hop_length: expected a whole number; got 'a'"),
        ({"n_fft": 1024.0}, "n_fft: expected a whole number; got 1024.0"),
        ({"pad": 0.5}, "pad: expected a whole number; got 0.5"),
        ({"sample_rate": None}, "sample_rate: expected a number; got None"),
        ({"n_mels": 12.5}, "n_mels: expected a whole number; got 12.5"),
        ({"power": "2"}, "power: expected a number; got '2'"),
        ({"f_max": "8000"}, "f_max: expected a number; got '8000'"),
    ],
)
def test_specs_that_make_no_sense(changes, text):
    with pytest.raises(ValueError, match=r"MelSpec\.") as error:
        MelSpec(**changes)
    assert text in str(error.value)


@each_op
@pytest.mark.parametrize(
    ("wave", "lengths", "text"),
    [
        (noise(500), None, r"expected a wave \(B, S\) or \(B, C, S\) of at least one sample; got \(500,\); reshape the wave"),
        (noise(2, 0), None, r"of at least one sample; got \(2, 0\)"),
        (noise(2, 0, 500), None, r"of at least one sample; got \(2, 0, 500\)"),
        (noise(1, 1, 2, 500), None, r"got \(1, 1, 2, 500\)"),
        (noise(2, 500).long(), None, "expected a wave of floats or int16; got torch.int64; convert the wave"),
        (noise(2, 500).to(torch.complex64), None, "expected a wave of floats or int16; got torch.complex64"),
        (noise(2, 500), torch.tensor([5, 5], dtype=torch.int32), r"got torch.int32 \(2,\) on cpu; convert the lengths"),
        (noise(2, 500), torch.tensor([5]), r"expected int64 lengths of 2 clips on cpu; got torch.int64 \(1,\) on cpu"),
        (noise(2, 500), torch.tensor([5, 5], device="meta"), r"got torch.int64 \(2,\) on meta"),
        (noise(2, 500), torch.tensor([0, 5]), "expected lengths of 1 to 500 samples; got 0; leave out clips"),
        (noise(2, 2, 500), torch.tensor([5, 501]), "expected lengths of 1 to 500 samples; got 501"),
        (noise(2, 500), torch.tensor([-(2**63), 5]), "expected lengths of 1 to 500 samples; got -9223372036854775808"),
    ],
)
def test_malformed_calls(op, specs, wave, lengths, text):
    with pytest.raises(ValueError, match=text) as error:
        op(wave, *specs, lengths)
    assert str(error.value).startswith(f"{op.name}: expected")


def test_filters_that_do_not_fit():
    wave, window, bank = noise(1, 5000), torch.hann_window(2048), torch.rand(1025, 40)
    with pytest.raises(ValueError, match=r"expected a window \(2048,\); got \(2000,\); make it as long as"):
        filter_spectrum(wave, Framing(), window[:2000], bank)
    for wrong in (bank[:1024], bank.T, bank[:, 0]):
        with pytest.raises(ValueError, match=r"expected a bank \(1025, F\) for n_fft 2048; got "):
            filter_spectrum(wave, Framing(), window, wrong)


@pytest.mark.parametrize("backend", filter_spectrum.backends)
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"log": "log2"}, "expected log to be db, ln, log10 or none; got 'log2'; correct it"),
        ({"power": "a"}, "expected power positive and floor a number; got power 'a'; correct it"),
        ({"power": 0}, "got power 0"),
        ({"floor": None}, "got floor None"),
    ],
)
def test_options_of_filters_that_make_no_sense(backend, options, text):
    arguments = noise(1, 5000), Framing(), torch.hann_window(2048), torch.rand(1025, 40)
    with pytest.raises(ValueError, match=f"filter_spectrum: .*{text}"):
        filter_spectrum.run(backend, *arguments, **options)


def test_specs_of_different_frames():
    wave = noise(1, 5000)
    with pytest.raises(ValueError, match="expected specs of the same frames; got n_fft 2048 and 4096; make them equal"):
        log_mel_chroma(wave, MelSpec(), ChromaSpec())
    with pytest.raises(ValueError, match="got pad_mode 'reflect' and 'constant'"):
        log_mel_chroma(wave, MelSpec(), ChromaSpec(n_fft=2048, win_length=2048, pad_mode="constant"))
