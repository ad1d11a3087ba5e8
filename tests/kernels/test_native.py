"""Through the compiled library: what must not change a bit, what is refused and with which words, and compiled graphs."""

from __future__ import annotations

import math
import runpy
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from duotok.kernels import ChromaSpec, Framing, MelSpec, chroma, explain, filter_spectrum, log_mel, log_mel_chroma, native
from duotok.kernels.log_mel import mel_filter_bank
from signals import noise, pcm

pytestmark = pytest.mark.skipif(native.why_not() is not None, reason=f"log_mel and chroma on the CPU: {native.why_not()}")

SHORT_CHROMA = ChromaSpec(n_fft=2048, win_length=2048)
OPS = [(log_mel, (MelSpec(),)), (chroma, (ChromaSpec(normalize=False),)), (log_mel_chroma, (MelSpec(), SHORT_CHROMA))]
each_op = pytest.mark.parametrize(("op", "specs"), OPS, ids=lambda value: getattr(value, "name", ""))


def run(op, wave, *arguments, backend="cpu") -> tuple[torch.Tensor, ...]:
    """An op's tensors, whether one or two."""
    out = op.run(backend, wave, *arguments)
    return out if isinstance(out, tuple) else (out,)


@each_op
def test_lengths(isa, op, specs):
    wave, lengths = noise(5, 9000), torch.tensor([9000, 1, 239, 240, 5431])
    batch, reference = run(op, wave, *specs, lengths), run(op, wave, *specs, lengths, backend="reference")
    for clip, length in enumerate(lengths.tolist()):
        for got, expected, alone in zip(batch, reference, run(op, wave[clip : clip + 1, :length], *specs), strict=True):
            count = alone.shape[1]
            assert torch.equal(got[clip, :count], alone[0])
            assert torch.equal(got[clip, count:], expected[clip, count:])


def test_one_pass_gives_both_and_equals_each(isa):
    for wave in (noise(2, 9000), pcm(3, 2, 5001)):
        mel, pitch_classes = log_mel_chroma.run("cpu", wave, MelSpec(), SHORT_CHROMA)
        assert torch.equal(mel, log_mel.run("cpu", wave, MelSpec()))
        assert torch.equal(pitch_classes, chroma.run("cpu", wave, SHORT_CHROMA))


@pytest.mark.parametrize("wave", [noise(5, 30_011), pcm(5, 30_011)], ids=["float32", "int16"])
def test_threads_and_batch_change_no_bit(isa, wave):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        both = log_mel_chroma.run("cpu", wave, MelSpec(), SHORT_CHROMA)
        for threads in (2, 5):
            torch.set_num_threads(threads)
            again = log_mel_chroma.run("cpu", wave, MelSpec(), SHORT_CHROMA)
            assert all(torch.equal(a, b) for a, b in zip(both, again, strict=True))
    finally:
        torch.set_num_threads(before)
    for clip in range(len(wave)):
        alone = log_mel_chroma.run("cpu", wave[clip : clip + 1], MelSpec(), SHORT_CHROMA)
        assert all(torch.equal(a[clip], b[0]) for a, b in zip(both, alone, strict=True))


@each_op
def test_layouts_hold_the_same_values(isa, op, specs):
    wave, lengths = noise(3, 7001), torch.tensor([7001, 3000, 1])
    for backend in ("cpu", "reference"):
        frames_first = run(op, wave, *specs, lengths, backend=backend)
        for a, b in zip(frames_first, run(op, wave, *specs, lengths, True, backend=backend), strict=True):
            assert torch.equal(a, b.transpose(1, 2)) and b.is_contiguous()


def test_a_wave_may_begin_at_any_byte():
    data = torch.randn(4001).numpy().tobytes()
    wave = torch.frombuffer(bytearray(b"." + data), dtype=torch.float32, offset=1)[None]
    assert wave.data_ptr() % 4
    assert torch.equal(log_mel(wave, MelSpec()), log_mel(wave.clone(), MelSpec()))


def test_strided_waves():
    wave = noise(4, 6000)
    for view in (wave[:, ::2], wave.T.contiguous().T, wave[::2, 100:], wave[:1].expand(3, -1), wave[:, 5:6]):
        assert torch.equal(log_mel.run("cpu", view, MelSpec()), log_mel.run("cpu", view.contiguous(), MelSpec()))
    stereo = noise(4, 2, 3000)
    for view in (stereo[..., ::2], stereo.transpose(0, 1), stereo[:, :1].expand(-1, 3, -1), stereo[::2, :, 100:]):
        assert torch.equal(log_mel.run("cpu", view, MelSpec()), log_mel.run("cpu", view.contiguous(), MelSpec()))


def test_nothing_to_compute():
    assert log_mel.run("cpu", noise(0, 6000), MelSpec()).shape == (0, 26, 128)
    for backend in ("cpu", "reference"):
        assert log_mel.run(backend, noise(2, 2047), MelSpec(pad=0)).shape == (2, 0, 128)
        assert chroma.run(backend, noise(2, 4000), ChromaSpec(pad=0), None, True).shape == (2, 12, 0)


@each_op
def test_nan_stays_in_its_frames(isa, op, specs):
    wave = noise(2, 20_000)
    clean = run(op, wave, *specs)
    wave[0, 10_000] = math.nan
    reference = run(op, wave, *specs, backend="reference")
    for got, expected, before in zip(run(op, wave, *specs), reference, clean, strict=True):
        assert torch.equal(got.isnan(), expected.isnan()) and 0 < got.isnan().sum() < got.numel() / 2
        assert torch.equal(got[~got.isnan()], before[~got.isnan()])


@pytest.mark.parametrize("pad_mode", ["reflect", "constant"])
def test_nan_stays_in_its_clip_and_out_of_padding(isa, pad_mode):
    spec = MelSpec(hop_length=512, pad_mode=pad_mode)
    wave, lengths = noise(2, 9000), torch.tensor([3000, 9000])
    wave[0, 2999] = math.nan
    for backend in ("cpu", "reference"):
        got = log_mel.run(backend, wave, spec, lengths).isnan().all(-1)
        assert got[0].nonzero()[:, 0].tolist() == [4, 5]  # the frames that hold sample 2,999 and end within the clip's own
        assert not got[1].any()


def test_infinity_and_overflow_give_values_that_are_not_finite(isa):
    wave = noise(2, 9000)
    wave[0, 100], wave[1, 8000] = math.inf, 1e30
    got = log_mel.run("cpu", wave, MelSpec())
    assert not got[0, 0].isfinite().any() and not got[1, 33].isfinite().any() and got[0, -1].isfinite().all()


@pytest.mark.parametrize(
    ("wave", "spec", "reason"),
    [
        (noise(1, 500).double(), MelSpec(), "needs float32 or int16 samples; got torch.float64"),
        (noise(1, 500).requires_grad_(), MelSpec(), "needs tensors without gradient"),
        (noise(1, 500).to("meta"), MelSpec(), "needs a CPU tensor; got meta"),
        (noise(1, 500), MelSpec(n_fft=400, win_length=400), "needs n_fft to be a power of two from 256 to 4096; got 400"),
        (noise(1, 500), MelSpec(n_fft=128, win_length=128), "needs n_fft to be a power of two from 256 to 4096; got 128"),
        (noise(1, 500), MelSpec(power=1.5), "needs power 1 or 2; got 1.5"),
    ],
)
def test_refusals_are_sentences(wave, spec, reason):
    assert explain("log_mel", wave, spec)["cpu"].startswith(reason)
    with torch.no_grad():
        assert (explain("log_mel", wave, spec)["cpu"] is None) == wave.requires_grad


def test_both_from_magnitudes_is_refused_for_chroma_is_of_power():
    reason = explain("log_mel_chroma", noise(1, 500), MelSpec(power=1.0), SHORT_CHROMA)["cpu"]
    assert reason == "needs power 2, of which the pitch classes are; got 1.0"


def test_a_bank_that_is_trained_takes_the_reference():
    window, bank = torch.hann_window(2048), mel_filter_bank(MelSpec()).float().requires_grad_()
    wave = noise(1, 5000)
    assert explain("filter_spectrum", wave, Framing(), window, bank)["cpu"].startswith("needs tensors without gradient")
    filter_spectrum(wave, Framing(), window, bank).sum().backward()
    assert bank.grad.abs().sum() > 0


def test_a_table_that_is_written_to_is_read_again():
    wave, framing = noise(1, 5000), Framing()
    window, bank = torch.hann_window(2048), mel_filter_bank(MelSpec(n_mels=20)).float()
    for _ in range(3):
        for backend in ("cpu", "reference"):
            expected = filter_spectrum.reference(wave.double(), framing, window.double(), bank.double())
            got = filter_spectrum.run(backend, wave, framing, window, bank)
            torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-3)
        bank[:, 3:].mul_(2)
        window.copy_(window.roll(100))
    with torch.inference_mode():
        frozen = bank.clone()
        before = filter_spectrum.run("cpu", wave, framing, window, frozen)
        frozen.mul_(2)
        torch.testing.assert_close(filter_spectrum.run("cpu", wave, framing, window, frozen), 2 * before)


@each_op
def test_compiles_into_one_graph(op, specs):
    def tensors(wave, lengths):
        out = op(wave, *specs, lengths)
        return out if isinstance(out, tuple) else (out,)

    compiled = torch.compile(tensors, fullgraph=True, backend="aot_eager")
    for wave, lengths in ((noise(2, 5000), torch.tensor([5000, 700])), (noise(3, 2, 4001), torch.tensor([1, 4001, 90]))):
        for got, expected in zip(compiled(wave, lengths), run(op, wave, *specs, lengths), strict=True):
            assert torch.equal(got, expected)


@pytest.mark.parametrize("bands_first", [False, True])
@each_op
def test_operators_keep_the_rules_of_torch_library(op, specs, bands_first):
    values = [getattr(spec, field.name) for spec in specs for field in fields(spec)]
    for wave in (noise(2, 5000), pcm(2, 3, 5000)):
        arguments = (wave, torch.tensor([5000, 1]), bands_first, *values)
        torch.library.opcheck(getattr(torch.ops.duotok, op.name), arguments)


def test_filter_spectrum_keeps_the_rules_of_torch_library():
    window, bank = torch.hann_window(1000), torch.rand(513, 7)
    for wave, bands_first in ((noise(2, 5000), False), (pcm(2, 3, 5000), True)):
        arguments = (wave, window, bank, 1024, 100, 37, "constant", 1.0, "db", 1e-10, bands_first)
        torch.library.opcheck(torch.ops.duotok.filter_spectrum, arguments)


def test_unknown_instruction_set():
    with pytest.raises(ValueError, match="got 'mmx'"):
        native.use_cpu_isa("mmx")


def test_a_source_distribution_made_without_nvcc_has_all_sources(monkeypatch):
    """setuptools puts an extension's sources and dependencies into it."""
    setuptools = pytest.importorskip("setuptools")
    pytest.importorskip("setuptools.command.bdist_wheel")
    root, given = Path(__file__).parents[2], {}
    monkeypatch.setattr(setuptools, "setup", lambda **options: given.update(options))
    monkeypatch.setenv("DUOTOK_BUILD", "cpu")
    monkeypatch.chdir(root)
    runpy.run_path("setup.py")
    [cpu] = given["ext_modules"]
    assert {str(file.relative_to(root)) for file in root.glob("csrc/*")} <= {*cpu.sources, *cpu.depends}


def test_a_missing_library_is_said_in_a_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(native, "__file__", str(tmp_path / "native.py"))
    assert native._load.__wrapped__("cpu").startswith(
        "needs the compiled library _native.so; this install was built without g++"
    )
    assert native._load.__wrapped__("cuda").endswith("reinstall with nvcc")
    (tmp_path / "_native.so").write_bytes(b"not a library")
    assert "_native.so; it does not load (" in native._load.__wrapped__("cpu")
