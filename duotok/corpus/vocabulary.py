"""One vocabulary for both tracks, and the orders in which a language model reads them.

    0 ... 32,767         vocal code v              v
    32,768 ... 65,535    accompaniment code a      32,768 + a
    65,536               <bos>                     a song begins
    65,537               <eos>                     a song ends
    65,538               <pad>                     fills batches, and the corners of the delayed layout
    65,539               <sep>                     between songs, or between a condition and the song, where a model wants one
    65,540               <mask>                    for models that fill in
    65,541 ... 65,599    reserved
    65,600 ...           yours, for text

It never changes; a run's codebooks may be smaller, and leave gaps. The codes alone are 65,536 ids and fill 16 bits exactly, so
that ids are 32 bits wide wherever the tracks share one vocabulary.

Layouts, for codes (2, T), vocals first:

    parallel       (T, 2) uint16     the codes themselves, for a model that has a table for each track
    delayed        (T + 1, 2) uint32 ids; the accompaniment comes a frame later, with <pad> in two corners (MusicGen's pattern,
                                     Copet et al., arXiv 2306.05284)
    interleaved    (2 T,) uint32     ids v, a, v, a, ...

Formats that are one stream of ids hold a parallel or delayed song as two streams of ids of one length, one for each track.
"""

from __future__ import annotations

from types import MappingProxyType

import numpy as np

TRACK_SIZE = 32_768
BOS, EOS, PAD, SEP, MASK = range(2 * TRACK_SIZE, 2 * TRACK_SIZE + 5)
SPECIALS = MappingProxyType({"<bos>": BOS, "<eos>": EOS, "<pad>": PAD, "<sep>": SEP, "<mask>": MASK})
FIRST_FREE = 65_600
LAYOUTS = ("parallel", "delayed", "interleaved")
STREAMS = ("vocals", "accompaniment")


def to_ids(codes: np.ndarray) -> np.ndarray:
    """Turn codes (2, T) of vocals and accompaniment into ids (2, T) uint32."""
    return codes.astype(np.uint32) + np.array([[0], [TRACK_SIZE]], np.uint32)


def arrange(codes: np.ndarray, layout: str) -> np.ndarray:
    """Put the codes of a song in a layout.

    Args:
        codes: (2, T), vocals first, 0 to 32,767.
        layout: "parallel", "delayed" or "interleaved".

    Returns:
        (T, 2) uint16, (T + 1, 2) uint32 or (2 T,) uint32, see above.
    """
    if layout == "parallel":
        return np.ascontiguousarray(codes.T.astype(np.uint16))
    ids = to_ids(codes)
    if layout == "interleaved":
        return ids.T.reshape(-1)
    delayed = np.full((codes.shape[1] + 1, 2), PAD, np.uint32)
    delayed[:-1, 0], delayed[1:, 1] = ids
    return delayed


def restore(arranged: np.ndarray, layout: str) -> np.ndarray:
    """Undo `arrange`, of an export's arrays or of what a language model wrote, without <bos> and <eos>.

    Returns:
        Codes (2, T) int64 for `DuoTok`.

    Raises:
        ValueError: if the shape is not the layout's, or an id stands where its track does not belong.
    """
    found = np.asarray(arranged).astype(np.int64)
    right = found.ndim == 1 and len(found) % 2 == 0 if layout == "interleaved" else found.ndim == 2 and found.shape[1] == 2
    if not right:
        raise ValueError(f"{layout}: expected an array as `arrange` makes it; got {found.shape}; check the layout")
    if layout == "interleaved":
        found = found.reshape(-1, 2)
    elif layout == "delayed":
        found = np.stack((found[:-1, 0], found[1:, 1]), axis=1)
    if layout == "parallel" and len(found) and found[:, 1].min() >= TRACK_SIZE:  # ids, as files of one vocabulary have them
        found = found - [0, TRACK_SIZE]
    codes = found.T - (0 if layout == "parallel" else np.array([[0], [TRACK_SIZE]]))
    if codes.size and not 0 <= codes.min() <= codes.max() < TRACK_SIZE:
        raise ValueError(f"{layout}: expected codes of 0 to {TRACK_SIZE - 1} on each track; got others; cut specials off first")
    return codes


def streams(codes: np.ndarray, layout: str) -> dict[str, np.ndarray]:
    """Turn a song's codes (2, T) into streams of ids between <bos> and <eos>.

    Returns:
        {"tokens": (2 T + 2,)} of the interleaved layout; of the others {"vocals": (n,), "accompaniment": (n,)} with n = T + 2,
        or T + 3 where they are delayed. All uint32.
    """
    if layout == "interleaved":
        return {"tokens": _framed(arrange(codes, layout))}
    columns = to_ids(codes) if layout == "parallel" else arrange(codes, layout).T
    return {name: _framed(column) for name, column in zip(STREAMS, columns, strict=True)}


def _framed(ids: np.ndarray) -> np.ndarray:
    return np.concatenate(([np.uint32(BOS)], ids, [np.uint32(EOS)])).astype(np.uint32)
