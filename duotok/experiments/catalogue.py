"""The sweeps by the name of their command."""

from __future__ import annotations

from collections.abc import Callable

from .controlled_decoders import controlled_decoders
from .encoder_probe import encoder_probe
from .midi_ctc import midi_ctc
from .noise import noise
from .routing import routing
from .separation import separation
from .si_snr_term import si_snr_term
from .sizes import sizes
from .sweep import Setting, Sweep

SWEEPS: dict[str, Callable[[Setting], Sweep]] = {
    function.__name__: function
    for function in (noise, encoder_probe, controlled_decoders, sizes, routing, midi_ctc, separation, si_snr_term)
}
