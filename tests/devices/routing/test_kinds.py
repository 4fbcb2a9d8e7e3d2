"""Replicas that bind different endpoints, as while they are replaced:
each request goes to one that binds its own.
"""

from __future__ import annotations

import sys
from typing import Any

from zflow.devices.balancing.actions import Fail, Recall, Send
from zflow.devices.balancing.replica import BatchKey, Replica
from zflow.devices.routing.bindings import Binding
from zflow.devices.routing.pool import Limits, Pool
from zflow.devices.routing.walk import Node, Walk

INPUTS: Any = [("gateway", [[b"docs"]])]


def in_two(payload: Any, count: int) -> tuple[Any, Any]:
    walk, inputs = payload
    return (walk.cut(count), inputs), (walk, inputs)


class Rig:
    """A pool, and which replica was sent what."""

    def __init__(self) -> None:
        self.pool = Pool(0, Node("e"), 3, Limits(), in_two)
        self.sent: list[tuple[str, int]] = []
        self.failed: list[tuple[int, str]] = []

    def do(self, actions: Any) -> None:
        for action in actions:
            if isinstance(action, Send):
                self.sent.append((action.replica.name, action.task.id))
            elif isinstance(action, Fail):
                self.failed.append((action.task.id, action.reason))
            else:
                assert isinstance(action, Recall)

    def join(self, name: str, *endpoints: str, slots: int = 1) -> None:
        self.pool.bindings.join(name, Binding(frozenset(endpoints), {}), here=True)
        _, actions = self.pool.join(Replica(name, slots), 0, 0.0)
        self.do(actions)

    def leave(self, name: str) -> None:
        self.pool.bindings.leave(name)
        self.do(self.pool.leave(name, 2.0))

    def submit(self, id: int, endpoint: str, count: int = 1, client: str = "client") -> None:
        walk = Walk(("port", client, id), endpoint, count=count)
        walk.client = client
        walk.docs = [1] * count
        self.do(self.pool.submit(walk, [("gateway", [[b"docs"] * count])], id, 0.0))

    def answered(self, name: str, id: int) -> None:
        _, actions = self.pool.answered(name, id, 0.1, (b"result",), False, 1.0)
        self.do(actions)


def test_a_request_goes_to_a_replica_that_binds_its_endpoint() -> None:
    rig = Rig()
    rig.join("old", "/a", "/both")
    rig.join("new", "/b", "/both")
    assert rig.pool.kinds.mixed
    for id in (1, 2, 3):
        rig.submit(id, "/a")
    assert rig.sent == [("old", 1)]
    rig.submit(4, "/both")
    assert rig.sent == [("old", 1), ("new", 4)]
    rig.submit(5, "/b")
    rig.answered("new", 4)
    rig.answered("old", 1)
    rig.answered("old", 2)
    assert rig.sent[2:] == [("new", 5), ("old", 2), ("old", 3)]


def test_what_waits_already_does_not_go_to_one_that_comes_and_does_not_bind_it() -> None:
    rig = Rig()
    rig.join("old", "/a", "/c", slots=2)
    for id in range(1, 6):
        rig.submit(id, "/a")
    rig.submit(6, "/a", count=3)
    rig.join("new", "/b")
    for id in range(1, 7):
        rig.answered("old", id)
    assert rig.sent == [("old", id) for id in range(1, 9)]
    rig.join("newest", "/a", "/b")
    rig.submit(10, "/a")
    assert rig.sent[-1] == ("newest", 10), "of those that bind it, the newest kind"


def test_what_a_replica_that_leaves_has_not_begun_goes_to_one_of_its_kind() -> None:
    rig = Rig()
    for name, endpoint in (("old", "/a"), ("new", "/b"), ("second", "/a")):
        rig.join(name, endpoint)
    rig.submit(1, "/a")
    rig.submit(2, "/a")
    rig.leave("old")
    rig.answered("second", 2)
    assert rig.sent == [("old", 1), ("second", 2), ("second", 1)]


def test_when_the_last_of_its_kind_has_left_a_request_fails_and_is_not_passed_through() -> None:
    rig = Rig()
    rig.join("old", "/a")
    rig.submit(1, "/a")
    rig.submit(2, "/a")
    rig.join("new", "/b")
    rig.leave("old")
    assert sorted(rig.failed) == [(1, "unbound"), (2, "unbound")]
    assert not rig.pool.kinds.mixed
    rig.submit(3, "/b")
    assert rig.sent == [("old", 1), ("new", 3)]
    assert rig.pool.balancer.queued == 0


def test_when_all_bind_the_same_again_any_replica_may_have_any_request() -> None:
    rig = Rig()
    rig.join("old", "/a")
    rig.join("new", "/a", "/b")
    rig.submit(1, "/b")
    rig.submit(2, "/b")
    rig.leave("old")
    assert not rig.pool.kinds.mixed
    rig.join("newer", "/a", "/b")
    assert rig.sent == [("new", 1), ("newer", 2)]


def test_meanwhile_nothing_is_put_together() -> None:
    rig = Rig()
    rig.pool.batching = {"/a": BatchKey("/a", 8)}
    rig.join("old", "/a")
    rig.join("new", "/b")
    for id in (1, 2):
        rig.submit(id, "/a")
    rig.answered("old", 1)
    assert rig.sent == [("old", 1), ("old", 2)]


def test_meanwhile_clients_take_turns() -> None:
    rig = Rig()
    rig.join("old", "/a")
    rig.join("new", "/b")
    for id in (1, 2, 3, 4):
        rig.submit(id, "/a", client="flood")
    rig.submit(5, "/a", client="other")
    for id in (1, 2, 5, 3):
        rig.answered("old", id)
    assert [id for _, id in rig.sent] == [1, 2, 5, 3, 4]


def calls_for(waiting: int) -> int:
    """How many calls are made while so many requests come, wait for one of two kinds,
    and are answered.
    """
    rig = Rig()
    for name, endpoint in (("a", "/a"), ("b", "/a"), ("c", "/b"), ("d", "/b")):
        rig.join(name, endpoint)
    calls = 0

    def count(*event: Any) -> None:
        nonlocal calls
        calls += 1

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        for id in range(waiting):
            rig.submit(id, "/a" if id % 2 else "/b")
        for at in range(waiting):
            rig.answered(*rig.sent[at])
    finally:
        sys.setprofile(before)
    assert len(rig.sent) == waiting
    return calls


def test_what_a_request_costs_meanwhile_does_not_grow_with_how_many_wait() -> None:
    assert calls_for(400) < 8 * calls_for(100)
