"""nearest_code against float64 brute force; simvq_loss against its definition."""

from __future__ import annotations

import pytest
import torch
from duotok.kernels import nearest_code, prepare, simvq_loss


def brute_force(z: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    distance = (z.double()[:, None] - codes.double()[None]).square().sum(-1)
    return (distance == distance.amin(1, keepdim=True)).int().argmax(1)  # the first of the least


@pytest.mark.parametrize("block", range(10))
def test_random_cases_equal_brute_force(block):
    generator = torch.Generator().manual_seed(block)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=generator))

    for case in range(100):
        size, width, rows = draw(1, 600), draw(1, 40), draw(0, 40)
        scale, offset = 10.0 ** draw(-8, 8), 5.0 * draw(0, 2)
        codes = (torch.randn(size, width, generator=generator) + offset) * scale
        z = (torch.randn(rows, width, generator=generator) + offset) * scale
        if case % 3 == 0:
            codes[torch.randint(0, size, (size // 2,), generator=generator)] = codes[0].clone()
        if case % 5 == 0 and rows:
            z = codes[torch.randint(0, size, (rows,), generator=generator)].clone()
        assert torch.equal(nearest_code(z, codes), brute_force(z, codes) if rows else torch.empty(0, dtype=torch.int64))


def test_large_codebook_and_prepared_form():
    z, codes = torch.randn(40, 16), torch.randn(32_768, 16)
    assert torch.equal(nearest_code(z, prepare(codes)), brute_force(z, codes))


def test_result_does_not_depend_on_the_batch():
    z, codes = torch.randn(70, 24), torch.randn(1000, 24)
    whole = nearest_code(z, codes)
    assert torch.equal(torch.cat([nearest_code(row[None], codes) for row in z]), whole)
    assert torch.equal(nearest_code(z.T.contiguous().T, codes), whole), "non-contiguous input"
    assert torch.equal(nearest_code(z.half(), codes), brute_force(z.half(), codes))
    assert torch.equal(nearest_code(z.bfloat16(), codes), brute_force(z.bfloat16(), codes))


def test_ties_go_to_the_lowest_index_across_groups():
    codes = torch.randn(300, 8)
    codes[[7, 64, 299]] = codes[200].clone()
    assert nearest_code(codes[200][None], codes).item() == 7


def test_rows_that_are_not_finite_have_index_zero():
    z = torch.randn(4, 8)
    z[1, 3], z[2, 0], z[3, 0] = torch.nan, torch.inf, -torch.inf
    codes = torch.randn(100, 8)
    assert nearest_code(z, codes).tolist() == [brute_force(z[:1], codes).item(), 0, 0, 0]


def test_bad_shapes_are_named():
    with pytest.raises(ValueError, match=r"expected z \(N, 8\) to match the codebook; got \(3, 7\)"):
        nearest_code(torch.zeros(3, 7), torch.zeros(5, 8))
    with pytest.raises(ValueError, match=r"expected a codebook \(K, D\), K > 0; got \(0, 8\)"):
        nearest_code(torch.zeros(3, 8), torch.zeros(0, 8))


@pytest.fixture
def arguments():
    torch.manual_seed(0)
    z = torch.randn(30, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 6, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(6, dtype=torch.float64, requires_grad=True)
    return z, torch.randint(0, 50, (30,)), torch.randn(50, 6, dtype=torch.float64), weight, bias


def test_simvq_loss_is_its_definition(arguments):
    z, indices, table, weight, bias = arguments
    out = simvq_loss(z, indices, table, weight, bias, 0.25)
    codes = (table @ weight.T + bias)[indices]
    torch.testing.assert_close(out.quantized, codes, rtol=1e-5, atol=1e-5)
    mse = (z - codes).square().mean().float()
    torch.testing.assert_close(out.commitment, 0.25 * mse)
    torch.testing.assert_close(out.codebook, mse)
    assert torch.equal(out.usage, torch.bincount(indices, minlength=50))


def test_simvq_gradients_go_where_they_should(arguments):
    z, indices, table, weight, bias = arguments
    out = simvq_loss(z, indices, table, weight, bias, 0.25)
    codes = (table @ weight.T + bias)[indices]
    up = torch.randn(30, 6, dtype=torch.float64)
    straight = torch.autograd.grad(out.quantized, z, up, retain_graph=True)[0]
    torch.testing.assert_close(straight, up, rtol=1e-5, atol=1e-6)  # straight through, although the values are the codes'
    assert torch.autograd.grad(out.quantized, (weight, bias), up, retain_graph=True, allow_unused=True) == (None, None)
    commit = torch.autograd.grad(out.commitment, z, retain_graph=True)[0]
    torch.testing.assert_close(commit, 0.25 * 2 * (z - codes) / z.numel(), rtol=1e-4, atol=1e-6)
    residual = 2 * (codes - z) / z.numel()
    d_weight, d_bias = torch.autograd.grad(out.codebook, (weight, bias))
    torch.testing.assert_close(d_weight, residual.T @ table[indices], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(d_bias, residual.sum(0), rtol=1e-4, atol=1e-6)


def test_simvq_keeps_the_input_dtype_and_takes_no_bias():
    out = simvq_loss(torch.randn(5, 4).bfloat16(), torch.arange(5), torch.randn(9, 4), torch.randn(4, 4), None)
    assert out.quantized.dtype == torch.bfloat16 and out.codebook.dtype == torch.float32
