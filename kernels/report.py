"""What the kernels cost, read from their machine code: no GPU and no driver needed.

    python -m duotok.kernels.report                     every kernel for sm_80, sm_90 and sm_100
    python -m duotok.kernels.report 90                  one architecture

The module of an op, or the `<op>_triton` beside it, may have `ahead_of_time() -> list[Compilable]`; this module compiles what
it finds there with Triton's own compiler, ptxas and disassemblers. It runs on Triton 3.6 to 3.9. To see another version than
the installed one:

    pip install --no-deps --target other triton==3.6.0
    PYTHONPATH=other python -m duotok.kernels.report

Instructions are those of the inner loop (the whole kernel where there is none), both sides of every branch counted, divided
by the units of work (elements, or (row, code) pairs) that a thread does in it; half-rate instructions are comparisons,
selections and minima. Times are estimates, nothing was run, and too long where a branch is rarely taken: with n units,

    time  = max(bytes / bandwidth, flops / tensor peak + n * half / (SMs * 64 * clock), n * all / (SMs * 128 * clock))
    floor = max(bytes / bandwidth, flops / tensor peak)

On an H100 the second term comes within 13% of published timings of a nearest-centre kernel at widths 64 and 128. The CUDA
kernel of log_mel and chroma has a table of its own, from report_cuda.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from . import report_cuda
from .machine_code import CAPABILITIES, CHIPS, SHARED_LIMIT, Chip, disassemble, innermost_loop

_OP_MODULES = ("replace_noise", "nearest_code", "simvq_loss", "attention", "modulate")
_HALF_RATE = ("FMNMX", "FSETP", "FSEL", "FSET", "ISETP", "SEL", "IMNMX", "VIMNMX", "VIADDMNMX", "HMNMX2", "HSETP2")


@dataclass(frozen=True)
class Compilable:
    """A Triton kernel with everything that compiling it needs, and the problem that its cost is stated for.

    Attributes:
        name: what the table calls it, for example "coarse d=128".
        op: the op that it belongs to.
        kernel: the jitted function.
        signature: type of every argument that is not a constant, as Triton writes it, for example {"x": "*fp16", "n": "i32"}.
        constexprs: value of every constant argument.
        num_warps, num_stages: launch options.
        units: units of work in the reference problem.
        units_per_iteration: units that one thread does in one pass of the inner loop (of the kernel, if it has no loop).
        bytes_moved: compulsory traffic of the reference problem.
        flops: of its tensor-core products.
        unit: "element" or "pair".
        problem: the reference problem in words, for example "65536 x 512 bf16".
        capabilities: architectures that it is meant for.
        aligned: integer arguments that are multiples of 16; pointers always are.
        anchor: pattern of opcodes and how many of them one iteration has, to undo unrolling by ptxas; None if it never unrolls.
    """

    name: str
    op: str
    kernel: Any
    signature: dict[str, str]
    constexprs: dict[str, Any]
    num_warps: int
    num_stages: int
    units: float
    units_per_iteration: float
    bytes_moved: float
    flops: float = 0.0
    unit: str = "element"
    problem: str = ""
    capabilities: tuple[int, ...] = CAPABILITIES
    aligned: tuple[str, ...] = ()
    anchor: tuple[str, int] | None = None


@dataclass(frozen=True)
class Compiled:
    """A kernel's machine code for one architecture.

    Attributes:
        source: what was compiled.
        capability: 90 for sm_90.
        registers: for each thread.
        spills: bytes of stack and local memory for each thread; registers that did not fit are kept there.
        shared: bytes of shared memory for each block.
        sass: all opcodes in order, modifiers included, for example "HGMMA.64x128x16.F32".
        loop: those of the inner loop; all of them if there is no loop.
        looped: whether there is one.
        ptx: the intermediate code.
    """

    source: Compilable
    capability: int
    registers: int
    spills: int
    shared: int
    sass: tuple[str, ...] = field(repr=False)
    loop: tuple[str, ...] = field(repr=False)
    looped: bool
    ptx: str = field(repr=False)

    def count(self, pattern: str, everywhere: bool = False) -> int:
        """Count the opcodes of the inner loop (or of the kernel) that begin with the pattern, a regular expression."""
        return sum(re.match(pattern, opcode) is not None for opcode in (self.sass if everywhere else self.loop))

    @property
    def loop_instructions(self) -> int:
        """Number of instructions in the inner loop, as ptxas left it."""
        return len(self.loop)

    @property
    def units_per_thread(self) -> float:
        """Units of work that a thread does in one pass of the inner loop, unrolling included."""
        if self.source.anchor is None:
            return self.source.units_per_iteration
        pattern, each = self.source.anchor
        return self.source.units_per_iteration * self.count(pattern) / each

    @property
    def per_unit(self) -> float:
        """Instructions in the inner loop for each unit of work."""
        return self.loop_instructions / self.units_per_thread

    @property
    def half_rate_per_unit(self) -> float:
        """Those among them that issue at half rate."""
        return sum(opcode.split(".")[0] in _HALF_RATE for opcode in self.loop) / self.units_per_thread

    @property
    def floor_s(self) -> float:
        """Estimated seconds that the reference problem takes at least: its traffic or its products."""
        return max(self.floors(CHIPS[self.capability]))

    @property
    def time_s(self) -> float:
        """Estimated seconds for the reference problem; the formula is in the module's docstring."""
        return self.time_on(CHIPS[self.capability])

    def floors(self, chip: Chip) -> tuple[float, float]:
        """Seconds of the reference problem's traffic, and of its products, on a chip."""
        return self.source.bytes_moved / chip.bandwidth, self.source.flops / chip.tensor_flops

    def time_on(self, chip: Chip) -> float:
        """Estimated seconds on a chip of this architecture."""
        units, (traffic, products) = self.source.units, self.floors(chip)
        epilogue = units * self.half_rate_per_unit / (64 * chip.issue)
        return max(traffic, products + epilogue, units * self.per_unit / (128 * chip.issue))


def compile_ahead(compilable: Compilable, capability: int) -> Compiled:
    """Compile a kernel for sm_`capability` without a GPU, and read registers, memory and instructions from the result.

    Raises:
        ValueError: under TRITON_INTERPRET=1, where nothing is compiled.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    if not hasattr(compilable.kernel, "cache_key"):
        raise ValueError(f"compile_ahead: expected a jitted kernel; got {compilable.kernel!r}; unset TRITON_INTERPRET")
    names = compilable.kernel.arg_names
    signature = {name: compilable.signature.get(name, "constexpr") for name in names}
    divisible = [n for n, kind in signature.items() if kind.startswith("*") or n in compilable.aligned]
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in divisible}
    options = {"num_warps": compilable.num_warps, "num_stages": compilable.num_stages, "enable_fp_fusion": True}
    target = GPUTarget("cuda", capability, 32)
    source = ASTSource(compilable.kernel, signature, compilable.constexprs, attributes)
    built = triton.compile(source, target=target, options=options)
    usage, text = disassemble(built.asm["cubin"], Path(triton.__file__).parent / "backends" / "nvidia" / "bin")
    sass, loop, looped = innermost_loop(text)
    return Compiled(
        source=compilable,
        capability=capability,
        registers=usage["REG"],
        spills=usage["STACK"] + usage["LOCAL"],
        shared=built.metadata.shared,
        sass=sass,
        loop=loop,
        looped=looped,
        ptx=built.asm["ptx"],
    )


def assert_fits(compiled: Compiled) -> None:
    """Assert what holds for every kernel: no register spills, and shared memory within the chip's limit."""
    name = f"{compiled.source.op} {compiled.source.name} on sm_{compiled.capability}"
    assert compiled.spills == 0, f"{name} spills {compiled.spills} bytes"
    limit = SHARED_LIMIT[compiled.capability]
    assert compiled.shared <= limit, f"{name} needs {compiled.shared} bytes of shared memory; the chip has {limit}"


def compilables() -> list[Compilable]:
    """Collect every op's kernels; modules without `ahead_of_time` have none."""
    found: list[Compilable] = []
    for name in (f"{__package__}.{op}{suffix}" for op in _OP_MODULES for suffix in ("", "_triton")):
        if importlib.util.find_spec(name) is not None:
            ahead: Callable[[], list[Compilable]] | None = getattr(importlib.import_module(name), "ahead_of_time", None)
            found += ahead() if ahead is not None else []
    return found


_COLUMNS = "{:<13} {:<23} {:<26} {:>4} {:>6} {:>7} {:>6} {:>12} {:>10} {:>8} {:>9} {:>9}"


def table(capability: int) -> Iterator[str]:
    """Yield the lines of one architecture's table; a kernel's row comes when it has been compiled."""
    yield f"sm_{capability}, times estimated for {CHIPS[capability].name}"
    yield _COLUMNS.format(
        "op", "kernel", "problem", "regs", "spills", "shared", "loop", "instr/unit", "half-rate", "MB", "est. us", "floor us"
    )
    for compilable in compilables():
        if capability not in compilable.capabilities:
            continue
        row = compile_ahead(compilable, capability)
        yield _COLUMNS.format(
            compilable.op, compilable.name, compilable.problem, row.registers, row.spills, row.shared,
            row.loop_instructions if row.looped else "none", f"{row.per_unit:.2f}/{compilable.unit[:4]}",
            f"{row.half_rate_per_unit:.2f}", f"{compilable.bytes_moved / 1e6:.1f}",
            f"{1e6 * row.time_s:.1f}", f"{1e6 * row.floor_s:.1f}",
        )  # fmt: skip


def cuda_table(capability: int) -> Iterator[str]:
    """Yield the lines of the CUDA kernels, or why there are none."""
    reason = report_cuda.why_not()
    if reason is None:
        yield from report_cuda.table(capability)
    else:
        yield f"log_mel and chroma, cuda: {reason}"


def main(arguments: list[str]) -> int:
    """Print the tables of each architecture named, of all by default."""
    import triton

    known = [str(capability) for capability in CAPABILITIES]
    unknown = [argument for argument in arguments if argument not in known]
    if unknown:
        sys.stderr.write(f"report: expected architectures out of {', '.join(known)}; got {unknown[0]}; correct it\n")
        return 2
    sys.stdout.write(f"Triton {triton.__version__}; times are estimates, nothing was run on a GPU\n")
    for capability in map(int, arguments or known):
        sys.stdout.write("\n")
        for line in chain(table(capability), [""], cuda_table(capability)):
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
