"""What the CUDA kernel of log-Mel and chroma costs, read from the machine code in the built library: no GPU needed.

    compile_ahead(90) -> one Kernel for each n_fft
    python -m duotok.kernels.report                     its table, below those of the Triton kernels

The reference problem is 64 clips of 30 s at 48 kHz, hop 480, to 128 Mel bands in (B, T, F). Times are estimates, nothing
was run. With the instructions that the threads of a frame issue and the cycles that its accesses occupy shared memory or
the first-level cache, of which a multiprocessor has one for every 128 bytes or bank conflict,

    time  = max(bytes / bandwidth, frames * instructions / (SMs * 128 * clock), frames * accesses / (SMs * clock))
    floor = bytes / bandwidth

The FFT's share is counted from its phases, which have no loops, both sides of every branch: too much by about a third; bank
conflicts of its points, few from n_fft 2048 on, are left out. The bands' share is that of their inner loop for the widest of
every 32 bands, with its bank conflicts. Loading samples, logarithms and the launch are left out.
"""

from __future__ import annotations

import functools
import math
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import util
from pathlib import Path

import torch

from .log_mel import MelSpec, mel_filter_bank
from .machine_code import CAPABILITIES, CHIPS, SHARED_LIMIT, Chip

__all__ = ["CAPABILITIES", "SHARED_LIMIT", "Kernel", "compile_ahead", "table", "why_not"]

_LIBRARY = Path(__file__).with_name("_native_cuda.so")
_CLIPS, _SAMPLES, _RATE, _HOP, _BANDS = 64, 30 * 48_000, 48_000, 480, 128
_FRAMES = _SAMPLES // _HOP + 1
_INSTRUCTION = re.compile(
    r"/\*(?P<address>[0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?(?P<opcode>[A-Z][A-Z0-9_.]*)(?P<operands>[^;]*);"
)


@dataclass(frozen=True)
class Kernel:
    """The kernel of one n_fft for one architecture.

    Attributes:
        n_fft: of its frames.
        capability: 90 for sm_90.
        registers: for each thread.
        spills: bytes of stack and local memory for each thread.
        sass: (address, opcode, operands) of every instruction.
    """

    n_fft: int
    capability: int
    registers: int
    spills: int
    sass: tuple[tuple[int, str, str], ...] = field(repr=False)

    @property
    def frames(self) -> int:
        """Frames of a block; the sizes are those of csrc/cuda_fft.h."""
        return max(4, 8192 // self.n_fft)

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.frames * self.n_fft // 32

    @property
    def shared(self) -> int:
        """Bytes of shared memory of a block."""
        points = self.n_fft // 2
        left = {128: 8, 256: 1, 512: 2, 1024: 4, 2048: 3}[points]
        return 8 * self.frames * ((points + points // 16 + points // 256 + 15 - left) // 16 * 16 + left)

    @property
    def fft(self) -> list[str]:
        """Opcodes of the phases from the samples in shared memory to the spectra there: five barriers, four if n_fft is 256."""
        barriers = [at for at, (_, opcode, _) in enumerate(self.sass) if opcode.startswith("BAR.SYNC")]
        return [opcode for _, opcode, _ in self.sass[barriers[0] + 1 : barriers[4 if self.n_fft == 256 else 5]]]

    @property
    def band_loop(self) -> list[str]:
        """Opcodes of the innermost loop over a band's bins: that with the most 16-byte reads, and reads of single weights."""
        addresses = {address: at for at, (address, _, _) in enumerate(self.sass)}
        jumps = [
            (re.search(r"0x([0-9a-f]+)", operands), at) for at, (_, opcode, operands) in enumerate(self.sass) if opcode == "BRA"
        ]
        spans = [(addresses[int(target[1], 16)], at + 1) for target, at in jumps if target and int(target[1], 16) in addresses]
        loops = [[opcode for _, opcode, _ in self.sass[a:b]] for a, b in spans if a < b]
        inner = [loop for loop in loops if "LDG.E" in loop and "LDS.128" in loop and "BAR.SYNC" not in " ".join(loop)]
        assert inner, f"expected a loop over a band's bins in the machine code of n_fft {self.n_fft}"
        return min(inner, key=lambda loop: len(loop) / loop.count("LDS.128"))

    @property
    def instructions(self) -> float:
        """Thread instructions for a frame."""
        turns, _ = _band_turns(self.n_fft)
        per_turn = len(self.band_loop) / self.band_loop.count("LDS.128")
        return len(self.fft) * self.threads / self.frames + 32 * turns * per_turn / 4

    @property
    def accesses(self) -> float:
        """Cycles of shared memory and the first-level cache for a frame."""
        cycles = sum(_cycles(opcode) for opcode in self.fft) * self.threads / self.frames / 32
        return cycles + _band_turns(self.n_fft)[1] / 4

    @property
    def bytes_moved(self) -> int:
        """Compulsory traffic of the reference problem: samples in, bands out."""
        return 4 * _CLIPS * (_SAMPLES + _FRAMES * _BANDS)

    @property
    def floor_s(self) -> float:
        """Seconds that the reference problem takes at least."""
        return self.floors(CHIPS[self.capability])[0]

    @property
    def time_s(self) -> float:
        """Estimated seconds for the reference problem; the formula is in the module's docstring."""
        return self.time_on(CHIPS[self.capability])

    def floors(self, chip: Chip) -> tuple[float, float]:
        """Seconds of the reference problem's traffic on a chip, and of its transforms' arithmetic, 2.5 n log2 n a frame."""
        flops = _CLIPS * _FRAMES * 2.5 * self.n_fft * math.log2(self.n_fft)
        return self.bytes_moved / chip.bandwidth, flops / (2 * 128 * chip.issue)

    def time_on(self, chip: Chip) -> float:
        """Estimated seconds on a chip of this architecture."""
        frames, cycles = _CLIPS * _FRAMES, chip.issue
        return max(self.floors(chip)[0], frames * self.instructions / (128 * cycles), frames * self.accesses / cycles)


def why_not() -> str | None:
    """Say why the machine code cannot be read; None if it can."""
    if not _LIBRARY.exists():
        return "needs the CUDA library; this install was built without nvcc; reinstall with it"
    return None if _cuobjdump() else "needs cuobjdump, which CUDA's tools and Triton bring; it was not found"


def compile_ahead(capability: int) -> list[Kernel]:
    """Read the kernels that nvcc built for sm_`capability`, in the order of n_fft; none if the library lacks it."""
    resources, text = (
        subprocess.run(
            [_cuobjdump(), flag, "-arch", f"sm_{capability}", str(_LIBRARY)], capture_output=True, text=True, check=True
        ).stdout
        for flag in ("-res-usage", "-sass")
    )
    usage = {
        int(points): (int(registers), int(stack) + int(local))
        for points, registers, stack, local in re.findall(
            r"mel_chroma_kernelILi(\d+)E\S*:\s+REG:(\d+) STACK:(\d+) .*?LOCAL:(\d+)", resources
        )
    }
    found = []
    for part in text.split("Function : ")[1:]:
        points = int(re.search(r"mel_chroma_kernelILi(\d+)E", part)[1])
        sass = tuple((int(m["address"], 16), m["opcode"], m["operands"]) for m in _INSTRUCTION.finditer(part))
        found.append(Kernel(2 * points, capability, *usage[points], sass))
    return sorted(found, key=lambda kernel: kernel.n_fft)


def table(capability: int) -> Iterator[str]:
    """Yield the lines of one architecture's table."""
    columns = "{:<13} {:>6} {:>5} {:>7} {:>7} {:>7} {:>12} {:>15} {:>7} {:>9} {:>9}"
    yield columns.format(
        "op", "n_fft", "regs", "spills", "shared", "threads", "instr/frame", "accesses/frame", "MB", "est. us", "floor us"
    )
    for kernel in compile_ahead(capability):
        yield columns.format(
            "log_mel, cuda", kernel.n_fft, kernel.registers, kernel.spills, kernel.shared, kernel.threads,
            f"{kernel.instructions:.0f}", f"{kernel.accesses:.0f}", f"{kernel.bytes_moved / 1e6:.1f}",
            f"{1e6 * kernel.time_s:.1f}", f"{1e6 * kernel.floor_s:.1f}",
        )  # fmt: skip


def _cuobjdump() -> str | None:
    triton = util.find_spec("triton")
    bundled = [str(Path(triton.origin).parent / "backends" / "nvidia" / "bin")] if triton and triton.origin else []
    return shutil.which("cuobjdump") or next((p for p in (shutil.which("cuobjdump", path=f) for f in bundled) if p), None)


def _cycles(opcode: str) -> int:
    """Cycles that a warp's access takes where its addresses are neighbours: one for each 128 bytes."""
    if not opcode.startswith(("LDS", "STS", "LDG")):
        return 0
    return 4 if ".128" in opcode else 2 if ".64" in opcode else 1


@functools.lru_cache(maxsize=8)
def _band_turns(n_fft: int) -> tuple[int, int]:
    """Count turns of all warps' loops over their bands' bins, four frames a turn, and the cycles that these take."""
    spec = MelSpec(sample_rate=_RATE, n_fft=n_fft, win_length=n_fft, hop_length=_HOP, n_mels=_BANDS)
    used = mel_filter_bank(spec).T != 0  # (F, bins)
    first, count = used.int().argmax(1), used.sum(1)
    weight = count.cumsum(0) - count
    turns = cycles = 0
    for warp in range(0, _BANDS, 32):
        lanes = torch.arange(warp, min(warp + 32, _BANDS))
        for i in range(int(count[lanes].max())):
            active = lanes[count[lanes] > i]
            turns += 1
            # Eight lanes read 16 bytes each in a cycle, out of eight different places in the banks.
            cycles += sum(_conflicts(first[active[active // 8 == eighth]] + i, 8) for eighth in (active // 8).unique())
            cycles += _conflicts(weight[active] + i, 32)
    return turns, cycles


def _conflicts(words: torch.Tensor, banks: int) -> int:
    """Count the turns that different words need where each bank serves one at a time."""
    return int(torch.bincount(words.unique() % banks).max())
