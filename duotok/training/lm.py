"""Language models over a tokenizer's codes: the two protocols of the paper, trained by the loop of the stages.

The loss is the cross-entropy in nats, a mean over the predicted tracks. Crops are parts of songs in tokens; one that reaches
the song's end is followed by <EOA>, and crops overhang the end by up to a half, so that it is learned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from duotok.dataset.tokens import TokenSongs, load_tokens
from duotok.language import LanguageModelFile
from duotok.model.bottleneck import TRACKS
from duotok.model.language_model import NOTHING, DualTrackLM, LanguageModelConfig
from duotok.model.protocols import IGNORED, Protocol, make_steps, make_targets, predicted_tracks
from duotok.tokenizer import load

from .data import Crop
from .losses import Mean, cross_entropy
from .stage import CropConfig, CropTask
from .task import Batch


@dataclass(frozen=True)
class LmConfig(CropConfig):
    """A language model.

    Attributes:
        protocol: what is predicted from what, see `duotok.model.protocols`.
        tokenizer: name, folder or hub id of the tokenizer, whose code vectors then start embeddings and heads of their width,
            `model.embedding_dim`; None starts them at random, as Codec-Evaluation does. Own choice.
        model: the network; it learns <EOA> whatever `has_end` says.
    """

    stage: Literal["lm"] = "lm"
    protocol: Protocol = "unconditional"
    tokenizer: str | None = None
    model: LanguageModelConfig = field(default_factory=LanguageModelConfig)


class LmTask(CropTask):
    """Predicts the codes of songs; `file` is what `duotok.language` keeps of it beside the weights."""

    def __init__(self, config: LmConfig, songs: TokenSongs) -> None:
        """Build the model from `config.train.seed`.

        Raises:
            ValueError: if the codebook is not the tokens'.
        """
        if config.model.codebook_size != songs.codebook_size:
            raise ValueError(
                f"model.codebook_size: expected {songs.codebook_size}, as the tokens have it; got "
                f"{config.model.codebook_size}; correct it"
            )
        frames = max(1, round(config.data.crop_s * songs.frame_rate))
        super().__init__(config, songs, frames, overhang=frames // 2)
        self.file = LanguageModelFile(
            protocol=config.protocol,
            tokenizer=songs.fingerprint,
            frame_rate=songs.frame_rate,
            context_frames=frames,
            model=replace(config.model, has_end=True),
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.train.seed)
            self.model = DualTrackLM(self.file.model)

    @classmethod
    def read_songs(cls, config: LmConfig, progress: Callable[[int, int], None] | None = None) -> TokenSongs:
        """Read the run of tokens; `progress` gets songs done and their total."""
        return load_tokens(Path(config.data.manifest), config.data.min_s, progress)

    def weights(self) -> Mapping[str, float]:
        """Weigh the predicted tracks alike."""
        tracks = predicted_tracks(self.config.protocol)
        return {TRACKS[track]: 1 / len(tracks) for track in tracks}

    def settings(self) -> dict:
        """Return what is learned, with the fingerprint instead of the place of the tokenizer."""
        values = super().settings()
        del values["model"], values["protocol"]
        has_vectors = values.pop("tokenizer") is not None
        return {**values, "file": asdict(self.file), "starts_at_vectors": has_vectors}

    def start(self, state: Mapping[str, Tensor] | None = None) -> None:
        """Take over the tensors (...) of another run, or start at how often each code occurs.

        Raises:
            ValueError: if the tokenizer is not that of the tokens, or its code vectors are not as wide as the embeddings.
        """
        if state is not None:
            self.load_state_dict(state)
            return
        self.model.begin_at([self._prior(track) for track in range(len(TRACKS))], self._vectors())

    def _prior(self, track: int) -> Tensor:
        """Estimate the probabilities (K + 1,) of a track's symbols, each counted half a time more (Krichevsky & Trofimov)."""
        songs, size = self.songs.train, self.config.model.codebook_size
        counts = sum(torch.bincount(torch.tensor(song.codes[track].astype("int64")), minlength=size + 1) for song in songs)
        counts[size] = len(songs)
        return (counts + 0.5) / (counts + 0.5).sum()

    def _vectors(self) -> list[Tensor] | None:
        """Read the tokenizer's code vectors (K, d) of each track."""
        if self.config.tokenizer is None:
            return None
        tokenizer, dim = load(self.config.tokenizer), self.config.model.embedding_dim
        vectors = [tokenizer.model.codebook(track) for track in range(len(TRACKS))]
        if tokenizer.fingerprint != self.songs.fingerprint or vectors[0].shape[1] != dim:
            raise ValueError(
                f"tokenizer: expected that of the tokens, {self.songs.fingerprint[:16]}, with model.embedding_dim "
                f"{vectors[0].shape[1]}, the width of its codes; got {tokenizer.fingerprint[:16]} and {dim}; correct one, or "
                "leave the tokenizer out"
            )
        return vectors

    def collate(self, crops: Sequence[Crop]) -> Batch:
        """Give steps and targets, both (B, 2, L), the shorter ones with nothing behind their end."""
        protocol, end = self.config.protocol, self.config.model.codebook_size
        steps, targets = [], []
        for crop in crops:
            stop = crop.start + crop.num_samples
            codes = torch.from_numpy(crop.song.codes[:, crop.start : stop].astype("int64"))
            steps.append(make_steps(protocol, codes).T)
            targets.append(make_targets(protocol, codes, end if stop >= crop.song.num_samples else IGNORED).T)
        tensors = {
            name: pad_sequence(rows, batch_first=True, padding_value=filler).movedim(1, 2)
            for name, rows, filler in (("steps", steps, NOTHING), ("targets", targets, IGNORED))
        }
        return Batch(tuple(crop.song.id for crop in crops), tensors)

    def terms(self, batch: Batch, seed: Tensor) -> dict[str, Mean]:
        """Compute the cross-entropy of each predicted track; `seed` (2,) is not needed."""
        hidden, found = self.model.read(batch.tensors["steps"]), {}
        for track in predicted_tracks(self.config.protocol):
            targets = batch.tensors["targets"][:, track]
            chosen = targets != IGNORED
            found[TRACKS[track]] = cross_entropy(self.model.logits(hidden[chosen], track), targets[chosen])
        return found
