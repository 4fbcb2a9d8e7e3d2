"""Figures of the structure that are to stay as they are: see `structure.py`."""

from __future__ import annotations

from pathlib import Path

import pytest
from structure import (
    ROOT,
    holds_logic,
    in_the_root,
    lengths,
    loaded_by_import,
    modules,
    untyped,
    without_test,
)

import zflow


def test_no_file_is_too_long_to_be_seen_at_once() -> None:
    longest, lines = next(iter(lengths(ROOT).items()))
    assert lines <= 500, longest


def test_types_are_said() -> None:
    assert untyped(ROOT) < 250


def test_the_packages_root_holds_the_face_and_the_ground() -> None:
    assert len(in_the_root(ROOT)) <= 12


def test_each_module_that_holds_logic_has_a_test_file_of_its_name() -> None:
    assert without_test(ROOT) == []


def test_importing_zflow_loads_few_modules() -> None:
    assert len(loaded_by_import()) <= 38


def test_public_names_bear_the_name_of_the_package() -> None:
    assert {name: getattr(zflow, name).__module__ for name in zflow.__all__} == dict.fromkeys(
        zflow.__all__, "zflow"
    )


def test_every_folder_has_a_face_that_says_its_rule() -> None:
    faces = [path for path in modules(ROOT).values() if path.name == "__init__.py"]
    assert {path.parent for path in modules(ROOT).values()} == {path.parent for path in faces}
    assert all(path.read_text(encoding="utf-8").startswith('"""') for path in faces)


@pytest.mark.parametrize(
    ("source", "holds"),
    [
        ("def f():\n    a = 1\n    return a\n", True),
        ('def f():\n    """Only says so."""\n    return 1\n', False),
        ("class P:\n    def f(self): ...\n", False),
        ("A = [1, 2]\n", False),
    ],
)
def test_logic_is_told_from_plain_data(tmp_path: Path, source: str, holds: bool) -> None:
    path = tmp_path / "module.py"
    path.write_text(source)
    assert holds_logic(path) is holds
