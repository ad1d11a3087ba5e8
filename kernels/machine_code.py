"""Machine code of the kernels, and the chips it is for: what the reports share.

disassemble(cubin, tools) -> resources {"REG": 64, ...} and text
innermost_loop(text) -> all opcodes, those of the longest innermost loop, whether there is one
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

CAPABILITIES = (80, 90, 100)
# Shared memory that one block may use, in bytes (CUDA programming guide, compute capabilities; 1 KiB of it is reserved).
SHARED_LIMIT = {80: 166_912, 90: 232_448, 100: 232_448}

_INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?P<guard>@!?U?P\w+\s+)?(?P<opcode>[A-Z][A-Z0-9_.]*)(?P<operands>[^;]*);")
_LABEL = re.compile(r"^(\.L_x_\d+):")
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
# The machine code of the H100, a faster memory.
H200 = replace(CHIPS[90], name="H200", bandwidth=4.8e12)


def disassemble(cubin: bytes, tools: Path) -> tuple[dict[str, int], str]:
    """Read the resources and the instructions of a binary with cuobjdump and nvdisasm out of a folder."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        resources, text = (
            subprocess.run([str(tools / tool), flag, str(file)], capture_output=True, text=True, check=True).stdout
            for tool, flag in (("cuobjdump", "--dump-resource-usage"), ("nvdisasm", "-c"))
        )
    line = next(line for line in resources.splitlines() if "REG:" in line)
    return {key: int(value) for key, value in re.findall(r"(\w+):(\d+)", line)}, text


def innermost_loop(text: str) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
    """Find all opcodes of a disassembly, those of its longest innermost loop, and whether it has one."""
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
