"""Block sizes of the nearest-code search on a GPU: every plan tried, the time of each kernel, and how many groups are measured.

python benchmarks/search_plans.py -o benchmarks/results/h100-search.json

65,536 Gaussian rows against 32,768 Gaussian codes. `total_ms` is the median time on the device, see gpu_timing.py; the times of
kernels are the profiler's. Every plan's indices must equal the default plan's. What wins goes into `plan` of
kernels/nearest_code_triton.py, by hand.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import astuple, replace
from pathlib import Path

import torch
from duotok.kernels import nearest_code_triton as twin
from duotok.kernels import prepare
from gpu_timing import kernel_milliseconds, milliseconds

ROWS, CODES = 65_536, 32_768
# (chunk, rows, codes, warps, stages) by width.
TRIED = {
    64: [(64, 128, 256, 8, 2), (64, 128, 256, 8, 3)],
    128: [(128, 128, 256, 8, 2), (128, 256, 128, 8, 3), (64, 128, 256, 8, 3), (64, 128, 256, 8, 4), (128, 128, 128, 4, 2),
          (128, 128, 128, 8, 3)],
    256: [(256, 128, 128, 8, 2), (64, 128, 256, 8, 3), (64, 128, 256, 8, 4), (128, 128, 256, 8, 2), (64, 64, 256, 4, 3)],
    512: [(64, 128, 256, 8, 3), (64, 128, 256, 8, 4), (128, 128, 256, 8, 2)],
}  # fmt: skip


def measure(width: int) -> list[dict]:
    """Try every plan for one width."""
    torch.manual_seed(width)
    z, codes = torch.randn(ROWS, width, device="cuda"), torch.randn(CODES, width, device="cuda")
    default = twin.plan_for(codes)
    expected, groups = twin.search(z, codes, prepare(codes).triton_form)
    rows = []
    for chunk, block_rows, block_codes, warps, stages in TRIED[width]:
        chosen = replace(default, chunk=chunk, rows=block_rows, codes=block_codes, warps=warps, stages=stages)
        twin.plan = lambda width, capability, chosen=chosen: chosen
        form = twin.prepare_form(codes)
        call = lambda form=form: twin.search(z, codes, form)  # noqa: E731
        assert torch.equal(call()[0], expected)
        kernel_ms = {name.strip("_"): time for name, time in kernel_milliseconds(call).items() if name.startswith("_")}
        is_default = astuple(chosen) == astuple(default)
        plan = {"chunk": chunk, "rows": block_rows, "codes": block_codes, "warps": warps, "stages": stages}
        rows.append({"width": width, **plan, "default": is_default, "total_ms": milliseconds(call), "kernel_ms": kernel_ms})
    return [{**row, "groups_per_row": groups.float().mean().item()} for row in rows]


def main(arguments: Sequence[str]) -> None:
    """Measure all widths and write the file."""
    import triton

    parser = argparse.ArgumentParser(prog="python benchmarks/search_plans.py", description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    original, rows = twin.plan, []
    for width in TRIED:
        twin.plan = original
        rows += measure(width)
    machine = {"card": torch.cuda.get_device_name(), "torch": torch.__version__, "triton": triton.__version__}
    given.out.write_text(json.dumps({**machine, "problem": f"{ROWS} x {CODES}", "plans": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
