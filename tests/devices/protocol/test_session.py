"""A client's side of the protocol in virtual time: whatever arrives and however long nothing does, it is one event."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zflow.devices.protocol import bundles, messages
from zflow.devices.protocol.messages import CONTROLLED, FAILED, HELLO, REPLY, VERSION, WELCOME, Malformed
from zflow.devices.protocol.references import Reference
from zflow.devices.protocol.session import (
    Controlled,
    Failed,
    Greeted,
    NotUnderstood,
    Reply,
    Session,
    Silent,
    Welcome,
)

ASK_AFTER, PATIENCE = 1.0, 10.0
GREETING = [b""]
INFO = {"instance": "one", "epoch": 0}


def session(**options: Any) -> Session:
    return Session(ASK_AFTER, PATIENCE, **options)


def frames(*fields: Any, payload: tuple[Any, ...] = ()) -> list[Any]:
    return [msgpack.packb((VERSION, *fields)), *payload]


def welcome(token: int = 0, **info: Any) -> list[Any]:
    return frames(WELCOME, token, payload=(msgpack.packb({**INFO, **info}),))


def welcomed(mine: Session, now: float = 0.0, **info: Any) -> Welcome:
    """What the session makes of this greeting."""
    (event,) = mine.take(welcome(mine.token, **info), now)
    assert isinstance(event, Welcome)
    return event


def known() -> Session:
    """One that has asked who is there, has been greeted, and told."""
    mine = session()
    mine.ask(0.0)
    mine.take(GREETING, 0.0)
    welcomed(mine)
    return mine


# -- who is there -----------------------------------------------------------------------------------------------------


def test_a_question_has_a_token_of_its_own_that_no_request_has_as_its_id() -> None:
    mine = session()
    asked = [mine.ask(0.0)[0] for _ in range(3)]
    assert asked == [(VERSION, HELLO, -1), (VERSION, HELLO, -2), (VERSION, HELLO, -3)]
    assert mine.token == -3


def test_what_a_flow_says_about_itself_is_kept() -> None:
    mine = session()
    mine.ask(0.0)
    assert mine.info == {}
    assert welcomed(mine, requests=7) == Welcome(-1, {**INFO, "requests": 7}, False, False, False)
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


# -- connections ------------------------------------------------------------------------------------------------------


def test_a_question_goes_over_the_first_connection_and_is_asked_anew_over_each_later_one() -> None:
    mine = session()
    mine.ask(0.0)
    assert mine.take(GREETING, 0.1) == [Greeted(None)]
    assert mine.take(GREETING, 0.2) == [Greeted(((VERSION, HELLO, -2), ()))]
    assert mine.take(welcome(-2), 0.3)[0][0] == -2


def test_who_has_asked_nothing_yet_asks_over_the_first_connection() -> None:
    assert session().take(GREETING, 0.0) == [Greeted(((VERSION, HELLO, -1), ()))]


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
    mine.take(frames(REPLY, 1, None, None, 0, payload=(b"a",)), 1.0)
    assert mine.unsure
    assert welcomed(mine).anew


# -- silence ----------------------------------------------------------------------------------------------------------


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
        mine.take(frames(FAILED, 1, 0, payload=(b"",)), second + 1.0)


def test_a_greeting_is_no_word() -> None:
    mine = known()
    for second in range(11):
        mine.take(GREETING, float(second))
        assert not isinstance(mine.tick(float(second)), Silent)
    assert isinstance(mine.tick(11.0), Silent)


def test_whoever_was_away_for_long_asks_before_it_gives_up() -> None:
    """As a process that was stopped, or one in which nobody waited."""
    mine = known()
    assert mine.tick(3600.0) == ((VERSION, HELLO, -2), ())
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


@given(st.lists(st.tuples(st.floats(0.0, 5.0), st.sampled_from(["tick", "word", "greeting", "rest"]))))
def test_nobody_is_given_up_who_has_spoken_since_it_was_asked(steps: list[tuple[float, str]]) -> None:
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


# -- answers ----------------------------------------------------------------------------------------------------------


def test_answers_are_told_by_what_they_are() -> None:
    mine = known()
    notes = {"x": {"failed": {}}}
    assert mine.take(frames(REPLY, 1, None, notes, 5, payload=(b"a", b"b")), 1.0) == [
        Reply(1, [b"a", b"b"], None, notes, 5)
    ]
    assert mine.take(frames(FAILED, 2, 7, payload=(b"error",)), 1.0) == [Failed(2, [b"error"], 7)]
    assert mine.take(frames(CONTROLLED, 3, {"replicas": 1}), 1.0) == [Controlled(3, {"replicas": 1})]


def test_answers_in_a_bundle_and_a_bulk_come_one_by_one_in_order() -> None:
    said: list[messages.Message] = [((VERSION, REPLY, id, None, None, 4), [b"%d" % id]) for id in (1, 2, 3)]
    said.append(((VERSION, FAILED, 9, 0), [b"error"]))
    (message,) = bundles.frames_of(said, messages.encoder())
    events = known().take(message, 1.0)
    assert events == [*(Reply(id, [b"%d" % id], None, None, 4) for id in (1, 2, 3)), Failed(9, [b"error"], 0)]


def test_references_are_known_only_to_who_shares_memory() -> None:
    block = Reference(1, 2, 3, 4, 5)
    (message,) = bundles.frames_of([((VERSION, REPLY, 1, None, None, 0), [b"a", block])], messages.encoder())
    (event,) = session(shapes=messages.TO_MEMBER).take(message, 0.0)
    assert isinstance(event, Reply)
    assert event.frames == [b"a", block]
    with pytest.raises(Malformed):
        session().take(message, 0.0)


@pytest.mark.parametrize("id", [0, -1])
def test_a_broker_that_does_not_understand_a_question_says_so(id: int) -> None:
    mine = session()
    mine.ask(0.0)
    with pytest.raises(NotUnderstood) as raised:
        mine.take(frames(FAILED, id, 0, payload=(b"another version",)), 0.0)
    assert raised.value.frames == [b"another version"]


@pytest.mark.parametrize(
    "wrong",
    [
        [b"HTTP/1.1 400"],
        [msgpack.packb([VERSION + 1, WELCOME, 0]), msgpack.packb({})],
        frames(HELLO, 1),
        frames(WELCOME, 1),
        frames(WELCOME, 1, payload=(b"\xc1",)),
        frames(REPLY, "1", None, None, 0),
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
