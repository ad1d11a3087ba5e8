"""The C ABI of the compiled library against malformed calls: a status, a sentence, and nothing written."""

from __future__ import annotations

import ctypes
import math

import pytest
import torch
from duotok.kernels import MelSpec, native
from duotok.kernels.log_mel import mel_filter_bank
from signals import noise

pytestmark = pytest.mark.skipif(native.why_not() is not None, reason=f"log_mel and chroma on the CPU: {native.why_not()}")


@pytest.fixture
def call():
    """A valid call of the C ABI as a function of the fields to change; returns its status and error text."""
    wave, window = noise(2, 1000), torch.hann_window(512)
    bands = native.bands(mel_filter_bank(MelSpec(n_fft=512, win_length=512, n_mels=4)))
    bank, mel, pitch_classes = torch.ones(257, 12), torch.empty(2, 11, 4), torch.empty(2, 11, 12)
    valid = {
        "wave": wave,
        "batch": 2,
        "channels": 1,
        "samples": 1000,
        "row_stride": 1000,
        "channel_stride": 1000,
        "hop": 100,
        "pad": 256,
        "window": window,
        "n_fft": 512,
        "power": 2,
        "num_threads": 2,
        "mel": mel,
        "mel_size": 88,
        "band_first": bands.first,
        "band_offset": bands.offset,
        "band_weights": bands.weights,
        "band_size": len(bands.weights),
        "num_bands": 4,
        "band_bins": 257,
        "log_mode": 1,
        "floor": 1e-10,
        "scale": 1.0,
        "chroma": pitch_classes,
        "chroma_size": 264,
        "chroma_bank": bank,
        "chroma_bins": 257,
    }
    library = ctypes.CDLL(native._library("cpu")._name)
    library.duotok_last_error.restype = ctypes.c_char_p

    def run(**changes):
        fields = {**valid, **changes}
        pointers = {name: value.data_ptr() if isinstance(value, torch.Tensor) else value for name, value in fields.items()}
        status = library.duotok_mel_chroma(ctypes.byref(native._Args(**pointers)))
        return status, library.duotok_last_error().decode()

    return run


def test_valid_call(call):
    assert call()[0] == 0
    assert call(mel=None)[0] == 0
    assert call(chroma=None, chroma_bank=None)[0] == 0
    assert call(num_threads=2**31 - 1)[0] == 0
    assert call(batch=0, mel_size=0, chroma_size=0)[0] == 0
    assert call(row_stride=0)[0] == 0
    assert call(channels=2, channel_stride=0)[0] == 0
    assert call(pad=0, mel_size=40, chroma_size=120)[0] == 0


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"mel": None, "chroma": None}, "mel, chroma: expected at least one output; got NULL twice"),
        ({"wave": None}, "wave, window: expected arrays; got NULL"),
        ({"window": None}, "wave, window: expected arrays; got NULL"),
        ({"band_first": None}, "expected arrays; got NULL"),
        ({"band_offset": None}, "expected arrays; got NULL"),
        ({"band_weights": None}, "expected arrays; got NULL"),
        ({"chroma_bank": None}, "chroma_bank: expected an array; got NULL"),
        ({"batch": -1}, "expected batch >= 0"),
        ({"samples": 0}, "samples >= 1"),
        ({"samples": -(2**63)}, "samples >= 1"),
        ({"samples": 2**63 - 1, "hop": 1}, "in range"),
        ({"samples": 2**55, "hop": 1}, "mel_size: expected"),
        ({"batch": 2**62}, "in range"),
        ({"row_stride": -1000}, "row_stride >= 0"),
        ({"row_stride": 2**62}, "in range"),
        ({"hop": 0}, "hop: expected at least 1; got 0"),
        ({"hop": -(2**63)}, "hop: expected at least 1"),
        ({"hop": 60}, "mel_size: expected B * T * F = 136; got 88"),
        ({"channels": 0}, "expected channels >= 1"),
        ({"channels": 2**60}, "channel_stride >= 0 and their product in range"),
        ({"channel_stride": -1}, "channel_stride >= 0"),
        ({"pad": -1}, "pad: expected 0 to n_fft = 512; got -1"),
        ({"pad": 513}, "pad: expected 0 to n_fft = 512; got 513"),
        ({"pad_mode": 2}, "pad_mode: expected 0 (reflect) or 1 (zero); got 2"),
        ({"bands_first": 2}, "bands_first: expected 0 or 1; got 2"),
        ({"mean": math.inf}, "mean, scale: expected finite numbers; got inf, 1"),
        ({"scale": math.nan}, "mean, scale: expected finite numbers; got 0, nan"),
        ({"n_fft": 0}, "n_fft: expected a power of two from 256 to 4096; got 0"),
        ({"n_fft": 8192}, "got 8192"),
        ({"n_fft": 300}, "got 300"),
        ({"n_fft": 1024}, "bank: expected at least 1 band over 513 bins"),
        ({"sample_type": 2}, "sample_type: expected 0 (float32) or 1 (int16); got 2"),
        ({"power": 3}, "power: expected 1 or 2; got 3"),
        ({"num_threads": 0}, "num_threads: expected at least 1; got 0"),
        ({"num_bands": 0}, "bank: expected at least 1 band"),
        ({"num_bands": 5}, "mel_size: expected B * T * F = 110; got 88"),
        ({"num_bands": 3, "mel_size": 66}, "band_offset: expected to run from 0 to band_size"),
        ({"band_bins": 256}, "over 256"),
        ({"band_size": -1}, "band_size >= 0"),
        ({"band_first": torch.tensor([0, 0, 0, 200], dtype=torch.int32)}, "expected band 3 within 257 bins"),
        ({"band_first": torch.tensor([-1, 0, 0, 0], dtype=torch.int32)}, "expected band 0 within 257 bins"),
        ({"mel_size": 87}, "mel_size: expected B * T * F = 88; got 87"),
        ({"log_mode": 4}, "expected log_mode 0, 1, 2 or 3"),
        ({"floor": math.nan}, "and a floor; got 1, nan"),
        ({"chroma_size": 0}, "chroma_size: expected B * T * 12 = 264; got 0"),
        ({"chroma_bins": 258}, "chroma_bank: expected 257 bins; got 258"),
    ],
)
def test_malformed_calls_return_a_sentence(call, changes, text):
    status, error = call(**changes)
    assert status == 1 and text in error


def test_band_offsets_out_of_order(call):
    status, error = call(band_size=40, band_offset=torch.tensor([0, 50, -7, 20, 40]))
    assert status == 1 and "expected band 0 within 257 bins; got weights 0 to 50" in error


def test_no_arguments_at_all():
    assert native._library("cpu").duotok_mel_chroma(None) == 1
