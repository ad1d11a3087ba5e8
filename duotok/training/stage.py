"""What the stages share: crops in, weighted losses out, held-out scores; and for 1 to 3, the weights of the stage before."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from duotok.dataset.songs import Songs, load_songs
from duotok.dataset.tokens import TokenSongs
from duotok.lyrics import BYTES
from duotok.model.semantic import SemanticConfig, SemanticModel

from .data import Crop, CropSampler, DataConfig
from .loop import TrainConfig
from .losses import Mean
from .task import Batch, Task

# Key of the seeds of held-out batches; what is drawn with it never changes.
_EVAL_KEY = 2511_20224


@dataclass(frozen=True)
class CropConfig:
    """What the YAML of every task holds that learns from crops of songs.

    Attributes:
        stage: 1 to 4, vae or lm.
        data, train: see there.
    """

    stage: int
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


@dataclass(frozen=True)
class StageConfig(CropConfig):
    """What the YAML of stages 1 to 3 holds.

    Attributes:
        model: the semantic model; its bottleneck's kind is the stage's.
    """

    model: SemanticConfig = field(default_factory=SemanticConfig)


class CropTask(Task):
    """A task that learns from crops of songs, by losses that are means."""

    def __init__(self, config: CropConfig, songs: Songs | TokenSongs, crop_samples: int, overhang: int = 0) -> None:
        super().__init__()
        self.config, self.songs = config, songs
        self.train_crops = CropSampler(songs.train, crop_samples, config.train.seed, overhang)
        self.held_out_crops = CropSampler(songs.held_out, crop_samples, config.train.seed, overhang)

    @classmethod
    def read_songs(cls, config: CropConfig, progress: Callable[[int, int], None] | None = None) -> Songs | TokenSongs:
        """Read what a configuration names, see `load_songs`; `progress` gets songs done and their total."""
        data = config.data
        manifest = Path(data.manifest)
        cache = Path(data.cache) if data.cache else manifest.parent / "waves"
        return load_songs(manifest, cache, cls.sample_rate(config), data.min_s, progress, cls.channels(config))

    @classmethod
    @abstractmethod
    def sample_rate(cls, config: CropConfig) -> int:
        """Say at which rate, in Hz, the songs are wanted."""

    @classmethod
    def channels(cls, config: CropConfig) -> int:
        """Say with how many channels the songs are wanted."""
        return 1

    @abstractmethod
    def collate(self, crops: Sequence[Crop]) -> Batch:
        """Make the batch of some crops."""

    @abstractmethod
    def terms(self, batch: Batch, seed: Tensor) -> dict[str, Mean]:
        """Compute every loss and score; `seed` (2,) int64 is the batch's own."""

    @abstractmethod
    def weights(self) -> Mapping[str, float]:
        """Weigh the terms in the loss; terms without a weight are scores."""

    def prepare(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Do once what needs every song, on the task's device; `progress` gets songs done and their total."""

    @abstractmethod
    def start(self, state: Mapping[str, Tensor] | None = None) -> None:
        """Begin from tensors (...) of another run, and fit to the data what is new; None begins from random weights."""

    def batch(self, step: int, micro: int) -> Batch:
        """Make micro-batch `micro` of a step."""
        return self.collate(self.train_crops.draw(step, micro, self.config.data.batch_size))

    def forward(self, batch: Batch, seed: Tensor) -> dict[str, Tensor | Mean]:
        """Compute the loss () of a batch, and its terms; `seed` (2,) int64 is its own.

        A step minimises the mean of its micro-batches' losses: one without lyrics adds none to it.
        """
        terms = self.terms(batch, seed)
        loss = sum(weight * terms[name].value for name, weight in self.weights().items() if name in terms)
        return {"loss": loss, **{name: mean.detach() for name, mean in terms.items()}}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Score fixed crops of the held-out songs; terms that no crop has are left out."""
        crops, size = self.held_out_crops.spread(self.config.data.eval_crops), self.config.data.batch_size
        device = next(self.parameters()).device
        totals: dict[str, Mean] = {}
        for start in range(0, len(crops), size):
            batch = self.collate(crops[start : start + size]).to(device)
            seed = torch.tensor([_EVAL_KEY, start], device=device)
            for name, mean in self.terms(batch, seed).items():
                totals[name] = totals[name] + mean if name in totals else mean
        values = {name: mean.value.item() for name, mean in totals.items() if mean.count > 0}
        loss = sum(weight * values[name] for name, weight in self.weights().items() if name in values)
        return {"loss": loss, **values}

    def settings(self) -> dict:
        """Return what is learned: the configuration, and the songs by their length, wherever their files lie."""
        values = asdict(self.config)
        del values["train"], values["data"]["manifest"], values["data"]["cache"]
        return values | {"songs": {song.id: song.num_samples for song in (*self.songs.train, *self.songs.held_out)}}


class Stage(CropTask):
    """A semantic model, its crops and its losses."""

    kind: str  # of the bottleneck
    # Prefixes of what the stage before has and this one has not, and of what is new here.
    drops: tuple[str, ...] = ()
    adds: tuple[str, ...] = ()

    def __init__(self, config: StageConfig, songs: Songs) -> None:
        """Build the model from `config.train.seed`.

        Raises:
            ValueError: if the bottleneck is not this stage's, or the lyrics head is too narrow.
        """
        if config.model.bottleneck.kind != self.kind:
            raise ValueError(
                f"expected model.bottleneck.kind {self.kind} in stage {config.stage}; got {config.model.bottleneck.kind}; "
                "correct it"
            )
        heads = config.model.heads
        if heads.lyrics and heads.vocab_size < BYTES.size:
            raise ValueError(
                f"expected model.heads.vocab_size of at least {BYTES.size}, as lyrics are spelt in bytes; "
                f"got {heads.vocab_size}; raise it"
            )
        frame = config.model.mel.spec.sample_rate // config.model.frame_rate
        super().__init__(config, songs, max(1, round(config.data.crop_s * config.model.frame_rate)) * frame)
        self.spec = config.model.mel.spec
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.train.seed)
            self.model = SemanticModel(config.model)
            self.build()

    @classmethod
    def sample_rate(cls, config: StageConfig) -> int:
        """Give the rate of the front end."""
        return config.model.mel.spec.sample_rate

    @abstractmethod
    def build(self) -> None:
        """Make what the stage adds to the model."""

    def mel(self, wave: Tensor) -> Tensor:
        """Compute normalised Mel frames (B, 4T, F) of waves (B, S) in float32 whatever the autocast."""
        with torch.autocast(wave.device.type, enabled=False):
            return self.model.mel(wave)

    def start(self, state: Mapping[str, Tensor] | None = None) -> None:
        """Take over the weights of the stage before, and give what is new its start from the data.

        Args:
            state: tensors (...) by name; None starts from random weights.

        Raises:
            ValueError: naming tensors that fit neither.
        """
        if state is not None:
            self._take(state)
        self.fit(state or {})

    def _take(self, state: Mapping[str, Tensor]) -> None:
        given = self.adopt(state)
        own = self.state_dict()
        problems = [f"{name} is missing" for name in own if name not in given and not name.startswith(self.adds)]
        problems += [f"{name} has no place" for name in given if name not in own and not name.startswith(self.drops)]
        problems += [
            f"{name} is {tuple(tensor.shape)} instead of {tuple(own[name].shape)}"
            for name, tensor in given.items()
            if name in own and tensor.shape != own[name].shape
        ]
        if problems:
            raise ValueError(
                f"expected the weights of the stage before stage {self.config.stage}; got others: {'; '.join(problems[:5])}"
                f"{f' and {len(problems) - 5} more' if len(problems) > 5 else ''}; start from a run of that stage (--init), "
                "with the same model sizes"
            )
        self.load_state_dict({name: tensor for name, tensor in given.items() if name in own}, strict=False)

    @torch.no_grad()
    def front_features(self, num_batches: int) -> Iterator[tuple[Batch, Tensor]]:
        """Run the front half over training batches in evaluation mode: each batch with its hidden frames (B, T, D)."""
        was_training = self.training
        self.eval()
        for micro in range(num_batches):
            batch = self.batch(0, micro).to(self.model.trunk.norm.weight.device)
            yield batch, self.model.trunk.encode(self.mel(self.input_wave(batch)))
        self.train(was_training)

    @abstractmethod
    def input_wave(self, batch: Batch) -> Tensor:
        """Give the waves (B, S) that the trunk hears."""

    def fit(self, given: Mapping[str, Tensor]) -> None:
        """Fit to training data what is new and not among the tensors (...) that were given."""

    def adopt(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename tensors (...) of the stage before to their names here."""
        return dict(state)
