"""A client's side of the protocol in virtual time:
whatever arrives and however long nothing does, it is one event.
"""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zflow.devices.protocol import bundles, messages
from zflow.devices.protocol.messages import (
    KINDS,
    VERSION,
    Controlled,
    Failed,
    Hello,
    Malformed,
    Message,
    Reply,
    Welcome,
    encoder,
)
from zflow.devices.protocol.references import Reference
from zflow.devices.protocol.session import Greeted, NotUnderstood, Session, Silent, Welcomed

ASK_AFTER, PATIENCE = 1.0, 10.0
GREETING = [b""]
INFO = {"instance": "one", "epoch": 0}


def session(**options: Any) -> Session:
    return Session(ASK_AFTER, PATIENCE, **options)


def frames(*said: Message) -> list[Any]:
    """The frames in which they arrive, all at once."""
    (arrived,) = bundles.frames_of(said, encoder())
    return arrived


def welcome(token: int = 0, **info: Any) -> list[Any]:
    return frames(Welcome(token, {**INFO, **info}))


def reply(id: int, *payload: bytes) -> Reply:
    return Reply(id, 1, None, None, 4, list(payload))


def welcomed(mine: Session, now: float = 0.0, **info: Any) -> Welcomed:
    """What the session makes of this greeting."""
    (event,) = mine.take(welcome(mine.token, **info), now)
    assert isinstance(event, Welcomed)
    return event


def known() -> Session:
    """One that has asked who is there, has been greeted, and told."""
    mine = session()
    mine.ask(0.0)
    mine.take(GREETING, 0.0)
    welcomed(mine)
    return mine


# -- who is there ----------------------------------------------------------------------------------


def test_a_question_has_a_token_of_its_own_that_no_request_has_as_its_id() -> None:
    mine = session()
    assert [mine.ask(0.0) for _ in range(3)] == [Hello(-1), Hello(-2), Hello(-3)]
    assert mine.token == -3


def test_what_a_flow_says_about_itself_is_kept() -> None:
    mine = session()
    mine.ask(0.0)
    assert mine.info == {}
    assert welcomed(mine, requests=7) == Welcomed(-1, {**INFO, "requests": 7}, False, False, False)
    assert mine.info == {**INFO, "requests": 7}


@pytest.mark.parametrize(
    ("before", "now", "same"),
    [
        ({}, {"requests": 1}, (True, True)),
        ({}, {"epoch": 1}, (True, False)),
        ({}, {"instance": "two"}, (False, False)),
        ({"instance": ["one"]}, {"instance": ["two"]}, (True, True)),
        ({"instance": ["one"]}, {}, (False, False)),
        ({"epoch": [0]}, {"epoch": 0}, (True, False)),
    ],
)
def test_a_flow_is_the_same_by_its_instance_and_a_broker_by_its_epoch(
    before: dict[str, Any], now: dict[str, Any], same: tuple[bool, bool]
) -> None:
    mine = session()
    welcomed(mine, **before)
    found = welcomed(mine, **now)
    assert (found.same_flow, found.same_broker) == same


# -- connections -----------------------------------------------------------------------------------


def test_a_question_goes_over_the_first_connection_and_is_asked_anew_over_each_later_one() -> None:
    mine = session()
    mine.ask(0.0)
    assert mine.take(GREETING, 0.1) == [Greeted(None)]
    assert mine.take(GREETING, 0.2) == [Greeted(Hello(-2))]
    assert mine.take(welcome(-2), 0.3)[0][0] == -2


def test_who_has_asked_nothing_yet_asks_over_the_first_connection() -> None:
    assert session().take(GREETING, 0.0) == [Greeted(Hello(-1))]


def test_what_was_not_answered_is_sent_again_once_for_each_new_connection() -> None:
    mine = known()
    assert not mine.unsure
    assert not welcomed(mine).anew
    for _ in range(3):
        mine.take(GREETING, 1.0)
        assert mine.unsure
        assert welcomed(mine).anew
        assert not mine.unsure
        assert not welcomed(mine).anew


def test_answers_over_a_new_connection_do_not_tell_who_is_there() -> None:
    mine = known()
    mine.take(GREETING, 1.0)
    mine.take(frames(reply(1, b"a")), 1.0)
    assert mine.unsure
    assert welcomed(mine).anew


# -- silence ---------------------------------------------------------------------------------------


def test_who_waits_asks_once_in_a_while_and_gives_up_counted_from_the_first_question() -> None:
    mine = known()
    at, asked = 0.0, []
    while not isinstance(found := mine.tick(at), Silent):
        if found is not None:
            asked.append(at)
        at += 0.25
    assert asked == [float(second) for second in range(1, 12)]
    assert (at, found.seconds) == (11.25, 10.25)


def test_any_word_is_one() -> None:
    mine = known()
    for second in range(100):
        assert mine.tick(second + 0.9) is None
        mine.take(frames(Failed(1, 0, [b"why"])), second + 1.0)


def test_a_greeting_is_no_word() -> None:
    mine = known()
    for second in range(11):
        mine.take(GREETING, float(second))
        assert not isinstance(mine.tick(float(second)), Silent)
    assert isinstance(mine.tick(11.0), Silent)


def test_whoever_was_away_for_long_asks_before_it_gives_up() -> None:
    """As a process that was stopped, or one in which nobody waited."""
    mine = known()
    assert mine.tick(3600.0) == Hello(-2)
    assert mine.tick(3600.5) is None
    assert isinstance(mine.tick(3610.1), Silent)
    mine.rest(7200.0)
    assert mine.tick(7200.0) is None
    assert not isinstance(mine.tick(7201.0), Silent)


def test_who_wants_to_know_how_a_flow_is_asks_also_one_that_speaks() -> None:
    mine = session(always=True)
    asked = 0
    for tenth in range(101):
        asked += mine.tick(1.0 + tenth / 10) is not None
        welcomed(mine, 1.0 + tenth / 10)
    assert asked == 11


@given(
    st.lists(st.tuples(st.floats(0.0, 5.0), st.sampled_from(["tick", "word", "greeting", "rest"])))
)
def test_nobody_is_given_up_who_has_spoken_since_it_was_asked(
    steps: list[tuple[float, str]],
) -> None:
    mine = known()
    now = asked = 0.0
    waits = False
    for after, what in steps:
        now += after
        if what == "word":
            welcomed(mine, now)
            waits = False
        elif what == "rest":
            mine.rest(now)
            waits = False
        elif what == "greeting" or not isinstance(found := mine.tick(now), Silent):
            said = mine.take(GREETING, now) if what == "greeting" else found
            if said and not waits:
                waits, asked = True, now
        else:
            assert waits
            assert now - asked > PATIENCE


# -- answers ---------------------------------------------------------------------------------------


def test_answers_are_told_by_what_they_are() -> None:
    mine = known()
    for said in (
        Reply(1, 1, None, {"x": {"failed": {}}}, 5, [b"a", b"b"]),
        Failed(2, 7, [b"error"]),
        Failed(2, 7, []),
    ):
        assert mine.take(frames(said), 1.0) == [said]
    assert mine.take(frames(Controlled(3, {"replicas": 1})), 1.0) == [
        Controlled(3, {"replicas": 1})
    ]


def test_answers_in_a_bundle_and_a_list_come_one_by_one_in_order() -> None:
    said: list[Message] = [*(reply(id, b"%d" % id) for id in (1, 2, 3)), Failed(9, 0, [b"error"])]
    assert known().take(frames(*said), 1.0) == said


def test_references_are_known_only_to_who_shares_memory() -> None:
    said = Reply(1, 1, None, None, 0, [b"a", Reference(1, 2, 3, 4, 5)])
    assert session(direction=messages.TO_MEMBER).take(frames(said), 0.0) == [said]
    with pytest.raises(Malformed):
        session().take(frames(said), 0.0)


@pytest.mark.parametrize("id", [0, -1])
def test_a_broker_that_does_not_understand_a_question_says_so(id: int) -> None:
    mine = session()
    mine.ask(0.0)
    with pytest.raises(NotUnderstood) as raised:
        mine.take(frames(Failed(id, 0, [b"another version"])), 0.0)
    assert raised.value.frames == [b"another version"]


@pytest.mark.parametrize(
    "wrong",
    [
        [b"HTTP/1.1 400"],
        [msgpack.packb([VERSION + 1, KINDS[Welcome], 0]), msgpack.packb({})],
        frames(Hello(1)),
        [msgpack.packb([VERSION, KINDS[Welcome], 1])],
        [msgpack.packb([VERSION, KINDS[Welcome], 1]), b"\xc1"],
        [msgpack.packb([VERSION, KINDS[Reply], "1", 1, None, None, 0, None]), b"a"],
    ],
)
def test_what_no_broker_says_to_a_client_is_malformed(wrong: list[bytes]) -> None:
    with pytest.raises(Malformed):
        known().take(wrong, 0.0)


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=3))
def test_whatever_arrives_is_events_or_malformed(arrived: list[bytes]) -> None:
    mine = known()
    try:
        assert mine.take(arrived, 0.0)
    except Malformed:
        pass
