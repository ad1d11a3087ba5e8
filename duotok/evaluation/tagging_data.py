"""Tagged clips: MagnaTagATune as it is distributed, and the codes of its clips.

    FOLDER/0/....mp3 ... FOLDER/f/....mp3      clips of about 29 s; folders 0 to b train, c validation, d to f test
    FOLDER/annotations_final.csv               tab-separated: clip_id, a column of 0 and 1 for each tag, mp3_path

The split is the one that MARBLE and Codec-Evaluation prepared. Clips without any of the tags stay in.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from duotok.audio import open_audio, to_mono
from duotok.integrity import AudioError
from duotok.model.bottleneck import TRACKS
from duotok.separation import Separator, separate

from .codec import Codec
from .sound import resample

ANNOTATIONS = "annotations_final.csv"
_SPLITS = {**dict.fromkeys("0123456789ab", "train"), "c": "valid", **dict.fromkeys("def", "test")}
_OTHER_COLUMNS = ("clip_id", "mp3_path")


@dataclass(frozen=True)
class Clip:
    """A clip: its file, and whether each tag is true of it."""

    path: Path
    labels: tuple[bool, ...]


@dataclass(frozen=True)
class TagSet:
    """Tags, and the clips of each split."""

    tags: tuple[str, ...]
    train: list[Clip] = field(default_factory=list)
    valid: list[Clip] = field(default_factory=list)
    test: list[Clip] = field(default_factory=list)


@dataclass(frozen=True)
class CodedClips:
    """Clips as a probe sees them.

    Attributes:
        codes: (M, N, T) int64, M chunks of all clips.
        clips: (M,) int64, the clip of each chunk, counted from 0.
        labels: (clips, tags) bool.
        problems: "path: reason" of clips that were left out.
    """

    codes: Tensor
    clips: Tensor
    labels: Tensor
    problems: list[str]


def read_magnatagatune(folder: Path, annotations: Path | None = None, num_tags: int = 50, limit: int | None = None) -> TagSet:
    """Read the annotations and keep the most frequent tags.

    Args:
        folder: of the clips.
        annotations: the CSV file; FOLDER/annotations_final.csv if None.
        num_tags: how many tags; ties go by name.
        limit: clips of each split at most, the first in the file's order.

    Raises:
        ValueError: if the file cannot be read, lacks a column, or a split has no clips.
    """
    path = annotations or folder / ANNOTATIONS
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: expected the annotations of MagnaTagATune; got {error}; name the file") from error
    names = [name for name in (rows[0] if rows else ()) if name not in _OTHER_COLUMNS]
    if not names or "mp3_path" not in rows[0]:
        raise ValueError(f"{path}: expected columns clip_id, tags and mp3_path, parted by tabs; got others; name the file")
    counts = {name: sum(row[name] == "1" for row in rows) for name in names}
    tags = tuple(sorted(names, key=lambda name: (-counts[name], name))[:num_tags])
    found = TagSet(tags)
    for row in rows:
        split = getattr(found, _SPLITS.get(row["mp3_path"][:1], ""), None)
        if split is not None and (limit is None or len(split) < limit):
            split.append(Clip(folder / row["mp3_path"], tuple(row[tag] == "1" for tag in tags)))
    if not (found.train and found.valid and found.test):
        sizes = f"{len(found.train)}, {len(found.valid)} and {len(found.test)}"
        raise ValueError(f"{path}: expected clips in folders 0 to b, c, and d to f; got {sizes}; correct mp3_path")
    return found


def code_clips(
    codec: Codec, clips: Sequence[Clip], chunk_s: float, separator: Separator | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CodedClips:  # fmt: skip
    """Encode clips in equal chunks; what is left of a clip is dropped, one shorter than a chunk is filled up with silence.

    A codec that streams encodes a clip whole, and its codes are cut.

    Args:
        codec: any.
        clips: files and labels.
        chunk_s: length of a chunk in seconds.
        separator: for codecs of two tracks; None puts clips whole on the accompaniment.
        progress: called with the clips that are done and their total.

    Raises:
        ValueError: if no clip can be read.
    """
    frames = round(chunk_s * codec.frame_rate)
    samples = round(frames * codec.sample_rate / codec.frame_rate)
    codes, owners, labels, problems = [], [], [], []
    for done, clip in enumerate(clips, 1):
        try:
            waves = _read(codec, clip.path, separator)
        except AudioError as error:
            problems.append(f"{clip.path}: {error}")
        else:
            chunks = _chunks(codec, waves, samples, frames)
            codes.append(chunks)
            owners += [len(labels)] * len(chunks)
            labels.append(clip.labels)
        if progress:
            progress(done, len(clips))
    if not codes:
        raise ValueError(f"expected clips that can be read; got none ({problems[0]}); correct the folder")
    return CodedClips(torch.cat(codes), torch.tensor(owners), torch.tensor(labels), problems)


def _chunks(codec: Codec, waves: Tensor, samples: int, frames: int) -> Tensor:
    """Encode waves (1, P, C, S) in whole chunks: (M, N, T)."""
    count = max(1, waves.shape[-1] // samples)
    waves = torch.nn.functional.pad(waves, (0, max(0, samples - waves.shape[-1])))[..., : count * samples]
    if math.isinf(codec.piece_s):
        codes = codec.encode(waves).codes[..., : count * frames]
        return codes[0].unflatten(1, (count, frames)).movedim(1, 0).cpu()
    chunks = torch.cat(waves.split(samples, dim=-1))
    return torch.cat([codec.encode(chunk[None]).codes[..., :frames].cpu() for chunk in chunks])


def _read(codec: Codec, path: Path, separator: Separator | None) -> Tensor:
    """Read a clip as a codec takes it, mono on each part: (1, P, C, S)."""
    with open_audio(path) as reader:
        rate = reader.info.sample_rate
        mix = torch.from_numpy(np.concatenate([np.zeros(0, np.float32), *map(to_mono, reader.blocks())]))
    if codec.parts != TRACKS:
        parts = resample(mix, rate, codec.sample_rate)[None]
    elif separator is None:
        whole = resample(mix, rate, codec.sample_rate)
        parts = torch.stack((torch.zeros_like(whole), whole))
    else:
        parts = resample(apart(resample(mix, rate, separator.sample_rate).expand(2, -1), separator).mean(1),
                         separator.sample_rate, codec.sample_rate)  # fmt: skip
    return parts[None, :, None].expand(-1, -1, codec.channels, -1)


def apart(mixture: Tensor, separator: Separator) -> Tensor:
    """Separate a mixture (2, S) at the separator's rate: vocals and accompaniment, (2, 2, S)."""
    tracks = zip(*separate([mixture.contiguous().numpy()], separator), strict=True)
    return torch.from_numpy(np.stack([np.concatenate(blocks, axis=-1) for blocks in tracks]))
