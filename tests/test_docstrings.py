"""Every public name says what it does; functions that take or give tensors give their shapes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted([*(ROOT / "duotok").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")])
SHAPE = re.compile(r"\([A-Za-z0-9.*, '/+_-]*\)|like `?x|\bB\b")


def public(tree: ast.Module) -> Iterator[tuple[str, ast.AST, bool]]:
    """Public classes, functions and methods: (name, node, whether an implementation of an inherited interface)."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            yield node.name, node, False
            if isinstance(node, ast.ClassDef):
                for inner in node.body:
                    if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_"):
                        yield f"{node.name}.{inner.name}", inner, False


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_public_names_are_documented(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), f"{path}: the file has no docstring"
    for name, node, _ in public(tree):
        text = ast.get_docstring(node)
        assert text, f"{path}: {name} has no docstring"
        if isinstance(node, ast.FunctionDef):
            annotations = [ast.unparse(a.annotation) for a in node.args.args if a.annotation]
            annotations += [ast.unparse(node.returns)] if node.returns else []
            if any(re.search(r"\bTensor\b|\bndarray\b", a) for a in annotations):
                whole = text + (ast.get_docstring(tree) or "")
                assert SHAPE.search(whole), f"{path}: {name} takes or gives arrays, but names no shape"
