"""Power spectra of framed audio: what `log_mel` and `chroma` share.

Frame t is centred on sample t * hop_length; the clip is reflected at both of its own ends, as often as needed, so clips
shorter than a window and ragged batches are framed like any other (as by librosa and torch.stft with center=True).
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor


def num_frames(num_samples: int | Tensor, hop_length: int) -> int | Tensor:
    """Count the centred frames of a clip, num_samples // hop_length + 1; tensors (B,) for a batch."""
    return num_samples // hop_length + 1


def power_spectrum(
    wave: Tensor, n_fft: int, win_length: int, hop_length: int, power: float = 2.0, lengths: Tensor | None = None
) -> Tensor:
    """Compute |STFT|^power with a periodic Hann window.

    Args:
        wave: (B, S) float, or int16 read as sample / 32,768.
        n_fft, win_length, hop_length: in samples, win_length <= n_fft.
        power: 2 for power, 1 for magnitude.
        lengths: (B,) int64 valid samples, at least 1; None if all S are.

    Returns:
        (B, T, n_fft // 2 + 1) float32 (float64 for float64 input), T = S // hop_length + 1; frames beyond a clip's own
        end are zero.
    """
    wave = wave / 32768 if wave.dtype == torch.int16 else wave.to(torch.promote_types(wave.dtype, torch.float32))
    size = lengths[:, None] if lengths is not None else wave.shape[1]
    source = torch.arange(-(n_fft // 2), wave.shape[1] + n_fft // 2, device=wave.device)
    padded = wave.gather(1, reflect(source, size).expand(len(wave), -1))
    frames = padded.unfold(1, n_fft, hop_length) * hann_window(n_fft, win_length, wave.dtype, wave.device)  # (B, T, n_fft)
    spectrum = torch.fft.rfft(frames)
    out = spectrum.real.square() + spectrum.imag.square()
    out = out if power == 2 else out.pow(power / 2)
    if lengths is not None:
        count = num_frames(lengths, hop_length)
        out = out * (torch.arange(out.shape[1], device=wave.device) < count[:, None])[..., None]
    return out


def reflect(index: Tensor, size: int | Tensor) -> Tensor:
    """Fold sample positions (n,) of any sign into [0, size) by reflection that does not repeat the end; size may be (B, 1)."""
    period = 2 * (size - 1)
    folded = index.remainder(period.clamp(min=1) if isinstance(period, Tensor) else max(period, 1))
    return torch.minimum(folded, period - folded).clamp(min=0)


@functools.lru_cache(maxsize=32)
@torch.inference_mode(False)  # what is kept must serve training, too
def hann_window(n_fft: int, win_length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Make the periodic Hann window, centred in (n_fft,)."""
    window = torch.hann_window(win_length, dtype=torch.float64)
    left = (n_fft - win_length) // 2
    return torch.nn.functional.pad(window, (left, n_fft - win_length - left)).to(device, dtype)
