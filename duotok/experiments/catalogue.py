"""The sweeps by the name of their command."""

from __future__ import annotations

from collections.abc import Callable

from .encoder_probe import encoder_probe
from .noise import noise
from .routing import routing
from .si_snr_term import si_snr_term
from .sweep import Setting, Sweep

SWEEPS: dict[str, Callable[[Setting], Sweep]] = {
    function.__name__: function for function in (noise, encoder_probe, routing, si_snr_term)
}
