"""The compiled library: log-Mel and chroma against their references, and its C ABI against malformed calls."""

from __future__ import annotations

import ctypes
import math
from dataclasses import astuple, replace

import pytest
import torch
from duotok.kernels import ChromaSpec, MelSpec, chroma, explain, log_mel, native
from duotok.kernels.chroma import chroma_filter_bank
from duotok.kernels.log_mel import mel_filter_bank

pytestmark = pytest.mark.skipif(native.why_not() is not None, reason=f"log_mel and chroma on the CPU: {native.why_not()}")

SIZES = (256, 512, 1024, 2048, 4096)


@pytest.fixture(params=["avx512", "avx2", "simd128", "plain"])
def isa(request):
    """Run a test once on every instruction set that this processor has."""
    try:
        native.use_cpu_isa(request.param)
    except ValueError as error:
        pytest.skip(str(error))
    yield request.param
    native.use_cpu_isa(None)


def noise(*shape: int, scale: float = 0.1) -> torch.Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def music(num_samples: int, sample_rate: int) -> torch.Tensor:
    """A decaying chord every half second over a quiet broad band, (1, num_samples)."""
    time = torch.arange(num_samples, dtype=torch.float64) / sample_rate
    decay = torch.exp(-4 * time.remainder(0.5))
    notes = [220 * 2 ** (k / 12) * harmonic for k in (0, 4, 7) for harmonic in (1, 2, 3, 5)]
    chord = sum(torch.sin(2 * math.pi * hz * time) for hz in notes) / len(notes)
    return (chord * decay + 0.03 * noise(num_samples, scale=1.0)).float()[None]


def relative_to_peak(got: torch.Tensor, exact: torch.Tensor) -> float:
    """Largest error as a fraction of the frame's largest value."""
    return ((got - exact).abs() / exact.amax(-1, keepdim=True)).nan_to_num(0).max().item()


def assert_as_accurate_as_reference(op, wave, spec, lengths=None):
    got = op.run("cpu", wave, spec, lengths)
    exact = op.reference(wave.double() / (32768 if wave.dtype == torch.int16 else 1), spec, lengths)
    own = op.reference(wave, spec, lengths)
    assert got.dtype == torch.float32 and got.shape == exact.shape
    assert relative_to_peak(got, exact) <= 2 * relative_to_peak(own, exact) + 1e-6


@pytest.mark.parametrize("n_fft", SIZES)
@pytest.mark.parametrize("power", [1.0, 2.0])
def test_mel_is_as_accurate_as_the_reference(isa, n_fft, power):
    spec = MelSpec(n_fft=n_fft, win_length=n_fft - 56, hop_length=n_fft // 3, n_mels=61, power=power, log="none")
    assert_as_accurate_as_reference(log_mel, noise(3, 7001), spec)


@pytest.mark.parametrize("n_fft", SIZES)
def test_chroma_is_as_accurate_as_the_reference(isa, n_fft):
    for normalize in (True, False):
        spec = ChromaSpec(n_fft=n_fft, win_length=n_fft, hop_length=n_fft // 3, normalize=normalize)
        assert_as_accurate_as_reference(chroma, noise(3, 7001), spec)


@pytest.mark.parametrize("scale", ["htk", "slaney"])
@pytest.mark.parametrize("norm", [None, "slaney"])
def test_every_bank(scale, norm):
    spec = MelSpec(n_mels=229, f_min=30.0, f_max=11_000.0, scale=scale, norm=norm, log="none")
    assert_as_accurate_as_reference(log_mel, noise(1, 9000), spec)


def test_bands_restore_any_dense_bank():
    dense = mel_filter_bank(MelSpec(n_mels=40)).clone()
    dense[:, 3] = 0  # a band without weight
    dense[100:900, 5] = 0.25  # bands that overlap more than two deep
    got = native.bands(dense)
    back = torch.zeros_like(dense)
    for band, first in enumerate(got.first.tolist()):
        weights = got.weights[got.offset[band] : got.offset[band + 1]]
        back[first : first + len(weights), band] = weights.double()
    assert torch.equal(back, dense.float().double()) and got.num_bins == len(dense)


@pytest.mark.parametrize("num_samples", [1, 2, 3, 479, 480, 481, 2047, 2048, 2049, 4097, 23_999])
def test_clips_of_any_length(isa, num_samples):
    assert_as_accurate_as_reference(log_mel, noise(2, num_samples), MelSpec(hop_length=160, log="none"))
    assert_as_accurate_as_reference(chroma, noise(2, num_samples), ChromaSpec())


@pytest.mark.parametrize("hop_length", [1, 7, 2048, 2049, 10_000, 2**40])
def test_hops_beyond_a_window_and_below_a_sample_pair(hop_length):
    assert_as_accurate_as_reference(log_mel, noise(2, 3000), MelSpec(hop_length=hop_length, log="none"))
    pcm = (noise(2, 3000) * 32767).short()
    assert_as_accurate_as_reference(log_mel, pcm, MelSpec(hop_length=hop_length, log="none"))


def test_int16_equals_its_float_value(isa):
    pcm = (noise(2, 12_345) * 32767).short()
    assert_as_accurate_as_reference(log_mel, pcm, MelSpec(log="none"))
    assert torch.equal(log_mel.run("cpu", pcm, MelSpec()), log_mel.run("cpu", pcm / 32768, MelSpec()))


@pytest.mark.parametrize("op, spec", [(log_mel, MelSpec()), (chroma, ChromaSpec(normalize=False))], ids=["log_mel", "chroma"])
def test_lengths(isa, op, spec):
    wave, lengths = noise(5, 9000), torch.tensor([9000, 1, 239, 240, 5431])
    got = op.run("cpu", wave, spec, lengths)
    for clip, length in enumerate(lengths.tolist()):
        alone = op.run("cpu", wave[clip : clip + 1, :length], spec)[0]
        assert torch.equal(got[clip, : len(alone)], alone)
        assert torch.equal(got[clip, len(alone) :], op.reference(wave, spec, lengths)[clip, len(alone) :])


@pytest.mark.parametrize("log", ["db", "ln"])
def test_logarithm_of_music(isa, log):
    spec = MelSpec(log=log)
    wave = music(72_000, spec.sample_rate)
    error = (log_mel.run("cpu", wave, spec) - log_mel.reference(wave.double(), spec)).abs().max()
    assert error <= 1e-4


@pytest.mark.parametrize("log", ["db", "ln"])
def test_logarithm_of_any_float(isa, log):
    # Silence is raised to the floor, which may be any value.
    spec = MelSpec(n_mels=1, log=log)
    values = torch.cat((torch.logspace(-44, 38, 500), torch.linspace(0.5, 2.0, 500)))
    for value in values.tolist():
        got = log_mel.run("cpu", torch.zeros(1, 1), replace(spec, floor=value)).item()
        exact = math.log(value) if log == "ln" else 10 * math.log10(value)
        assert abs(got - exact) <= 3e-7 * abs(exact)
    for value, expected in ((0.0, -math.inf), (math.inf, math.inf)):
        assert log_mel.run("cpu", torch.zeros(1, 1), replace(spec, floor=value)).item() == expected
    negative = native.bands(-mel_filter_bank(spec))
    sums, _ = native.mel_chroma(noise(1, 9), torch.ones(2048), 1, mel_bands=negative, log=log, floor=-1e30)
    assert sums.isnan().all()


def test_strided_waves():
    wave = noise(4, 6000)
    for view in (wave[:, ::2], wave.T.contiguous().T, wave[::2, 100:], wave[:1].expand(3, -1), wave[:, 5:6]):
        assert torch.equal(log_mel.run("cpu", view, MelSpec()), log_mel.run("cpu", view.contiguous(), MelSpec()))


def test_no_clips():
    assert log_mel.run("cpu", noise(0, 6000), MelSpec()).shape == (0, 26, 128)


@pytest.mark.parametrize("op, spec", [(log_mel, MelSpec()), (chroma, ChromaSpec())], ids=["log_mel", "chroma"])
def test_nan_stays_in_its_frames(isa, op, spec):
    wave = noise(2, 20_000)
    clean = op.run("cpu", wave, spec)
    wave[0, 10_000] = math.nan
    got, expected = op.run("cpu", wave, spec), op.reference(wave, spec)
    assert torch.equal(got.isnan(), expected.isnan()) and 0 < got.isnan().sum() < got.numel() / 2
    assert torch.equal(got[~got.isnan()], clean[~got.isnan()])


def test_infinity_and_overflow_give_values_that_are_not_finite(isa):
    wave = noise(2, 9000)
    wave[0, 100], wave[1, 8000] = math.inf, 1e30
    got = log_mel.run("cpu", wave, MelSpec())
    assert not got[0, 0].isfinite().any() and not got[1, 33].isfinite().any() and got[0, -1].isfinite().all()


@pytest.mark.parametrize("pcm", [False, True])
def test_threads_and_batch_change_no_bit(isa, pcm):
    wave = noise(5, 30_011)
    wave = (wave * 32767).short() if pcm else wave
    window, bank = torch.hann_window(2048), chroma_filter_bank(ChromaSpec(n_fft=2048))
    options = {"mel_bands": native.bands(mel_filter_bank(MelSpec())), "log": "db", "floor": 1e-10, "chroma_bank": bank}
    both = native.mel_chroma(wave, window, 240, num_threads=1, **options)
    for num_threads in (2, 5):
        again = native.mel_chroma(wave, window, 240, num_threads=num_threads, **options)
        assert all(torch.equal(a, b) for a, b in zip(both, again, strict=True))
    for clip in range(len(wave)):
        alone = native.mel_chroma(wave[clip : clip + 1], window, 240, **options)
        assert all(torch.equal(a[clip], b[0]) for a, b in zip(both, alone, strict=True))


def test_one_pass_gives_both():
    wave, mel_spec = noise(2, 9000), MelSpec()
    chroma_spec = ChromaSpec(n_fft=mel_spec.n_fft, win_length=mel_spec.win_length)
    mel, pitch_classes = native.mel_chroma(
        wave,
        torch.hann_window(2048, dtype=torch.float64),
        240,
        mel_bands=native.bands(mel_filter_bank(mel_spec)),
        log="db",
        floor=mel_spec.floor,
        chroma_bank=chroma_filter_bank(chroma_spec),
        normalize_chroma=True,
    )
    assert torch.equal(mel, log_mel.run("cpu", wave, mel_spec))
    assert torch.equal(pitch_classes, chroma.run("cpu", wave, chroma_spec))


@pytest.mark.parametrize(
    "wave, spec, reason",
    [
        (noise(1, 500).double(), MelSpec(), "needs float32 or int16 samples; got torch.float64"),
        (noise(1, 500).requires_grad_(), MelSpec(), "needs a wave without gradient"),
        (noise(1, 500).to("meta"), MelSpec(), "needs CPU tensors; got meta"),
        (noise(500), MelSpec(), "needs a wave (B, S) of at least one sample; got (500,)"),
        (noise(2, 0), MelSpec(), "needs a wave (B, S) of at least one sample; got (2, 0)"),
        (noise(1, 500), MelSpec(n_fft=400, win_length=400), "needs n_fft to be a power of two from 256 to 4096; got 400"),
        (noise(1, 500), MelSpec(n_fft=128, win_length=128), "needs n_fft to be a power of two from 256 to 4096; got 128"),
        (noise(1, 500), MelSpec(power=1.5), "needs power 1 or 2; got 1.5"),
    ],
)
def test_refusals_are_sentences(wave, spec, reason):
    assert explain("log_mel", wave, spec)["cpu"].startswith(reason)
    with torch.no_grad():
        assert (explain("log_mel", wave, spec)["cpu"] is None) == wave.requires_grad


@pytest.mark.parametrize("lengths", [torch.tensor([0, 5]), torch.tensor([5, 501]), torch.tensor([-(2**63), 5])])
def test_lengths_out_of_range(lengths):
    with pytest.raises(ValueError, match=r"lengths: expected 1 to 500 samples; got -?\d+ for clip \d"):
        log_mel.run("cpu", noise(2, 500), MelSpec(), lengths)


@pytest.mark.parametrize("op, spec", [(log_mel, MelSpec()), (chroma, ChromaSpec())], ids=["log_mel", "chroma"])
def test_compiles_into_one_graph(op, spec):
    compiled = torch.compile(lambda wave, lengths: op(wave, spec, lengths) + 1, fullgraph=True, backend="aot_eager")
    wave, lengths = noise(2, 5000), torch.tensor([5000, 700])
    assert torch.equal(compiled(wave, lengths), op.run("cpu", wave, spec, lengths) + 1)
    torch.library.opcheck(getattr(torch.ops.duotok, f"{op.name}_cpu"), (wave, lengths, *astuple(spec)))


@pytest.fixture
def call():
    """A valid call of the C ABI as a function of the fields to change; returns its status and error text."""
    wave, window, bands = noise(2, 1000), torch.hann_window(512), native.bands(mel_filter_bank(MelSpec(n_fft=512, n_mels=4)))
    bank, mel, pitch_classes = torch.ones(257, 12), torch.empty(2, 11, 4), torch.empty(2, 11, 12)
    valid = {
        "wave": wave,
        "batch": 2,
        "samples": 1000,
        "row_stride": 1000,
        "hop": 100,
        "window": window,
        "n_fft": 512,
        "power": 2,
        "num_threads": 2,
        "mel": mel,
        "mel_size": 88,
        "band_first": bands.first,
        "band_offset": bands.offset,
        "band_weights": bands.weights,
        "band_size": len(bands.weights),
        "num_bands": 4,
        "band_bins": 257,
        "log_mode": 1,
        "floor": 1e-10,
        "chroma": pitch_classes,
        "chroma_size": 264,
        "chroma_bank": bank,
        "chroma_bins": 257,
    }
    library = ctypes.CDLL(native._library()._name)
    library.duotok_last_error.restype = ctypes.c_char_p

    def run(**changes):
        fields = {**valid, **changes}
        pointers = {name: value.data_ptr() if isinstance(value, torch.Tensor) else value for name, value in fields.items()}
        status = library.duotok_mel_chroma(ctypes.byref(native._Args(**pointers)))
        return status, library.duotok_last_error().decode()

    return run


def test_valid_call(call):
    assert call()[0] == 0
    assert call(mel=None)[0] == 0
    assert call(chroma=None, chroma_bank=None)[0] == 0
    assert call(num_threads=2**31 - 1)[0] == 0
    assert call(batch=0, mel_size=0, chroma_size=0)[0] == 0
    assert call(row_stride=0)[0] == 0


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"mel": None, "chroma": None}, "mel, chroma: expected at least one output; got NULL twice"),
        ({"wave": None}, "wave, window: expected arrays; got NULL"),
        ({"window": None}, "wave, window: expected arrays; got NULL"),
        ({"band_first": None}, "expected arrays; got NULL"),
        ({"band_offset": None}, "expected arrays; got NULL"),
        ({"band_weights": None}, "expected arrays; got NULL"),
        ({"chroma_bank": None}, "chroma_bank: expected an array; got NULL"),
        ({"batch": -1}, "expected batch >= 0"),
        ({"samples": 0}, "samples >= 1"),
        ({"samples": -(2**63)}, "samples >= 1"),
        ({"samples": 2**63 - 1, "hop": 1}, "in range"),
        ({"samples": 2**55, "hop": 1}, "mel_size: expected"),
        ({"batch": 2**62}, "in range"),
        ({"row_stride": -1000}, "row_stride >= 0"),
        ({"row_stride": 2**62}, "in range"),
        ({"hop": 0}, "hop: expected at least 1; got 0"),
        ({"hop": -(2**63)}, "hop: expected at least 1"),
        ({"hop": 60}, "mel_size: expected B * T * F = 136; got 88"),
        ({"n_fft": 0}, "n_fft: expected a power of two from 256 to 4096; got 0"),
        ({"n_fft": 8192}, "got 8192"),
        ({"n_fft": 300}, "got 300"),
        ({"n_fft": 1024}, "bank: expected at least 1 band over 513 bins"),
        ({"sample_type": 2}, "sample_type: expected 0 (float32) or 1 (int16); got 2"),
        ({"power": 3}, "power: expected 1 or 2; got 3"),
        ({"num_threads": 0}, "num_threads: expected at least 1; got 0"),
        ({"num_bands": 0}, "bank: expected at least 1 band"),
        ({"num_bands": 5}, "mel_size: expected B * T * F = 110; got 88"),
        ({"num_bands": 3, "mel_size": 66}, "band_offset: expected to run from 0 to band_size"),
        ({"band_bins": 256}, "over 256"),
        ({"band_size": -1}, "band_size >= 0"),
        ({"band_first": torch.tensor([0, 0, 0, 200], dtype=torch.int32)}, "expected band 3 within 257 bins"),
        ({"band_first": torch.tensor([-1, 0, 0, 0], dtype=torch.int32)}, "expected band 0 within 257 bins"),
        ({"mel_size": 87}, "mel_size: expected B * T * F = 88; got 87"),
        ({"log_mode": 3}, "expected log_mode 0, 1 or 2"),
        ({"floor": math.nan}, "and a floor; got 1, nan"),
        ({"chroma_size": 0}, "chroma_size: expected B * T * 12 = 264; got 0"),
        ({"chroma_bins": 258}, "chroma_bank: expected 257 bins; got 258"),
    ],
)
def test_malformed_calls_return_a_sentence(call, changes, text):
    status, error = call(**changes)
    assert status == 1 and text in error


def test_band_offsets_out_of_order(call):
    status, error = call(band_size=40, band_offset=torch.tensor([0, 50, -7, 20, 40]))
    assert status == 1 and "expected band 0 within 257 bins; got weights 0 to 50" in error


def test_no_arguments_at_all():
    assert native._library().duotok_mel_chroma(None) == 1


def test_unknown_instruction_set():
    with pytest.raises(ValueError, match="got 'mmx'"):
        native.use_cpu_isa("mmx")
