"""DESIGN: every file imports only from layers below it, and at module level only what its layer may need."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Part of the tree -> (its parts of ours that it may import, third-party packages it may import at module level).
LAYERS = {
    "kernels": (set(), {"torch", "numpy", "triton", "numba", "flash_attn", "xformers"}),
    "model": ({"kernels", "model"}, {"torch", "einops"}),
    "config": (set(), {"pydantic", "yaml"}),
    "fixed_math": (set(), set()),
    "integrity": (set(), {"numpy"}),
    "audio": ({"integrity"}, {"numpy", "soundfile", "soxr"}),
    "tf_checkpoint": (set(), {"numpy"}),
    "spleeter": ({"fixed_math", "tf_checkpoint"}, {"numpy", "torch"}),
    "separation": ({"fixed_math"}, {"numpy"}),
    "lyrics": (set(), {"numpy"}),
    "files": (set(), set()),
    "storage": ({"config", "files"}, {"torch", "yaml", "safetensors", "huggingface_hub"}),
    "windows": ({"audio"}, {"numpy"}),
    "stream": ({"audio", "integrity", "windows"}, {"numpy", "torch"}),
    "autoencoder": ({"model", "config", "storage"}, {"torch", "safetensors"}),
    "codes": (set(), {"torch"}),
    "decoder": ({"model", "config", "storage", "autoencoder", "codes"}, {"torch", "einops"}),
    "language": ({"model", "config", "storage"}, {"safetensors"}),
    "tokenizer": (
        {"fixed_math", "model", "config", "storage", "stream", "windows", "codes", "decoder"},
        {"numpy", "torch", "huggingface_hub"},
    ),
    "corpus": (
        {
            "kernels",
            "model",
            "config",
            "integrity",
            "audio",
            "separation",
            "files",
            "storage",
            "stream",
            "windows",
            "codes",
            "decoder",
            "language",
            "tokenizer",
            "corpus",
        },
        {"numpy", "torch", "pyarrow", "soundfile", "yaml"},
    ),
    "dataset": (
        {"config", "integrity", "audio", "separation", "lyrics", "files", "corpus", "dataset"},
        {"numpy", "soundfile"},
    ),
    "training": (
        {
            "kernels",
            "model",
            "config",
            "files",
            "storage",
            "lyrics",
            "windows",
            "language",
            "tokenizer",
            "decoder",
            "autoencoder",
            "dataset",
            "training",
        },
        {"numpy", "torch", "einops", "accelerate", "filelock", "safetensors"},
    ),
    "evaluation": (
        {
            "kernels",
            "model",
            "integrity",
            "audio",
            "separation",
            "lyrics",
            "autoencoder",
            "decoder",
            "tokenizer",
            "dataset",
            "evaluation",
        },
        {"numpy", "torch"},
    ),
    "listen": (
        {"kernels", "model", "audio", "corpus", "decoder", "tokenizer", "evaluation", "listen"},
        {"numpy", "torch", "soundfile"},
    ),
    "experiments": (
        {
            "kernels",
            "config",
            "files",
            "model",
            "separation",
            "decoder",
            "language",
            "tokenizer",
            "dataset",
            "training",
            "evaluation",
            "experiments",
        },
        {"numpy", "torch", "accelerate", "matplotlib", "soundfile"},
    ),
    "cli_results": ({"console"}, {"rich"}),
    "cli_evaluate_codes": ({"cli_results"}, {"typer"}),
    "cli_evaluate_sound": ({"console", "cli_results", "cli_evaluate_codes"}, {"typer"}),
    "cli_evaluate": ({"cli_results", "cli_evaluate_codes", "cli_evaluate_sound"}, {"typer"}),
    "cli_decode": ({"console"}, {"typer", "rich"}),
    "cli_sample": ({"cli_decode", "console"}, {"typer"}),
    "cli_train": ({"console"}, {"typer", "rich"}),
    "console": (set(), {"rich", "typer"}),
    "cli_corpus": ({"console"}, {"typer", "rich"}),
    "cli_runs": ({"console"}, {"typer"}),
    "cli_tokenize": ({"console", "cli_runs"}, {"typer", "rich"}),
    "cli_experiment": ({"console"}, {"typer", "rich"}),
    "cli_export": ({"console"}, {"typer", "rich"}),
    "cli": (
        {
            "cli",
            "console",
            "cli_corpus",
            "cli_decode",
            "cli_evaluate",
            "cli_experiment",
            "cli_export",
            "cli_runs",
            "cli_sample",
            "cli_tokenize",
            "cli_train",
        },
        {"typer", "rich"},
    ),
    "__main__": ({"cli"}, set()),
    "__init__": (set(), set()),
}


def parts() -> list[tuple[str, Path]]:
    files = [("kernels", path) for path in sorted((ROOT / "kernels").rglob("*.py"))]
    for path in sorted((ROOT / "duotok").rglob("*.py")):
        files.append((path.relative_to(ROOT / "duotok").parts[0].removesuffix(".py"), path))
    return files


def imports(path: Path, package: str) -> list[tuple[str, bool]]:
    """Every imported module of a file, absolute, with whether the import stands at module level."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = {id(node) for node in tree.body}
    typing_only = {id(n) for block in tree.body if isinstance(block, ast.If) for n in block.body}
    found = []
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{module}.{alias.name}" for alias in node.names] if module == "duotok" else [module]
            found += [(name, id(node) in top) for name in names]
    return found


def package_of(path: Path) -> str:
    relative = path.relative_to(ROOT)
    head = ["duotok", "kernels"] if relative.parts[0] == "kernels" else ["duotok"]
    return ".".join([*head, *relative.parts[1:-1]])


@pytest.mark.parametrize(("part", "path"), parts(), ids=lambda value: str(getattr(value, "name", value)))
def test_imports_follow_the_layers(part, path):
    assert part in LAYERS, f"{path}: give {part} a place in the table of layers"
    ours, third = LAYERS[part]
    for module, at_top in imports(path, package_of(path)):
        root, *rest = module.split(".")
        if root == "duotok":
            target = rest[0] if rest else "__init__"
            if at_top:
                inside = target in ours or target in ("__version__",) or part == "kernels" == target
                assert inside, f"{path}: {part} may not import {module}"
            else:
                below = list(LAYERS).index(target) if target in LAYERS else -1
                upwards = part.startswith("cli") or part == "__init__"  # inside the sub-command that needs it
                assert upwards or below <= list(LAYERS).index(part), f"{path}: {part} reaches up to {module}"
        elif at_top and root not in sys.stdlib_module_names:
            assert root in third, f"{path}: {part} may not import {root} at module level"


def test_the_table_would_notice(tmp_path):
    """A kernel that imports the model is caught."""
    file = tmp_path / "bad.py"
    file.write_text("from duotok.model import trunk\nimport soundfile\n")
    modules = dict(imports(file, "duotok.kernels"))
    assert "duotok.model" in modules and "model" not in LAYERS["kernels"][0]
    assert modules["soundfile"] and "soundfile" not in LAYERS["kernels"][1]
