"""The texts to search: every public docstring of the Python standard
library that is on this machine.

They are read from the source files and never imported, so nothing is run.
Knows nothing of Executors.
"""

from __future__ import annotations

import ast
import functools
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

# Not what a user of the library looks for: tests, programs, deprecated and installed packages.
SKIPPED = {
    "test",
    "tests",
    "idlelib",
    "lib2to3",
    "distutils",
    "turtledemo",
    "ensurepip",
    "site-packages",
    "dist-packages",
}

_Definition = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def load(folder: str | None = None) -> dict[str, str]:
    """Return docstrings by qualified name, such as `'json.loads'`, always in the same order.

    `folder` is where the source files are, by default what the environment variable CORPUS says, or
    those of this Python's library. The answer is kept: where a Flow forks its replicas from a
    process that has read the corpus, they have it without reading it again.
    """
    return _load(folder or os.environ.get("CORPUS") or sysconfig.get_paths()["stdlib"])


@functools.cache
def _load(folder: str) -> dict[str, str]:
    root = Path(folder)
    found: dict[str, str] = {}
    for path in _modules(root):
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue  # templates and the like, which only look like modules
        parts = path.relative_to(root).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        for name, text in _docstrings(tree, module):
            found.setdefault(name, text)
    return found


def _modules(root: Path) -> Iterator[Path]:
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = sorted(
            name for name in subfolders if _is_public(name) and name not in SKIPPED
        )
        for name in sorted(files):
            if name.endswith(".py") and (
                _is_public(name) or (name == "__init__.py" and folder != str(root))
            ):
                yield Path(folder, name)


def _docstrings(node: ast.Module | ast.ClassDef, name: str) -> Iterator[tuple[str, str]]:
    """Yield the docstrings of a module or class and of what is defined in it,
    the outer before the inner.
    """
    if text := ast.get_docstring(node):
        yield name, text
    for child in _definitions(node.body):
        inner = f"{name}.{child.name}"
        if isinstance(child, ast.ClassDef):
            yield from _docstrings(child, inner)
        elif text := ast.get_docstring(child):
            yield inner, text


def _definitions(
    body: list[ast.stmt],
) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield public definitions, also those that depend on the platform (`if`, `try`)."""
    for node in body:
        if isinstance(node, _Definition):
            if _is_public(node.name):
                yield node
        elif isinstance(node, ast.If):
            yield from _definitions(node.body + node.orelse)
        elif isinstance(node, ast.Try):
            handlers = [statement for handler in node.handlers for statement in handler.body]
            yield from _definitions(node.body + handlers + node.orelse)


def _is_public(name: str) -> bool:
    return not name.startswith("_") and "-" not in name


if __name__ == "__main__":
    corpus = load()
    print(f"{len(corpus)} docstrings, from {next(iter(corpus))} to {next(reversed(corpus))}")
