"""Training of the autoencoder that stage 4 decodes through (section 7 of the specification).

Crops of vocals, accompaniment and mixture go in and come out; losses in vae_losses.py and discriminator.py compare the two.
A discriminator, where there is one, learns in the same steps as the autoencoder, from `adversarial_start` on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from duotok.dataset.songs import Songs
from duotok.kernels import replace_noise
from duotok.model.mel_distance import mean_spectrum_distance, mel_distance
from duotok.model.vae import AutoencoderConfig, Posterior, make_autoencoder

from . import vae_losses
from .data import Crop, stack_waves
from .discriminator import Discriminator, DiscriminatorConfig, adversarial_losses
from .losses import Mean
from .stage import CropConfig, CropTask
from .task import Batch

_ADVERSARIAL = ("adversarial", "features", "discriminator")


@dataclass(frozen=True)
class VaeWeights:
    """Weights of the losses; a loss without weight is not computed.

    Attributes:
        stft, adversarial, features: 1, 0.1 and 5; defaults, not from the paper: LeVo's autoencoder (stable-audio-tools).
        kl: 2e-4, the same source's 1e-4 of twice the divergence.
        phase, correlation: ear-VAE's terms (arXiv 2509.14912); weights, own choice.
        mel, spectrum: the multi-scale Mel distance and the compressed complex spectrum; none in the ear-VAE.
        discriminator: of its own loss, 1 where there is one.
    """

    stft: float = 1.0
    phase: float = 0.5
    correlation: float = 0.5
    mel: float = 0.0
    spectrum: float = 0.0
    kl: float = 2e-4
    adversarial: float = 0.1
    features: float = 5.0
    discriminator: float = 1.0


@dataclass(frozen=True)
class VaeConfig(CropConfig):
    """Training of an autoencoder.

    Attributes:
        model: the autoencoder.
        weights: of the losses.
        inputs: what the crops are, in turn; own choice.
        sizes: windows of the multi-resolution STFT in samples; default, not from the paper: LeVo's.
        phase_size: window of the phase's derivatives and of the correlation; own choice.
        weighted: whether waves are K-weighted before spectra and phases are compared, as in the ear-VAE.
        adversarial_start: first step of the discriminator; None trains without one.
        discriminator: its sizes.
        discriminator_lr_scale: of its learning rate; 2, LeVo's 3e-4 to 1.5e-4.
    """

    stage: Literal["vae"] = "vae"
    model: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    weights: VaeWeights = field(default_factory=VaeWeights)
    inputs: list[Literal["mixture", "vocals", "accompaniment"]] = field(
        default_factory=lambda: ["vocals", "accompaniment", "mixture"]
    )
    sizes: list[int] = field(default_factory=lambda: [2048, 1024, 512, 256, 128, 64, 32])
    phase_size: int = 1024
    weighted: bool = True
    adversarial_start: int | None = 1
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    discriminator_lr_scale: float = 2.0

    def __post_init__(self) -> None:
        if not self.inputs or any(size < 8 or size % 8 for size in (*self.sizes, self.phase_size)):
            raise ValueError(
                "expected at least one of inputs, and sizes and phase_size multiples of 8; got "
                f"{self.inputs}, {self.sizes} and {self.phase_size}; correct them"
            )


class VaeTask(CropTask):
    """An autoencoder, its crops, its losses, and the discriminator."""

    def __init__(self, config: VaeConfig, songs: Songs) -> None:
        """Build the autoencoder from `config.train.seed`."""
        hop = config.model.sizes.hop_length
        super().__init__(config, songs, max(1, round(config.data.crop_s * config.model.sample_rate / hop)) * hop)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.train.seed)
            self.model = make_autoencoder(config.model)
            if config.adversarial_start is not None:
                self.discriminator = Discriminator(config.discriminator, config.model.channels)

    @classmethod
    def sample_rate(cls, config: VaeConfig) -> int:
        """Give the autoencoder's rate."""
        return config.model.sample_rate

    @classmethod
    def channels(cls, config: VaeConfig) -> int:
        """Give the autoencoder's channels."""
        return config.model.channels

    def start(self, state: Mapping[str, Tensor] | None = None) -> None:
        """Begin from tensors (...) of another run or of an autoencoder, whose discriminator may be missing or superfluous.

        Raises:
            RuntimeError: if the autoencoder has other sizes.
        """
        if state is not None:
            self.model.load_state_dict({n.removeprefix("model."): t for n, t in state.items() if n.startswith("model.")})

    def weights(self) -> Mapping[str, float]:
        """Give the losses' weights."""
        return vars(self.config.weights)

    def parameter_groups(self) -> list[dict]:
        """Let the discriminator learn at its own rate."""
        groups = [{"params": list(self.model.parameters())}]
        if self.config.adversarial_start is not None:
            rate = self.config.discriminator_lr_scale
            groups.append({"params": list(self.discriminator.parameters()), "lr_scale": rate})
        return groups

    def collate(self, crops: Sequence[Crop]) -> Batch:
        """Give each crop's wave (B, C, S), and which of the inputs it is, (B,)."""
        turns = torch.tensor([crop.turn % len(self.config.inputs) for crop in crops])
        wave = stack_waves(crops, [self.config.inputs[turn] for turn in turns.tolist()])
        wave = wave.unflatten(0, (len(crops), -1)) if wave.ndim == 2 else wave
        return Batch(tuple(crop.song.id for crop in crops), {"wave": wave, "turns": turns})

    def batch(self, step: int, micro: int) -> Batch:
        """Make micro-batch `micro` of a step; one for the discriminator, too, says so by a tensor "adversarial"."""
        batch, start = super().batch(step, micro), self.config.adversarial_start
        if start is not None and step >= start:
            batch.tensors["adversarial"] = torch.ones(())
        return batch

    def terms(self, batch: Batch, seed: Tensor) -> dict[str, Mean]:
        """Compute the losses, and of held-out crops the scores; `seed` (2,) int64 draws latents or noise."""
        wave = batch.tensors["wave"]
        posterior = self.model.posterior(wave)
        latents = posterior.sample(seed) if self.training else posterior.mean
        predicted = self.model.synthesize(latents)
        with torch.autocast(wave.device.type, enabled=False):
            self.model.observe(latents)
            values = self._losses(predicted.float(), wave, posterior)
        terms = {name: Mean.of(value) for name, value in values.items()}
        if not self.training:
            return terms | self._scores(predicted, batch, seed)
        if self.config.adversarial_start is None:
            return terms
        if "adversarial" not in batch.tensors:
            return terms | {name: Mean.of(wave.new_zeros(())) for name in _ADVERSARIAL}
        judged = adversarial_losses(self.discriminator, predicted, wave)
        return terms | {name: Mean.of(value) for name, value in judged.items()}

    def _losses(self, predicted: Tensor, target: Tensor, posterior: Posterior) -> dict[str, Tensor]:
        config, rate = self.config, self.config.model.sample_rate
        ours, theirs = predicted, target
        if config.weighted:
            ours, theirs = (vae_losses.k_weighting(wave, rate) for wave in (predicted, target))
        makers = {
            "stft": lambda: vae_losses.multi_resolution_stft(ours, theirs, config.sizes, rate),
            "phase": lambda: vae_losses.phase_derivatives(ours, theirs, config.phase_size),
            "correlation": lambda: vae_losses.stereo_correlation(ours, theirs, config.phase_size),
            "mel": lambda: mel_distance(predicted.flatten(0, 1), target.flatten(0, 1), rate).mean(),
            "spectrum": lambda: vae_losses.compressed_spectrum(predicted, target, config.phase_size),
            "kl": lambda: vae_losses.kl_divergence(posterior.mean, posterior.std),
        }
        return {name: make() for name, make in makers.items() if getattr(config.weights, name)}

    def _scores(self, predicted: Tensor, batch: Batch, seed: Tensor) -> dict[str, Mean]:
        """Measure Mel distances of held-out crops, of each input and beside what white noise and a constant spectrum get."""
        rate, inputs = self.config.model.sample_rate, self.config.inputs
        turns = batch.tensors["turns"].repeat_interleave(predicted.shape[1])
        ours, theirs = predicted.float().flatten(0, 1), batch.tensors["wave"].flatten(0, 1)  # (B * C, S)
        level = theirs.square().mean(1, keepdim=True).sqrt()
        noise = level * replace_noise(torch.zeros_like(theirs), 1.0, 1.0, seed)
        distance = mel_distance(ours, theirs, rate)
        scores = {f"mel_distance_{name}": Mean.of(distance, turns == turn) for turn, name in enumerate(inputs)}
        return scores | {
            "mel_distance": Mean.of(distance),
            "mel_distance_of_noise": Mean.of(mel_distance(noise, theirs, rate)),
            "mel_distance_of_mean_spectrum": Mean.of(mean_spectrum_distance(theirs, rate)),
        }
