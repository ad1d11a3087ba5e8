"""Nearest code against faiss-cpu's IndexFlatL2 and torch.cdist (what vector-quantize-pytorch calls): 4,096 rows, 32,768 codes.

All three run with the same number of threads in one process, in turns, so that a noisy machine disturbs them alike; the
best time of each counts. The codebook is prepared (and the index filled) beforehand, as it is when a tokenizer encodes; the
time with a codebook that changes at every call, as in training, is beside it.
"""

from __future__ import annotations

import pytest
import torch
from duotok.kernels import nearest_code, prepare
from measure import peak_bytes

ROWS, CODES = 4096, 32_768


def _assert_nearest(z: torch.Tensor, codes: torch.Tensor, got: torch.Tensor, other: torch.Tensor, slack: float) -> None:
    """`got` is nowhere farther than `other` in float64 beyond `slack`, relative to the distance."""
    ours, theirs = ((z.double() - codes[index].double()).square().sum(1) for index in (got, other))
    assert (ours <= theirs * (1 + slack)).all()


@pytest.mark.parametrize("width", [64, 128, 256, 512])
def bench_search(benchmark, record, width):
    """Ours, faiss and cdist on Gaussian rows and codes."""
    faiss = pytest.importorskip("faiss", reason="needs faiss-cpu; it is not installed")
    faiss.omp_set_num_threads(torch.get_num_threads())
    generator = torch.Generator().manual_seed(width)
    z, codes = torch.randn(ROWS, width, generator=generator), torch.randn(CODES, width, generator=generator)
    prepared = prepare(codes)
    index = faiss.IndexFlatL2(width)
    index.add(codes.numpy())
    tile = torch.empty(512, 1024)

    def products() -> None:
        for first in range(0, CODES, 1024):
            for row in range(0, ROWS, 512):
                torch.mm(z[row : row + 512], codes[first : first + 1024].T, out=tile)

    rivals = {
        "ours": lambda: nearest_code(z, prepared),
        "ours_unprepared": lambda: nearest_code(z, codes),
        "products_alone": products,
        "faiss": lambda: torch.from_numpy(index.search(z.numpy(), 1)[1][:, 0]),
        "cdist": lambda: torch.cdist(z, codes).argmin(1),
    }
    got = rivals["ours"]()
    _assert_nearest(z, codes, got, rivals["faiss"](), 0.0)
    _assert_nearest(z, codes, got, rivals["cdist"](), 0.0)
    assert torch.equal(rivals["ours_unprepared"](), got)
    seconds = record(f"nearest_code d={width}", rivals, flops=2 * ROWS * CODES * width)
    benchmark.extra_info["peak_extra_mb"] = 1e-6 * peak_bytes(rivals["ours"])
    benchmark.extra_info["share_of_products_alone"] = seconds["products_alone"] / seconds["ours"]


def bench_search_tiny_tokenizer(record):
    """One 30 s window of the tokenizer that ships with the package: 750 rows, 32,768 codes of width 16."""
    generator = torch.Generator().manual_seed(0)
    z, prepared = torch.randn(750, 16, generator=generator), prepare(torch.randn(CODES, 16, generator=generator))
    rivals = {"ours": lambda: nearest_code(z, prepared), "reference": lambda: nearest_code.reference(z, prepared)}
    assert torch.equal(rivals["ours"](), rivals["reference"]())
    record("nearest_code d=16", rivals, flops=2 * 750 * CODES * 16)
