"""duotok.kernels: the hot operations, each with a plain-torch reference and its faster twins.

This package knows nothing of the model and can be used alone:

    from duotok.kernels import nearest_code, explain
    indices = nearest_code(z, codebook)
    print(explain("nearest_code", z, codebook))
"""

from __future__ import annotations

import importlib
import sys

# transformers imports any package called `kernels`, and finds this folder where Python was started in the repository. Modules
# that ran twice would take torch's operators away from the first; so the second name leads to the same modules.
if __name__ != "duotok.kernels":
    importlib.import_module("duotok.kernels")
    for _name in [name for name in sys.modules if name.startswith("duotok.kernels.")]:
        sys.modules[__name__ + _name.removeprefix("duotok.kernels")] = sys.modules[_name]

from .attention import attention
from .chroma import ChromaSpec, chroma
from .convolution import convolution
from .dispatch import BACKENDS, Op, use_backends
from .filter_spectrum import filter_spectrum
from .linear import linear
from .log_mel import MelSpec, log_mel
from .log_mel_chroma import log_mel_chroma
from .modulate import gated_residual, modulate
from .nearest_code import PreparedCodebook, nearest_code, prepare
from .replace_noise import replace_noise
from .simvq_loss import SimVQOutput, simvq_loss
from .spectrum import Framing

OPS: dict[str, Op] = {
    op.name: op
    for op in (
        log_mel, chroma, log_mel_chroma, filter_spectrum, attention, replace_noise, nearest_code, simvq_loss, modulate,
        gated_residual, linear, convolution,
    )
}  # fmt: skip


def explain(op: str, *args, **kwargs) -> dict[str, str | None]:
    """Say of every backend of the named op why it would not run on these arguments; None where it would.

    Raises:
        ValueError: for an unknown op.
    """
    if op not in OPS:
        raise ValueError(f"explain: expected an op out of {', '.join(OPS)}; got {op!r}; choose one of those")
    return OPS[op].explain(*args, **kwargs)


__all__ = [
    "BACKENDS",
    "OPS",
    "ChromaSpec",
    "Framing",
    "MelSpec",
    "Op",
    "PreparedCodebook",
    "SimVQOutput",
    "attention",
    "chroma",
    "convolution",
    "explain",
    "filter_spectrum",
    "gated_residual",
    "linear",
    "log_mel",
    "log_mel_chroma",
    "modulate",
    "nearest_code",
    "prepare",
    "replace_noise",
    "simvq_loss",
    "use_backends",
]
