"""Lists of requests, of tasks and of answers on their way through a broker,
and what only looks like one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from helpers import wait_for
from peers import PAYLOAD, header, request

from zflow.devices.broker import failures
from zflow.devices.protocol import bundles, messages
from zflow.devices.protocol.messages import (
    KINDS,
    MOST_ID,
    MOST_SMALL,
    MOST_TOGETHER,
    VERSION,
    Done,
    Error,
    Failed,
    Reply,
    Task,
)

from .test_broker import (
    Peer,
    Running,
    answer_of,
    ask,
    do,
    error_of,
    given,
    given_all,
    info,
    running,
    say,
)

TWO = [b"a", b"b"]


@pytest.fixture
def broker() -> Iterator[Running]:
    with running() as broker:
        yield broker


def ask_several(client: Peer, first: int, *payload: bytes) -> None:
    ask(client, first, *payload, docs=[1] * len(payload))


# -- as they are said ------------------------------------------------------------------------------


def test_a_bulk_stays_one_on_its_way(broker: Running) -> None:
    client, replica = broker.client(), broker.replica(slots=8)
    ask_several(client, 5, b"a", b"b", b"c")
    task = given_all(replica)
    assert task == Task(task.first, 3, "/a", None, 0, [b"a", b"b", b"c"])
    say(replica, Done(task.first, 100, [1, 1, 1], [b"A", b"B", b"C"]))
    reply = answer_of(client)
    assert reply == Reply(5, 3, None, None, reply.took, [b"A", b"B", b"C"])


def test_of_a_bulk_one_may_be_answered_before_the_others(broker: Running) -> None:
    client, replica = broker.client(), broker.replica(slots=8)
    ask_several(client, 5, b"a", b"b", b"c")
    task = given(replica)
    do(replica, task, b"A")
    reply = answer_of(client)
    assert (reply.first, reply.total, reply.payload) == (5, 1, [b"A"])
    say(replica, Done(task + 1, 100, [1, 1], [b"B", b"C"]))
    reply = answer_of(client)
    assert (reply.first, reply.total, reply.payload) == (6, 2, [b"B", b"C"])


def test_a_list_of_one_is_no_other_than_one(broker: Running) -> None:
    """Whether its payload stands in its header or behind it."""
    client, replica = broker.client(), broker.replica()
    for small in (b"small", b""):
        ask(client, 7, small)
        task = given_all(replica)
        assert task == Task(task.first, 1, "/a", None, 0, [small])
        do(replica, task.first, small)
        reply = answer_of(client)
        assert reply == Reply(7, 1, None, None, reply.took, [small])


def test_what_could_not_be_done_in_one_go_is_tried_one_by_one(broker: Running) -> None:
    client, replica = broker.client(), broker.replica(slots=8)
    ask_several(client, 5, b"a", b"b")
    first = given(replica)
    say(replica, Error([first, first + 1], 100, [failures.error("ExecutorError", "broken")]))
    assert given_all(replica).total == 2, (
        "in one message, but nothing says that they are to be done together"
    )
    for id, task in ((5, first), (6, first + 1)):
        say(replica, Error([task], 100, [failures.error("ExecutorError", f"{id}")]))
        assert error_of(client) == (id, "ExecutorError", f"{id}")


def test_what_could_not_and_must_not_begin_twice_fails_in_one_go() -> None:
    with running(retries=0) as broker:
        client, replica = broker.client(), broker.replica(slots=8)
        ask_several(client, 5, b"a", b"b")
        first = given(replica)
        say(replica, Error([first, first + 1], 100, [failures.error("ExecutorError", "broken")]))
        failed = bundles.read(client.recv_multipart(), 0, messages.TO_CLIENT)
        assert [one.first for one in failed if isinstance(one, Failed)] == [5, 6]


# -- what is none ----------------------------------------------------------------------------------

NO_LIST, NO_PAYLOAD = "a list that is none", "a payload that is none"
NOT_AS_LISTS: list[tuple[dict[str, Any], str]] = [
    ({"docs": [1, 1, 1], "payload": TWO}, NO_LIST),
    ({"docs": [1], "payload": TWO}, NO_LIST),
    ({"docs": [], "payload": [b"a"]}, NO_LIST),
    ({"docs": [1, "1"], "payload": TWO}, NO_LIST),
    ({"docs": [1, None], "payload": TWO}, NO_LIST),
    ({"docs": [True], "payload": [b"a"]}, NO_LIST),
    ({"docs": [1, 1], "payload": TWO, "first": MOST_ID}, NO_LIST),
    ({"docs": [1, 1], "payload": TWO, "first": -1}, NO_LIST),
    ({"docs": [], "payload": []}, NO_PAYLOAD),
    ({"docs": [1, 1], "payload": [b"a", b""]}, NO_PAYLOAD),
    ({"docs": [1], "payload": [b""]}, NO_PAYLOAD),
    ({"docs": [1, 1], "payload": [b"a", "b"]}, NO_PAYLOAD),
    ({"docs": [1], "payload": [[b"a"]]}, NO_PAYLOAD),
    ({"docs": [1] * (MOST_TOGETHER + 1), "payload": [b"a"] * (MOST_TOGETHER + 1)}, NO_PAYLOAD),
    ({"docs": [1, 1], "payload": [bytes(MOST_SMALL), b"b"]}, NO_PAYLOAD),
    ({"docs": 1, "payload": [b"a"]}, "wrong fields in header"),
    ({"docs": [1], "payload": b"\0"}, "wrong fields in header"),
]


def dropped(client: Peer, phrase: str) -> None:
    """One message was, for this reason, and nothing of it was begun."""
    wait_for(lambda: info(client)["malformed"] == {phrase: 1})
    assert info(client)["requests"] == 0


@pytest.mark.parametrize(
    ("changes", "phrase"),
    [
        *NOT_AS_LISTS,
        ({"docs": [1, 1], "payload": TWO, "parts": [["left", [1]], ["right", [1]]]}, NO_LIST),
        ({"docs": [1, 1], "payload": TWO, "again": True}, NO_LIST),
    ],
)
def test_requests_that_are_no_list_are_dropped(
    broker: Running, changes: dict[str, Any], phrase: str
) -> None:
    client, replica = broker.client(), broker.replica()
    client.send(request(**changes))
    dropped(client, phrase)
    assert not replica.poll(0)


@pytest.mark.parametrize(("docs", "payload"), [([1], [PAYLOAD]), ([1, 1], TWO)])
def test_a_payload_is_in_the_header_or_behind_it_not_both(
    broker: Running, docs: list[int], payload: list[bytes]
) -> None:
    client = broker.client()
    client.send_multipart([request(docs=docs, payload=payload), PAYLOAD])
    dropped(client, NO_PAYLOAD)


@pytest.mark.parametrize("docs", [[], [1, 1]])
def test_frames_behind_a_header_are_those_of_one(broker: Running, docs: list[int]) -> None:
    client = broker.client()
    client.send_multipart([request(docs=docs), b"a", b"b"])
    dropped(client, NO_LIST)


@pytest.mark.parametrize(
    ("changes", "phrase"), [case for case in NOT_AS_LISTS if case[0]["payload"] != b"\0"]
)
def test_answers_that_are_no_list_are_dropped_and_their_tasks_stay_where_they_are(
    broker: Running, changes: dict[str, Any], phrase: str
) -> None:
    client, replica = broker.client(), broker.replica(slots=8)
    ask_several(client, 5, b"a", b"b")
    task = given(replica)
    fields = {"first": task, "took": 1, **changes}
    replica.send(header(VERSION, KINDS[Done], *(fields[name] for name in Done._fields)))
    wait_for(lambda: info(client)["malformed"] == {phrase: 1})
    say(replica, Done(task, 100, [1, 1], TWO))
    reply = answer_of(client)
    assert reply == Reply(5, 2, None, None, reply.took, TWO)


@pytest.mark.parametrize(
    ("tasks", "payload"),
    [([], [b"why"]), (["5"], [b"why"]), ([5, None], [b"why"]), ([5, 6], [b"why", b"why"])],
)
def test_an_error_is_one_for_all_its_tasks_which_are_numbers(
    broker: Running, tasks: list[Any], payload: list[bytes]
) -> None:
    client, replica = broker.client(), broker.replica()
    replica.send(header(VERSION, KINDS[Error], tasks, 1, payload))
    dropped(client, "an answer that is none")
