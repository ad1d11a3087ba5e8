"""The vocabulary is golden: models that were trained on exports depend on every number here."""

from __future__ import annotations

import numpy as np
import pytest

from duotok.corpus import vocabulary
from duotok.corpus.vocabulary import LAYOUTS, arrange, restore, streams, to_ids

CODES = np.array([[5, 0, 32_767], [7, 32_767, 0]], np.uint16)


def test_the_numbers_never_change():
    assert dict(vocabulary.SPECIALS) == {"<bos>": 65_536, "<eos>": 65_537, "<pad>": 65_538, "<sep>": 65_539, "<mask>": 65_540}
    assert vocabulary.TRACK_SIZE == 32_768 and vocabulary.FIRST_FREE == 65_600
    assert to_ids(CODES).tolist() == [[5, 0, 32_767], [32_775, 65_535, 32_768]]


def test_layouts_never_change():
    assert arrange(CODES, "parallel").tolist() == [[5, 7], [0, 32_767], [32_767, 0]]
    assert arrange(CODES, "delayed").tolist() == [[5, 65_538], [0, 32_775], [32_767, 65_535], [65_538, 32_768]]
    assert arrange(CODES, "interleaved").tolist() == [5, 32_775, 0, 65_535, 32_767, 32_768]
    assert {name: ids.tolist() for name, ids in streams(CODES, "interleaved").items()} == {
        "tokens": [65_536, 5, 32_775, 0, 65_535, 32_767, 32_768, 65_537]
    }
    assert {name: ids.tolist() for name, ids in streams(CODES, "parallel").items()} == {
        "vocals": [65_536, 5, 0, 32_767, 65_537],
        "accompaniment": [65_536, 32_775, 65_535, 32_768, 65_537],
    }
    assert {name: ids.tolist() for name, ids in streams(CODES, "delayed").items()} == {
        "vocals": [65_536, 5, 0, 32_767, 65_538, 65_537],
        "accompaniment": [65_536, 65_538, 32_775, 65_535, 32_768, 65_537],
    }


def test_ids_need_more_than_16_bits():
    for layout in LAYOUTS:
        assert arrange(CODES, layout).dtype == (np.uint16 if layout == "parallel" else np.uint32)
        assert all(ids.dtype == np.uint32 for ids in streams(CODES, layout).values())
    assert to_ids(CODES).max() == np.iinfo(np.uint16).max, "the codes alone fill 16 bits: no special fits"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("frames", [0, 1, 2, 999])
def test_restore_undoes_arrange(layout, frames):
    codes = np.random.default_rng(frames).integers(0, 32_768, (2, frames), dtype=np.uint16)
    found = restore(arrange(codes, layout), layout)
    assert found.dtype == np.int64 and np.array_equal(found, codes)


def test_streams_of_every_layout_are_restored_once_specials_are_cut_off():
    codes = np.random.default_rng(0).integers(32_768, size=(2, 9))
    for layout in LAYOUTS:
        columns = [stream[1:-1] for stream in streams(codes, layout).values()]
        found = columns[0] if layout == "interleaved" else np.stack(columns, axis=1)
        assert np.array_equal(restore(found, layout), codes), layout


def test_what_is_no_song_is_refused():
    for array, layout in (([5], "interleaved"), ([[5, 6]], "interleaved"), ([5, 6], "parallel"), ([[5, 6, 7]], "delayed")):
        with pytest.raises(ValueError, match="expected an array as"):
            restore(np.array(array), layout)
    for array, layout in (
        ([32_768, 5], "interleaved"), ([5, 65_538], "interleaved"), ([[5, 65_536]], "parallel"),
        ([[5, 32_768], [5, 5]], "parallel"), ([[5, 5], [5, 5]], "delayed"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="expected codes of 0 to 32767 on each track"):
            restore(np.array(array), layout)
