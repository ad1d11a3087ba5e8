"""A song as a stream of its two tracks, whatever it is made of: two stems, one multi-stem file, or a mixture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from duotok.audio import AudioReader, Resampler, file_sha256, open_audio, to_mono
from duotok.integrity import AudioError, SignalCheck
from duotok.separation import Separator, separate

from .songs import Song
from .stem_cache import cached_name, keep_stems, kept_samples, quantize, read_stems

# Stems of one song may differ by an encoder's padding; the shorter is filled with silence.
_LENGTH_TOLERANCE_S = 0.1
# Streams of MUSDB18's .stem.mp4 files.
_ACCOMPANIMENT_STREAMS, _VOCAL_STREAM = (1, 2, 3), 4


@dataclass(frozen=True)
class MixturePolicy:
    """What becomes of a song that has no stems.

    Attributes:
        separator: splits it; None puts it whole on one track.
        track: that track, "accompaniment" or "vocals"; the other is silent.
        cache: folder for separated stems, so that a second run need not separate again; None keeps none.
    """

    separator: Separator | None = None
    track: str = "accompaniment"
    cache: Path | None = None

    @property
    def identity(self) -> str:
        """What is stored with the tokens."""
        return self.separator.identity if self.separator else f"none:{self.track}"


class SongStream:
    """An opened song.

    Attributes:
        source_rate, channels: of the source, as the token file states them.
        sample_rate: of the blocks; the separator's own rate for a separated mixture.
        num_samples: of the source at `source_rate`; complete once `blocks` has ended.
        knows_vocals: whether the vocals are a stem, given or separated.
    """

    def __init__(self, song: Song, readers: list[AudioReader], policy: MixturePolicy) -> None:
        self._song, self._readers, self._policy = song, readers, policy
        info = readers[0].info
        self.source_rate, self.channels, self.num_samples = info.sample_rate, info.channels, 0
        self._separator = policy.separator if len(readers) == 1 else None
        self.knows_vocals = len(readers) > 1 or self._separator is not None
        self.sample_rate = self._separator.sample_rate if self._separator else info.sample_rate

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (vocals, accompaniment), (n,) float32 mono each, to the end of the song.

        Raises:
            AudioError: if the song cannot be trusted; many of its defects show only at its end.
        """
        check = SignalCheck(self._song.source, self.source_rate)
        blocks = self._checked(check)
        if len(self._readers) > 1:  # vocals first, the others add up to the accompaniment
            yield from ((to_mono(vocals), sum(map(to_mono, rest))) for vocals, *rest in blocks)
        elif self._separator:
            yield from self._separated(mixture for (mixture,) in blocks)
        else:
            for (mixture,) in blocks:
                pair = to_mono(mixture), np.zeros(mixture.shape[1], np.float32)
                yield pair if self._policy.track == "vocals" else pair[::-1]
        check.finish()

    def _checked(self, check: SignalCheck) -> Iterator[tuple[np.ndarray, ...]]:
        """Read all files side by side in blocks of one length, within the song's segment."""
        rate, song = self.source_rate, self._song
        skip, count = round(song.start * rate), None if song.duration is None else round(song.duration * rate)
        sources = [_segment(reader, skip, count) for reader in self._readers]
        channels = [reader.info.channels for reader in self._readers]
        for parts in _side_by_side(sources, channels, round(_LENGTH_TOLERANCE_S * rate), song.source):
            check.push(*parts)
            self.num_samples += parts[0].shape[1]
            yield parts

    def _separated(self, mixtures: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        cached = self._cache_path()
        if cached and (kept := kept_samples(cached)):
            for _ in mixtures:  # the source is still read to its end and checked
                pass
            expected = self.num_samples * self.sample_rate / self.source_rate
            if abs(kept - expected) > 2:
                cached.unlink(missing_ok=True)
                found = f"expected kept stems of {expected:.0f} samples; got {kept} in {cached.name}, which is removed"
                raise AudioError("separate", "length_mismatch", f"{self._song.source}: {found}; try the song again")
            yield from read_stems(cached)
            return
        stereo = _resample_stereo(mixtures, self.source_rate, self.sample_rate)
        pairs = quantize((to_mono(v), to_mono(a)) for v, a in separate(stereo, self._separator))
        yield from keep_stems(pairs, cached, self.sample_rate) if cached else pairs

    def _cache_path(self) -> Path | None:
        if self._policy.cache is None:
            return None
        sha256, separator = file_sha256(self._readers[0].path), self._separator.identity
        return self._policy.cache / cached_name(sha256, separator, self._song.start, self._song.duration)


@contextmanager
def open_song(song: Song, policy: MixturePolicy) -> Iterator[SongStream]:
    """Open a song's files; stems are preferred to a mixture.

    Raises:
        AudioError: if one of them cannot be opened or the stems' rates differ, or the plan found a fault.
    """
    if song.duplicate_of is not None:
        found = f"expected an id of its own; got that of {song.duplicate_of}, which keeps it"
        raise AudioError("plan", "duplicate_id", f"{song.source}: {found}; give it another")
    if song.same_stem is not None:
        found = f"expected one file for each stem; got {' and '.join(song.same_stem)}"
        raise AudioError("plan", "same_stem", f"{song.source}: {found}; remove one, or name the pairs in a manifest")
    if song.vocal_path and song.accompaniment_path:
        wanted = [(song.vocal_path, 0), (song.accompaniment_path, 0)]
    elif song.stems_path:
        wanted = [(song.stems_path, stream) for stream in (_VOCAL_STREAM, *_ACCOMPANIMENT_STREAMS)]
    elif song.mixture_path:
        wanted = [(song.mixture_path, 0)]
    else:
        found = "vocals" if song.vocal_path else "an accompaniment"
        raise AudioError(
            "open", "no_partner", f"{song.source}: expected both stems; got {found} alone; pass the other too, or rename it"
        )
    with ExitStack() as stack:
        readers = [stack.enter_context(open_audio(path, stream)) for path, stream in wanted]
        rates = [reader.info.sample_rate for reader in readers]
        if len(set(rates)) > 1:
            found = ", ".join(f"{Path(path).name} {rate} Hz" for (path, _), rate in zip(wanted, rates, strict=True))
            raise AudioError(
                "open", "rate_mismatch", f"{song.source}: expected stems of one sample rate; got {found}; resample one"
            )
        yield SongStream(song, readers, policy)


def _segment(reader: AudioReader, skip: int, count: int | None) -> Iterator[np.ndarray]:
    """Cut samples [skip, skip + count) out of a reader's blocks.

    Raises:
        AudioError: "truncated" if the file ends before the segment does.
    """
    end = None if count is None else skip + count
    start = 0
    for block in reader.blocks():
        stop = start + block.shape[1]
        piece = block[:, max(0, skip - start) : None if end is None else max(0, end - start)]
        if piece.shape[1]:
            yield piece
        if end is not None and stop >= end:
            return
        start = stop
    if (end or skip) > start:
        found = f"expected a segment up to sample {end or skip}; got {start}"
        raise AudioError("validate", "truncated", f"{reader.path}: {found}; correct start and duration")


def _side_by_side(
    sources: list[Iterator[np.ndarray]], channels: list[int], tolerance: int, name: str
) -> Iterator[tuple[np.ndarray, ...]]:
    """Cut several streams into blocks of equal length; the shorter ones end in silence, up to `tolerance` samples."""
    held: list[np.ndarray | None] = [None] * len(sources)
    missing = [0] * len(sources)
    while True:
        for i, source in enumerate(sources):
            if held[i] is None or not held[i].shape[1]:
                held[i] = next(source, None)
        alive = [block for block in held if block is not None]
        if not alive:
            return
        size = min(block.shape[1] for block in alive)
        missing = [lack + size * (block is None) for lack, block in zip(missing, held, strict=True)]
        if max(missing) > tolerance:
            raise AudioError(
                "validate", "length_mismatch",
                f"{name}: expected stems of one length; got one that ends more than {_LENGTH_TOLERANCE_S} s before another; "
                "check the pair",
            )  # fmt: skip
        yield tuple(
            np.zeros((count, size), np.float32) if block is None else block[:, :size]
            for block, count in zip(held, channels, strict=True)
        )
        held = [block if block is None else block[:, size:] for block in held]


def _resample_stereo(blocks: Iterable[np.ndarray], in_rate: int, out_rate: int) -> Iterator[np.ndarray]:
    """Bring blocks (C, n) to stereo (2, m) at the separator's rate; mono is doubled, further channels are mixed down."""
    left, right = Resampler(in_rate, out_rate), Resampler(in_rate, out_rate)
    for block in blocks:
        pair = block if len(block) == 2 else np.broadcast_to(to_mono(block), (2, block.shape[1]))
        yield np.stack((left.push(pair[0]), right.push(pair[1])))
    yield np.stack((left.finish(), right.finish()))
