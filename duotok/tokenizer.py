"""DuoTok: two waves in, two streams of codes out, and back.

Encoding is defined by canonical windows (windows.py), each computed in one fixed batch shape. Hence a stream, a file of
three hours and a batch give the same codes, memory is flat, and second 1 never depends on second 200.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import ModelHubMixin
from torch import Tensor, nn

from . import config as configuration
from . import storage
from .codes import Codes
from .decoder import Decoded, Decoder, Sampling, decode, load_decoder
from .fixed_math import exact_math
from .model.semantic import SemanticConfig, SemanticModel
from .stream import EncodeStream, Wave, list_songs
from .windows import WindowPolicy, count_frames

FORMAT_VERSION = 1
_CONFIGS = Path(__file__).parent / "configs"
_OPTIONS = frozenset(("revision", "cache_dir", "token", "local_files_only", "force_download"))  # of huggingface_hub


@dataclass(frozen=True)
class TokenizerConfig:
    """Everything a checkpoint's config.yaml holds.

    Attributes:
        format_version: of the checkpoint's files.
        trained: False for random weights, which make valid but meaningless tokens.
        windows: the window policy.
        model: the semantic model.
    """

    format_version: int = FORMAT_VERSION
    trained: bool = False
    windows: WindowPolicy = field(default_factory=WindowPolicy)
    model: SemanticConfig = field(default_factory=SemanticConfig)


class DuoTok(nn.Module, ModelHubMixin, library_name="duotok", tags=["music", "audio-tokenizer"], license="apache-2.0"):
    """A tokenizer: `encode` turns waves into codes, `stream` does so piece by piece, `decode` turns codes into waves."""

    def __init__(self, config: TokenizerConfig, model: SemanticModel) -> None:
        """Wrap an exported model; `load`, `from_pretrained` and `from_config` make one."""
        super().__init__()
        if model.config.bottleneck.kind != "codebook":
            raise ValueError(f"DuoTok: expected an exported model; got kind {model.config.bottleneck.kind!r}; call .export()")
        self.config = replace(config, model=model.config)
        self.model = model.eval().requires_grad_(False)
        self._fingerprint, self._silent_codes = "", dict[int, Tensor]()  # both of the weights as they were at `_state`
        self._state: tuple | None = None
        self._folder: Path | None = None  # where a decoder may be, loaded when first asked for
        self._decoder: Decoder | None = None
        self._hub_mixin_config = None  # config.yaml is the configuration; the mixin would add a second file

    @classmethod
    def from_config(cls, name: str | Path, overrides: Sequence[str] = (), seed: int = 0) -> DuoTok:
        """Build an untrained tokenizer.

        Args:
            name: a path ending in .yaml, or one of the package's configs, "tokenizer" or "tiny/tokenizer".
            overrides: `key=value` changes.
            seed: of the random weights.

        Raises:
            ConfigError: for an unknown name, key or value.
        """
        path = Path(name) if str(name).endswith(".yaml") else _CONFIGS / f"{name}.yaml"
        if not path.is_file():
            raise configuration.ConfigError(
                f"config: expected a .yaml file, tokenizer or tiny/tokenizer; got {str(name)!r}; correct the name"
            )
        config = configuration.load(path, TokenizerConfig, overrides)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(replace(config, trained=False), SemanticModel(config.model).export())

    @property
    def sample_rate(self) -> int:
        """Rate in Hz at which the model listens; `encode` resamples to it."""
        return self.config.model.mel.spec.sample_rate

    @property
    def frame_rate(self) -> int:
        """Codes per second and track."""
        return self.config.model.frame_rate

    @property
    def codebook_size(self) -> int:
        """Codes per track."""
        return len(self.model.codebook(0))

    @property
    def num_tracks(self) -> int:
        """Vocals and accompaniment."""
        return len(self.model.trunk.bottleneck.branches)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights: float32 unless the user casts, which changes the fingerprint."""
        return self.model.trunk.norm.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.trunk.norm.weight.device

    @property
    def fingerprint(self) -> str:
        """sha256 over the configuration (window policy included), the weights and their dtype, computed when asked for."""
        self._forget_changed()
        self._fingerprint = storage.fingerprint(self.config, self.model.state_dict())
        return self._fingerprint

    @property
    def known_fingerprint(self) -> str:
        """The fingerprint, computed again when the weights are moved, cast or written to (but for `.data`, as in torch)."""
        self._forget_changed()
        return self._fingerprint or self.fingerprint

    def _forget_changed(self) -> None:
        """Forget what was kept of weights that have changed since."""
        tensors = self.model.state_dict().values()
        counted = not any(tensor.is_inference() for tensor in tensors)  # such tensors do not count their changes
        state = tuple((tensor.data_ptr(), tensor._version) for tensor in tensors) if counted else None
        if state is None or state != self._state:
            self._fingerprint, self._silent_codes, self._state = "", {}, state

    @property
    def can_decode(self) -> bool:
        """Whether there is a decoder, loaded or not."""
        return self._decoder is not None or storage.has_decoder(self._folder)

    @property
    def decoder(self) -> Decoder:
        """What turns codes into waves, its weights read when first asked for; `decoder.sample_rate` is the waves'.

        Raises:
            CheckpointError: if there is none, or it belongs to another tokenizer.
        """
        if self._decoder is None:
            self._decoder = load_decoder(self._folder, self.fingerprint).to(self.device)
        return self._decoder

    def train(self, mode: bool = True) -> DuoTok:
        """Stay in evaluation mode, whatever a module around it does: batch statistics would change codes, and the weights."""
        return super().train(False)

    def num_frames(self, num_samples: int, sample_rate: int) -> int:
        """Count the frames of a song: T = ceil(num_samples * frame_rate / sample_rate), always."""
        return count_frames(num_samples, sample_rate, self.frame_rate)

    def encode(self, vocals: Wave | Sequence[Wave], accompaniment: Wave | Sequence[Wave], sample_rate: int) -> Codes:
        """Tokenize one song or several.

        Args:
            vocals, accompaniment: (S,) or (B, S) mono, (B, C, S) with channels, or a list of (S_i,) or (C, S_i); floats in
                [-1, 1], or int16. Both tracks of a song have the same length.
            sample_rate: of the waves, in Hz.

        Returns:
            `Codes` of B songs (1 for a single one).

        Raises:
            ValueError: if the tracks differ in number or length.
        """
        songs = [list_songs(vocals), list_songs(accompaniment)]
        if len(songs[0]) != len(songs[1]):
            raise ValueError(
                f"encode: expected as many vocals as accompaniments; got {len(songs[0])} and {len(songs[1])}; pair them"
            )
        streams = [self.stream(sample_rate) for _ in songs[0]]
        windows = (
            ((song, track), track, wave)
            for song, (stream, *tracks) in enumerate(zip(streams, *songs, strict=True))
            for track, wave in (*stream.feed(*tracks), *stream.end())
        )
        pieces: dict[tuple[int, int], list[Tensor]] = {}
        for key, codes in self.encode_windows(windows):
            pieces.setdefault(key, []).append(codes)
        lengths = torch.tensor([stream.num_frames for stream in streams], dtype=torch.int64)
        tensor = torch.full((len(streams), self.num_tracks, max(lengths.tolist(), default=0)), -1)
        for (song, track), codes in pieces.items():
            tensor[song, track, : lengths[song]] = torch.cat(codes)[: lengths[song]]
        return Codes(tensor, lengths, self.frame_rate, self.known_fingerprint)

    def stream(self, sample_rate: int) -> EncodeStream:
        """Start a song whose samples arrive piece by piece; its codes equal those of `encode`."""
        return EncodeStream(self, sample_rate)

    @torch.inference_mode()
    def encode_windows(self, windows: Iterable[tuple[object, int, np.ndarray]]) -> Iterator[tuple[object, Tensor]]:
        """Tokenize canonical windows in fixed batches.

        Args:
            windows: (key, track, wave) with wave (S,) float32 of `window_frames`.

        Yields:
            (key, codes) in the same order; codes (stride_frames,) int64 on the CPU, without the margins.
        """
        waiting: list[tuple[object, int, np.ndarray]] = []
        for window in windows:
            if not window[2].any():  # digital silence, common in vocal stems: its codes never change
                yield from self._encode_batch(waiting)
                waiting = []
                yield window[0], self._codes_of_silence(window)
                continue
            waiting.append(window)
            if len(waiting) == self.config.windows.batch_size:
                yield from self._encode_batch(waiting)
                waiting = []
        yield from self._encode_batch(waiting)

    def _encode_batch(self, batch: list[tuple[object, int, np.ndarray]]) -> list[tuple[object, Tensor]]:
        if not batch:
            return []
        policy = self.config.windows
        filler = [(None, 0, np.zeros_like(batch[0][2]))] * (policy.batch_size - len(batch))
        _, tracks, waves = zip(*batch, *filler, strict=True)
        with exact_math(), torch.autocast(self.device.type, enabled=False):
            wave = torch.from_numpy(np.stack(waves)).to(self.device, torch.promote_types(self.dtype, torch.float32))
            codes = self.model.encode(wave, torch.tensor(tracks, device=self.device)).cpu()
        kept = codes[:, policy.margin_frames : policy.margin_frames + policy.stride_frames]
        return [(key, row) for (key, _, _), row in zip(batch, kept, strict=False)]

    def _codes_of_silence(self, window: tuple[object, int, np.ndarray]) -> Tensor:
        self._forget_changed()
        if window[1] not in self._silent_codes:
            [(_, self._silent_codes[window[1]])] = self._encode_batch([window])
        return self._silent_codes[window[1]]

    def decode(self, codes: Codes | Tensor | Sequence[Tensor], steps: int = 50, seed: int = 0, **options) -> Decoded:
        """Turn codes into waves; the same codes and options give the same waves on a CPU.

        Args:
            codes: `Codes`, a tensor (2, T) or (B, 2, T), or a pair of (T,), vocals first.
            steps, seed, options: of `Sampling`: guidance, sampler.

        Returns:
            (mix, vocals, accompaniment), each (B, C, S) at `decoder.sample_rate`; `Decoder.waves` streams longer songs.

        Raises:
            ValueError: if codes are out of range, tracks differ in length, or another tokenizer made them.
            CheckpointError: if there is no decoder.
        """
        return decode(self, codes, Sampling(steps=steps, seed=seed, **options))

    def save(self, folder: str | Path, **notes: str) -> None:
        """Write config.yaml, model.safetensors and fingerprint.txt into a folder, and the decoder if there is one.

        Args:
            folder: made if it does not exist.
            notes: go into the header of model.safetensors, for example how it was trained; the fingerprint ignores them.
        """
        storage.write(Path(folder), configuration.dump(self.config), self.model.state_dict(), self.fingerprint, notes)
        if self.can_decode:
            self.decoder.save(Path(folder))

    def _save_pretrained(self, save_directory: Path) -> None:
        self.save(save_directory)

    @classmethod
    def from_pretrained(cls, name: str | Path, *, device: str | torch.device = "cpu", **options) -> DuoTok:
        """Load a tokenizer.

        Args:
            name: "tiny", a folder that `save` wrote, or a hub id "owner/name".
            device: where to put the weights.
            options: `revision`, `cache_dir`, `token`, `local_files_only`, `force_download` of huggingface_hub.

        Raises:
            CheckpointError: if there is none, if it is damaged, or of another version. Pickle is never read.
            ValueError: if this machine lacks the device.
        """
        storage.refuse_absent_device(device)
        if unknown := sorted(set(options) - _OPTIONS):
            raise TypeError(f"load: expected options out of {', '.join(sorted(_OPTIONS))}; got {unknown[0]}; leave it out")
        folder = storage.find(name, **options)
        config = storage.read_config(folder, TokenizerConfig, FORMAT_VERSION)
        model = SemanticModel(config.model)
        storage.read_weights(folder, model)
        tokenizer = cls(config, model)
        tokenizer._folder = folder
        storage.check_fingerprint(folder, tokenizer.fingerprint)
        return tokenizer.to(device)


def load(name: str | Path = "tiny", *, device: str | torch.device = "cpu", **options) -> DuoTok:
    """Load a tokenizer: "tiny", a folder, or a hub id "owner/name"; see `DuoTok.from_pretrained`."""
    return DuoTok.from_pretrained(name, device=device, **options)
