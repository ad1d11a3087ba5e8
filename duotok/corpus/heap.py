"""What a worker does with memory that it has freed: it keeps it for the next batch, which is as large."""

from __future__ import annotations

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt(3)
_LARGE = 1 << 30


def keep_freed_memory() -> bool:
    """Let glibc keep what this process frees; other C libraries are left as they are.

    Otherwise it hands each large tensor back to the system, and the next one comes as fresh pages, which the system zeroes and
    maps one by one while the encoder waits. What a process holds at its peak it then holds to its end, and that peak is the
    same for every song.

    Returns:
        Whether it is glibc, and took the settings.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    return bool(mallopt and mallopt(_MMAP_THRESHOLD, _LARGE) and mallopt(_TRIM_THRESHOLD, _LARGE))
