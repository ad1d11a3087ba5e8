"""Cases for the tests of nearest_code, and their answers by float64 brute force."""

from __future__ import annotations

import torch


def brute_force(z: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    distance = (z.double()[:, None] - codes.double()[None]).square().sum(-1)
    index = (distance == distance.amin(1, keepdim=True)).int().argmax(1)  # the first of the least
    return index.where(z.isfinite().all(1), 0)


def random_case(seed: int, most_codes: int = 600, most_rows: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    """Shared offsets, huge and tiny norms, very unequal norms, duplicated codes, rows that are codes, far rows, NaN rows."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=generator))

    size, rows = draw(1, most_codes), draw(0, most_rows)
    width = draw(129, 300) if seed % 25 == 24 else draw(1, 70)
    scale, offset = 10.0 ** draw(-8, 9), 5.0 * draw(0, 2)
    codes = (torch.randn(size, width, generator=generator) + offset) * scale
    z = (torch.randn(rows, width, generator=generator) + offset) * scale
    if seed % 3 == 0:
        codes[torch.randint(0, size, (size // 2,), generator=generator)] = codes[0].clone()
    if seed % 5 == 0 and rows:
        z = codes[torch.randint(0, size, (rows,), generator=generator)].clone()
    if seed % 7 == 0:
        z = z * 1e6
    if seed % 11 == 0:
        codes = codes * torch.randn(size, 1, generator=generator).mul(4).exp()
    if seed % 13 == 0 and rows:
        z[rows // 2, width - 1] = (torch.nan, torch.inf, -torch.inf)[seed % 3]
    return z, codes
