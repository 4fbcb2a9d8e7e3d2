"""One post without sockets: requests made in order, a bounded number in flight,
answers taken in any order.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable
from typing import Any

import msgpack
import numpy as np
import pytest
from helpers import texts
from hypothesis import given
from hypothesis import strategies as st
from sharing import arrays, right

from zflow import Document, DocumentArray, Response, errors
from zflow.clients import exchange as module
from zflow.clients import retrying
from zflow.clients.exchange import Exchange
from zflow.clients.inputs import batches
from zflow.clients.retrying import Retrying
from zflow.devices.local import arena
from zflow.devices.protocol.messages import Cancel, Failed, Reply, Request
from zflow.devices.protocol.references import references
from zflow.documents import codec


class Clock:
    """Time that goes by when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "monotonic", clock.monotonic)
    monkeypatch.setattr(retrying, "uniform", lambda low, high: 1.0)
    return clock


def exchange_of(
    docs: Any,
    size: int = 1,
    prefetch: int = 128,
    timeout: int | None = None,
    wait: bool = False,
    limit: int = 2**30,
    parameters: dict[str, Any] | None = None,
) -> Exchange:
    limits = prefetch, timeout, Retrying(wait)
    return Exchange(
        "/index", batches(docs, size), parameters, ["encoder"], limits, limit, itertools.count(1)
    )


def made(exchange: Exchange) -> list[Request]:
    """All requests that may be made now."""
    found = []
    while exchange.has_room:
        request = exchange.next()
        if request is not None:
            found.append(request)
    return found


def ids(requests: Iterable[Request]) -> list[int]:
    return [request.first for request in requests]


def answer(
    exchange: Exchange, id: int, *words: str, parameters: dict[str, Any] | None = None
) -> bool:
    docs = DocumentArray(Document(text=word) for word in words)
    return exchange.take(Reply(id, 1, None, None, 0, codec.pack(docs, parameters)))


def fail(exchange: Exchange, id: int, kind: str = "ExecutorError", message: str = "no") -> bool:
    return exchange.take(Failed(id, 0, [msgpack.packb({"type": kind, "message": message})]))


def one(exchange: Exchange) -> Response:
    """The response that is ready, which is the only one."""
    [response] = exchange.ready()
    return response


# -- requests and answers --------------------------------------------------------------------------


def test_a_request_says_what_is_asked_and_carries_documents_and_parameters() -> None:
    exchange = exchange_of(list(texts(3)), 2, timeout=700, parameters={"n": 1})
    first, second = made(exchange)
    assert first == Request(1, "/index", ["encoder"], None, 700, False, [2], first.payload)
    assert second == Request(2, "/index", ["encoder"], None, 700, False, [1], second.payload)
    docs, parameters = codec.unpack(first.payload)
    assert (docs.texts, parameters) == (["0", "1"], {"n": 1})
    assert exchange.made == 2


def test_without_a_time_limit_a_request_may_take_any_time() -> None:
    exchange = exchange_of(None)
    [request] = made(exchange)
    assert request.timeout == 0
    assert not exchange.expire("here")


def test_without_requests_it_is_finished_once_that_is_known() -> None:
    exchange = Exchange("/", iter(()), None, None, (1, None, False), 2**30, itertools.count(1))
    assert not exchange.finished
    assert made(exchange) == []
    assert exchange.finished


def test_an_answer_becomes_a_response() -> None:
    exchange = exchange_of(list(texts(1)))
    made(exchange)
    assert answer(exchange, 1, "answered", parameters={"limit": 2})
    assert not exchange.finished
    response = one(exchange)
    assert (response.docs.texts, response.parameters, response.endpoint, response.error) == (
        ["answered"],
        {"limit": 2},
        "/index",
        None,
    )
    assert exchange.finished
    assert list(exchange.ready()) == []


@given(
    answered=st.integers(1, 20).flatmap(lambda count: st.permutations(range(count))),
    prefetch=st.integers(1, 25),
    data=st.data(),
)
def test_responses_come_in_the_order_of_inputs_and_no_more_than_prefetch_are_on_their_way(
    answered: list[int], prefetch: int, data: st.DataObject
) -> None:
    """The answers come in the order of `answered`, as far as what they answer was asked."""
    exchange = exchange_of(list(texts(len(answered))), prefetch=prefetch)
    waiting: list[int] = []
    delivered: list[str] = []
    while not exchange.finished:
        waiting += ids(made(exchange))
        assert exchange.made - len(delivered) <= prefetch
        if waiting:
            id = min(waiting, key=lambda id: answered[id - 1])
            waiting.remove(id)
            if data.draw(st.booleans(), "it fails"):
                fail(exchange, id, message=str(id - 1))
            else:
                answer(exchange, id, str(id - 1))
        for response in exchange.ready():
            delivered += response.docs.texts
    assert delivered == [str(number) for number in range(len(answered))]


def test_what_was_answered_out_of_order_counts_until_it_is_delivered() -> None:
    exchange = exchange_of(list(texts(5)), prefetch=2)
    assert ids(made(exchange)) == [1, 2]
    answer(exchange, 2, "second")
    assert list(exchange.ready()) == []
    assert not exchange.has_room
    answer(exchange, 1, "first")
    assert [response.docs.texts for response in exchange.ready()] == [["first"], ["second"]]
    assert ids(made(exchange)) == [3, 4]


def test_bytes_in_flight_are_bounded_too_but_one_request_always_fits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_IN_FLIGHT", 1000)
    exchange = exchange_of(
        [Document(blob=bytes(600)) for _ in range(3)] + [Document(blob=bytes(5000))] * 2
    )
    assert ids(made(exchange)) == [1, 2]
    answer(exchange, 2)
    answer(exchange, 1)
    assert ids(made(exchange)) == [3, 4]
    answer(exchange, 4)
    assert not exchange.finished
    assert ids(made(exchange)) == [5]


def test_documents_can_be_given_one_request_at_a_time_instead() -> None:
    exchange = exchange_of([])
    request = exchange.request(DocumentArray(texts(2)))
    assert (request.first, request.docs) == (1, [2])
    exchange.exhaust()
    assert not exchange.has_room
    assert not exchange.finished
    answer(exchange, 1)
    one(exchange)
    assert exchange.finished


def test_a_request_that_cannot_be_sent_is_no_request() -> None:
    exchange = exchange_of([Document(id="bad", tags={"set": {1}}), Document()])
    with pytest.raises(errors.SerializationError, match="'bad'"):
        exchange.next()
    assert exchange.made == 0
    assert ids(made(exchange)) == [1]


def test_a_request_over_the_limit_says_what_is_so_large_and_what_to_do() -> None:
    docs = [Document(id="small"), Document(id="large", blob=bytes(3000))]
    exchange = exchange_of(docs, 2, limit=2000)
    size = sum(map(len, codec.pack(DocumentArray(docs))))
    with pytest.raises(errors.RequestTooLarge) as caught:
        exchange.next()
    told = str(caught.value)
    assert told.startswith(
        f"a request of 2 Documents has {size} bytes, over the Flow's limit of 2000 (max_message_"
    )
    assert told.endswith("send fewer with request_size=, or raise the limit")
    assert all(word in told for word in ("'large'", "blob"))
    exact = exchange_of(docs, 2, limit=size)
    assert len(made(exact)) == 1


# -- answers of other kinds ------------------------------------------------------------------------


def test_a_failure_brings_back_what_was_sent_and_why() -> None:
    docs = list(texts(1))
    exchange = exchange_of(docs, parameters={"n": 1})
    made(exchange)
    assert fail(exchange, 1, "ReplicaCrashed", "it died")
    response = one(exchange)
    assert response.docs[0] is docs[0]
    assert (response.parameters, response.endpoint) == ({"n": 1}, "/index")
    assert isinstance(response.error, errors.ReplicaCrashed)
    assert response.error.message == "it died"
    assert exchange.finished


@pytest.mark.parametrize(
    "frames", [[], [b""], [b"\xc1"], [b"\x91" * 50_000]], ids=["none", "empty", "odd", "deep"]
)
def test_a_failure_that_cannot_be_read_is_one_all_the_same(frames: list[bytes]) -> None:
    exchange = exchange_of(None)
    made(exchange)
    assert exchange.take(Failed(1, 0, frames))
    assert str(one(exchange).error) == "the answer is an error that cannot be decoded"


@pytest.mark.parametrize(
    "parts", [None, [["a", [1]]], [["a", [1]], ["b", [1]]], [["a", [1, 1, 1]]], [3]]
)
@pytest.mark.parametrize("frames", [[], [b"\xc1"], [msgpack.packb("no documents")], [b"", b""]])
def test_an_answer_that_cannot_be_read_fails_its_request(parts: Any, frames: list[bytes]) -> None:
    docs = list(texts(1))
    exchange = exchange_of(docs)
    made(exchange)
    assert exchange.take(Reply(1, 1, parts, None, 0, frames))
    response = one(exchange)
    assert isinstance(response.error, errors.BadRequest)
    assert response.docs[0] is docs[0]
    assert exchange.finished


def test_answers_to_nobody_are_dropped() -> None:
    exchange = exchange_of(list(texts(2)))
    made(exchange)
    assert answer(exchange, 9)
    assert answer(exchange, 1, "first")
    assert answer(exchange, 1, "twice")
    assert fail(exchange, 1)
    assert [response.docs.texts for response in exchange.ready()] == [["first"]]


def test_the_answers_of_several_branches_are_reduced_to_one() -> None:
    exchange = exchange_of([Document(id="a")])
    made(exchange)
    left = codec.pack(
        DocumentArray([Document(id="a", text="left")]),
        {"__results__": {"l/rep-0": {"x": 1}}, "n": 1},
    )
    right = codec.pack(
        DocumentArray([Document(id="a", tags={"right": 1})]),
        {"__results__": {"r/rep-0": {}}, "n": 2},
    )
    assert exchange.take(Reply(1, 1, [["l", [1]], ["r", [1]]], None, 0, [*left, *right]))
    response = one(exchange)
    assert [(doc.id, doc.text, doc.tags) for doc in response.docs] == [("a", "left", {"right": 1})]
    assert response.parameters == {"__results__": {"l/rep-0": {"x": 1}, "r/rep-0": {}}, "n": 1}


def test_notes_say_which_shards_have_failed() -> None:
    exchange = exchange_of(None)
    made(exchange)
    notes = {"index": {"shards": 3, "succeeded": 2, "failed": {"1": "it died"}}}
    assert exchange.take(Reply(1, 1, None, notes, 0, codec.pack(DocumentArray(), {"n": 1})))
    assert one(exchange).parameters == {
        "n": 1,
        "__shards__": {"index": {"shards": 3, "succeeded": 2, "failed": {1: "it died"}}},
    }


# -- sent again ------------------------------------------------------------------------------------


def test_what_was_not_answered_can_be_sent_again_as_it_was(clock: Clock) -> None:
    exchange = exchange_of([Document(tensor=np.ones(10_000)) for _ in range(3)], timeout=700)
    sent = made(exchange)
    answer(exchange, 2)
    clock.now += 0.2
    again = list(exchange.again())
    assert again == [request._replace(timeout=500, again=True) for request in (sent[0], sent[2])]


def test_a_request_sent_again_has_a_little_time_left_at_least(clock: Clock) -> None:
    late, endless = exchange_of(None, timeout=700), exchange_of(None)
    made(late)
    made(endless)
    clock.now += 5
    assert [request.timeout for request in late.again()] == [1]
    assert [request.timeout for request in endless.again()] == [0]


def test_what_is_given_up_is_cancelled_unless_it_was_answered() -> None:
    exchange = exchange_of(list(texts(3)))
    made(exchange)
    answer(exchange, 2)
    assert list(exchange.cancelled()) == [Cancel(1), Cancel(3)]


# -- too much at a time ----------------------------------------------------------------------------


def test_a_full_flow_is_an_error_for_who_does_not_wait() -> None:
    exchange = exchange_of(None)
    made(exchange)
    assert fail(exchange, 1, "Overloaded", "max_queue")
    assert isinstance(one(exchange).error, errors.Overloaded)
    assert exchange.pause is None


def test_who_waits_sends_again_after_pauses_that_double_up_to_a_bound(clock: Clock) -> None:
    exchange = exchange_of(list(texts(1)), wait=True, timeout=10**9)
    [request] = made(exchange)
    pauses = []
    for _ in range(12):
        assert not fail(exchange, 1, "Overloaded")
        assert list(exchange.ready()) == []
        pauses.append(exchange.pause)
        assert pauses[-1] is not None
        clock.now += pauses[-1] - 0.001
        assert list(exchange.due()) == [], "not yet"
        clock.now += 0.002
        assert exchange.pause == 0
        [same] = exchange.due()
        assert same._replace(timeout=request.timeout) == request
        assert exchange.pause is None
    first = retrying.FIRST_PAUSE
    assert pauses == pytest.approx(
        [min(retrying.LONGEST_PAUSE, first * 2**refusals) for refusals in range(12)]
    )
    assert answer(exchange, 1)
    one(exchange)
    assert exchange.finished


def test_who_tries_again_does_so_a_few_times_for_what_may_pass(clock: Clock) -> None:
    limits = 128, None, retrying.retrying_of("fail", 3, 1, 5, 2)
    exchange = Exchange("/", batches(None, 1), None, None, limits, 2**30, itertools.count(1))
    made(exchange)
    for pause in (1, 2):
        assert not fail(exchange, 1, "ReplicaCrashed")
        assert exchange.pause == pause
        clock.now += pause
        assert ids(exchange.due()) == [1]
    assert fail(exchange, 1, "ReplicaCrashed", "the third")
    assert str(one(exchange).error) == "the third"


def test_what_is_held_back_has_less_time_left_when_it_is_sent(clock: Clock) -> None:
    exchange = exchange_of(None, wait=True, timeout=700)
    made(exchange)
    fail(exchange, 1, "Overloaded")
    clock.now += 0.25
    assert [request.timeout for request in exchange.due()] == [450]


def test_other_failures_end_a_request_also_for_who_waits() -> None:
    exchange = exchange_of(None, wait=True)
    made(exchange)
    assert fail(exchange, 1, "ExecutorError")
    assert isinstance(one(exchange).error, errors.ExecutorError)


def test_what_is_held_back_counts_as_in_flight_and_a_new_broker_is_not_given_it(
    clock: Clock,
) -> None:
    exchange = exchange_of(list(texts(3)), wait=True, prefetch=2)
    made(exchange)
    fail(exchange, 1, "Overloaded")
    assert not exchange.has_room
    assert ids(exchange.again()) == [2]
    assert list(exchange.cancelled()) == [Cancel(1), Cancel(2)]


def test_the_pauses_of_several_clients_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "monotonic", Clock().monotonic)
    pauses = set()
    for _ in range(20):
        exchange = exchange_of(None, wait=True)
        made(exchange)
        fail(exchange, 1, "Overloaded")
        pauses.add(exchange.pause)
    assert len(pauses) > 1
    assert all(
        pause is not None and 0.5 <= pause / retrying.FIRST_PAUSE <= 1.51 for pause in pauses
    )


# -- late ------------------------------------------------------------------------------------------


def test_a_flow_that_says_nothing_long_after_the_time_was_over_has_not_answered(
    clock: Clock,
) -> None:
    docs = list(texts(2))
    exchange = exchange_of(docs, timeout=700)
    made(exchange)
    answer(exchange, 2, "in time")
    clock.now += 0.7 + module.LATE - 0.01
    assert not exchange.expire("here")
    clock.now += 0.02
    assert exchange.expire("here")
    late, answered = exchange.ready()
    assert isinstance(late.error, errors.DeadlineExceeded)
    assert (
        str(late.error) == "not answered within timeout=700 ms; the Flow at here does not say why"
    )
    assert late.docs[0] is docs[0]
    assert answered.docs.texts == ["in time"]
    assert exchange.finished
    assert not exchange.expire("here")


def test_what_is_held_back_when_its_time_is_over_fails_and_is_not_sent_again(clock: Clock) -> None:
    limits = 128, 700, retrying.retrying_of("fail", 3, 5, 5, 2)
    exchange = Exchange("/", batches(None, 1), None, None, limits, 2**30, itertools.count(1))
    made(exchange)
    fail(exchange, 1, "ReplicaCrashed", "it died")
    assert exchange.pause == pytest.approx(0.7), "the pause of 5 s would be longer than its time"
    clock.now += 0.7
    assert list(exchange.due()) == []
    assert exchange.pause is None
    error = one(exchange).error
    assert isinstance(error, errors.DeadlineExceeded)
    assert str(error) == "not answered within timeout=700 ms; tried 1 times, at last: it died"
    assert exchange.finished


# -- shared memory ---------------------------------------------------------------------------------


def test_an_answer_whose_memory_is_gone_was_never_received() -> None:
    file = arena.create()
    memory = arena.Arena(file, arena.CLIENT, 2**24)
    replica = arena.Arena(file, 1, 2**24)
    exchange = Exchange(
        "/", iter([arrays(1)]), None, None, (1, None, Retrying()), 2**30, itertools.count(1), memory
    )
    request = exchange.next()
    assert request is not None
    assert len(references(request.payload)) == 1
    stale = replica.share(codec.pack(arrays(1)))
    assert memory.reclaim(1)
    assert not exchange.take(Reply(1, 1, None, None, 0, stale))
    assert [again.payload for again in exchange.again()] == [request.payload]
    assert not exchange.finished
    assert memory.holds(references(request.payload))
    good = replica.share(codec.pack(arrays(1)))
    assert exchange.take(Reply(1, 1, None, None, 0, good))
    assert right(next(exchange.ready()).docs, 1, more=0.0)
    assert not memory.holds(references([*request.payload, *good]))
    os.close(file)


@pytest.mark.parametrize(
    "notes", [{"a": 3}, {"a": {"failed": {"x": "1"}}}, {"a": {"failed": 1}}, {"a": None}]
)
def test_notes_that_are_none_fail_their_request_only(notes: Any) -> None:
    exchange = exchange_of(texts(1))
    made(exchange)
    assert exchange.take(Reply(1, 1, None, notes, 0, codec.pack(DocumentArray())))
    assert isinstance(one(exchange).error, errors.BadRequest)
