"""The way to one replica: what it is told, when, and what becomes of it when nobody is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest
import zmq

from zflow.devices.balancing.replica import Task
from zflow.devices.broker.line import Line
from zflow.devices.local.tickets import Tickets
from zflow.devices.protocol import bundles, messages
from zflow.devices.protocol.messages import Message, Recall, Together, encoder
from zflow.devices.routing.walk import Walk
from zflow.devices.sockets.port import Port

NAME = b"work/rep-0#1"


class Sent:
    """A port that keeps what is sent, or raises."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.sends = 0
        self.error: int | None = None

    def send(self, frames: Sequence[Any]) -> None:
        if self.error is not None:
            raise zmq.ZMQError(self.error)
        assert frames[0] == NAME
        self.sends += 1
        self.messages += bundles.read(frames, 1, messages.TO_LOCAL_REPLICA)


@pytest.fixture
def sent() -> Sent:
    return Sent()


def line(sent: Sent, plain: Callable[[list[Any]], list[Any]] | None = None) -> Line:
    return Line(cast(Port, sent), NAME, encoder(), plain)


def task(id: int, *frames: bytes, count: int = 1) -> Task:
    walk = Walk(("front", b"client", id), "/index", count=count)
    return Task(id, (walk, [("gateway", [list(frames)])]), count=count)


def said(id: int, *frames: bytes, total: int = 1, ticket: int = 0) -> messages.Task:
    return messages.Task(id, total, "/index", None, ticket, list(frames))


def test_what_it_is_given_goes_when_the_turn_ends_and_all_in_one(sent: Sent) -> None:
    mine = line(sent)
    mine.give(task(1, b"a"))
    mine.give(task(5, b"b"), 9)
    mine.recall(3)
    assert sent.messages == []
    assert mine.flush()
    assert sent.messages == [said(1, b"a"), said(5, b"b", ticket=9), Recall(3)]
    assert sent.sends == 1
    assert mine.flush()
    assert sent.sends == 1


def test_a_bulk_is_a_list(sent: Sent) -> None:
    mine = line(sent)
    mine.give(task(1, b"a", b"b", count=2))
    mine.flush()
    assert sent.messages == [said(1, b"a", b"b", total=2)]


def test_a_batch_says_how_many_it_is(sent: Sent) -> None:
    mine = line(sent)
    mine.give_together([task(1, b"a"), task(7, b"b")])
    mine.flush()
    assert sent.messages == [Together(2), said(1, b"a"), said(7, b"b")]


def test_who_cannot_read_references_gets_plain_frames(sent: Sent) -> None:
    mine = line(sent, lambda frames: [*frames, b"plain"])
    mine.give(task(1, b"a"))
    mine.give(task(4, b"a", b"b", count=2))  # of a bulk no frame is a reference
    mine.flush()
    assert sent.messages == [said(1, b"a", b"plain"), said(4, b"a", b"b", total=2)]


def test_it_tells_whether_the_replica_can_be_reached(sent: Sent) -> None:
    mine = line(sent)
    assert mine.reached()
    assert sent.messages == [Recall(0)]
    sent.error = zmq.EHOSTUNREACH
    mine.give(task(1, b"a"))
    assert not mine.flush()
    assert not mine.reached()


def test_any_other_error_is_one(sent: Sent) -> None:
    mine = line(sent)
    sent.error = zmq.ETERM
    with pytest.raises(zmq.ZMQError):
        mine.say(Recall(0))


def test_its_tickets_go_with_it(sent: Sent) -> None:
    mine = line(sent)
    closed: list[bool] = []

    class Known(Tickets):
        def close(self) -> None:
            closed.append(True)

    mine.tickets = Known(-1)
    mine.close()
    mine.close()
    assert closed == [True]
