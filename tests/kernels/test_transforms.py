"""Forward-mode derivatives, transforms of torch.func and traces: twins that would lose them leave them to the reference."""

from __future__ import annotations

import pytest
import torch
from duotok.kernels import OPS, MelSpec, SimVQOutput, attention, available, examples, nearest_code, onednn
from duotok.kernels.modules import ChromaSpectrogram, MelSpectrogram
from signals import noise
from torch.autograd import forward_ad

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.jit.*", "ignore:There is a performance drop", "ignore::torch.jit.TracerWarning"
)

DIFFERENTIABLE = [name for name in OPS if name != "nearest_code"]


def first_of(out) -> torch.Tensor:
    """One tensor of an op's answer that has a derivative."""
    return out.commitment if isinstance(out, SimVQOutput) else out[0] if isinstance(out, tuple) else out


def of_first_argument(name: str):
    """The op and its reference as functions of their first argument, and that argument."""
    op, (x, *rest) = OPS[name], examples.small(name)
    return (lambda x: first_of(op(x, *rest))), (lambda x: first_of(op.reference(x, *rest))), x


@pytest.mark.parametrize("name", DIFFERENTIABLE)
@pytest.mark.parametrize("grad", [False, True])
def test_a_tangent_goes_through(name, grad):
    function, reference, x = of_first_argument(name)
    with forward_ad.dual_level(), torch.set_grad_enabled(grad):
        dual = forward_ad.make_dual(x, x.cos())
        got, expected = (forward_ad.unpack_dual(f(dual)).tangent for f in (function, reference))
        assert expected.abs().sum() > 0
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
@pytest.mark.parametrize("transform", ["jvp", "grad", "vmap"])
def test_transforms_of_torch_func(name, transform):
    function, reference, x = of_first_argument(name)
    apply = {
        "jvp": lambda f: torch.func.jvp(f, (x,), (x.cos(),))[1],
        "grad": lambda f: torch.func.grad(lambda x: f(x).sum())(x),
        "vmap": lambda f: torch.func.vmap(f)(torch.stack((x, -x))),
    }[transform]
    expected = torch.stack((reference(x), reference(-x))) if transform == "vmap" else apply(reference)
    torch.testing.assert_close(apply(function), expected, rtol=1e-4, atol=1e-4)


def test_the_nearest_code_is_constant():
    z, codes = examples.small("nearest_code")
    index, tangent = torch.func.jvp(lambda z: nearest_code(z, codes), (z,), (torch.ones_like(z),))
    assert torch.equal(index, nearest_code(z, codes)) and not tangent.any()


def test_reasons():
    x, q = torch.randn(2, 300, 2, 8), torch.randn(2, 300, 2, 8)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, x.cos())
        assert available.why_not_plain(x, None) is None, "a level alone takes nothing away"
        assert available.why_not_plain(x, dual) == "has no forward-mode derivative; got a tensor with a tangent"
        assert "tangent" in attention.explain(q, dual, q)["sdpa"] and "tangent" in attention.explain(q, q, dual)["onednn"]
        assert attention.explain(q, q, q)["sdpa"] is None
    reasons = []
    torch.func.vmap(lambda x: reasons.append(available.why_not_plain(q, x)) or x)(x)
    assert reasons == ["needs plain tensors; got one inside a transform of torch.func"]


@pytest.mark.parametrize(
    "function",
    [
        MelSpectrogram(n_fft=512, n_mels=20),
        ChromaSpectrogram(16_000, 512),
        lambda wave: OPS["log_mel"](wave, MelSpec()),
        lambda wave: OPS["linear"](wave[:, :24], torch.eye(24)),
        lambda wave: nearest_code(wave.view(-1, 8), torch.eye(8)),
    ],
)
def test_a_trace_computes_what_was_traced(function):
    wave, other = noise(2, 4000), noise(2, 4000).flip(1)
    traced = torch.jit.trace(function, wave, check_trace=False)
    torch.testing.assert_close(traced(other), function(other), rtol=1e-3, atol=1e-4)


def test_packed_weights_are_not_traced():
    seen = []
    torch.jit.trace(lambda x: seen.append(onednn.why_not_onednn(x)) or x * 1, torch.ones(3), check_trace=False)
    assert seen == ["needs to run eagerly, because packed weights cannot be traced"]
