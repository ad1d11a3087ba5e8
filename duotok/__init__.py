"""duotok: a dual-track semantic music tokenizer (DUO-TOK, arXiv 2511.20224).

    tok = duotok.load("tiny")
    codes = tok.encode(vocals, accompaniment, sample_rate=44100)

Importing the package imports no torch; the names below do when they are first used.
"""

from __future__ import annotations

__version__ = "0.1.0"
__all__ = ["Codes", "DuoTok", "load"]


def __getattr__(name: str) -> object:
    if name in __all__:
        from . import tokenizer

        return getattr(tokenizer, name)
    raise AttributeError(f"module 'duotok' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
