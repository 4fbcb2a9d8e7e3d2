"""Two methods of one name in a class: which of them Python has thrown away is said."""

from __future__ import annotations

import abc
import functools
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, overload

import pytest

from zflow import Executor, requests
from zflow.executors.duplicates import redefined


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelname == "WARNING"]


def defined(names: str) -> str:
    """A class with these methods, each of which is decorated where its name has an `@`."""
    methods = [
        f"    {'@requests(on=' + repr(f'/{at}') + ')' if '@' in name else 'x = 1'}\n"
        f"    def {name.strip('@')}(self, docs, **kwargs): return {at}\n"
        for at, name in enumerate(names.split())
    ]
    return "from zflow import Executor, requests\nclass Made(Executor):\n" + "".join(methods)


@pytest.mark.parametrize("names", ["@foo @foo", "@foo foo", "foo @foo", "foo foo", "foo @bar foo"])
@pytest.mark.parametrize("in_file", [True, False])
def test_a_method_that_replaces_another_is_named(
    names: str, in_file: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "made.py"
    path.write_text(defined(names))
    where = str(path) if in_file else "<nowhere>"
    exec(compile(path.read_text(), where, "exec"), {"__name__": "made"})
    [message] = messages(caplog)
    assert message.startswith("Made.foo is defined more than once")
    assert message.endswith(": only the last one counts; give each a name of its own")
    assert ("made.py, lines " in message) is in_file


def test_the_lines_are_those_of_the_methods(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "made.py"
    path.write_text(defined("@foo bar @foo foo"))
    exec(compile(path.read_text(), str(path), "exec"), {"__name__": "made"})
    assert f"({path}, lines 4, 8, 10)" in messages(caplog)[0]


def test_what_is_meant_so_is_not_named(caplog: pytest.LogCaptureFixture) -> None:
    class Fine(Executor):
        @property
        def size(self) -> int:
            return 1

        @size.setter
        def size(self, value: int) -> None: ...

        @overload
        def cut(self, at: int) -> int: ...

        @overload
        def cut(self, at: str) -> str: ...

        def cut(self, at: Any) -> Any:
            return at

        if sys.platform == "linux":

            @requests(on="/x")
            def foo(self, docs: Any) -> None: ...
        else:

            @requests(on="/x")
            def foo(self, docs: Any) -> None: ...

        @functools.singledispatchmethod
        def kind(self, of: Any) -> str:
            return "any"

        @kind.register
        def _(self, of: int) -> str:
            return "int"

        @kind.register
        def _(self, of: str) -> str:
            return "text"

        class Inner:
            def foo(self) -> None: ...

        def work(self) -> Callable[..., int]:
            def work() -> int:
                return 1

            return work

        keys = [(lambda: 1)(), (lambda: 2)()]

    class Child(Fine):
        def foo(self, docs: Any) -> None: ...

    assert messages(caplog) == []


def test_a_class_is_told_from_others_of_its_name(caplog: pytest.LogCaptureFixture) -> None:
    def first() -> type:
        class Same(Executor):
            @requests
            def foo(self, docs: Any) -> None: ...

        return Same

    class Same(Executor):
        @requests
        def bar(self, docs: Any) -> None: ...

    first()
    assert messages(caplog) == []
    assert redefined(type("Same", (Executor,), {})) is None


def test_it_is_seen_with_a_metaclass_a_decorator_and_a_parent_of_ones_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Watched(Executor, abc.ABC):
        def __init_subclass__(cls, **kwargs: Any) -> None:
            super().__init_subclass__(**kwargs)

    def same(method: Any) -> Any:
        @functools.wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            return method(*args, **kwargs)

        return call

    source = """
        class Deep(Watched):
            @same
            @requests
            def foo(self, docs): ...

            @same
            def foo(self, docs): ...
        """
    path = tmp_path / "deep.py"
    path.write_text(textwrap.dedent(source))
    space = {"Watched": Watched, "same": same, "requests": requests, "__name__": "deep"}
    exec(compile(path.read_text(), str(path), "exec"), space)
    assert len(messages(caplog)) == 1
