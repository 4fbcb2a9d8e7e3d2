"""What an Executor binds, by what its replicas here and elsewhere say."""

from __future__ import annotations

import pytest

from zflow.devices.balancing.replica import BatchKey
from zflow.devices.routing.bindings import Binding, Bindings


def says(*endpoints: str, size: int = 0) -> Binding:
    return Binding(frozenset(endpoints), {"/a": BatchKey("/a", size)} if size else {})


BOTH, ONE, OTHER = says("/a", "/b"), says("/b"), says("/c")


def why(bindings: Bindings, said: Binding) -> str:
    return bindings.objection(said) or ""


def test_replicas_here_decide_and_one_elsewhere_that_differs_is_told_both_lists() -> None:
    bindings = Bindings()
    bindings.join("here", BOTH, here=True)
    assert bindings.objection(BOTH) is None
    assert why(bindings, ONE) == (
        "it binds ['/b'], but the Executor's replicas in its Flow ['/a', '/b']: run the same "
        "Executor there,"
        " with the same options"
    )
    assert bindings.endpoints == {"/a", "/b"}


def test_what_the_last_one_here_said_holds_when_it_is_gone() -> None:
    bindings = Bindings()
    bindings.join("here", BOTH, here=True)
    bindings.leave("here")
    assert bindings.endpoints == {"/a", "/b"}
    assert why(bindings, ONE)


def test_without_any_here_what_was_given_holds() -> None:
    bindings = Bindings(BOTH.endpoints)
    assert "but the Executor, as its Flow says, ['/a', '/b']" in why(bindings, ONE)
    assert bindings.endpoints == {"/a", "/b"}
    bindings.join("elsewhere", BOTH, here=False)
    bindings.join("here", ONE, here=True)
    assert bindings.endpoints == {"/b"}


def test_else_the_first_one_elsewhere_decides_as_long_as_it_is_there() -> None:
    bindings = Bindings()
    assert bindings.endpoints is None
    bindings.join("first", ONE, here=False)
    bindings.join("second", ONE, here=False)
    assert "but the replicas that joined before ['/b']" in why(bindings, BOTH)
    bindings.leave("first")
    assert why(bindings, BOTH)
    bindings.leave("second")
    assert bindings.endpoints is None
    assert bindings.objection(BOTH) is None


def test_those_elsewhere_that_differ_from_one_that_comes_here_are_strangers() -> None:
    bindings = Bindings()
    bindings.join("elsewhere", ONE, here=False)
    assert bindings.strangers == {}
    bindings.join("here", BOTH, here=True)
    assert list(bindings.strangers) == ["elsewhere"]
    assert bindings.endpoints == {"/a", "/b"}


def test_while_those_here_are_replaced_both_lists_hold() -> None:
    bindings = Bindings()
    bindings.join("old", ONE, here=True)
    bindings.join("elsewhere", ONE, here=False)
    bindings.join("new", OTHER, here=True)
    assert bindings.endpoints == {"/b", "/c"}
    assert bindings.objection(ONE) is bindings.objection(OTHER) is None
    assert bindings.strangers == {}
    bindings.leave("old")
    assert bindings.endpoints == {"/c"}
    assert list(bindings.strangers) == ["elsewhere"]


@pytest.mark.parametrize("given", [None, frozenset({"/a"})])
def test_batches_are_those_of_the_replica_here_that_joined_last(
    given: frozenset[str] | None,
) -> None:
    bindings = Bindings(given)
    bindings.join("elsewhere", says("/a", size=4), here=False)
    assert bindings.batching["/a"].size == 4
    assert why(bindings, says("/a", size=8)) == (
        "it takes requests in batches {'/a': [8, 0 ms]}, but "
        + ("the Executor, as its Flow says," if given else "the replicas that joined before")
        + " {'/a': [4, 0 ms]}: run the same Executor there, with the same options"
    )
    bindings.join("here", says("/a", size=2), here=True)
    bindings.join("newer", says("/a"), here=True)
    assert bindings.batching == {}
    bindings.leave("newer")
    assert bindings.batching["/a"].size == 2


def test_long_lists_are_shown_in_part() -> None:
    bindings = Bindings(frozenset({"/x" * 500}))
    assert len(why(bindings, says(*(f"/{number}" * 50 for number in range(1000))))) < 3500
    assert " and 980 more" in why(bindings, says(*(f"/{number}" for number in range(1000))))


def test_one_that_does_not_say_what_it_binds_differs_from_none() -> None:
    bindings = Bindings(ONE.endpoints)
    bindings.join("here", Binding(None, {}), here=True)
    assert bindings.endpoints == {"/b"}
    assert bindings.objection(OTHER) is None
