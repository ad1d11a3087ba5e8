"""Stems into a mix: level, tone, room and place of each, and sums that are exact in 16 bits.

Shapes: S samples of a song, N of an impulse response; two channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SAMPLE_RATE = 48_000
_FULL_SCALE = 32_767
_EQ_TAPS = 2_048
_EQ_HZ = (60, 200, 700, 2_500, 8_000)
_BLOCK = 1 << 17
_SILENCE = 1e-6


@dataclass(frozen=True)
class Room:
    """Where a stem stands: decay time to -60 dB, reverberation against direct sound, tone and place at random up to these."""

    decay_s: tuple[float, float]
    wet_db: tuple[float, float]
    tone_db: float = 3.0
    pan: float = 0.3


VOCAL_ROOM = Room((0.4, 1.2), (-24.0, -12.0), pan=0.1)
ROOMS = {
    "drums": Room((0.1, 0.3), (-24.0, -14.0), pan=0.05),
    "bass": Room((0.05, 0.1), (-40.0, -30.0), pan=0.05),
    "other": Room((0.3, 0.9), (-24.0, -14.0)),
}


def in_room(wave: np.ndarray, room: Room, generator: np.random.Generator) -> np.ndarray:
    """Give a stem, mono (S,) or stereo (2, S), its tone, room and place: (2, S) float32."""
    tone = _tone(room.tone_db, generator)
    decay, wet = generator.uniform(*room.decay_s), generator.uniform(*room.wet_db)
    angle = (1 + generator.uniform(-room.pan, room.pan)) * np.pi / 4
    gains = np.sqrt(2) * np.array((np.cos(angle), np.sin(angle)))
    count = round(decay * SAMPLE_RATE)
    tail = generator.standard_normal((2, count)) * 10 ** (-3 * np.arange(count) / count)
    tail *= 10 ** (wet / 20) / np.linalg.norm(tail, axis=1, keepdims=True)
    tail[:, 0] += 1  # direct sound
    channels = np.broadcast_to(wave, (2, wave.shape[-1]))
    return np.stack([
        _convolve(channel, np.convolve(echo, tone) * gain) for channel, echo, gain in zip(channels, tail, gains, strict=True)
    ])  # fmt: skip


def _tone(depth_db: float, generator: np.random.Generator) -> np.ndarray:
    """Draw an equaliser: a smooth curve over frequency as a minimum-phase impulse response (N,)."""
    hertz = np.fft.rfftfreq(_EQ_TAPS, 1 / SAMPLE_RATE)
    decibels = np.interp(np.log(hertz + 1), np.log(_EQ_HZ), generator.uniform(-depth_db, depth_db, len(_EQ_HZ)))
    cepstrum = np.fft.irfft(decibels * np.log(10) / 20)
    cepstrum[1 : _EQ_TAPS // 2] *= 2  # folded, the phase is that of a causal filter (Oppenheim and Schafer, homomorphic)
    cepstrum[_EQ_TAPS // 2 + 1 :] = 0
    return np.fft.irfft(np.exp(np.fft.rfft(cepstrum)))[: _EQ_TAPS // 2]


def _convolve(wave: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Convolve (S,) with (N,), overlapping blocks being added; the tail beyond S is cut."""
    step = _BLOCK - len(response) + 1
    spectrum = np.fft.rfft(response.astype(np.float32), _BLOCK)
    out = np.zeros(len(wave) + _BLOCK, np.float32)
    for start in range(0, len(wave), step):
        block = np.fft.rfft(wave[start : start + step], _BLOCK)
        out[start : start + _BLOCK] += np.fft.irfft(block * spectrum, _BLOCK)
    return out[: len(wave)]


def loudness(wave: np.ndarray) -> float:
    """Measure the root mean square of the parts of (2, S) that sound; 0 of silence."""
    blocks = wave[:, : wave.shape[1] // 4_800 * 4_800].reshape(2, -1, 4_800)
    power = (blocks.astype(np.float64) ** 2).mean(axis=(0, 2))
    loud = power[power > max(_SILENCE**2, power.max(initial=0) * 1e-3)]
    return float(np.sqrt(loud.mean())) if len(loud) else 0.0


def balance(stems: dict[str, np.ndarray], levels_db: dict[str, float], peak_db: float) -> dict[str, np.ndarray]:
    """Bring stems to levels and the loudest of their sums below full scale.

    Args:
        stems: (2, S) each; "vocals", and the parts of the accompaniment.
        levels_db: of each stem's sounding parts, relative to one another.
        peak_db: of the loudest of vocals, accompaniment, their parts and their mixture.

    Returns:
        The stems and "accompaniment", (2, S) int16: it is the exact sum of its parts.
    """
    scaled = {name: wave * (10 ** (levels_db[name] / 20) / (loudness(wave) or 1.0)) for name, wave in stems.items()}
    parts = [wave for name, wave in scaled.items() if name != "vocals"]
    accompaniment = sum(parts)
    loudest = max(np.abs(wave).max() for wave in (*scaled.values(), accompaniment, accompaniment + scaled["vocals"]))
    # Rounding may add half a step for each stem.
    gain = 10 ** (peak_db / 20) * (_FULL_SCALE - len(stems)) / max(float(loudest), _SILENCE)
    whole = {name: np.rint(wave * gain).astype(np.int16) for name, wave in scaled.items()}
    total = sum(wave.astype(np.int32) for name, wave in whole.items() if name != "vocals")
    return whole | {"accompaniment": total.astype(np.int16)}
