"""Arithmetic whose last bit depends on the input and the device alone, for models that are run window by window."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def fixed_math() -> Iterator[None]:
    """Compute on one CPU thread, as workers have each their own number, and on CUDA by deterministic float32 convolutions."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_num_threads(threads)
