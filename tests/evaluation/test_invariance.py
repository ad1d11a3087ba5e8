"""Miss rates: zero where the tokenizer promises it, and seen where a codec is made to depend on what should not matter."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from make_codecs import SampleCodec
from make_songs import four_songs, songs_of
from torch import Tensor

from duotok.evaluation.codec import DuoTokCodec, Encoded
from duotok.evaluation.invariance import InvarianceConfig, measure_invariance, miss_rate, read_clips


class FrailCodec(SampleCodec):
    """Depends on neighbours, on what follows, on where a piece starts, on threads and on the dtype."""

    def __init__(self, shift: int = 0) -> None:
        super().__init__()
        self.shift = shift

    def encode(self, waves: Tensor) -> Encoded:
        codes = super().encode(waves).codes
        changed = torch.zeros(codes.shape[-1], dtype=torch.bool)
        changed[: 1 + self.shift + (len(codes) > 1) + 2 * (torch.get_num_threads() == 3)] = True
        changed[codes.shape[-1] - 1] |= not waves[..., -1].any()  # what follows a song changes its own first frame, too
        codes[..., 1] += 7 * (not waves[..., -100:].any())
        return Encoded(torch.where(changed, 0, codes), codes.float())

    def cast(self, dtype: torch.dtype) -> FrailCodec:
        if dtype == torch.float16:
            raise RuntimeError("no kernel for Half\nand a stack")
        return FrailCodec(shift=1)


def test_misses_are_counted_by_codebook_and_lost_frames_are_misses():
    base = torch.tensor([[[1, 2, 3, 4], [5, 6, 7, 8]]])
    assert miss_rate(base, base)["miss_rate"] == 0
    assert miss_rate(base, F.pad(base, (0, 3)))["miss_rate"] == 0
    found = miss_rate(base, torch.tensor([[[1, 2, 0, 4], [5, 6, 7, 8]]]))
    assert found == {"miss_rate": 1 / 8, "by_codebook": [1 / 4, 0], "codes": 8}
    assert miss_rate(base, base[..., :3])["by_codebook"] == [1 / 4, 1 / 4]


def test_whatever_a_codec_depends_on_shows():
    clips = 0.5 * torch.rand(2, 1, 1, 4000) + 0.1
    seen: list[tuple[int, int]] = []
    config = InvarianceConfig(padding_s=0.1, piece_s=0.05, threads=3)
    found = measure_invariance(FrailCodec(), clips, config, lambda *done: seen.append(done))
    assert found["again"]["miss_rate"] == found["reference"]["miss_rate"] == 0
    frame = 1 / 1000
    assert found["batch"]["miss_rate"] == pytest.approx(frame) and found["padding"]["miss_rate"] == pytest.approx(frame)
    assert found["threads"]["miss_rate"] == pytest.approx(2 * frame) and found["bfloat16"]["miss_rate"] == pytest.approx(frame)
    assert found["pieces"]["miss_rate"] > frame and found["float16"] == {"error": "no kernel for Half"}
    assert seen[-1] == (8, 8)


def test_the_tokenizer_keeps_its_promises_on_songs(tmp_path, spread_tokenizer):
    codec = DuoTokCodec(spread_tokenizer)
    clips = read_clips(codec, songs_of(four_songs(tmp_path)).train[:2], 4.01)
    assert clips.shape == (2, 2, 1, 96_000)
    found = measure_invariance(codec, clips, InvarianceConfig(dtypes=("bfloat16",)))
    for name in ("again", "batch", "padding", "pieces", "threads"):
        assert found[name]["miss_rate"] == 0, name
    assert 0 < found["bfloat16"]["miss_rate"] < 1
    with pytest.raises(ValueError, match=r"dtypes: expected some of float64, .*; got int8; correct the names"):
        InvarianceConfig(dtypes=("int8",))
