"""What the Triton kernels cost, read from their machine code: no GPU and no driver needed.

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

On an H100 the second term comes within 13% of published timings of a nearest-centre kernel at widths 64 and 128.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CAPABILITIES = (80, 90, 100)
# Shared memory that one block may use, in bytes (CUDA programming guide, compute capabilities; 1 KiB of it is reserved).
SHARED_LIMIT = {80: 166_912, 90: 232_448, 100: 232_448}

_OP_MODULES = ("replace_noise", "nearest_code", "simvq_loss", "attention", "modulate")
_INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?P<guard>@!?U?P\w+\s+)?(?P<opcode>[A-Z][A-Z0-9_.]*)(?P<operands>[^;]*);")
_LABEL = re.compile(r"^(\.L_x_\d+):")
_HALF_RATE = ("FMNMX", "FSETP", "FSEL", "FSET", "ISETP", "SEL", "IMNMX", "VIMNMX", "VIADDMNMX", "HMNMX2", "HSETP2")
# Below this many instructions a loop only waits for a barrier.
_WAIT_LOOP = 8


@dataclass(frozen=True)
class Chip:
    """Peak rates of a GPU, from its data sheet: the scale of the estimates.

    Attributes:
        name: of the product.
        bandwidth: of its memory, in bytes/s.
        tensor_flops: dense fp16 tensor-core FLOP/s (for the H100 what a product reaches at most, not the 989 of the sheet).
        issue: SMs times clock, in cycles/s.
    """

    name: str
    bandwidth: float
    tensor_flops: float
    issue: float


CHIPS = {
    80: Chip("A100", 2.04e12, 312e12, 108 * 1.41e9),
    90: Chip("H100", 3.35e12, 800e12, 132 * 1.755e9),
    100: Chip("B200", 8.0e12, 2250e12, 148 * 1.85e9),
}


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
        chip = CHIPS[self.capability]
        return max(self.source.bytes_moved / chip.bandwidth, self.source.flops / chip.tensor_flops)

    @property
    def time_s(self) -> float:
        """Estimated seconds for the reference problem; the formula is in the module's docstring."""
        chip, units = CHIPS[self.capability], self.source.units
        epilogue = units * self.half_rate_per_unit / (64 * chip.issue)
        return max(
            self.source.bytes_moved / chip.bandwidth,
            self.source.flops / chip.tensor_flops + epilogue,
            units * self.per_unit / (128 * chip.issue),
        )


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
    usage, text = _disassemble(built.asm["cubin"], Path(triton.__file__).parent / "backends" / "nvidia" / "bin")
    sass, loop, looped = _loop(text)
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


def _disassemble(cubin: bytes, tools: Path) -> tuple[dict[str, int], str]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        resources, text = (
            subprocess.run([str(tools / tool), flag, str(file)], capture_output=True, text=True, check=True).stdout
            for tool, flag in (("cuobjdump", "--dump-resource-usage"), ("nvdisasm", "-c"))
        )
    line = next(line for line in resources.splitlines() if "REG:" in line)
    return {key: int(value) for key, value in re.findall(r"(\w+):(\d+)", line)}, text


def _loop(text: str) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
    """All opcodes of a disassembly, those of its longest innermost loop, and whether it has one."""
    opcodes: list[str] = []
    labels: dict[str, int] = {}
    jumps: list[tuple[int, str]] = []
    exits: list[int] = []
    for line in text.splitlines():
        label, instruction = _LABEL.match(line.strip()), _INSTRUCTION.search(line)
        if label:
            labels[label[1]] = len(opcodes)
        elif instruction and instruction["opcode"] != "NOP":
            target = re.search(r"\.L_x_\d+", instruction["operands"])
            if instruction["opcode"].startswith("BRA") and target:
                jumps.append((len(opcodes), target[0]))
            if instruction["opcode"] == "EXIT" and instruction["guard"] is None:
                exits.append(len(opcodes))
            opcodes.append(instruction["opcode"])
    spans = [(labels[target], at + 1) for at, target in jumps if labels[target] <= at]
    # A span around an exit is no loop: ptxas moves the slow side of a wait behind the end and jumps back from there.
    spans = [(a, b) for a, b in spans if b - a >= _WAIT_LOOP and not any(a <= at < b for at in exits)]
    inner = [s for s in spans if not any(o != s and s[0] <= o[0] and o[1] <= s[1] for o in spans)]
    start, end = max(inner, key=lambda span: span[1] - span[0], default=(0, max(exits, default=len(opcodes) - 1) + 1))
    return tuple(opcodes), tuple(opcodes[start:end]), bool(inner)


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


def main(arguments: list[str]) -> int:
    """Print the table of each architecture named, of all by default."""
    import triton

    known = [str(capability) for capability in CAPABILITIES]
    unknown = [argument for argument in arguments if argument not in known]
    if unknown:
        sys.stderr.write(f"report: expected architectures out of {', '.join(known)}; got {unknown[0]}; correct it\n")
        return 2
    sys.stdout.write(f"Triton {triton.__version__}; times are estimates, nothing was run on a GPU\n")
    for capability in map(int, arguments or known):
        sys.stdout.write("\n")
        for line in table(capability):
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
