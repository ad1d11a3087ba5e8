"""Arguments for every op: small and odd ones for tests, `duotok info` and checks; real sizes for benchmarks."""

from __future__ import annotations

import torch
from torch import Tensor

from .chroma import ChromaSpec
from .log_mel import MelSpec, mel_filter_bank
from .spectrum import Framing

_SHORT_CHROMA = ChromaSpec(n_fft=2048, win_length=2048)


def _normal(*shape: int, device: str = "cpu", scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(device)


def _own_filters(device: str) -> tuple[Framing, Tensor, Tensor]:
    """A framing, a window and a bank of the caller's own."""
    return Framing(win_length=2000), torch.hann_window(2000, device=device), mel_filter_bank(MelSpec(n_mels=40)).to(device)


def small(op: str, device: str = "cpu") -> tuple:
    """Make small odd arguments for the op of that name, the same each time."""
    seed = torch.tensor([1234, 5], device=device)
    indices = torch.arange(37, device=device) % 11
    heads = [_normal(2, 19, 3, 8, device=device) for _ in range(3)]
    return {
        "log_mel": lambda: (_normal(2, 2999, device=device, scale=0.1), MelSpec()),
        "chroma": lambda: (_normal(2, 2999, device=device, scale=0.1), ChromaSpec()),
        "log_mel_chroma": lambda: (_normal(2, 2999, device=device, scale=0.1), MelSpec(), _SHORT_CHROMA),
        "filter_spectrum": lambda: (_normal(2, 2999, device=device, scale=0.1), *_own_filters(device)),
        "replace_noise": lambda: (_normal(3, 29, 13, device=device), 0.2, 1.0, seed),
        "nearest_code": lambda: (_normal(37, 13, device=device), _normal(101, 13, device=device)),
        "simvq_loss": lambda: (
            _normal(37, 13, device=device),
            indices,
            _normal(101, 13, device=device),
            _normal(13, 13, device=device),
            _normal(13, device=device),
            0.25,
        ),
        "attention": lambda: tuple(heads),
        "modulate": lambda: tuple(_normal(*s, device=device) for s in ((2, 19, 24), (2, 24), (2, 24))),
        "gated_residual": lambda: tuple(_normal(*s, device=device) for s in ((2, 19, 24), (2, 19, 24), (2, 24))),
        "linear": lambda: tuple(_normal(*s, device=device) for s in ((2, 19, 24), (13, 24), (13,))),
        "convolution": lambda: tuple(_normal(*s, device=device) for s in ((2, 3, 19, 13), (5, 3, 3, 3), (5,))),
    }[op]()


def real(op: str, device: str = "cpu") -> tuple:
    """Make arguments of the size of the paper's model (one 30 s window, or a training batch) for the op of that name."""
    seed = torch.tensor([1234, 5], device=device)
    table, weight = _normal(32_768, 128, device=device), _normal(128, 128, device=device, scale=128**-0.5)
    return {
        "log_mel": lambda: (_normal(1, 720_000, device=device, scale=0.1), MelSpec()),
        "chroma": lambda: (_normal(1, 720_000, device=device, scale=0.1), ChromaSpec()),
        "log_mel_chroma": lambda: (_normal(1, 720_000, device=device, scale=0.1), MelSpec(), _SHORT_CHROMA),
        "filter_spectrum": lambda: (_normal(1, 720_000, device=device, scale=0.1), *_own_filters(device)),
        "replace_noise": lambda: (_normal(64, 750, 128, device=device), 0.2, 1.0, seed),
        "nearest_code": lambda: (_normal(750, 128, device=device), table),
        "simvq_loss": lambda: (
            _normal(750, 128, device=device),
            torch.arange(750, device=device),
            table,
            weight,
            _normal(128, device=device),
            0.25,
        ),
        "attention": lambda: tuple(_normal(1, 750, 16, 64, device=device) for _ in range(3)),
        "modulate": lambda: tuple(_normal(*s, device=device) for s in ((4, 750, 1536), (4, 1536), (4, 1536))),
        "gated_residual": lambda: tuple(_normal(*s, device=device) for s in ((4, 750, 1536), (4, 750, 1536), (4, 1536))),
        "linear": lambda: tuple(_normal(*s, device=device) for s in ((1, 750, 1024), (3072, 1024), (3072,))),
        "convolution": lambda: tuple(_normal(*s, device=device) for s in ((1, 128, 750, 32), (128, 128, 3, 3), (128,))),
    }[op]()
