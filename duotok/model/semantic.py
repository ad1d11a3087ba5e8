"""The semantic model: front end, trunk and heads, as stages 1 to 3 train it and an exported tokenizer holds it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from .bottleneck import BottleneckConfig, Branch, DualSimVQ
from .heads import HeadsConfig, make_heads
from .mel import LogMel, LogMelConfig
from .trunk import DOWNSAMPLING, Trunk, TrunkConfig, TrunkOutput


@dataclass(frozen=True)
class SemanticConfig:
    """Everything that shapes the semantic model."""

    mel: LogMelConfig = field(default_factory=LogMelConfig)
    trunk: TrunkConfig = field(default_factory=TrunkConfig)
    bottleneck: BottleneckConfig = field(default_factory=BottleneckConfig)
    heads: HeadsConfig = field(default_factory=HeadsConfig)

    def __post_init__(self) -> None:
        samples = self.mel.spec.hop_length * DOWNSAMPLING
        if samples < 1 or self.mel.spec.sample_rate < 1 or self.mel.spec.sample_rate % samples:
            raise ValueError(
                f"expected mel.spec.sample_rate to be a multiple of {DOWNSAMPLING} hops, so that frames per second are whole; "
                f"got {self.mel.spec.sample_rate} and hop_length {self.mel.spec.hop_length}; change one"
            )

    @property
    def frame_rate(self) -> int:
        """Codes per second and track, 25."""
        return self.mel.spec.sample_rate // (self.mel.spec.hop_length * DOWNSAMPLING)


class SemanticModel(nn.Module):
    """Waves of one track each to hidden frames, codes and head outputs."""

    def __init__(self, config: SemanticConfig) -> None:
        super().__init__()
        self.config = config
        self.mel = LogMel(config.mel)
        self.trunk = Trunk(config.trunk, config.bottleneck, config.mel.spec.n_mels)
        self.heads = make_heads(config.heads, config.trunk.block.width, config.mel.spec.n_mels)

    def forward(self, wave: Tensor, tracks: Tensor | None = None, seed: Tensor | None = None) -> TrunkOutput:
        """Run the whole trunk on waves (B, S); see `Trunk.forward`. Heads are applied to `.hidden` by the caller."""
        return self.trunk(self.mel(wave), tracks, seed)

    def encode(self, wave: Tensor, tracks: Tensor) -> Tensor:
        """Tokenize waves with the front half alone, in the weights' precision behind the Mel frames, which keep the waves'.

        Args:
            wave: (B, S) mono in [-1, 1], S a multiple of four hops.
            tracks: (B,) int64, 0 vocals and 1 accompaniment.

        Returns:
            (B, T) int64 codes.
        """
        mel = self.mel(wave).to(self.trunk.norm.weight.dtype)
        return self.trunk.bottleneck(self.trunk.encode(mel), tracks).indices

    def export(self) -> SemanticModel:
        """Copy the model with its quantizers frozen to the effective codes (kind "codebook"), in eval mode.

        Raises:
            ValueError: if the bottleneck is not SimVQ.
        """
        frozen = SemanticModel(replace(self.config, bottleneck=replace(self.config.bottleneck, kind="codebook")))
        state = {name: value for name, value in self.state_dict().items() if ".quantizer." not in name}
        for track, branch in enumerate(_branches(self)):
            state[f"trunk.bottleneck.branches.{track}.quantizer.table"] = branch.quantizer.codes()
        frozen.load_state_dict(state)
        return frozen.eval()

    def codebook(self, track: int) -> Tensor:
        """Return the codes that a track is searched in, (K, d) float32."""
        return _branches(self)[track].quantizer.codes()


def _branches(model: SemanticModel) -> list[Branch]:
    slot = model.trunk.bottleneck
    if not isinstance(slot, DualSimVQ):
        raise ValueError(
            f"expected a model with codebooks (bottleneck.kind simvq or codebook); got {type(slot).__name__}; "
            "train stage 3 first"
        )
    return list(slot.branches)
