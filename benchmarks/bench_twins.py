"""replace_noise, simvq_loss and modulate against what they replace: eager torch, and vector-quantize-pytorch's SimVQ.

`..._over_ours` in extra_info is the rival's best time over ours, both taken in turn in one process with the same threads.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from duotok.kernels import modulate, nearest_code, replace_noise, simvq_loss
from measure import peak_bytes
from torch import Tensor

SEED = torch.tensor([1234, 5])
CODES, WIDTH, ROWS = 32_768, 128, 4096


def eager_replacement(x: Tensor, p: float, sigma: float, per_element: bool) -> Tensor:
    """The chain of torch ops that people write."""
    mask = torch.rand(x.shape if per_element else (*x.shape[:-1], 1)) < p
    return torch.where(mask, sigma * torch.randn_like(x), x)


@pytest.mark.parametrize("per_element", [False, True], ids=["frames", "elements"])
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward_backward"])
def bench_replace_noise(benchmark, record, per_element, backward):
    """A training batch of 64 x 750 frames of 512."""
    x, up = torch.randn(64, 750, 512), torch.randn(64, 750, 512)
    reference = replace_noise.reference(x[:2], 0.2, 1.0, SEED, per_element)
    torch.testing.assert_close(replace_noise(x, 0.2, 1.0, SEED, per_element)[:2], reference, rtol=1e-6, atol=1e-6)
    x.requires_grad_(backward)

    def whole(function: Callable) -> Callable:
        return lambda: torch.autograd.grad(function(), x, up) if backward else function()

    ours = whole(lambda: replace_noise(x, 0.2, 1.0, SEED, per_element))
    eager = whole(lambda: eager_replacement(x, 0.2, 1.0, per_element))
    group = f"replace_noise_{'elements' if per_element else 'frames'}"
    record(group, {"ours": ours, "eager": eager}, (2 + 2 * backward) * 4 * x.numel())
    assert per_element or backward or benchmark.extra_info["eager_over_ours"] >= 3


@pytest.fixture(scope="module")
def simvq():
    """vector-quantize-pytorch's module, inputs (N, D), and the nearest codes."""
    peer = pytest.importorskip("vector_quantize_pytorch")
    torch.manual_seed(0)
    module = peer.SimVQ(dim=WIDTH, codebook_size=CODES, rotation_trick=False)
    z = (0.3 * torch.randn(ROWS, WIDTH)).requires_grad_()
    with torch.no_grad():
        indices = nearest_code(z, module.codebook)
    return module, z, indices


def ours_after_search(module, z: Tensor, indices: Tensor) -> tuple[Tensor, ...]:
    """Our losses and gradients, the search's outcome given."""
    weight = module.code_transform.weight
    out = simvq_loss(z, indices, module.frozen_codebook, weight, None, 0.25)
    return torch.autograd.grad(out.quantized.square().sum() + out.commitment + out.codebook, (z, weight))


def peer_after_search(module, z: Tensor, indices: Tensor) -> tuple[Tensor, ...]:
    """The lines of SimVQ.forward without its search: it maps the whole table, and its gather scatters the gradient back."""
    quantized = module.codebook[indices]
    loss = F.mse_loss(z.detach(), quantized) + F.mse_loss(z, quantized.detach()) * 0.25
    straight = (quantized - z).detach() + z
    return torch.autograd.grad(straight.square().sum() + loss, (z, module.code_transform.weight))


def bench_simvq_after_the_search(benchmark, record, simvq):
    """Forward and backward with the indices given to both: no search in either time."""
    for mine, theirs in zip(ours_after_search(*simvq), peer_after_search(*simvq), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    rivals = {"ours": lambda: ours_after_search(*simvq), "peer": lambda: peer_after_search(*simvq)}
    record("simvq_after_search", rivals, 4 * (3 * simvq[1].numel() + 2 * WIDTH**2))
    benchmark.extra_info["peak_bytes"] = peak_bytes(lambda: ours_after_search(*simvq))
    benchmark.extra_info["peer_peak_bytes"] = peak_bytes(lambda: peer_after_search(*simvq))
    assert benchmark.extra_info["peer_over_ours"] >= 3


def bench_simvq_with_the_search(benchmark, record, simvq):
    """The whole of SimVQ.forward and its backward, against mapping the table, nearest_code and simvq_loss."""
    module, z, _ = simvq

    def ours() -> tuple[Tensor, ...]:
        with torch.no_grad():
            indices = nearest_code(z, module.codebook)
        return ours_after_search(module, z, indices)

    def peer() -> tuple[Tensor, ...]:
        quantized, _, loss = module(z[None])
        return torch.autograd.grad(quantized.square().sum() + loss, (z, module.code_transform.weight))

    for mine, theirs in zip(ours(), peer(), strict=True):
        assert (mine - theirs).norm() < 1e-2 * theirs.norm()  # a few near ties differ: cdist is float32
    record("simvq_with_search", {"ours": ours, "peer": peer}, flops=2 * ROWS * CODES * WIDTH, limit=3)
    mine, theirs = peak_bytes(ours), peak_bytes(peer)
    benchmark.extra_info |= {"peak_bytes": mine, "peer_peak_bytes": theirs, "share_of_peer_memory": mine / theirs}


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward_backward"])
def bench_modulate(benchmark, record, backward):
    """Four windows of 750 frames through a DiT block's modulation."""
    x, shift, scale = (torch.randn(*s).requires_grad_(backward) for s in ((4, 750, 1536), (4, 1536), (4, 1536)))
    up = torch.randn(4, 750, 1536)

    def eager() -> Tensor:
        return F.layer_norm(x, (1536,), eps=1e-6) * (1 + scale[:, None]) + shift[:, None]

    def whole(function: Callable) -> Callable:
        return lambda: torch.autograd.grad(function(), (x, shift, scale), up) if backward else function()

    torch.testing.assert_close(modulate(x, shift, scale), eager(), rtol=1e-4, atol=1e-4)
    rivals = {"ours": whole(lambda: modulate(x, shift, scale)), "eager": whole(eager)}
    record("modulate", rivals, (2 + 3 * backward) * 4 * x.numel())
