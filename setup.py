"""Build duotok with its compiled libraries where their compilers are found, and without them where not.

The libraries (csrc/) are loaded by ctypes: they include no header of Python, numpy or torch, so building needs a C++17
compiler alone, and nvcc for the one of the GPU, and one wheel serves every Python. An install never fails for want of a
compiler; the ops then run their references and `duotok.kernels.native.why_not()` says so.

Environment:
    DUOTOK_BUILD: "auto" (default) builds what it can, "cpu" leaves nvcc alone, "none" builds nothing.
    CUDA_HOME: where bin/nvcc is, if not on the path.

Metadata lives in pyproject.toml.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

# Fused multiply-add wherever the instruction set has it: it is both faster and more accurate here. No -march: the
# library chooses its instruction set when it runs. No joining of scalars into vectors: the vectors are written out, and it
# would make shuffles of constants that a load gives to all lanes at once. No signed integers that wrap, which Python's own
# flags ask for: indices could not become pointers. Each costs a tenth with g++ 12.
GNU_FLAGS = [
    "-std=c++17",
    "-O3",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-tree-slp-vectorize",
    "-fno-wrapv",
    "-fvisibility=hidden",
    "-fvisibility-inlines-hidden",
    "-Wno-psabi",
    "-g0",
    "-pthread",
]
MSVC_FLAGS = ["/std:c++17", "/O2", "/EHsc"]
# The runtime is linked in, so that the library loads whatever CUDA torch brings, and where there is none.
NVCC_FLAGS = [
    "-std=c++17",
    "-O3",
    "-DNDEBUG",
    "-cudart=static",
    "-shared",
    "-Xcompiler=-fPIC,-fvisibility=hidden",
    "--threads=0",
]
CUDA_ARCHITECTURES = (80, 90, 100)
NVCC_TIMEOUT_S = 300


class BuildNative(build_ext):
    """Builds plain shared libraries, named `_native.so` (or .dll) whatever the Python."""

    def build_extension(self, ext: Extension) -> None:
        if any(source.endswith(".cu") for source in ext.sources):
            return build_with_nvcc(ext.sources, Path(self.get_ext_fullpath(ext.name)))
        msvc = self.compiler.compiler_type == "msvc"
        ext.extra_compile_args = MSVC_FLAGS if msvc else GNU_FLAGS
        ext.extra_link_args = [] if msvc else ["-pthread"]
        return super().build_extension(ext)

    def copy_extensions_to_source(self) -> None:
        """Put libraries beside the source, as an editable install wants it, at once: processes may have the old ones open."""
        for ext in self.extensions:
            built = Path(self.build_lib, self.get_ext_filename(ext.name))
            if not built.exists():
                continue  # it failed to build, which is allowed
            target = Path(self.get_finalized_command("build_py").get_package_dir("duotok.kernels"), built.name)
            self.copy_file(str(built), f"{target}.new")
            Path(f"{target}.new").replace(target)

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split(".")).with_suffix(".dll" if os.name == "nt" else ".so"))

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return []  # not the PyInit_ function of a Python module: the header marks what is exported


class AnyPythonWheel(bdist_wheel):
    """Tags the wheel for this platform but for every Python 3, whose C API the libraries do not use."""

    def get_tag(self) -> tuple[str, str, str]:
        return ("py3", "none", super().get_tag()[2])


def find_nvcc() -> str | None:
    """Find the CUDA compiler: on the path, in CUDA_HOME or where its installer puts it."""
    homes = (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda")
    folders = [str(Path(home, "bin")) for home in homes if home]
    return shutil.which("nvcc") or shutil.which("nvcc", path=os.pathsep.join(folders))


def run_nvcc(*arguments: str) -> str:
    """Run nvcc and return what it prints.

    Raises:
        CompileError: if it fails; setuptools makes that a warning, for the extension is optional.
    """
    try:
        done = subprocess.run([find_nvcc(), *arguments], capture_output=True, text=True, timeout=NVCC_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CompileError(f"nvcc: {error}") from error
    if done.returncode:
        raise CompileError(f"nvcc failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def build_with_nvcc(sources: list[str], library: Path) -> None:
    """Build a library with machine code for every architecture that this nvcc knows, and PTX for those that come later."""
    known = run_nvcc("--list-gpu-code").split()
    chosen = [n for n in CUDA_ARCHITECTURES if f"sm_{n}" in known]
    if not chosen:
        raise CompileError(f"expected an nvcc that knows one of sm_{CUDA_ARCHITECTURES}; got one for {known}")
    targets = [f"-gencode=arch=compute_{n},code=sm_{n}" for n in chosen]
    targets.append(f"-gencode=arch=compute_{chosen[-1]},code=compute_{chosen[-1]}")
    library.parent.mkdir(parents=True, exist_ok=True)
    run_nvcc(*NVCC_FLAGS, *targets, "-o", str(library), *sources)


def libraries() -> list[Extension]:
    """List the libraries to build, as DUOTOK_BUILD says."""
    build = os.environ.get("DUOTOK_BUILD", "auto")
    if build not in ("auto", "cpu", "none"):
        raise SystemExit(f"DUOTOK_BUILD: expected auto, cpu or none; got {build!r}; unset it")
    # All of it, so that a source distribution has it, made without nvcc too.
    everything = [str(file) for file in sorted(Path("csrc").iterdir())]

    def library(name: str, *sources: str) -> Extension:
        files = [f"csrc/{source}" for source in sources]
        return Extension(f"duotok.kernels.{name}", sources=files, depends=everything, language="c++", optional=True)

    cpu = library("_native", "native.cpp", "arguments.cpp", "fft_tables.cpp", "mel_chroma_cpu.cpp")
    cuda = library("_native_cuda", "mel_chroma_cuda.cu", "arguments.cpp", "fft_tables.cpp", "cuda_call.cpp")
    if build == "none":
        return []
    return [cpu, cuda] if build == "auto" and sys.platform == "linux" and find_nvcc() else [cpu]


setup(
    packages=[*find_packages(include=["duotok", "duotok.*"]), "duotok.kernels"],
    package_dir={"duotok": "duotok", "duotok.kernels": "kernels"},
    ext_modules=libraries(),
    cmdclass={"build_ext": BuildNative, "bdist_wheel": AnyPythonWheel},
)
