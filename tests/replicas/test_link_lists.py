"""Several tasks, or several results, in one message between a broker and a replica's link."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from peers import header

from zflow.devices.protocol import messages
from zflow.devices.protocol.messages import KINDS, VERSION, Done, Recall, Task, Together
from zflow.replicas.link import Assignment

from .test_link import Broker, ids, result, serving, settled


@pytest.fixture
def broker() -> Iterator[Broker]:
    with serving() as broker:
        yield broker


def test_several_tasks_in_one_message_are_begun_one_after_the_other(broker: Broker) -> None:
    link = broker.registered()
    broker.say(Task(5, 3, "/a", None, 0, [b"a", b"b", b"c"]))
    broker.tasks(9)
    broker.say(Recall(6))
    settled(broker, link)
    assert link.next() == [Assignment(5, "/a", None, [b"a"])]
    assert link.next() == [Assignment(7, "/a", None, [b"c"])]
    assert ids(link) == [[9]]


def test_a_batch_may_come_in_few_messages(broker: Broker) -> None:
    link = broker.registered()
    broker.say(Together(4))
    broker.say(Task(5, 3, "/a", None, 0, [b"a", b"b", b"c"]))
    settled(broker, link)
    assert ids(link) == []
    broker.say(Task(8, 2, "/a", None, 0, [b"d", b"e"]))
    settled(broker, link)
    assert ids(link) == [[5, 6, 7, 8], [9]]


def test_results_of_tasks_that_follow_one_another_are_one_answer(broker: Broker) -> None:
    link = broker.registered()
    for id, took in ((1, 0.1), (2, 0.3), (3, 0.2)):
        link.answer([result(id, b"%d" % id, docs=id)], took)
    link.flush()
    assert broker.hears() == Done(1, 200_000, [1, 2, 3], [b"1", b"2", b"3"])


@pytest.mark.parametrize(
    ("changes", "frames"),
    [
        ({"total": 0}, []),
        ({"total": 3}, []),
        ({"total": 1}, []),
        ({"total": 2}, [b"x"]),
        ({"first": 2**63}, []),
        ({"first": -1}, []),
        ({"parts": [["left", [1]]]}, []),
        ({"ticket": 7}, []),
        ({"payload": [b"a", b""]}, []),
        ({"payload": [b"a", "b"]}, []),
        ({"payload": None}, [b"a", b"b"]),
    ],
)
def test_of_what_is_no_list_of_tasks_none_is_begun(
    broker: Broker, caplog: pytest.LogCaptureFixture, changes: dict[str, Any], frames: list[bytes]
) -> None:
    link = broker.registered()
    fields = {
        "first": 5,
        "total": 2,
        "endpoint": "/a",
        "parts": None,
        "ticket": 0,
        "payload": [b"a", b"b"],
    }
    bad = header(VERSION, KINDS[Task], *{**fields, **changes}.values())
    broker.back.send_multipart([broker.identity, bad, *frames])
    broker.tasks(3)
    settled(broker, link)
    assert ids(link) == [[3]]
    assert any(
        record.exc_info and record.exc_info[0] is messages.Malformed for record in caplog.records
    )
