"""Import rules: what may import what. Lazy imports and those for type
checkers count like all others.

The rules stand in `structure.py`, and in words in `docs/architecture.md`.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from structure import MAY, ROOT, circles, modules, package_of, violations


def test_each_package_imports_only_what_it_may() -> None:
    assert violations(ROOT) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles(ROOT) == []


def test_there_is_a_rule_for_every_package() -> None:
    assert {package_of(name) for name in modules(ROOT)} == set(MAY)


PUBLIC = {"zflow", "zflow.errors"}


def imported_by(source: str) -> set[str]:
    """The modules of zflow that Python code imports by name."""
    return set(re.findall(r"^\s*(?:from|import) (zflow(?:\.\w+)*)", source, re.MULTILINE))


@pytest.mark.parametrize("folder", ["examples", "docs", "bench"])
def test_what_users_read_imports_what_is_public(folder: str) -> None:
    files = [path for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".md")]
    files = [
        path
        for path in files
        if path != ROOT / "bench" / "inside.py" and ".peers" not in path.parts
    ]
    inner = {str(path): imported_by(path.read_text(encoding="utf-8")) - PUBLIC for path in files}
    assert {path: names for path, names in inner.items() if names} == {}
    assert imported_by("from zflow.flow import Flow\n    import zflow.errors\n") == {
        "zflow.flow",
        "zflow.errors",
    }


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A small house in which all is well, but for what a test adds to it."""
    (tmp_path / "devices" / "balancing").mkdir(parents=True)
    (tmp_path / "zflow" / "documents").mkdir(parents=True)
    (tmp_path / "zflow" / "replicas").mkdir()
    for folder in ("zflow", "zflow/documents", "zflow/replicas", "devices", "devices/balancing"):
        (tmp_path / folder / "__init__.py").write_text('"""The rule."""\n')
    (tmp_path / "zflow" / "flow.py").write_text("from zflow.documents import codec\nimport os\n")
    (tmp_path / "zflow" / "documents" / "codec.py").write_text(
        "from zflow.documents import tensor\n"
    )
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
        (
            "zflow/documents/up.py",
            "def late():\n    from zflow.flow import Flow",
            "documents may not import flow",
        ),
        (
            "zflow/documents/up.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from zflow.flow import Flow",
            "documents may not import flow",
        ),
        (
            "devices/balancing/up.py",
            "from zflow.errors import ZflowError",
            "devices.balancing may not import errors",
        ),
        ("devices/balancing/late.py", "import time", "devices.balancing is pure"),
        (
            "devices/balancing/late.py",
            "def now():\n    from time import monotonic",
            "devices.balancing is pure",
        ),
        ("devices/balancing/loud.py", "import zmq.asyncio", "devices.balancing is pure"),
        (
            "zflow/documents/__init__.py",
            "from zflow.documents.codec import pack",
            "face imports nothing",
        ),
        (
            "zflow/replicas/link.py",
            "from zflow.topology.topology import ExecutorSpec",
            "for types only",
        ),
    ],
)
def test_what_is_planted_is_found(house: Path, path: str, source: str, told: str) -> None:
    (house / path).write_text(source + "\n")
    assert [line for line in violations(house) if told in line], violations(house)


def test_a_circle_is_found_whether_lazy_or_for_types(house: Path) -> None:
    (house / "zflow" / "documents" / "tensor.py").write_text(
        "def show():\n    from zflow.documents import values\n"
    )
    (house / "zflow" / "documents" / "values.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from zflow.documents.codec "
        "import pack\n"
    )
    names = [f"zflow.documents.{name}" for name in ("codec", "tensor", "values")]
    assert circles(house) == [names]
