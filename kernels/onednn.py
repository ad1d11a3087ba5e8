"""What the twins that use oneDNN share: when it can run, and weights packed once.

torch calls MKL for float32 products on a CPU, which on AMD's processors runs at about half the rate that oneDNN reaches
(benchmarks/bench_model.py measures both), and reads weights as they lie. oneDNN takes them in blocks of its own, and does what
follows a product (GELU, an addition) while the result is still in registers.

    why_not_onednn(x, weight, bias) -> None, or why not
    packed(weight) -> the same numbers in oneDNN's layout, kept as long as the weight lives and is not changed
    product(x (..., K), weight (N, K) | packed, ...) -> (..., N)
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from .available import why_not_plain

_packed: WeakIdKeyDictionary = WeakIdKeyDictionary()


def why_not_onednn(*tensors: Tensor | None) -> str | None:
    """Say why oneDNN cannot take these tensors (of any shape; None is left out); None if it can."""
    given = [tensor for tensor in tensors if tensor is not None]
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return "needs to run eagerly, because packed weights cannot be traced"
    for tensor in given:
        if tensor.device.type != "cpu":
            return f"needs CPU tensors; got {tensor.device.type}"
        if tensor.dtype != given[0].dtype or tensor.dtype not in (torch.float32, torch.bfloat16):
            return f"needs float32 or bfloat16 throughout; got {str(tensor.dtype).removeprefix('torch.')}"
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given):
        return "has no backward; needs inputs without gradients"
    if torch.is_autocast_enabled("cpu"):
        return "needs to run outside autocast, which chooses a precision of its own"
    if not torch.backends.mkldnn.is_available() or not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        return "needs a torch with oneDNN on an x86 CPU with AVX2"
    if given[0].dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "needs a CPU with AVX-512 for bfloat16"
    return why_not_plain(*given)


def packed(weight: Tensor) -> Tensor:
    """Bring a weight (N, K) into oneDNN's layout, once: again only after it was moved or written to.

    Writes through `.data` or numpy are not counted by torch: `weight.mul_(1)` under torch.no_grad() makes them known.
    """
    if weight.is_inference():  # such tensors do not count their changes
        return weight
    state = (weight.data_ptr(), weight._version, weight.dtype)
    known = _packed.get(weight)
    if known is None or known[0] != state:
        with torch.no_grad():
            known = (state, torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous()))
        _packed[weight] = known
    return known[1]


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None, gelu: bool = False, add: Tensor | None = None) -> Tensor:
    """Multiply x (..., K) by weight (N, K), packed or not, transposed; bias (N,), GELU or `add` (..., N) in the same pass."""
    call = torch.ops.mkldnn._linear_pointwise
    bias = bias if bias is None else bias.contiguous()  # read as if it were
    if add is not None:
        return call.binary(x, add, weight, bias, "add")
    return call(x, weight, bias, "gelu" if gelu else "none", [], "none" if gelu else "")
