"""The front end: log-Mel spectrograms, globally normalised, as many frames as the hop divides the wave into."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from duotok.kernels import MelSpec, log_mel


@dataclass(frozen=True)
class LogMelConfig:
    """Front end of the encoder.

    Attributes:
        spec: the spectrogram; default, not from the paper: MusicFM's. Its own mean and std stay 0 and 1.
        mean, std: of the log-Mel values in dB; default, not from the paper: MusicFM's statistics of the Million Song Dataset.

    Raises:
        ValueError: if the spec has a mean or std of its own.
    """

    spec: MelSpec = field(default_factory=MelSpec)
    mean: float = 6.768444971712967
    std: float = 18.417922652295623

    def __post_init__(self) -> None:
        if (self.spec.mean, self.spec.std) != (0, 1):
            raise ValueError(
                f"spec: expected mean 0 and std 1; got {self.spec.mean} and {self.spec.std}; set those of mel, beside spec"
            )

    @property
    def frame_rate(self) -> float:
        """Mel frames per second."""
        return self.spec.sample_rate / self.spec.hop_length


class LogMel(nn.Module):
    """Turn waves into normalised log-Mel frames."""

    def __init__(self, config: LogMelConfig) -> None:
        super().__init__()
        self.config = config
        self.spec = replace(config.spec, mean=config.mean, std=config.std)

    def forward(self, wave: Tensor) -> Tensor:
        """Compute the frames.

        Args:
            wave: (B, S) mono in [-1, 1] at `config.spec.sample_rate`.

        Returns:
            (B, T, F), T = S // hop_length: the last centred frame is dropped, as in MusicFM, so that T is even.
        """
        return log_mel(wave, self.spec)[:, : wave.shape[1] // self.spec.hop_length]
