"""Import rules: what may import what. Lazy imports and those for type checkers count like all others.

The rules are those of `docs/architecture.md`, "Import rules".
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest
from helpers import ROOT

GROUND = {"errors", "suggest"}
DEVICES = {f"devices.{name}" for name in ("balancing", "broker", "local", "protocol", "routing", "sockets")}
FACE = {"flow", "serve", "remote"}
BELOW = {
    *("clients", "documents", "executors", "network", "processes", "replicas", "system", "topology"),
    *("yamlsource", "version"),
    *DEVICES,
}

#: By package, what it may import besides itself and `GROUND`.
MAY: Mapping[str, set[str]] = {
    "errors": set(),
    "suggest": set(),
    "version": set(),
    "yamlsource": set(),
    "system": set(),
    "network": set(),
    "documents": set(),
    "executors": {"yamlsource"},
    "topology": {"executors", "network", "system", "yamlsource"},
    "clients": {"documents", "network", "devices.protocol", "devices.sockets", "devices.local"},
    "replicas": {"executors", "documents", "system", "topology", *DEVICES} - {"devices.broker"},
    "processes": {"replicas", "topology", "executors", "network", "system", *DEVICES},
    "flow": BELOW,
    "serve": BELOW | {"flow"},
    "remote": BELOW,
    "__init__": BELOW | FACE,
    "cli": BELOW | FACE,
    "__main__": {"cli"},
    "devices.protocol": set(),
    "devices.balancing": set(),
    "devices.routing": {"devices.balancing", "devices.protocol"},
    "devices.local": {"devices.protocol"},
    "devices.sockets": {"devices.protocol"},
    "devices.broker": DEVICES,
    "devices": set(),
}

#: Packages of the data plane import nothing of zflow but the data plane; these know no sockets and no clock either.
PURE = {"devices.protocol", "devices.balancing", "devices.routing"}
NOT_PURE = {"zmq", "time", "datetime", "socket", "select", "selectors", "asyncio", "threading"}

#: What a package may import for type checkers only.
FOR_TYPES_ONLY = {("replicas", "topology")}


def modules(root: Path) -> dict[str, Path]:
    """The modules of zflow by name, as in `'zflow.devices.protocol.messages'`; a package by its own name."""
    found = {}
    for top, prefix in ((root / "zflow", "zflow"), (root / "devices", "zflow.devices")):
        for path in sorted(top.rglob("*.py")):
            parts = path.relative_to(top).with_suffix("").parts
            if top.name == "zflow" and parts[0] == "devices":
                continue  # the link: read where it leads
            name = ".".join((prefix, *parts))
            found[name.removesuffix(".__init__")] = path
    return found


def imports(name: str, path: Path, known: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """Yield each module that a module imports, anywhere in it, and whether that is for type checkers only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for branch in node.body
        for inner in ast.walk(branch)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node in for_types
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{origin}.{alias.name}"
                yield (inner if inner in known else origin), node in for_types


def package_of(module: str) -> str:
    """The package by which the rules go: `'documents'`, `'devices.protocol'`, or a module of the root: `'flow'`."""
    parts = module.split(".")[1:]
    if not parts:
        return "__init__"
    return ".".join(parts[:2]) if parts[0] == "devices" else parts[0]


def violations(root: Path) -> list[str]:
    """What is against the rules, one line each."""
    known = modules(root)
    wrong = []
    for name, path in known.items():
        package = package_of(name)
        is_face = path.name == "__init__.py" and package not in ("__init__", "cli")
        for imported, for_types in imports(name, path, known):
            if package in PURE and imported.partition(".")[0] in NOT_PURE:
                wrong.append(f"{name} imports {imported}: {package} is pure, without sockets and without a clock")
            if imported.partition(".")[0] != "zflow":
                continue
            target = package_of(imported)
            if is_face:
                wrong.append(f"{name} imports {imported}: a folder's face imports nothing")
            elif target != package and target not in MAY[package] | (set() if "devices" in package else GROUND):
                wrong.append(f"{name} imports {imported}: {package} may not import {target}")
            elif (package, target) in FOR_TYPES_ONLY and not for_types:
                wrong.append(f"{name} imports {imported}: {package} may import {target} for types only")
    return wrong


def circles(root: Path) -> list[list[str]]:
    """The groups of modules each of which imports all others of its group, by whatever detour (Tarjan 1972)."""
    known = modules(root)
    graph = {name: {to for to, _ in imports(name, path, known) if to in known} for name, path in known.items()}
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for to in sorted(graph[name]):
            if to not in index:
                visit(to)
                low[name] = min(low[name], low[to])
            elif to in stack:
                low[name] = min(low[name], index[to])
        if low[name] == index[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1 or name in graph[name]:
                found.append(sorted(group))

    for name in graph:
        if name not in index:
            visit(name)
    return found


def test_each_package_imports_only_what_it_may() -> None:
    assert violations(ROOT) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles(ROOT) == []


def test_there_is_a_rule_for_every_package() -> None:
    assert {package_of(name) for name in modules(ROOT)} == set(MAY)


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A small house in which all is well, but for what a test adds to it."""
    (tmp_path / "devices" / "balancing").mkdir(parents=True)
    (tmp_path / "zflow" / "documents").mkdir(parents=True)
    (tmp_path / "zflow" / "replicas").mkdir()
    for folder in ("zflow", "zflow/documents", "zflow/replicas", "devices", "devices/balancing"):
        (tmp_path / folder / "__init__.py").write_text('"""The rule."""\n')
    (tmp_path / "zflow" / "flow.py").write_text("from zflow.documents import codec\nimport os\n")
    (tmp_path / "zflow" / "documents" / "codec.py").write_text("from zflow.documents import tensor\n")
    (tmp_path / "zflow" / "documents" / "tensor.py").write_text("import zmq\n")
    assert violations(tmp_path) == circles(tmp_path) == []
    return tmp_path


@pytest.mark.parametrize(
    ("path", "source", "told"),
    [
        ("zflow/documents/up.py", "from zflow.flow import Flow", "documents may not import flow"),
        ("zflow/documents/up.py", "from zflow import flow", "documents may not import flow"),
        ("zflow/documents/up.py", "import zflow.flow", "documents may not import flow"),
        ("zflow/documents/up.py", "from ..flow import Flow", "documents may not import flow"),
        ("zflow/documents/up.py", "def late():\n    from zflow.flow import Flow", "documents may not import flow"),
        (
            "zflow/documents/up.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from zflow.flow import Flow",
            "documents may not import flow",
        ),
        ("devices/balancing/up.py", "from zflow.errors import ZflowError", "devices.balancing may not import errors"),
        ("devices/balancing/late.py", "import time", "devices.balancing is pure"),
        ("devices/balancing/late.py", "def now():\n    from time import monotonic", "devices.balancing is pure"),
        ("devices/balancing/loud.py", "import zmq.asyncio", "devices.balancing is pure"),
        ("zflow/documents/__init__.py", "from zflow.documents.codec import pack", "face imports nothing"),
        ("zflow/replicas/link.py", "from zflow.topology.topology import ExecutorSpec", "for types only"),
    ],
)
def test_what_is_planted_is_found(house: Path, path: str, source: str, told: str) -> None:
    (house / path).write_text(source + "\n")
    assert [line for line in violations(house) if told in line], violations(house)


def test_a_circle_is_found_whether_lazy_or_for_types(house: Path) -> None:
    (house / "zflow" / "documents" / "tensor.py").write_text("def show():\n    from zflow.documents import values\n")
    (house / "zflow" / "documents" / "values.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from zflow.documents.codec import pack\n"
    )
    names = [f"zflow.documents.{name}" for name in ("codec", "tensor", "values")]
    assert circles(house) == [names]
