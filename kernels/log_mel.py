"""Log-Mel spectrograms.

    log_mel(wave (B, S) | (B, C, S), spec, lengths=None) -> (B, T, F)

The default `MelSpec` is MusicFM's front end, on which DUO-TOK's relatives stand: 24 kHz, n_fft 2,048, hop 240 (100 frames
a second), 128 HTK bands, power in dB. Defaults, not from the paper. `MelSpec.preset` names others.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from typing import Any, Literal

import torch
from torch import Tensor

from . import native
from .dispatch import Op
from .spectrum import LOGS, Framing, check_wave, log_of, power_spectrum


@dataclass(frozen=True)
class MelSpec(Framing):
    """What a log-Mel spectrogram is; every field is a default of MusicFM's, not from the paper.

    Attributes:
        sample_rate, n_fft, win_length, hop_length, window, pad, pad_mode: how a wave becomes frames, see `Framing`.
        n_mels: bands F.
        f_min, f_max: edges of the lowest and highest band in Hz; f_max None is half the sample rate.
        power: 2 sums power in a band, 1 magnitude.
        scale: "htk" or "slaney" spacing of the bands.
        norm: None (triangles of height 1) or "slaney" (triangles of area 1).
        log: "db" is 10 log10, "ln" the natural logarithm, "log10", "none" the sums themselves.
        floor: sums are raised to this before the logarithm.
        mean, std: last of all, values become (value - mean) / std.

    Raises:
        ValueError: if a value is out of range.
    """

    n_mels: int = 128
    f_min: float = 0.0
    f_max: float | None = None
    power: float = 2.0
    scale: Literal["htk", "slaney"] = "htk"
    norm: Literal["slaney"] | None = None
    log: Literal["db", "ln", "log10", "none"] = "db"
    floor: float = 1e-10
    mean: float = field(default=0.0, kw_only=True)
    std: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._expect_kind(Integral, "a whole number", "n_mels")
        self._expect_kind(Real, "a number", "f_min", "power", "floor", "mean", "std", *(("f_max",) * (self.f_max is not None)))
        top = self.sample_rate / 2 if self.f_max is None else self.f_max
        self._expect(self.n_mels >= 1, "n_mels", "at least 1")
        self._expect(0 <= self.f_min < top, "f_min", f"0 to below f_max = {top} Hz")
        self._expect(self.power > 0, "power", "a positive number")
        self._expect(self.scale in ("htk", "slaney"), "scale", "htk or slaney")
        self._expect(self.norm in (None, "slaney"), "norm", "None or slaney")
        self._expect(self.log in LOGS, "log", "db, ln, log10 or none")
        self._expect(self.std > 0, "std", "a positive number")

    @property
    def num_bands(self) -> int:
        """F, under the name that specs share."""
        return self.n_mels

    def filter_bank(self) -> Tensor:
        """Give `mel_filter_bank`, (n_fft // 2 + 1, F)."""
        return mel_filter_bank(self)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> MelSpec:
        """Make a front end that many models were trained on.

        The bands of each agree with librosa's in float64 to 1e-6; computed in float32, on music, to 1e-4 (of their natural
        logarithm, 0.0005 dB), save as said.

            musicfm     MusicFM: 24 kHz, hop 240, 128 HTK bands, dB. The default.
            librosa     librosa.feature.melspectrogram and power_to_db(top_db=None): 22.05 kHz, hop 512, 128 Slaney bands of
                        area 1, zeros beyond the ends, dB. top_db=80, the default there, depends on the whole clip.
            torchaudio  torchaudio.transforms.MelSpectrogram() and AmplitudeToDB(): 16 kHz, n_fft 400, hop 200, 128 HTK
                        bands, dB. Many bands hold one bin, and are off by 2e-3 where that falls into a null; four hold none.
            hifigan     HiFi-GAN and BigVGAN at 22.05 kHz: n_fft 1024, hop 256, 80 Slaney bands of area 1 up to 8 kHz of the
                        magnitude, as many frames as hops, ln with floor 1e-5. The original adds 1e-9 to the power of each
                        bin, which raises bands near the floor by 0.01.

        Args:
            name: one of those.
            changes: fields to set otherwise, for example f_max=None.

        Raises:
            ValueError: for an unknown name.
        """
        if name not in _PRESETS:
            raise ValueError(f"MelSpec.preset: expected one of {', '.join(_PRESETS)}; got {name!r}; correct the name")
        return replace(cls(**_PRESETS[name]), **changes)


_PRESETS: dict[str, dict[str, Any]] = {
    "musicfm": {},
    "librosa": {"sample_rate": 22_050, "hop_length": 512, "scale": "slaney", "norm": "slaney", "pad_mode": "constant"},
    "torchaudio": {"sample_rate": 16_000, "n_fft": 400, "win_length": 400, "hop_length": 200},
    "hifigan": {
        "sample_rate": 22_050, "n_fft": 1024, "win_length": 1024, "hop_length": 256, "pad": (1024 - 256) // 2, "n_mels": 80,
        "f_max": 8000.0, "power": 1.0, "scale": "slaney", "norm": "slaney", "log": "ln", "floor": 1e-5,
    },
}  # fmt: skip


@Op
def log_mel(wave: Tensor, spec: MelSpec, lengths: Tensor | None = None, bands_first: bool = False) -> Tensor:
    """Compute log-Mel spectrograms of a batch.

    Args:
        wave: (B, S), or (B, C, S) for the mean of its channels; in [-1, 1] of any floating dtype, or int16.
        spec: the spectrogram's definition.
        lengths: (B,) int64 valid samples of each clip, at least 1; None if all S are.
        bands_first: return (B, F, T), as torchaudio and librosa do.

    Returns:
        (B, T, F), T = spec.num_frames(S), in wave's dtype (float32 for int16); frames beyond a clip's own end hold the
        value of silence.

    Raises:
        ValueError: for a wave of another shape or dtype, or lengths that do not fit it.
    """
    power = power_spectrum(wave, spec, spec.power, lengths)
    mel = log_of(power @ spec.filter_bank().to(power), spec.log, spec.floor)
    mel = (mel - spec.mean) / spec.std
    mel = mel.transpose(1, 2).contiguous() if bands_first else mel
    return mel.to(wave.dtype) if wave.is_floating_point() else mel


@log_mel.checked
def _check(wave: Tensor, spec: MelSpec, lengths: Tensor | None = None, bands_first: bool = False) -> None:
    check_wave("log_mel", wave, lengths)


@functools.lru_cache(maxsize=32)
@torch.inference_mode(False)  # what is kept must serve training, too
def mel_filter_bank(spec: MelSpec) -> Tensor:
    """Build the triangular filters, (n_fft // 2 + 1, F) float64 on the CPU, the same tensor each time.

    Neighbouring triangles share their edges, so each frequency bin feeds at most two bands.
    """
    f_max = spec.sample_rate / 2 if spec.f_max is None else spec.f_max
    ends = _hz_to_mel(torch.tensor([spec.f_min, f_max], dtype=torch.float64), spec.scale)
    edges = _mel_to_hz(torch.linspace(ends[0], ends[1], spec.n_mels + 2, dtype=torch.float64), spec.scale)
    bins = torch.linspace(0, spec.sample_rate / 2, spec.n_fft // 2 + 1, dtype=torch.float64)
    rising = (bins[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins[:, None]) / (edges[2:] - edges[1:-1])
    bank = torch.minimum(rising, falling).clamp(min=0)
    return bank * (2 / (edges[2:] - edges[:-2])) if spec.norm == "slaney" else bank


# Slaney's Auditory Toolbox: linear below 1 kHz (200/3 Hz a Mel), logarithmic above (27 Mel for a factor of 6.4).
_LINEAR, _BREAK, _STEP = 200 / 3, 1000.0, torch.tensor(6.4, dtype=torch.float64).log() / 27


def _hz_to_mel(hz: Tensor, scale: str) -> Tensor:
    if scale == "htk":
        return 2595 * torch.log10(1 + hz / 700)
    return torch.where(hz < _BREAK, hz / _LINEAR, _BREAK / _LINEAR + torch.log(hz.clamp(min=1) / _BREAK) / _STEP)


def _mel_to_hz(mel: Tensor, scale: str) -> Tensor:
    if scale == "htk":
        return 700 * (10 ** (mel / 2595) - 1)
    return torch.where(mel < _BREAK / _LINEAR, mel * _LINEAR, _BREAK * torch.exp(_STEP * (mel - _BREAK / _LINEAR)))


def native_mel(spec: MelSpec) -> native.Mel:
    """Say what the compiled libraries need to know of the bands; its bank is (n_fft // 2 + 1, F)."""
    return native.Mel(spec.filter_bank(), spec.log, spec.floor, spec.mean, 1 / spec.std)


def _why_not(device: str, wave: Tensor, spec: MelSpec, lengths: Tensor | None = None, bands_first: bool = False) -> str | None:
    return native.why_not_spectra(device, wave, spec, spec.power)


@log_mel.register("cuda", unless=functools.partial(_why_not, "cuda"))
@log_mel.register("cpu", unless=functools.partial(_why_not, "cpu"))
def _native(wave: Tensor, spec: MelSpec, lengths: Tensor | None = None, bands_first: bool = False) -> Tensor:
    return _operator(wave, lengths, bands_first, spec)


@native.operator("log_mel", MelSpec)
def _operator(wave: Tensor, lengths: Tensor | None, bands_first: bool, spec: MelSpec) -> Tensor:
    return native.spectra(wave, spec, power=spec.power, lengths=lengths, bands_first=bands_first, mel=native_mel(spec))[0]
