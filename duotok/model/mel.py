"""The front end: log-Mel spectrograms, globally normalised, as many frames as the hop divides the wave into."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from duotok.kernels import MelSpec, log_mel


@dataclass(frozen=True)
class LogMelConfig:
    """Front end of the encoder.

    Attributes:
        spec: the spectrogram; default, not from the paper: MusicFM's.
        mean, std: of the log-Mel values in dB; default, not from the paper: MusicFM's statistics of the Million Song Dataset.
    """

    spec: MelSpec = field(default_factory=MelSpec)
    mean: float = 6.768444971712967
    std: float = 18.417922652295623

    @property
    def frame_rate(self) -> float:
        """Mel frames per second."""
        return self.spec.sample_rate / self.spec.hop_length


class LogMel(nn.Module):
    """Turn waves into normalised log-Mel frames."""

    def __init__(self, config: LogMelConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, wave: Tensor) -> Tensor:
        """Compute the frames.

        Args:
            wave: (B, S) mono in [-1, 1] at `config.spec.sample_rate`.

        Returns:
            (B, T, F), T = S // hop_length: the last centred frame is dropped, as in MusicFM, so that T is even.
        """
        mel = log_mel(wave, self.config.spec)[:, : wave.shape[1] // self.config.spec.hop_length]
        return (mel - self.config.mean) / self.config.std
