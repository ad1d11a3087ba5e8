"""Philox against its published vectors; Gaussian replacement against its own definition and statistics."""

from __future__ import annotations

import pytest
import torch
from duotok.kernels import replace_noise
from duotok.kernels.philox import normal, philox, uniform
from duotok.kernels.replace_noise import replacement

# Known-answer vectors of Random123 (philox4x32-10): counter, key, output.
VECTORS = [
    ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, 0xFFFFFFFFFFFFFFFF, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), 0x299F31D0A4093822,
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("counter", "key", "expected"), VECTORS)
def test_philox_gives_the_published_words(counter, key, expected):
    seed = torch.tensor(key - 2**64 if key >= 2**63 else key)
    assert philox(seed, *map(torch.tensor, counter)).tolist() == list(expected)


def test_uniform_and_normal_stay_in_range_at_the_extremes():
    words = torch.tensor([[0, 0, 2**32 - 1, 2**32 - 1]])
    assert uniform(words).min() > 0 and uniform(words).max() < 1
    assert normal(words).isfinite().all() and normal(words).abs().max() < 5.8


def seed(step: int = 0) -> torch.Tensor:
    return torch.tensor([-77, step])


def test_a_frame_is_replaced_whole_or_kept_whole():
    x = torch.randn(50, 40, 13)
    y = replace_noise(x, 0.3, 2.0, seed())
    kept = (y == x).all(-1)
    assert ((y == x).any(-1) == kept).all()
    mask, noise = replacement(x, 0.3, seed())
    assert torch.equal(mask[..., 0], ~kept)
    torch.testing.assert_close(y[~kept], 2.0 * noise[~kept])


def test_layout_is_by_row_and_column():
    """Rows and columns of a larger tensor are the same numbers: no result depends on a block or a shard."""
    big = replace_noise(torch.zeros(64, 40), 0.5, 1.0, seed(3))
    assert torch.equal(replace_noise(torch.zeros(8, 8, 40), 0.5, 1.0, seed(3)).flatten(0, 1), big)
    assert torch.equal(replace_noise(torch.zeros(64, 13), 0.5, 1.0, seed(3)), big[:, :13])
    assert torch.equal(replace_noise(torch.zeros(20, 40), 0.5, 1.0, seed(3)), big[:20])


def test_steps_keys_and_large_steps_differ():
    draws = [
        replace_noise(torch.zeros(64, 8), 1.0, 1.0, torch.tensor(s)) for s in ([0, 0], [0, 1], [1, 0], [0, 2**32], [0, 2**40])
    ]
    for i, a in enumerate(draws):
        assert all(not torch.equal(a, b) for b in draws[i + 1 :])
        assert torch.equal(
            a, replace_noise(torch.zeros(64, 8), 1.0, 1.0, torch.tensor([[0, 0], [0, 1], [1, 0], [0, 2**32], [0, 2**40]][i]))
        )


@pytest.mark.parametrize("per_element", [False, True])
def test_share_mean_and_variance_within_five_sigma(per_element):
    rows, width = 500_000, 20
    mask, noise = replacement(torch.zeros(rows, width), 0.2, seed(9), per_element)
    count = mask.numel()
    assert abs(mask.double().mean() - 0.2) < 5 * (0.2 * 0.8 / count) ** 0.5
    values = noise.double()
    assert abs(values.mean()) < 5 / values.numel() ** 0.5
    assert abs(values.var() - 1) < 5 * (2 / values.numel()) ** 0.5
    rows_apart = (values[:-1] * values[1:]).mean()
    columns_apart = (values[:, :-1] * values[:, 1:]).mean()
    assert abs(rows_apart) < 5 / values.numel() ** 0.5 and abs(columns_apart) < 5 / (rows * (width - 1)) ** 0.5


def test_gradient_passes_where_kept_and_everywhere_if_additive():
    x = torch.randn(30, 8, requires_grad=True)
    y = replace_noise(x, 0.5, 1.0, seed())
    y.sum().backward()
    assert torch.equal(x.grad, (y == x).all(-1, keepdim=True).expand(-1, 8).float())
    x.grad = None
    z = replace_noise(x, 0.5, 1.0, seed(), additive=True)
    z.sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))
    mask, noise = replacement(x, 0.5, seed())
    torch.testing.assert_close(z, x + mask * noise)


def test_ends_of_p_dtype_and_empty_input():
    x = torch.randn(9, 6)
    assert torch.equal(replace_noise(x, 0.0, 1.0, seed()), x)
    assert (replace_noise(x, 1.0, 1.0, seed()) != x).all()
    assert replace_noise(x.half(), 0.5, 1.0, seed()).dtype == torch.float16
    assert replace_noise(torch.zeros(0, 6), 0.5, 1.0, seed()).shape == (0, 6)


@pytest.mark.parametrize(
    ("p", "seed", "message"),
    [(1.5, torch.tensor([1, 2]), r"probability p in \[0, 1\]; got 1.5"),
     (0.5, torch.tensor([1]), r"seed \(2,\) int64; got \(1,\)"),
     (0.5, torch.tensor([1.0, 2.0]), "got .*float32")],
)  # fmt: skip
def test_bad_arguments_are_named(p, seed, message):
    with pytest.raises(ValueError, match=message):
        replace_noise(torch.zeros(3, 4), p, 1.0, seed)
