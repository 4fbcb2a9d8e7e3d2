"""How a replica joins its pool at the broker's side towards replicas, and who may not."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import zmq
from peers import said

from zflow.devices.balancing.replica import BatchKey
from zflow.devices.broker.ready import MAX_SLOTS
from zflow.devices.protocol import messages
from zflow.devices.protocol.messages import Accepted, Beacon, Hello, Refused, Welcome

from .test_back import NAME, SHARD, Rig, ready, rigged, say


@pytest.fixture
def rig() -> Iterator[Rig]:
    with rigged() as rig:
        yield rig


def test_who_asks_is_told_about_the_flow_and_that_this_is_for_replicas(rig: Rig) -> None:
    with rig.connected() as replica:
        say(replica, Hello(41))
        assert rig.answer(replica) == Welcome(41, {"pid": 3, "for_replicas": True})
    assert rig.owner.told == []


def test_a_replica_that_is_ready_joins_its_pool_and_is_told_so(rig: Rig) -> None:
    with rig.connected() as replica:
        say(replica, ready(slots=3, replica=2, batching={"/a": [32, 1500]}))
        assert rig.answer(replica) == Accepted(7)
    assert rig.told(1) == [("join", rig.work, NAME, 2)]
    assert rig.owner.replicas[NAME].slots == 3
    assert rig.work.names == {NAME: "work/rep-0"}
    assert rig.work.bindings.endpoints == {"/a"}
    assert rig.work.bindings.batching == {"/a": BatchKey("/a", 32, 0.0015)}


def test_a_replica_may_leave_open_what_it_binds(rig: Rig) -> None:
    with rig.connected() as replica:
        say(replica, ready(endpoints=None))
        rig.answer(replica)
    assert rig.told(1) == [("join", rig.work, NAME, 0)]
    assert rig.work.bindings.endpoints is None


def test_one_that_connects_anew_joins_anew(rig: Rig) -> None:
    with rig.joined() as replica:
        say(replica, ready(slots=2))
        assert rig.answer(replica) == Accepted(7)
    assert rig.owner.replicas[NAME].slots == 2


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (
            {"executor": "nobody"},
            "there is no Executor 'nobody' here that replicas can join; there are ['index', "
            "'work']",
        ),
        ({"shard": 1}, "there is no shard 1, there are 1"),
        ({"slots": MAX_SLOTS + 1}, f"it has {MAX_SLOTS + 1} slots, and may have 1 to {MAX_SLOTS}"),
    ],
)
def test_who_cannot_be_a_replica_is_told_why(rig: Rig, changes: dict[str, Any], why: str) -> None:
    with rig.connected() as replica:
        say(replica, ready(**changes))
        assert rig.answer(replica) == Refused(why)
    assert rig.owner.replicas == {}


def test_a_reason_is_logged_once(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    with rig.connected() as replica, caplog.at_level(logging.WARNING, "zflow.broker"):
        for _ in range(3):
            say(replica, ready(slots=0))
            rig.answer(replica)
    assert caplog.messages == [
        "a replica that calls itself 'work/rep-0' is refused: it has 0 slots, and may have 1 to "
        "1024"
    ]


def test_a_name_is_one_replicas_only(rig: Rig) -> None:
    with rig.joined() as replica:
        say(replica, ready("index"))
        assert rig.answer(replica) == Refused("another replica has that name")


def test_a_shard_is_taken_in_when_its_subscription_has_arrived(rig: Rig) -> None:
    fan = rig.context.socket(zmq.SUB)
    with fan, rig.connected(SHARD) as replica:
        say(replica, ready("index", shard=1))
        rig.silent(replica)
        fan.subscribe(messages.topic(1, 0))
        fan.subscribe(messages.own_topic(SHARD))
        fan.connect(rig.settings.fan)
        assert rig.answer(replica) == Accepted(7)
        assert rig.owner.replicas[SHARD].shard == 1
        rig.back.publish(messages.topic(1, 0), Beacon(1))
        rig.until(lambda: fan.poll(0))
        assert fan.recv_multipart() == [messages.topic(1, 0), *said(Beacon(1))], (
            "nothing that is published is missed"
        )


def test_a_subscription_may_arrive_first(rig: Rig) -> None:
    fan = rig.context.socket(zmq.SUB)
    with fan, rig.connected(SHARD) as replica:
        fan.subscribe(messages.own_topic(SHARD))
        fan.connect(rig.settings.fan)
        rig.until(lambda: (rig.back.publish(messages.own_topic(SHARD), Beacon(0)), fan.poll(0))[1])
        say(replica, ready("index", shard=1))
        assert rig.answer(replica) == Accepted(7)
