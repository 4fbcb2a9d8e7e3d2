"""What the constructors of Executors take, and what becomes of their `**kwargs`."""

from __future__ import annotations

from typing import Any

import pytest

from zflow.errors import InvalidExecutor
from zflow.executors.constructors import check, takes
from zflow.executors.executor import BaseExecutor, Executor


class Base(Executor):
    def __init__(self, model: str, top_k: int = 5, **kwargs: Any) -> None:
        super().__init__(**kwargs)


class Child(Base):
    def __init__(self, size: int = 1, **kwargs: Any) -> None:
        super().__init__("m", **kwargs)


class OldChild(Base):
    def __init__(self, size: int = 1, **rest: Any) -> None:
        rest_of_it = 3
        Base.__init__(self, rest_of_it, **rest)


class Keeps(Base):
    def __init__(self, **kwargs: Any) -> None:
        self.lr = kwargs.get("learning_rate")
        super().__init__("m", **kwargs)


class Drops(Executor):
    def __init__(self, size: int = 1, **kwargs: Any) -> None:
        super().__init__()


class Told(Base):
    def __init__(self, metas: Any, *, runtime_args: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)


class ToldToo(Told):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)


OWN = ("metas", "requests", "runtime_args", "workspace")


@pytest.mark.parametrize(
    ("cls", "named"),
    [
        (BaseExecutor, OWN),
        (Base, ("model", "top_k", *OWN)),
        (Child, ("size", "model", "top_k", *OWN)),
        (OldChild, ("size", "model", "top_k", *OWN)),
        (Keeps, ("model", "top_k", *OWN)),
        (Drops, ("size",)),
    ],
)
def test_what_is_handed_on_is_what_parents_take(cls: type, named: tuple[str, ...]) -> None:
    assert takes(cls, Executor).named == named


def test_what_a_replica_tells_is_for_those_who_name_it() -> None:
    assert takes(Told, Executor).told == ("metas", "runtime_args")
    assert takes(ToldToo, Executor).told == ("metas", "runtime_args")
    assert takes(Child, Executor).told == ()
    assert check(Told, ["model"], Executor) == []


@pytest.mark.parametrize("cls", [Base, Child, OldChild, Told])
def test_what_nobody_takes_is_an_error(cls: type) -> None:
    given = ["model", "top_kk"] if cls in (Base, Told) else ["top_kk"]
    with pytest.raises(InvalidExecutor, match=r"'top_kk'.* does not take; did you mean 'top_k'\?"):
        check(cls, given, Executor)


def test_what_may_be_meant_is_said_only_if_it_is_nearly_something_else() -> None:
    assert check(Keeps, ["learning_rate", "top_k", "whatever"], Executor) == []
    assert check(Keeps, ["learning_rat"], Executor) == [
        "uses_with gives 'learning_rat', which Keeps.__init__ does not name; "
        "did you mean 'learning_rate'?"
    ]


def test_what_is_dropped_is_always_said() -> None:
    assert check(Drops, ["size", "other"], Executor) == [
        "uses_with gives 'other', which Drops.__init__ takes by its **kwargs and does not use"
    ]


def test_without_source_anything_may_be_meant() -> None:
    made: dict[str, Any] = {"Executor": Executor}
    exec(
        "class Made(Executor):\n"
        "    def __init__(self, size=1, **kwargs): super().__init__(**kwargs)",
        made,
    )
    assert check(made["Made"], ["other"], Executor) == []
    assert len(check(made["Made"], ["sizes"], Executor)) == 1


def test_a_constructor_in_c_takes_anything() -> None:
    class InC(Executor, dict):  # type: ignore[misc, type-arg]
        __init__ = dict.__init__  # type: ignore[assignment]

    assert check(InC, ["anything"], Executor) == []
