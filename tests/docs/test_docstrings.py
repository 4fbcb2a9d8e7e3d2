"""Every example in a docstring does what it says."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import pkgutil
from types import ModuleType
from typing import Any

import pytest

import zflow

MODULES = [
    found.name
    for found in pkgutil.walk_packages(zflow.__path__, "zflow.")
    if not found.name.endswith("__main__")
]


def examples(module: ModuleType) -> list[doctest.DocTest]:
    """The examples of a module, its classes and functions: those that are defined there,
    whatever name they bear.
    """
    finder = doctest.DocTestFinder()
    names: dict[str, Any] = {
        **{name: getattr(zflow, name) for name in zflow.__all__},
        **vars(module),
    }
    defined = [
        node.name
        for node in ast.parse(inspect.getsource(module)).body
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    found = finder.find(module, module.__name__, globs=dict(names), extraglobs=None)
    found = [test for test in found if test.name == module.__name__]
    for name in defined:
        found += finder.find(
            vars(module)[name], f"{module.__name__}.{name}", module=False, globs=dict(names)
        )  # type: ignore[arg-type]
    return [test for test in found if test.examples]


@pytest.mark.parametrize("name", MODULES)
def test_examples_do_what_they_say(name: str) -> None:
    for test in examples(importlib.import_module(name)):
        said: list[str] = []
        runner = doctest.DocTestRunner(optionflags=doctest.IGNORE_EXCEPTION_DETAIL)
        assert runner.run(test, out=said.append).failed == 0, "".join(said)


def test_examples_are_found_also_where_a_class_bears_the_name_of_the_package() -> None:
    found = {test.name for name in MODULES for test in examples(importlib.import_module(name))}
    assert {
        "zflow.documents.document.Document",
        "zflow.executors.executor.requests",
        "zflow.devices.balancing.balancer.Balancer",
    } <= found
