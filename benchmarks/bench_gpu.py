"""Every kernel on a GPU beside what it replaces; skipped with the reason where there is no GPU.

Rivals: torch as people write it ("eager"), the same compiled by Inductor ("compiled"), torch.cdist + argmin, flash-kmeans'
assignment kernel, vector-quantize-pytorch's SimVQ, torchaudio's MelSpectrogram; each of the last three where it is installed.
`..._ms` is the median time on the device: events around the call, which is enqueued while the device still sleeps, after the
second-level cache was emptied. `..._host_us` is the time that enqueuing the call takes Python. `bytes` is the least traffic,
every input read and every output written once; shares are of what a large copy and a large product reach on the same card in
the same process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from duotok.kernels import (
    ChromaSpec,
    MelSpec,
    attention,
    gated_residual,
    log_mel,
    log_mel_chroma,
    modulate,
    native,
    nearest_code,
    prepare,
    replace_noise,
    simvq_loss,
)
from duotok.kernels.log_mel import mel_filter_bank
from gpu_timing import milliseconds, record
from torch import Tensor

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU; none is here")

ROWS, CODES = 65_536, 32_768


@pytest.fixture(scope="module")
def peaks() -> dict[str, float]:
    """What the card reaches: GB/s of a copy (bytes read and written), TFLOP/s of float16 and float32 products."""
    source = torch.empty(2**28, device="cuda")
    target, (wide, half) = (
        torch.empty_like(source),
        (torch.randn(8192, 8192, device="cuda", dtype=t) for t in (torch.float32, torch.float16)),
    )
    flops = 2e-9 * 8192**3
    return {
        "copy_gbytes_s": 8e-6 * source.numel() / milliseconds(lambda: target.copy_(source)),
        "float16_tflops": flops / milliseconds(lambda: half @ half),
        "float32_tflops": flops / milliseconds(lambda: wide @ wide),
    }


def bench_peaks(benchmark, peaks):
    """The card itself."""
    benchmark.group = "peaks"
    benchmark.extra_info.update(peaks)
    half = torch.randn(4096, 4096, device="cuda", dtype=torch.float16)
    assert torch.isfinite(half @ half).all()
    benchmark.pedantic(lambda: (half @ half, torch.cuda.synchronize()), rounds=5, warmup_rounds=1)


@pytest.mark.parametrize("width", [16, 64, 128, 256, 512])
def bench_nearest_code(benchmark, peaks, width):
    """65,536 rows against 32,768 codes, exact; cdist's matrix takes 8.6 GB, flash-kmeans multiplies float16."""
    torch.manual_seed(width)
    z, codes = torch.randn(ROWS, width, device="cuda"), torch.randn(CODES, width, device="cuda")
    prepared = prepare(codes)
    got = nearest_code(z, prepared)
    assert torch.equal(got[:512], nearest_code.reference(z[:512], codes))
    rivals = {
        "fast": lambda: nearest_code(z, prepared, fast=True),
        "unprepared": lambda: nearest_code(z, codes),
        "cdist": lambda: torch.cdist(z, codes).argmin(1),
    }
    theirs = _flash_kmeans(z.half(), codes.half())
    if theirs:
        benchmark.extra_info["flash_kmeans_differs"] = (theirs() != got).float().mean().item()
        rivals["flash_kmeans"] = theirs
    benchmark.extra_info["fast_differs"] = (rivals["fast"]() != got).float().mean().item()
    benchmark.extra_info["cdist_differs"] = (rivals["cdist"]() != got).float().mean().item()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    nearest_code(z, prepared)
    benchmark.extra_info["extra_mb"] = 1e-6 * (torch.cuda.max_memory_allocated() - before)
    moved = 4 * (z.numel() + codes.numel()) + 8 * ROWS
    record(
        benchmark,
        peaks,
        f"nearest_code d={width}",
        lambda: nearest_code(z, prepared),
        rivals,
        moved,
        2.0 * ROWS * CODES * width,
    )


def _flash_kmeans(z: Tensor, codes: Tensor) -> Callable[[], Tensor] | None:
    """flash-kmeans' assignment (arXiv 2603.09229) of float16 rows; None where it is not installed."""
    try:
        from flash_kmeans.assign_euclid_triton import euclid_assign_triton
    except ImportError:
        return None
    z, codes = z[None], codes[None]
    squares, norms = (x.float().square().sum(-1) for x in (z, codes))
    return lambda: euclid_assign_triton(z, codes, squares, c_sq=norms)[0].long()


@pytest.mark.parametrize("rows", [1, 750, 3000])
def bench_nearest_code_few_rows(benchmark, peaks, rows):
    """One frame, one window of 30 s, four of them: the codebook is split among programs."""
    z, codes = torch.randn(rows, 128, device="cuda"), torch.randn(CODES, 128, device="cuda")
    prepared = prepare(codes)
    assert torch.equal(nearest_code(z, prepared), nearest_code.reference(z, codes))
    rivals = {"cdist": lambda: torch.cdist(z, codes).argmin(1)}
    record(benchmark, peaks, "nearest_code, few rows", lambda: nearest_code(z, prepared), rivals, 2.0 * codes.numel())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("per_element", [False, True], ids=["frames", "elements"])
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward_backward"])
def bench_replace_noise(benchmark, peaks, dtype, per_element, backward):
    """A bottleneck of 65,536 x 512."""
    x = torch.randn(ROWS, 512, device="cuda", dtype=dtype, requires_grad=backward)
    seed, up = torch.tensor([1234, 5], device="cuda"), torch.randn_like(x)

    def eager() -> Tensor:
        mask = torch.rand(x.shape if per_element else (ROWS, 1), device="cuda") < 0.2
        return torch.where(mask, torch.randn_like(x), x)

    ours = lambda: replace_noise(x, 0.2, 1.0, seed, per_element)  # noqa: E731
    torch.testing.assert_close(ours()[:64], replace_noise.reference(x[:64], 0.2, 1.0, seed, per_element), rtol=1e-2, atol=2e-6)
    whole = _with_backward(up, x) if backward else lambda function: function
    rivals = {"eager": whole(eager)}
    if dtype == torch.bfloat16:
        rivals["compiled"] = whole(torch.compile(eager))
    moved = (2 + 2 * backward) * x.numel() * x.element_size()
    record(benchmark, peaks, f"replace_noise {'elements' if per_element else 'frames'}", whole(ours), rivals, moved)


def _with_backward(up: Tensor, *inputs: Tensor) -> Callable[[Callable], Callable]:
    return lambda function: lambda: torch.autograd.grad(function(), inputs, up)


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward_backward"])
@pytest.mark.parametrize("op", ["modulate", "gated_residual"])
def bench_modulation(benchmark, peaks, op, backward):
    """Eight windows of 30 s, 50 frames a second, through a DiT of width 1,536."""
    frames = [torch.randn(8, 1500, 1536, device="cuda", dtype=torch.bfloat16) for _ in range(3)]
    x, other, up = (t.requires_grad_(backward and t is not frames[2]) for t in frames)
    shift, scale = (torch.randn(8, 1536, device="cuda", dtype=torch.bfloat16).requires_grad_(backward) for _ in range(2))

    def eager() -> Tensor:
        if op == "modulate":
            return F.layer_norm(x, (1536,), eps=1e-6) * (1 + scale[:, None]) + shift[:, None]
        return x + scale[:, None] * other

    ours = (lambda: modulate(x, shift, scale)) if op == "modulate" else (lambda: gated_residual(x, other, scale))
    torch.testing.assert_close(ours(), eager(), rtol=5e-2, atol=5e-2)
    inputs = (x, shift, scale) if op == "modulate" else (x, other, scale)
    whole = _with_backward(up, *inputs) if backward else lambda function: function
    tensors = (2 if op == "modulate" else 3) + backward * (3 if op == "modulate" else 4)
    rivals = {"eager": whole(eager), "compiled": whole(torch.compile(eager))}
    record(benchmark, peaks, op, whole(ours), rivals, tensors * x.numel() * 2)


def bench_simvq(benchmark, peaks):
    """SimVQ's training step on 16,384 frames, search included, against vector-quantize-pytorch's module."""
    peer = pytest.importorskip("vector_quantize_pytorch", reason="needs vector-quantize-pytorch; it is not installed")
    torch.manual_seed(0)
    module = peer.SimVQ(dim=128, codebook_size=CODES, rotation_trick=False).cuda()
    z = (0.3 * torch.randn(16_384, 128, device="cuda")).requires_grad_()
    weight, table = module.code_transform.weight, module.frozen_codebook

    def after_search(indices: Tensor) -> tuple[Tensor, ...]:
        out = simvq_loss(z, indices, table, weight, None, 0.25)
        return torch.autograd.grad(out.quantized.square().sum() + out.commitment + out.codebook, (z, weight))

    def ours() -> tuple[Tensor, ...]:
        with torch.no_grad():
            indices = nearest_code(z, module.codebook)
        return after_search(indices)

    def theirs() -> tuple[Tensor, ...]:
        quantized, _, loss = module(z[None])
        return torch.autograd.grad(quantized.square().sum() + loss, (z, weight))

    # Their search is float32, so a few near ties differ: gradients are compared at their indices.
    for mine, other in zip(after_search(module(z[None])[1].flatten()), theirs(), strict=True):
        assert (mine - other).norm() < 1e-3 * other.norm()
    for name, function in (("ours", ours), ("peer", theirs)):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        benchmark.extra_info[f"{name}_peak_mb"] = 1e-6 * (torch.cuda.max_memory_allocated() - before)
    record(benchmark, peaks, "simvq", ours, {"peer": theirs})


@pytest.mark.parametrize("ragged", [False, True], ids=["dense", "ragged"])
def bench_attention(benchmark, peaks, ragged):
    """A DiT block's attention: 8 x 1,500 frames, 24 heads of 64, bfloat16; every backend that runs beside the chosen one."""
    q, k, v = (torch.randn(8, 1500, 24, 64, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    lengths = torch.tensor([1500, 1400, 1300, 1200, 1100, 1000, 900, 800], device="cuda") if ragged else None
    reasons = attention.explain(q, k, v, lengths)
    expected = attention.reference(q, k, v, lengths)
    torch.testing.assert_close(attention(q, k, v, lengths), expected, rtol=3e-2, atol=3e-3)
    running = [name for name in attention.backends if reasons[name] is None]
    benchmark.extra_info["chosen"] = running[0]
    rivals = {name: lambda name=name: attention.run(name, q, k, v, lengths) for name in running}
    count = float(lengths.square().sum()) if ragged else 8 * 1500.0**2
    record(
        benchmark,
        peaks,
        f"attention {'ragged' if ragged else 'dense'}",
        lambda: attention(q, k, v, lengths),
        rivals,
        0,
        4 * 24 * 64 * count,
    )


@pytest.fixture(scope="module")
def wave() -> Tensor:
    """64 clips of 30 s at 48 kHz."""
    return 0.1 * torch.randn(64, 30 * 48_000, device="cuda")


@pytest.mark.parametrize("both", [False, True], ids=["mel", "mel_chroma"])
def bench_spectra(benchmark, peaks, wave, both):
    """64 x 30 s at 48 kHz, n_fft 2,048, hop 480, 128 bands, dB; with chroma from the same spectrum."""
    if native.why_not("cuda"):
        pytest.skip(f"the CUDA library: {native.why_not('cuda')}")
    spec = replace(MelSpec(), sample_rate=48_000, hop_length=480)
    pitch = ChromaSpec(sample_rate=48_000, n_fft=2048, win_length=2048, hop_length=480)
    window, bank = torch.hann_window(2048, device="cuda"), mel_filter_bank(spec).float().cuda()

    def chain() -> Tensor:
        spectrum = torch.stft(wave, 2048, 480, window=window, return_complex=True)
        return 10 * (spectrum.abs().square().transpose(1, 2) @ bank).clamp(min=spec.floor).log10()

    torch.testing.assert_close(log_mel(wave, spec), chain(), rtol=0, atol=0.02)
    rivals = {"stft_chain": chain, "mel_alone": lambda: log_mel(wave, spec)}
    try:
        from torchaudio.transforms import AmplitudeToDB, MelSpectrogram
    except (ImportError, OSError):
        pass
    else:
        mel, to_db = MelSpectrogram(48_000, 2048, hop_length=480).cuda(), AmplitudeToDB("power").cuda()
        rivals["torchaudio"] = lambda: to_db(mel(wave))
    ours = (lambda: log_mel_chroma(wave, spec, pitch)) if both else (lambda: log_mel(wave, spec))
    frames = 64 * spec.num_frames(wave.shape[1])
    record(
        benchmark, peaks, "log_mel_chroma" if both else "log_mel", ours, rivals, 4 * (wave.numel() + frames * (128 + 12 * both))
    )
    benchmark.extra_info["times_real_time"] = 1e3 * 64 * 30 / benchmark.extra_info["ours_ms"]


@pytest.mark.parametrize("size", ["tiny/tokenizer", "tokenizer"])
def bench_encode(benchmark, size):
    """Five minutes of two tracks in memory to codes by `DuoTok.encode`, default mode (float32, one window at a time)."""
    import duotok

    tokenizer = duotok.DuoTok.from_config(size).cuda()
    tracks = [0.1 * torch.randn(tokenizer.sample_rate * 300, device="cuda") for _ in range(2)]
    codes = tokenizer.encode(*tracks, tokenizer.sample_rate)
    assert codes.tensor.shape == (1, 2, 7500)
    benchmark.group = "encode"
    benchmark.pedantic(tokenizer.encode, (*tracks, tokenizer.sample_rate), rounds=2)
    benchmark.extra_info["card"] = torch.cuda.get_device_name()
    benchmark.extra_info["times_real_time"] = 300 / benchmark.stats.stats.median
