"""Spectra on a GPU: why they cannot run here, and, where there is a GPU, the same numbers as on the CPU."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from duotok.kernels import OPS, ChromaSpec, MelSpec, chroma, examples, explain, log_mel, log_mel_chroma, native
from duotok.kernels.modules import MelSpectrogram
from signals import noise, pcm, relative_to_peak

SHORT_CHROMA = ChromaSpec(n_fft=2048, win_length=2048)
needs_gpu = pytest.mark.skipif(
    not torch.cuda.is_available() or native.why_not("cuda") is not None,
    reason=f"a GPU: {native.why_not('cuda') or 'needs a CUDA device; torch finds none'}",
)


@pytest.mark.parametrize("name", ["log_mel", "chroma", "log_mel_chroma", "filter_spectrum"])
def test_reasons(name):
    assert OPS[name].backends == ("cpu", "cuda", "reference")
    assert explain(name, *examples.small(name))["cuda"] == "needs a CUDA tensor; got cpu"


@pytest.mark.skipif(native.why_not("cuda") is not None, reason=f"{native.why_not('cuda')}")
@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_the_library_loads_without_a_driver_and_says_so():
    args = native._Args(batch=-1)
    with pytest.raises(ValueError, match="mel, chroma: expected at least one output"):
        native._check(native._library("cuda"), native._library("cuda").duotok_mel_chroma_cuda(args, 0, None))
    mel, bands = torch.empty(1, 3, 1), native.bands(torch.ones(129, 1))
    wave, window = torch.zeros(1, 512), torch.ones(256)
    args = native._Args(
        wave=wave.data_ptr(), batch=1, channels=1, samples=512, row_stride=512, hop=256, pad=128, n_fft=256, power=2,
        window=window.data_ptr(),
    )  # fmt: skip
    args.set_mel(mel, bands, native.Mel())
    with pytest.raises(
        RuntimeError, match=r"expected cuda\w+ to succeed on device 0; got .*install or update the NVIDIA driver"
    ):
        native._check(native._library("cuda"), native._library("cuda").duotok_mel_chroma_cuda(args, 0, None))


@pytest.mark.parametrize(
    ("capability", "reason"), [((7, 5), "needs an architecture of sm_80 or later; got sm_75"), ((8, 6), None)]
)
def test_chips_without_machine_code_are_refused(monkeypatch, capability, reason):
    wave = SimpleNamespace(device=torch.device("cuda"), dtype=torch.float32, requires_grad=False)
    monkeypatch.setattr(native, "why_not", lambda device: None)
    monkeypatch.setattr(native, "why_not_plain", lambda *described: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert native.why_not_spectra("cuda", wave, MelSpec(), 2) == reason


def test_a_call_goes_to_the_device_and_the_current_stream(monkeypatch):
    calls = []

    class Library:
        def duotok_mel_chroma_cuda(self, args, device, stream):
            calls.append((device, stream))
            return 4

        def duotok_last_error(self):
            return b"expected a GPU"

    monkeypatch.setattr(native, "_load", lambda device: Library())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=1000 + device.index))
    with pytest.raises(RuntimeError, match="expected a GPU"):
        native._call(torch.device("cuda", 3), native._Args())
    assert calls == [(3, 1003)]


@needs_gpu
@pytest.mark.parametrize("bands_first", [False, True])
@pytest.mark.parametrize("wave", [noise(3, 9001), noise(3, 2, 9001), pcm(3, 9001)], ids=["mono", "stereo", "int16"])
def test_equals_the_cpu(wave, bands_first):
    for lengths in (None, torch.tensor([9001, 1, 5000])):
        for op, specs in (
            (log_mel, (MelSpec(log="none"),)),
            (chroma, (ChromaSpec(pad_mode="constant"),)),
            (log_mel_chroma, (MelSpec(log="none", hop_length=333), ChromaSpec(n_fft=2048, win_length=2048, hop_length=333))),
        ):
            on_gpu = op.run("cuda", wave.cuda(), *specs, None if lengths is None else lengths.cuda(), bands_first)
            on_cpu = op.reference(wave.double() / (32768 if wave.dtype == torch.int16 else 1), *specs, lengths, bands_first)
            pairs = [(on_gpu, on_cpu)] if isinstance(on_gpu, torch.Tensor) else zip(on_gpu, on_cpu, strict=True)
            for got, exact in pairs:
                bands = -2 if bands_first else -1
                assert got.is_cuda and relative_to_peak(got.cpu().movedim(bands, -1), exact.movedim(bands, -1)) < 2e-6


@needs_gpu
def test_copies_of_a_call_outlive_its_kernel():
    """Strided waves are copied; the copy's memory is free for others before the kernel has run."""
    wave = noise(64, 2, 240_000).cuda()[..., ::2]
    expected = log_mel(wave.cpu(), MelSpec())
    for stream in (torch.cuda.current_stream(), torch.cuda.Stream()):
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            torch.cuda._sleep(100_000_000)
            got = log_mel.run("cuda", wave, MelSpec())
            for _ in range(8):
                torch.full_like(wave, torch.nan)
        torch.cuda.synchronize()
        torch.testing.assert_close(got.cpu(), expected, rtol=0, atol=1e-2)


@needs_gpu
def test_lengths_out_of_range_give_nan():
    wave, lengths = noise(3, 5000).cuda(), torch.tensor([5000, 0, 5001]).cuda()
    got = log_mel.run("cuda", wave, MelSpec(), lengths)
    assert got[0].isfinite().all() and got[1:].isnan().all()


@needs_gpu
def test_modules_and_graphs_on_the_gpu():
    module, wave = MelSpectrogram(24_000, 1024, n_mels=40), noise(2, 2, 9000)
    expected = module(wave)
    module, wave = module.cuda(), wave.cuda()
    for call in (module, torch.compile(module, fullgraph=True, backend="aot_eager")):
        torch.testing.assert_close(call(wave).cpu(), expected, rtol=1e-4, atol=1e-4)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = module(wave)
    graph.replay()
    torch.testing.assert_close(out.cpu(), expected, rtol=1e-4, atol=1e-4)
