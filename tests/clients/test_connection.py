"""One connection to a broker: greetings, silence, brokers that are started anew,
and what is sent in one go.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import zmq
from helpers import PATIENCE, Upper, in_background, texts, wait_for
from peers import GREETED_ANEW, Answers, Broker, controlled, front, greeting, only, reply, stranger

from zflow import Document, DocumentArray, Flow, errors
from zflow.clients import connection, wire
from zflow.clients.connection import Connection, ask
from zflow.clients.exchange import Exchange
from zflow.clients.inputs import batches
from zflow.clients.retrying import Retrying
from zflow.devices.protocol.messages import Cancel, Control, Hello, Message, Request
from zflow.devices.sockets import zap
from zflow.devices.sockets.gate import Gate


@contextlib.contextmanager
def connected(broker: Answers, check: Callable[[], None] = lambda: None) -> Iterator[Connection]:
    """A connection to that broker."""
    with stranger(broker) as port:
        context: zmq.Context[Any] = zmq.Context()
        try:
            mine = Connection(context, f"tcp://127.0.0.1:{port}", check)
            try:
                yield mine
            finally:
                mine.close()
        finally:
            context.destroy(linger=0)


def unsure(message: Message) -> list[bytes]:
    """Of a broker that was started anew, until it is told again."""
    return reply(message) if isinstance(message, Request) and message.again else GREETED_ANEW


def exchange_of(mine: Connection, docs: Any, timeout: int | None = None) -> Exchange:
    return Exchange("/", batches(docs, 1), None, None, (128, timeout, Retrying()), 10**6, mine.ids)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence is noticed after hundredths of a second."""
    monkeypatch.setattr(wire, "PING_AFTER", 50)


# -- who is there ----------------------------------------------------------------------------------


def test_a_broker_is_asked_who_it_is() -> None:
    with stranger(greeting) as port:
        assert ask(f"tcp://127.0.0.1:{port}")["executors"] == {"upper": {}}


@pytest.mark.parametrize("timeout", [0.05, None])
def test_nobody_there_is_an_error_that_names_the_address(
    impatient: None, monkeypatch: pytest.MonkeyPatch, timeout: float | None
) -> None:
    monkeypatch.setattr(wire, "CONNECTING", 0.2)
    context: zmq.Context[Any] = zmq.Context()
    listening = context.socket(zmq.ROUTER)  # speaks ZeroMQ, but does not answer
    port = listening.bind_to_random_port("tcp://127.0.0.1")
    try:
        with pytest.raises(
            errors.FlowUnreachable,
            match=f"no Flow answers at tcp://127.0.0.1:{port}: is it running",
        ):
            ask(f"tcp://127.0.0.1:{port}", timeout=timeout)
    finally:
        context.destroy(linger=0)


def test_who_is_refused_is_told_so_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "CONNECTING", PATIENCE)
    monkeypatch.setattr(wire, "PING_AFTER", int(1000 * PATIENCE))
    context: zmq.Context[Any] = zmq.Context()
    gate = Gate(context, dict, {zap.CLIENTS: 0})
    listening = context.socket(zmq.ROUTER)
    gate.guard(listening, zap.CLIENTS)
    port = listening.bind_to_random_port("tcp://127.0.0.1")
    asking = in_background(ask, f"tcp://127.0.0.1:{port}")
    try:
        wait_for(lambda: (gate.serve(), asking.done())[1], timeout=PATIENCE / 2)
        with pytest.raises(
            errors.AccessDenied,
            match=f"tcp://127.0.0.1:{port} refuses the connection: does it ask for",
        ):
            asking.result()
    finally:
        gate.close()
        context.destroy(linger=0)


def test_a_connection_that_was_used_just_now_is_not_asked_again() -> None:
    broker = Broker()
    with connected(broker) as mine:
        mine.used += 3600
        mine.refresh(None)
        assert broker.kinds(Hello) == [Hello]
        assert mine.info["instance"] == "one"


def test_a_connection_that_was_idle_for_long_may_find_another_flow_there() -> None:
    broker = Broker()
    with connected(broker) as mine:
        broker.instance = "two"
        mine.used -= 3600
        mine.refresh(None)
        assert mine.info["instance"] == "two"


# -- requests and answers --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def flow() -> Iterator[Flow]:
    with Flow().add(name="upper", uses=Upper, replicas=2) as running:
        yield running


@pytest.mark.parametrize("at_hand", [True, False])
def test_responses_come_in_order_over_one_connection_again_and_again(
    flow: Flow, at_hand: bool
) -> None:
    context: zmq.Context[Any] = zmq.Context()
    mine = Connection(context, front(flow), lambda: None)
    try:
        for _ in range(3):
            exchange = exchange_of(mine, list(texts(200)) if at_hand else texts(200))
            found = [response.docs.texts for response in mine.run(exchange, at_hand)]
            assert found == [[str(number)] for number in range(200)]
    finally:
        mine.close()
        context.term()


def test_requests_whose_inputs_are_at_hand_are_sent_in_one_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "GATHERING", 60.0)  # however slow this machine is
    broker = Broker(reply)
    with connected(broker) as mine:
        assert len(list(mine.run(exchange_of(mine, DocumentArray(texts(64))), at_hand=True))) == 64
    assert [request.total for request in only(broker, Request)] == [64]


def test_the_first_requests_of_a_generator_do_not_wait_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("GATHERING", "PROMPT", "LONGEST_HOLD"):
        # Later ones would wait so long, however slow this machine is.
        monkeypatch.setattr(connection, name, 60.0)
    alone = connection.STREAM - 1
    broker = Broker(reply)
    with connected(broker) as mine:
        assert (
            len(list(mine.run(exchange_of(mine, texts(alone + 64)), at_hand=False))) == alone + 64
        )
    assert [request.total for request in only(broker, Request)] == [1] * alone + [64]


def test_a_generator_may_wait_for_what_its_requests_bring_about() -> None:
    arrived = threading.Semaphore(0)

    def answer(message: Message) -> list[bytes]:
        arrived.release()
        return reply(message)

    def documents() -> Iterator[Document]:
        for doc in texts(2 * connection.STREAM):
            yield doc
            assert arrived.acquire(timeout=PATIENCE), (
                "the request is there before the next one is made"
            )

    broker = Broker(answer)
    with connected(broker) as mine:
        assert (
            len(list(mine.run(exchange_of(mine, documents()), at_hand=False)))
            == 2 * connection.STREAM
        )
    assert [request.total for request in only(broker, Request)] == [1] * 2 * connection.STREAM


def test_what_was_not_answered_is_sent_again_when_the_same_broker_greets_anew() -> None:
    broker = Broker(unsure)
    with connected(broker) as mine:
        [response] = mine.run(exchange_of(mine, Document()), at_hand=True)
        assert response.docs.texts == ["answered"]
    first, again = only(broker, Request)
    assert not first.again
    assert again == first._replace(again=True)


def test_nothing_is_sent_again_to_another_flow_at_the_same_address() -> None:
    def answer(message: Message) -> list[bytes]:
        broker.instance = "two"
        return GREETED_ANEW

    broker = Broker(answer)
    with (
        connected(broker) as mine,
        pytest.raises(errors.FlowUnreachable, match="another one listens there now"),
    ):
        list(mine.run(exchange_of(mine, Document()), at_hand=True))
    assert [request.again for request in only(broker, Request)] == [False]


def test_who_waits_in_silence_asks_again_and_again_whether_anybody_is_there(
    impatient: None,
) -> None:
    """Only after some questions the broker answers the request, too."""
    broker = Broker()

    def answer(message: Message) -> list[bytes] | None:
        answered = broker(message)
        asked = (
            broker.heard[broker.heard.index(requests[0]) :]
            if (requests := only(broker, Request))
            else []
        )
        return reply(requests[0]) if [*map(type, asked)].count(Hello) == 3 else answered

    with connected(answer) as mine:
        [response] = mine.run(exchange_of(mine, Document()), at_hand=True)
    assert response.docs.texts == ["answered"]
    assert [request.again for request in only(broker, Request)] == [False]


def test_a_flow_that_has_ended_is_noticed_while_waiting(impatient: None) -> None:
    ended = False

    def check() -> None:
        if ended:
            raise errors.FlowNotRunning("it was closed")

    def answer(message: Message) -> None:
        nonlocal ended
        ended = True

    with (
        connected(Broker(answer), check) as mine,
        pytest.raises(errors.FlowNotRunning, match="it was closed"),
    ):
        list(mine.run(exchange_of(mine, Document()), at_hand=True))


def test_a_request_that_nobody_speaks_of_is_late_in_the_end(
    impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zflow.clients.exchange.LATE", 0.1)
    with connected(Broker()) as mine:
        [response] = mine.run(exchange_of(mine, Document(), timeout=100), at_hand=True)
    assert isinstance(response.error, errors.DeadlineExceeded)


def test_memory_that_cannot_be_sent_is_not_waited_for_where_nobody_is_any_more(
    impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "SILENCE", 0.2)
    monkeypatch.setattr(wire, "CONNECTING", 0.2)
    with contextlib.ExitStack() as there, contextlib.ExitStack() as stack:
        port = there.enter_context(stranger(Broker()))
        context: zmq.Context[Any] = zmq.Context()
        stack.callback(context.destroy, linger=0)
        mine = Connection(context, f"tcp://127.0.0.1:{port}", lambda: None)

        def documents() -> Iterator[Document]:
            there.close()  # the Flow is gone
            for _ in range(100):
                yield Document(tensor=np.ones(100_000))

        posting = in_background(list, mine.run(exchange_of(mine, documents()), at_hand=True))
        with pytest.raises(
            errors.FlowUnreachable, match=f"no Flow answers at tcp://127.0.0.1:{port}"
        ):
            posting.result(PATIENCE)


def test_what_is_given_up_is_cancelled() -> None:
    broker = Broker()
    with connected(broker) as mine:
        exchange = exchange_of(mine, Document())
        request = exchange.next()
        assert request is not None
        mine.abandon(exchange)
        wait_for(lambda: broker.kinds(Cancel), what="the broker is told")
    assert only(broker, Cancel) == [Cancel(request.first)]


# -- commands --------------------------------------------------------------------------------------


def test_a_command_returns_what_came_of_it() -> None:
    broker = Broker(lambda message: controlled(message, replicas=3, before=1))
    with connected(broker) as mine:
        assert mine.command("scale", {"executor": "upper", "replicas": 3}) == {
            "replicas": 3,
            "before": 1,
        }
        assert mine.command("scale", {}) == {"replicas": 3, "before": 1}
    orders = [order[1:] for order in only(broker, Control)]
    assert orders == [("scale", {"executor": "upper", "replicas": 3}), ("scale", {})]


def test_a_command_is_given_again_to_a_broker_that_was_started_anew_and_to_no_other_flow() -> None:
    def answer(message: Message) -> list[bytes]:
        return GREETED_ANEW if len(only(broker, Control)) == 1 else controlled(message, ok=1)

    broker = Broker(answer)
    with connected(broker) as mine:
        assert mine.command("restart", {}) == {"ok": 1}
        first, again = only(broker, Control)
        assert first == again

    def replaced(message: Message) -> list[bytes]:
        other.instance = "two"
        return GREETED_ANEW

    other = Broker(replaced)
    with (
        connected(other) as mine,
        pytest.raises(errors.FlowUnreachable, match="another one listens there now"),
    ):
        mine.command("restart", {})
    assert other.kinds(Control) == [Control]
