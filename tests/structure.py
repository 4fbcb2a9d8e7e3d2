"""The structure of the code, read from its text: who imports whom, how long files are,
what has tests of its own.

`python -m tests.structure` prints the figures; `test_structure.py` and `test_imports.py` hold them.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

GROUND = {"endpoints", "errors", "suggest"}
DEVICES = {
    f"devices.{name}" for name in ("balancing", "broker", "local", "protocol", "routing", "sockets")
}
FACE = {"flow", "serve", "remote"}
BELOW = {
    *(
        "clients",
        "documents",
        "executors",
        "network",
        "processes",
        "replicas",
        "system",
        "topology",
    ),
    *("yamlsource", "version"),
    *DEVICES,
}

#: By package, what it may import besides itself and `GROUND`.
MAY: Mapping[str, set[str]] = {
    "endpoints": set(),
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

#: Packages of the data plane import nothing of zflow but the data plane; these know no sockets and
#: no clock either.
PURE = {"devices.protocol", "devices.balancing", "devices.routing"}
NOT_PURE = {"zmq", "time", "datetime", "socket", "select", "selectors", "asyncio", "threading"}

#: What a package may import for type checkers only.
FOR_TYPES_ONLY = {("replicas", "topology")}


def modules(root: Path) -> dict[str, Path]:
    """The modules of zflow by name, as in `'zflow.devices.protocol.messages'`;
    a package by its own name.
    """
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
    """Yield each module that a module imports, anywhere in it,
    and whether that is for type checkers only.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
        for branch in node.body
        for inner in ast.walk(branch)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node in for_types
        elif isinstance(node, ast.ImportFrom):
            base = (
                package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            )
            origin = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{origin}.{alias.name}"
                yield (inner if inner in known else origin), node in for_types


def package_of(module: str) -> str:
    """The package by which the rules go: `'documents'`, `'devices.protocol'`,
    or a module of the root: `'flow'`.
    """
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
                wrong.append(
                    f"{name} imports {imported}: {package} is pure, without sockets and without a "
                    "clock"
                )
            if imported.partition(".")[0] != "zflow":
                continue
            target = package_of(imported)
            if is_face:
                wrong.append(f"{name} imports {imported}: a folder's face imports nothing")
            elif target != package and target not in MAY[package] | (
                set() if "devices" in package else GROUND
            ):
                wrong.append(f"{name} imports {imported}: {package} may not import {target}")
            elif (package, target) in FOR_TYPES_ONLY and not for_types:
                wrong.append(
                    f"{name} imports {imported}: {package} may import {target} for types only"
                )
    return wrong


def circles(root: Path) -> list[list[str]]:
    """The groups of modules each of which imports all others of its group,
    by whatever detour (Tarjan 1972).
    """
    known = modules(root)
    graph = {
        name: {to for to, _ in imports(name, path, known) if to in known}
        for name, path in known.items()
    }
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


# -- figures ---------------------------------------------------------------------------------------


def holds_logic(path: Path) -> bool:
    """Whether a module has a function that does more than one thing;
    protocols and plain data have none.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [
        node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    return any(
        len([part for part in node.body if not _is_docstring(part)]) > 1 for node in functions
    )


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def without_test(root: Path) -> list[str]:
    """The modules that hold logic and have no test file of their own name
    in the folder of the same name.
    """
    found = []
    for name, path in modules(root).items():
        if path.name.startswith("__"):
            continue
        folder = root / "tests" / Path(*name.split(".")[1:-1])
        if holds_logic(path) and not (folder / f"test_{path.name}").exists():
            found.append(name)
    return found


def lengths(root: Path) -> dict[str, int]:
    """How many lines each module has, the longest first."""
    counted = {
        name: len(path.read_text(encoding="utf-8").splitlines())
        for name, path in modules(root).items()
    }
    return dict(sorted(counted.items(), key=lambda item: -item[1]))


def in_the_root(root: Path) -> list[str]:
    """The files in the package's own folder."""
    return sorted(path.name for path in (root / "zflow").glob("*.py"))


def loaded_by_import() -> list[str]:
    """The modules of zflow that `import zflow` loads."""
    code = (
        "import sys, zflow; print(*(name for name in sys.modules if name.partition('.')[0] == "
        "'zflow'))"
    )
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()


def tokens(root: Path) -> int:
    """How many tokens the code has, but comments and docstrings."""
    return sum(_tokens(path.read_text(encoding="utf-8")) for path in modules(root).values())


def _tokens(text: str) -> int:
    tree = ast.parse(text)
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    documented = [node for node in ast.walk(tree) if isinstance(node, owners)]
    docstrings = {node.body[0].lineno for node in documented if ast.get_docstring(node) is not None}
    lines = iter(text.splitlines(keepends=True))
    return sum(
        token.type in (tokenize.NAME, tokenize.NUMBER, tokenize.OP)
        or (token.type == tokenize.STRING and token.start[0] not in docstrings)
        for token in tokenize.generate_tokens(lambda: next(lines, ""))
    )


def untyped(root: Path) -> int:
    """How often the code says `Any`, imports of it left out."""
    names = (
        node.id
        for path in modules(root).values()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Name)
    )
    return sum(name == "Any" for name in names)


def main() -> None:
    """Print the figures."""
    longest, lines = next(iter(lengths(ROOT).items()))
    known, lacking = modules(ROOT), without_test(ROOT)
    with_logic = sum(holds_logic(path) for path in known.values() if not path.name.startswith("__"))
    print(f"modules: {len(known)}, lines: {sum(lengths(ROOT).values())}")
    print(f"tokens: {tokens(ROOT)}, of them `Any`: {untyped(ROOT)}")
    print(f"circles of imports, lazy and type-only ones included: {len(circles(ROOT))}")
    print(f"imports against the rules: {len(violations(ROOT))}")
    print(f"files in the package's root: {len(in_the_root(ROOT))}")
    print(f"longest file: {longest}, {lines} lines")
    print(
        f"modules with a test file of their own name: {with_logic - len(lacking)} of {with_logic} "
        "that hold logic"
    )
    print(f"modules of zflow that `import zflow` loads: {len(loaded_by_import())}")


if __name__ == "__main__":
    main()
