"""Messages: what may be said in one with others, and what each of those says alone."""

from __future__ import annotations

from itertools import pairwise

import pytest

from zflow.devices.protocol import messages
from zflow.devices.protocol.messages import (
    COMMON,
    KINDS,
    LISTED,
    Done,
    Listed,
    Reply,
    Request,
    Task,
    can_be_listed,
    own_topic,
    singles,
    topic,
)

REQUEST = Request(7, "/", ["encoder"], None, 500, False, [3], [b"a"])
TASK = Task(7, 1, "/", None, 0, [b"a"])
REPLY = Reply(7, 1, None, None, 5, [b"a"])
DONE = Done(7, 5, [3], [b"a"])


def common(message: Listed) -> tuple[object, ...]:
    return type(message), message[COMMON[type(message)]]


@pytest.mark.parametrize(
    "said",
    [
        REQUEST,
        REQUEST._replace(docs=[3, 1, 2], payload=[b"a", b"b", b"c"]),
        TASK._replace(payload=[b"a", b"b"]),
        TASK._replace(total=2, payload=[b"a", b"b"]),
        REPLY._replace(total=2, payload=[b"a", b"b"]),
        DONE._replace(docs=[0, 1], payload=[b"a", b"b"]),
    ],
)
def test_singles_follow_one_another_and_say_the_same(said: Listed) -> None:
    alone = singles(said)
    assert [one.first for one in alone] == list(range(said.first, said.first + said.total))
    assert {one.total for one in alone} == {1}
    assert all(common(one) == common(two) for one, two in pairwise(alone))
    assert [frame for one in alone for frame in one.payload] == list(said.payload)
    docs = [docs for one in alone for docs in getattr(one, "docs", [])]
    assert docs == getattr(said, "docs", [])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (REQUEST, REQUEST._replace(first=8, docs=[4], payload=[b"b"])),
        (TASK, TASK._replace(first=8)),
        (REPLY, REPLY._replace(first=8)),
        (DONE, DONE._replace(first=8, took=70, docs=[0])),
    ],
)
def test_what_is_alike(one: Listed, other: Listed) -> None:
    assert can_be_listed(one)
    assert can_be_listed(other)
    assert common(one) == common(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (REQUEST, REQUEST._replace(endpoint="/other")),
        (REQUEST, REQUEST._replace(targets=None)),
        (REQUEST, REQUEST._replace(timeout=0)),
        (TASK, TASK._replace(endpoint="/other")),
        (REPLY, REPLY._replace(took=6)),
        (TASK, DONE),
    ],
)
def test_what_is_not(one: Listed, other: Listed) -> None:
    assert common(one) != common(other)


@pytest.mark.parametrize(
    "said",
    [
        REQUEST._replace(parts=[["a", [1]]]),
        REQUEST._replace(again=True),
        TASK._replace(parts=[["a", [1]]]),
        TASK._replace(ticket=9),
        REPLY._replace(parts=[["a", [1]]]),
        REPLY._replace(notes={}),
    ],
)
def test_what_is_said_alone(said: Listed) -> None:
    assert not can_be_listed(said)


def test_what_can_be_listed_counts_itself() -> None:
    assert all(kind in KINDS and "first" in kind._fields for kind in LISTED)
    assert all("total" in dir(kind) and kind._fields[-1] == "payload" for kind in LISTED)


def test_no_topic_is_the_beginning_of_another() -> None:
    topics = {topic(node, group) for node in range(12) for group in range(12)}
    topics |= {own_topic(b"work/rep-%d#7" % number) for number in range(3)}
    assert len(topics) == 12 * 12 + 3
    assert not any(one != other and other.startswith(one) for one in topics for other in topics)


def test_a_client_that_shares_memory_is_told_by_its_name() -> None:
    assert messages.MEMBER != messages.STRANGER
    assert len(messages.MEMBER) == len(messages.STRANGER) == 1
