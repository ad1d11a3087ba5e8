"""What every GPU kernel takes at least, by its bytes and by its arithmetic, and what its machine code lets one expect.

python benchmarks/roofline.py                     all kernels for A100, H100, H200 and B200: no GPU needed, a minute
python benchmarks/roofline.py --op modulate       those of one op
python benchmarks/roofline.py --device            also time each on the GPU that is here, beside its estimate

Writes roofline.json and roofline.md into the results folder. Floors follow from data sheets; estimates, marked as such, come
from the instructions of the inner loop (see duotok.kernels.report) and nothing was run for them. Measured times of a card stay
in the file until it is measured again; the first are those of h100.json and h100-search.json with the same problem.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from duotok.kernels import (
    MelSpec,
    gated_residual,
    log_mel,
    modulate,
    nearest_code,
    prepare,
    replace_noise,
    report,
    report_cuda,
    simvq_loss,
)
from duotok.kernels.machine_code import CHIPS, H200

RESULTS = Path(__file__).parent / "results"
CHIPS_OF = {80: [CHIPS[80]], 90: [CHIPS[90], H200], 100: [CHIPS[100]]}
CARDS = [chip.name for chips in CHIPS_OF.values() for chip in chips]


def _row(op: str, name: str, problem: str, moved: float) -> dict:
    return {
        "op": op,
        "kernel": name,
        "problem": problem,
        "bytes": moved,
        "chips": {},
        "instructions_per_unit": {},
        "measured_us": {},
    }


def compiled(only: str | None) -> Iterator[tuple[dict, int, report.Compiled | report_cuda.Kernel]]:
    """Compile every kernel for every architecture: its row's head, the architecture, and its machine code."""
    for source in report.compilables():
        for capability in source.capabilities:
            if only in (None, source.op):
                head = _row(source.op, source.name, source.problem, source.bytes_moved)
                yield head, capability, report.compile_ahead(source, capability)
    if only not in (None, "log_mel") or report_cuda.why_not():
        return
    for capability in report_cuda.CAPABILITIES:
        for kernel in report_cuda.compile_ahead(capability):
            problem = "64 x 30 s at 48 kHz, hop 480, 128 bands"
            yield _row("log_mel", f"n_fft {kernel.n_fft}", problem, kernel.bytes_moved), capability, kernel


def table(only: str | None = None) -> list[dict]:
    """Collect floors and estimates in microseconds, a row for each kernel with all its chips."""
    rows: dict[tuple[str, str], dict] = {}
    for head, capability, kernel in compiled(only):
        row = rows.setdefault((head["op"], head["kernel"]), head)
        for chip in CHIPS_OF[capability]:
            traffic, arithmetic = kernel.floors(chip)
            row["chips"][chip.name] = {
                "bytes_us": 1e6 * traffic, "arithmetic_us": 1e6 * arithmetic, "estimate_us": 1e6 * kernel.time_on(chip)
            }  # fmt: skip
            if isinstance(kernel, report.Compiled):
                row["instructions_per_unit"][chip.name] = kernel.per_unit
    return list(rows.values())


def from_earlier_runs() -> dict[tuple[str, str], float]:
    """Microseconds on the H100 of kernels whose problem there was this table's."""
    found = {}
    plans = json.loads((RESULTS / "h100-search.json").read_text(encoding="utf-8"))["plans"]
    for plan in plans:
        for kernel in ("coarse", "decide") if plan["default"] else ():
            if kernel in plan["kernel_ms"]:
                found["nearest_code", f"{kernel} d={plan['width']}"] = 1e3 * plan["kernel_ms"][kernel]
    alike = {
        "bench_replace_noise[forward-frames-bfloat16]": ("replace_noise", "frames"),
        "bench_replace_noise[forward-elements-bfloat16]": ("replace_noise", "elements"),
        "bench_spectra[mel]": ("log_mel", "n_fft 2048"),
    }
    for run in json.loads((RESULTS / "h100.json").read_text(encoding="utf-8"))["benchmarks"]:
        if run["name"] in alike:
            found[alike[run["name"]]] = 1e3 * run["extra_info"]["ours_ms"]
    return found


Calls = dict[tuple[str, str], tuple[str, Callable[[], object]]]


def differentiable_calls() -> Calls:
    """For kernels with a backward: (op, kernel) to its name on the device and a call of the table's problem."""
    half = {"device": "cuda", "dtype": torch.bfloat16}
    found: Calls = {}

    def add(op: str, names: tuple[str, str], kernels: tuple[str, str], forward: Callable, *inputs: torch.Tensor) -> None:
        for tensor in inputs:
            tensor.requires_grad_()
        out = forward()
        up = torch.randn_like(out)
        calls = forward, lambda: torch.autograd.grad(out, inputs, up, retain_graph=True)
        found.update({(op, name): (kernel, call) for name, kernel, call in zip(names, kernels, calls, strict=True)})

    seed, replaced = torch.tensor([1, 2], device="cuda"), ("_replace", "_replace")
    for name, per_element in (("frames", False), ("elements", True)):
        x = torch.randn(65_536, 512, **half)
        names = (name, f"{name} backward")
        add("replace_noise", names, replaced, lambda x=x, each=per_element: replace_noise(x, 0.2, 1.0, seed, each), x)
    x, other = (torch.randn(64, 750, 1536, **half) for _ in range(2))
    shift, scale = (torch.randn(64, 1536, **half) for _ in range(2))
    names, kernels = ("modulate", "modulate backward"), ("_modulate", "_modulate_backward")
    add("modulate", names, kernels, lambda: modulate(x, shift, scale), x, shift, scale)
    names, kernels = ("gated residual", "gated residual backward"), ("_gated", "_gated_backward")
    add("modulate", names, kernels, lambda: gated_residual(x, other, scale), x, other, scale)
    z, table, weight = (torch.randn(n, 128, device="cuda") for n in (65_536, 32_768, 128))
    where, bias = torch.randint(32_768, (65_536,), device="cuda"), torch.zeros(128, device="cuda")
    names, kernels = ("forward", "backward"), ("_forward", "_backward")
    add("simvq_loss", names, kernels, lambda: simvq_loss(z, where, table, weight, bias, 0.25).quantized, z, weight)
    return found


def other_calls() -> Calls:
    """The same for searches and spectra."""
    found: Calls = {}
    for width in (64, 128, 256, 512):
        rows, codes = (torch.randn(n, width, device="cuda") for n in (65_536, 32_768))
        prepared = prepare(codes)
        search = lambda rows=rows, prepared=prepared: nearest_code(rows, prepared)  # noqa: E731
        found["nearest_code", f"coarse d={width}"] = ("_coarse", search)
        found["nearest_code", f"decide d={width}"] = ("_decide", search)
    wave = 0.1 * torch.randn(64, 30 * 48_000, device="cuda")
    for n_fft in (256, 512, 1024, 2048, 4096):
        spec = replace(MelSpec(), sample_rate=48_000, n_fft=n_fft, win_length=n_fft, hop_length=480)
        found["log_mel", f"n_fft {n_fft}"] = ("mel_chroma_kernel", lambda spec=spec: log_mel(wave, spec))
    return found


def measure(rows: Sequence[dict]) -> None:
    """Time the table's kernels on the GPU that is here, by the profiler, into the rows."""
    from gpu_timing import kernel_milliseconds

    name, calls = torch.cuda.get_device_name(), differentiable_calls() | other_calls()
    card = next((card for card in CARDS if card in name), name)
    for row in rows:
        if (row["op"], row["kernel"]) in calls:
            kernel, call = calls[row["op"], row["kernel"]]
            times = kernel_milliseconds(call)
            row["measured_us"][card] = 1e3 * next(time for found, time in times.items() if kernel in found)


def markdown(rows: Sequence[dict]) -> str:
    """Write the table: for each chip the floors by bytes and by arithmetic, the estimate, and what was measured."""
    lines = ["| op | kernel | problem | " + " | ".join(CARDS) + " |", "|---" * (3 + len(CARDS)) + "|"]
    for row in rows:
        cells = []
        for card in CARDS:
            chip, measured = row["chips"].get(card), row["measured_us"].get(card)
            if chip is None:
                cells.append("")
                continue
            arithmetic = f"{chip['arithmetic_us']:.0f}" if chip["arithmetic_us"] else "-"
            text = f"{chip['bytes_us']:.0f} / {arithmetic} / est. {chip['estimate_us']:.0f}"
            cells.append(text if measured is None else f"{text} / **{measured:.0f}**")
        lines.append(f"| {row['op']} | {row['kernel']} | {row['problem']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> None:
    """Compile, measure if asked to, and write both files."""
    import triton

    parser = argparse.ArgumentParser(prog="python benchmarks/roofline.py", description=__doc__.splitlines()[0])
    parser.add_argument("--op", help="only the kernels of this op")
    parser.add_argument("--device", action="store_true", help="measure on the GPU that is here")
    parser.add_argument("-o", "--out", type=Path, default=RESULTS, help="folder of the two files")
    given = parser.parse_args(arguments)
    if given.device and not torch.cuda.is_available():
        parser.error("--device: expected a CUDA GPU; none is here; leave the option out")
    rows, file = table(given.op), given.out / "roofline.json"
    known = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.exists() else []
    measured = {(row["op"], row["kernel"]): row["measured_us"] for row in known}
    earlier = from_earlier_runs()
    for row in rows:
        key = row["op"], row["kernel"]
        row["measured_us"] = measured.get(key) or ({"H100": earlier[key]} if key in earlier else {})
    if given.device:
        measure(rows)
    given.out.mkdir(parents=True, exist_ok=True)
    remark = "microseconds; estimate_us is an estimate, nothing was run for it"
    result = {"triton": triton.__version__, "remark": remark, "rows": rows}
    file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (given.out / "roofline.md").write_text(markdown(rows), encoding="utf-8")
    print(markdown(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
