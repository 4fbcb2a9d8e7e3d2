"""What is published to a replica of an Executor with shards, what it missed of that,
and where it answers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from helpers import PATIENCE, in_background, wait_for

from zflow.devices.protocol import messages
from zflow.devices.protocol.messages import Accepted, Beacon, Done, Fanout, Missed
from zflow.replicas.link import Assignment, Link
from zflow.replicas.seat import identity

from .test_link import Broker, begun, ids, result, serving


@pytest.fixture
def broker() -> Iterator[Broker]:
    with serving() as broker:
        yield broker


def fanout(number: int, *payload: bytes, skip: tuple[int, ...] = ()) -> Fanout:
    """A fan-out whose tasks begin with ten times its number."""
    return Fanout(number, 10 * number, "/a", None, list(skip), list(payload) or [b"."])


@pytest.fixture
def shard(broker: Broker) -> Link:
    """Shard 1 of 2, subscribed and in the pool."""
    link = broker.registered(broker.seat(2, 1))
    topics = {broker.fan.recv() for _ in range(2)}
    assert topics == {b"\x01" + messages.topic(3, 2), b"\x01" + messages.own_topic(broker.identity)}
    return link


def test_a_shard_does_its_part_of_what_is_published(broker: Broker, shard: Link) -> None:
    broker.publish(fanout(1, b"a", b"b"))
    broker.publish(fanout(2, b"a", skip=(1,)))  # not for shard 1
    broker.publish(fanout(3, b"c", skip=(0,)))
    assert begun(shard) == [Assignment(11, "/a", None, [b"a", b"b"])]
    assert begun(shard) == [Assignment(31, "/a", None, [b"c"])]


def test_a_shard_waits_for_what_is_published_too(broker: Broker, shard: Link) -> None:
    broker.publish(fanout(1))
    assert wait_for(shard.wait)
    assert ids(shard) == [[11]]


def test_a_shard_answers_over_the_collector(broker: Broker, shard: Link) -> None:
    shard.answer([result(11, b"a")], 0.25)
    shard.flush()
    assert broker.collects() == Done(11, 250_000, [1], [b"a"])
    assert broker.identity == identity("work/shard-1/rep-2", os.getpid())


def test_a_shard_says_what_it_missed_and_does_not_do_it_when_it_comes_late(
    broker: Broker, shard: Link
) -> None:
    broker.publish(fanout(3))
    broker.publish(fanout(2))
    broker.publish(fanout(4))
    assert [task.id for _ in range(2) for task in begun(shard)] == [31, 41]
    assert broker.collects() == Missed(1, 2)


def test_a_beacon_tells_a_shard_what_it_missed(broker: Broker, shard: Link) -> None:
    broker.publish(Beacon(0))
    broker.publish(Beacon(2))
    wait_for(lambda: (shard.drain(), broker.collector.poll(0))[1])
    assert broker.collects() == Missed(1, 2)


def test_a_shard_that_joins_late_has_not_missed_what_was_before(broker: Broker) -> None:
    link = broker.link(broker.seat(2, 1))
    registering = in_background(link.register, ["/a"], {})
    broker.hears()
    broker.say(Accepted(5))
    registering.result(PATIENCE)
    for _ in range(2):
        broker.fan.recv()
    broker.publish(fanout(7))
    assert begun(link)[0].id == 71
    assert broker.collects() == Missed(6, 6)
