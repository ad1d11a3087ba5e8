"""Build duotok with its compiled library where a C++ compiler is found, and without it where not.

The library (csrc/) is loaded by ctypes: it includes no header of Python, numpy or torch, so building needs a C++17
compiler alone and one wheel serves every Python. An install never fails for want of a compiler; the ops then run their
references and `duotok.kernels.native.why_not()` says so.

Environment:
    DUOTOK_BUILD: "auto" (default) builds the library if it can; "none" leaves it out.

Metadata lives in pyproject.toml.
"""

from __future__ import annotations

import os
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

NATIVE = "duotok.kernels._native"

# Fused multiply-add wherever the instruction set has it: it is both faster and more accurate here. No -march: the
# library chooses its instruction set when it runs.
GNU_FLAGS = [
    "-std=c++17",
    "-O3",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fvisibility=hidden",
    "-fvisibility-inlines-hidden",
    "-Wno-psabi",
    "-g0",
    "-pthread",
]
MSVC_FLAGS = ["/std:c++17", "/O2", "/EHsc"]


class BuildNative(build_ext):
    """Builds a plain shared library, named `_native.so` (or .dll) whatever the Python."""

    def build_extension(self, ext: Extension) -> None:
        msvc = self.compiler.compiler_type == "msvc"
        ext.extra_compile_args = MSVC_FLAGS if msvc else GNU_FLAGS
        ext.extra_link_args = [] if msvc else ["-pthread"]
        super().build_extension(ext)

    def copy_extensions_to_source(self) -> None:
        """Put the library beside the source, as an editable install wants it, at once: processes may have the old one open."""
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
    """Tags the wheel for this platform but for every Python 3, whose C API the library does not use."""

    def get_tag(self) -> tuple[str, str, str]:
        return ("py3", "none", super().get_tag()[2])


def native_library() -> list[Extension]:
    """List the library to build: none if DUOTOK_BUILD says so."""
    build = os.environ.get("DUOTOK_BUILD", "auto")
    if build not in ("auto", "none"):
        raise SystemExit(f"DUOTOK_BUILD: expected auto or none; got {build!r}; unset it")
    library = Extension(
        NATIVE,
        sources=[f"csrc/{name}.cpp" for name in ("native", "arguments", "fft_tables", "mel_chroma_cpu")],
        depends=[str(header) for header in Path("csrc").glob("*.h")],
        language="c++",
        optional=True,
    )
    return [library] if build == "auto" else []


setup(
    packages=[*find_packages(include=["duotok", "duotok.*"]), "duotok.kernels"],
    package_dir={"duotok": "duotok", "duotok.kernels": "kernels"},
    ext_modules=native_library(),
    cmdclass={"build_ext": BuildNative, "bdist_wheel": AnyPythonWheel},
)
