"""Stage 4: a DiT learns the latents of a song from its codes (section 7 of the specification, Eq. 13-16).

    L = L_eps + 0.01 L_SI,  L_eps = mean ||eps - eps_hat||^2,  L_SI = -mean SI-SNRi(z0_hat, z_t; z0)

Tokenizer and autoencoder are frozen; their codes and latents come from files (latents.py). An item of a batch is a track of
a crop, or, where both tracks go through one network, the crop.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import torch
from accelerate import PartialState
from einops import rearrange
from torch import Tensor

from duotok import autoencoder as autoencoders
from duotok import storage
from duotok.dataset.songs import Songs
from duotok.decoder import DecoderConfig, codes_of_latents
from duotok.kernels import replace_noise
from duotok.model.bottleneck import TRACKS
from duotok.model.diffusion import draw_times, schedule, si_snr_improvement
from duotok.model.dit import DiT, DiTConfig
from duotok.model.vae import Autoencoder
from duotok.storage import CheckpointError
from duotok.tokenizer import load

from .data import Crop
from .latents import LatentSong, cache_latents
from .losses import Mean
from .stage import CropConfig, CropTask
from .task import Batch

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage4Config(CropConfig):
    """The diffusion decoder.

    Attributes:
        tokenizer: name, folder or hub id of the tokenizer whose codes are decoded.
        autoencoder: its folder; None for the one in the tokenizer's folder.
        latents: folder of the cached latents; None is "latents" beside the manifest.
        dit: the network; its latent_dim and condition_dim are those of autoencoder and tokenizer.
        condition_dropout: share of items that learn without a condition; default, not from the paper: LeVo's.
        si_weight: of L_SI; default, own choice. 0 only scores it.
        si_min_alpha, si_max_db: L_SI counts times with at least this alpha, and improvements up to so many dB; default, own
            choice.
        overlap: of the windows in which songs are decoded, each as long as a crop; default, own choice.
        fit_batches: training batches whose conditions set their normalisation; own choice.

    Raises:
        ValueError: if songs may be shorter than a crop.
    """

    stage: Literal[4] = 4
    tokenizer: str = "tiny"
    autoencoder: str | None = None
    latents: str | None = None
    dit: DiTConfig = field(default_factory=DiTConfig)
    condition_dropout: float = 0.1
    si_weight: float = 0.01
    si_min_alpha: float = 0.3
    si_max_db: float = 30.0
    overlap: float = 0.2
    fit_batches: int = 8

    def __post_init__(self) -> None:
        if self.data.crop_s > self.data.min_s:
            raise ValueError(
                f"expected data.crop_s of at most data.min_s, because latents are not padded; got {self.data.crop_s} and "
                f"{self.data.min_s}; change one"
            )
        if not (0 <= self.condition_dropout <= 1 and 0 <= self.overlap <= 0.5):
            raise ValueError(
                f"expected condition_dropout of 0 to 1 and overlap of 0 to 0.5; got {self.condition_dropout} and "
                f"{self.overlap}; correct them"
            )


class Stage4(CropTask):
    """Trains the DiT on cached latents."""

    def __init__(self, config: Stage4Config, songs: Songs) -> None:
        """Read tokenizer and autoencoder, and build the DiT from `config.train.seed`.

        Raises:
            CheckpointError: if tokenizer or autoencoder cannot be read.
            ValueError: if the DiT's widths are not theirs.
        """
        tokenizer, autoencoder = load(config.tokenizer), read_autoencoder(config)
        widths = {"latent_dim": autoencoder.latent_dim, "condition_dim": tokenizer.config.model.trunk.block.width}
        for name, width in widths.items():
            if getattr(config.dit, name) != width:
                raise ValueError(
                    f"dit.{name}: expected {width}, as tokenizer and autoencoder have it; got {getattr(config.dit, name)}; "
                    "correct it"
                )
        self.crop_latents = max(1, round(config.data.crop_s * autoencoder.latent_rate))
        super().__init__(config, songs, self.crop_latents * autoencoder.hop_length)
        self.decoder_config = DecoderConfig(
            tokenizer=tokenizer.fingerprint,
            autoencoder=autoencoders.fingerprint(autoencoder),
            frame_rate=tokenizer.frame_rate,
            window_frames=self.crop_latents,
            overlap_frames=round(config.overlap * self.crop_latents),
            dit=config.dit,
        )
        self.slot = tokenizer.model.trunk.bottleneck
        self._makers = tokenizer, autoencoder
        self._songs: dict[str, LatentSong] = {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.train.seed)
            self.dit = DiT(config.dit)

    @classmethod
    def sample_rate(cls, config: Stage4Config) -> int:
        """Give the autoencoder's rate."""
        return read_autoencoder(config).sample_rate

    @classmethod
    def channels(cls, config: Stage4Config) -> int:
        """Give the autoencoder's channels."""
        return read_autoencoder(config).channels

    def weights(self) -> Mapping[str, float]:
        """Weigh L_eps and the improvement, which is to grow."""
        return {"epsilon": 1.0, "si_snr_improvement": -self.config.si_weight}

    def settings(self) -> dict:
        """Return what is learned, with fingerprints instead of the places of tokenizer and autoencoder."""
        values = super().settings()
        for name in ("tokenizer", "autoencoder", "latents", "dit"):
            del values[name]
        return values | {"decoder": asdict(self.decoder_config)}

    def prepare(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Compute the latents that the cache lacks: the main process does, the others find them."""
        config, device = self.config, next(self.parameters()).device
        folder = Path(config.latents) if config.latents else Path(config.data.manifest).parent / "latents"
        songs = (*self.songs.train, *self.songs.held_out)
        with PartialState().main_process_first():
            self._songs = cache_latents(songs, folder, *(maker.to(device) for maker in self._makers), progress)
        self._makers[1].cpu()

    def start(self, state: Mapping[str, Tensor] | None = None) -> None:
        """Take over the tensors (...) of another run of stage 4, or fit the conditions' normalisation."""
        if state is not None:
            self.load_state_dict(state)
            return
        if not self.config.fit_batches:
            return
        batches = [self.batch(0, micro).to(self.dit.no_condition.device).tensors for micro in range(self.config.fit_batches)]
        for track in range(len(TRACKS)):
            rows = [self.slot.branches[track].expand(batch["codes"][batch["tracks"] == track]) for batch in batches]
            self.dit.fit(torch.cat(rows).flatten(0, 1), track)
        spread = torch.cat([batch["latents"].flatten() for batch in batches]).std().item()
        if not 0.5 < spread < 2:
            logger.warning(
                "the autoencoder's latents have a standard deviation of %.2g, and the noise's is 1; an ear-VAE divides them by "
                "`model.ear.latent_std` of its config.yaml",
                spread,
            )

    def collate(self, crops: Sequence[Crop]) -> Batch:
        """Give latents (2B, T, D) and codes (2B, T), a code to each latent, all vocals first, and tracks (2B,)."""
        autoencoder, frame_rate = self._makers[1], self.decoder_config.frame_rate
        latents, codes = [], []
        for crop in crops:
            first = crop.start // autoencoder.hop_length
            stop = first + self.crop_latents
            cut, whole = self._songs[crop.song.id].read(first, stop)
            latents.append(cut)
            codes.append(whole[:, codes_of_latents(first, stop, frame_rate, autoencoder).clamp(max=whole.shape[1] - 1)])
        tensors = {"latents": torch.stack(latents, dim=1).flatten(0, 1), "codes": torch.stack(codes, dim=1).flatten(0, 1)}
        names = tuple(f"{crop.song.id} {name}" for name in TRACKS for crop in crops)
        return Batch(names, {**tensors, "tracks": torch.arange(len(TRACKS)).repeat_interleave(len(crops))})

    def terms(self, batch: Batch, seed: Tensor) -> dict[str, Mean]:
        """Compute L_eps, the SI-SNR improvement in dB and the error of the clean latents; `seed` (2,) draws t and noise."""
        config = self.config
        latents, condition, tracks = self._items(batch)
        t, number = draw_times(len(latents), seed)
        alpha, sigma = (values[:, None, None] for values in schedule(t))
        noise = replace_noise(torch.zeros_like(latents), 1.0, 1.0, seed)
        noisy = alpha * latents + sigma * noise
        keep = number >= config.condition_dropout if self.training else None
        velocity = self.dit(noisy, t, condition, tracks, keep)
        clean = alpha * noisy - sigma * velocity
        improvement, moves = si_snr_improvement(clean, noisy, latents)
        counted = moves & (alpha[:, 0] >= config.si_min_alpha)
        return {
            "epsilon": Mean.of((noise - sigma * noisy - alpha * velocity).square()),
            "si_snr_improvement": Mean.of(improvement.clamp(max=config.si_max_db), counted),
            "latent_error": Mean.of((latents - clean).square()),
        }

    def _items(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Give what the network sees of a batch: latents (N, T, S D), normalised conditions (N, T, S D'), tracks (N,)."""
        latents, codes, tracks = (batch.tensors[name] for name in ("latents", "codes", "tracks"))
        with torch.autocast(latents.device.type, enabled=False):
            rows = [self.slot.branches[i].expand(part) for i, part in enumerate(codes.chunk(len(TRACKS)))]
            condition = self.dit.normalise(torch.cat(rows), tracks)
        if not self.config.dit.joint:
            return latents, condition, tracks
        latents, condition = (rearrange(x, "(s n) t d -> n t (s d)", s=len(TRACKS)) for x in (latents, condition))
        return latents, condition, tracks[: len(latents)]


def read_autoencoder(config: Stage4Config) -> Autoencoder:
    """Read the autoencoder that a configuration names.

    Raises:
        CheckpointError: if there is none.
    """
    folder = Path(config.autoencoder) if config.autoencoder else storage.find(config.tokenizer) / storage.AUTOENCODER
    if not folder.is_dir():
        raise CheckpointError(
            f"autoencoder: expected its folder; got {str(folder)!r}, which is none; name one by --autoencoder"
        )
    return autoencoders.load_autoencoder(folder)
