"""One connection of an AsyncClient: what holds for one of threads (`test_connection`) holds here,
for all its posts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import zmq
from helpers import PATIENCE, soon, texts
from peers import GREETED_ANEW, Answers, Broker, controlled, only, reply, said, stranger

from zflow import Document, errors
from zflow.clients import wire
from zflow.clients.async_connection import AsyncConnection, Stream
from zflow.clients.exchange import Exchange
from zflow.clients.inputs import batches
from zflow.clients.member import Membership
from zflow.clients.retrying import Retrying
from zflow.devices.protocol.messages import Control, Failed, Hello, Message, Request
from zflow.devices.sockets import zap
from zflow.devices.sockets.gate import Gate

Body = Callable[[AsyncConnection], Awaitable[None]]


def run(broker: Answers, body: Body, check: Callable[[], None] = lambda: None) -> None:
    """Run `body` with a connection to that broker."""

    async def main(port: int) -> None:
        membership = Membership(f"tcp://127.0.0.1:{port}", check)
        with AsyncConnection(asyncio.get_running_loop(), membership) as mine:
            await asyncio.wait_for(body(mine), PATIENCE)

    with stranger(broker) as port:
        asyncio.run(main(port))


@contextmanager
def streaming(
    mine: AsyncConnection, docs: Any = None, timeout: int | None = None
) -> Iterator[Stream]:
    """An exchange over the connection, whose first request is sent."""
    exchange = Exchange(
        "/", batches(docs or Document(), 1), None, None, (128, timeout, Retrying()), 10**6, mine.ids
    )
    stream = Stream(exchange)
    mine.begin(stream)
    try:
        send(mine, stream)
        yield stream
    finally:
        mine.forget(stream)


def send(mine: AsyncConnection, stream: Stream) -> None:
    message = stream.exchange.next()
    assert message is not None
    mine.send(message, stream)


async def answered(stream: Stream) -> list[list[str]]:
    """The texts of what has come next, or the error that there is."""
    found: list[list[str]] = []
    while not found:
        await stream.arrived.wait()
        stream.arrived.clear()
        stream.check()
        for response in stream.exchange.ready():
            if response.error is not None:
                raise response.error
            found.append(response.docs.texts)
    return found


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence is noticed after hundredths of a second."""
    monkeypatch.setattr(wire, "PING_AFTER", 50)


# -- who is there ----------------------------------------------------------------------------------


def test_a_broker_is_asked_who_it_is_and_many_may_ask_at_once() -> None:
    async def body(mine: AsyncConnection) -> None:
        infos = await asyncio.gather(*(mine.hello() for _ in range(5)))
        assert [info["instance"] for info in infos] == ["one"] * 5

    run(Broker(), body)


def test_an_answer_to_an_earlier_question_is_none() -> None:
    """It may be older than what the later one is about."""
    questions: list[Message] = []
    broker = Broker()

    def answer(message: Message) -> list[bytes] | None:
        questions.append(message)
        return broker(questions[0]) if len(questions) < 3 else broker(message)

    async def body(mine: AsyncConnection) -> None:
        await mine.hello()
        later = asyncio.ensure_future(mine.hello())
        await soon(lambda: len(questions) == 2)
        await mine.hello()
        assert len(questions) == 3
        await later

    run(answer, body)


@pytest.mark.parametrize(
    ("told", "error", "words"),
    [
        ([b"HTTP/1.1 400"], errors.FlowUnreachable, "is no zflow Flow"),
        (said(Failed(0, 0, [b""])), errors.BadRequest, "another version of zflow's protocol"),
    ],
)
def test_who_cannot_be_spoken_to_is_an_error_at_once_and_for_all(
    told: list[bytes], error: type[Exception], words: str
) -> None:
    async def body(mine: AsyncConnection) -> None:
        for found in await asyncio.gather(mine.hello(), mine.hello(), return_exceptions=True):
            assert isinstance(found, error)
            assert words in str(found)
        assert mine.closed
        assert not mine.is_usable()

    run(lambda message: told, body)


def test_a_question_that_may_be_lost_is_asked_again(impatient: None) -> None:
    broker = Broker()
    asked: list[Message] = []

    def answer(message: Message) -> list[bytes] | None:
        asked.append(message)
        return broker(message) if len(asked) == 3 else None

    async def body(mine: AsyncConnection) -> None:
        assert (await mine.hello())["instance"] == "one"

    run(answer, body)


def test_who_has_little_time_does_not_end_the_patience_of_others(impatient: None) -> None:
    broker = Broker()
    patient = True

    async def body(mine: AsyncConnection) -> None:
        nonlocal patient
        waiting = asyncio.ensure_future(mine.refresh())
        with pytest.raises(errors.FlowUnreachable, match="no Flow answers"):
            await mine.refresh(0.1)
        patient = False
        await waiting
        assert mine.info["instance"] == "one"

    run(lambda message: None if patient else broker(message), body)


def test_who_is_refused_is_told_so_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "CONNECTING", PATIENCE)
    monkeypatch.setattr(wire, "PING_AFTER", int(1000 * PATIENCE))
    context: zmq.Context[Any] = zmq.Context()
    gate = Gate(context, dict, {zap.CLIENTS: 0})
    listening = context.socket(zmq.ROUTER)
    gate.guard(listening, zap.CLIENTS)
    port = listening.bind_to_random_port("tcp://127.0.0.1")

    async def main() -> None:
        with AsyncConnection(
            asyncio.get_running_loop(), Membership(f"tcp://127.0.0.1:{port}")
        ) as mine:
            asking = asyncio.ensure_future(mine.hello())
            await soon(lambda: (gate.serve(), asking.done())[1])
            with pytest.raises(errors.AccessDenied, match=f":{port} refuses the connection"):
                await asking

    try:
        asyncio.run(main())
    finally:
        gate.close()
        context.destroy(linger=0)


def test_a_connection_used_just_now_is_not_asked_again_and_one_that_was_idle_for_long_is() -> None:
    broker = Broker()

    async def body(mine: AsyncConnection) -> None:
        await mine.refresh()
        await mine.refresh()
        assert broker.kinds(Hello) == [Hello]
        broker.instance = "two"
        mine._used -= 3600
        await mine.refresh()
        assert mine.info["instance"] == "two"

    run(broker, body)


def test_a_connection_that_was_greeted_anew_is_asked_before_it_is_used() -> None:
    """As one of threads: what is posted is not sent to another Flow in the place of the one that
    was there.
    """
    broker = Broker(lambda message: GREETED_ANEW)

    async def body(mine: AsyncConnection) -> None:
        await mine.refresh()
        with streaming(mine):
            await soon(lambda: mine._wire.session.token < -1)
        broker.instance = "two"
        await mine.refresh()
        assert mine.info["instance"] in ("one", "two")
        assert not mine._wire.session.unsure

    run(broker, body)


# -- requests and answers --------------------------------------------------------------------------


def test_what_was_not_answered_is_sent_again_when_the_same_broker_greets_anew() -> None:

    def answer(message: Message) -> list[bytes]:
        return reply(message) if isinstance(message, Request) and message.again else GREETED_ANEW

    broker = Broker(answer)

    async def body(mine: AsyncConnection) -> None:
        await mine.hello()
        with streaming(mine) as stream:
            assert await answered(stream) == [["answered"]]
        first, again = only(broker, Request)
        assert not first.again
        assert again == first._replace(again=True)

    run(broker, body)


def test_nothing_is_sent_again_to_another_flow_and_posts_that_have_nothing_in_flight_end_too() -> (
    None
):
    def answer(message: Message) -> list[bytes]:
        if len(only(broker, Request)) == 1:
            return reply(message)
        broker.instance = "two"
        return GREETED_ANEW

    broker = Broker(answer)

    async def body(mine: AsyncConnection) -> None:
        await mine.hello()
        with streaming(mine, texts(2)) as paused:
            assert await answered(paused) == [["answered"]]
            with streaming(mine) as waiting:
                for stream in (waiting, paused):
                    with pytest.raises(
                        errors.FlowUnreachable, match="another one listens there now"
                    ):
                        await answered(stream)
            with pytest.raises(errors.FlowUnreachable, match="another one listens there now"):
                send(mine, paused)
        assert [(request.total, request.again) for request in only(broker, Request)] == [
            (1, False)
        ] * 2
        assert mine.is_usable()

    run(broker, body)


def test_who_waits_in_silence_asks_again_and_again_whether_anybody_is_there(
    impatient: None,
) -> None:
    broker = Broker()

    def answer(message: Message) -> list[bytes] | None:
        told = broker(message)
        asked = (
            broker.heard[broker.heard.index(requests[0]) :]
            if (requests := only(broker, Request))
            else []
        )
        return reply(requests[0]) if [*map(type, asked)].count(Hello) == 3 else told

    async def body(mine: AsyncConnection) -> None:
        await mine.hello()
        with streaming(mine) as stream:
            assert await answered(stream) == [["answered"]]
        assert [request.again for request in only(broker, Request)] == [False]

    run(answer, body)


def test_a_flow_that_stops_answering_ends_the_connection(
    impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "SILENCE", 0.2)
    broker = Broker()

    async def body(mine: AsyncConnection) -> None:
        await mine.hello()
        with (
            streaming(mine) as stream,
            pytest.raises(errors.FlowUnreachable, match="stopped answering"),
        ):
            await answered(stream)
        assert not mine.is_usable()

    run(lambda message: None if only(broker, Request) else broker(message), body)


def test_a_flow_in_this_process_that_has_ended_is_noticed_while_waiting(impatient: None) -> None:
    broker = Broker()

    def check() -> None:
        if broker.kinds(Request, Control):
            raise errors.FlowNotRunning("it was closed")

    async def body(mine: AsyncConnection) -> None:
        await mine.hello()
        ordering = asyncio.ensure_future(mine.command("restart", {}))
        with streaming(mine) as stream, pytest.raises(errors.FlowNotRunning, match="it was closed"):
            await answered(stream)
        with pytest.raises(errors.FlowNotRunning, match="it was closed"):
            await ordering

    run(broker, body, check)


def test_a_request_that_nobody_speaks_of_is_late_in_the_end(
    impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zflow.clients.exchange.LATE", 0.1)

    async def body(mine: AsyncConnection) -> None:
        await mine.hello()
        with streaming(mine, timeout=100) as stream, pytest.raises(errors.DeadlineExceeded):
            await answered(stream)

    run(Broker(), body)


def test_what_is_closed_takes_no_more_requests() -> None:
    async def body(mine: AsyncConnection) -> None:
        await mine.hello()
        with streaming(mine, texts(2)) as stream:
            mine.close()
            with pytest.raises(errors.FlowUnreachable, match="the AsyncClient was closed"):
                send(mine, stream)

    run(Broker(), body)


# -- commands --------------------------------------------------------------------------------------


def test_commands_return_what_came_of_them_in_any_order() -> None:
    orders: list[Message] = []

    def answer(message: Message) -> list[bytes] | None:
        orders.append(message)
        return controlled(orders[0], of=1) if len(orders) == 2 else None

    async def body(mine: AsyncConnection) -> None:
        await mine.hello()
        first = asyncio.ensure_future(mine.command("scale", {"replicas": 3}))
        await soon(lambda: orders)
        second = asyncio.ensure_future(mine.command("drain", {}))
        assert await first == {"of": 1}
        second.cancel()
        assert [order[1:] for order in orders] == [("scale", {"replicas": 3}), ("drain", {})]

    run(Broker(answer), body)


def test_a_command_is_given_again_to_a_broker_that_was_started_anew_and_to_no_other_flow() -> None:
    def again(message: Message) -> list[bytes]:
        return GREETED_ANEW if len(only(broker, Control)) == 1 else controlled(message, ok=1)

    async def body(mine: AsyncConnection) -> None:
        await mine.hello()
        assert await mine.command("restart", {}) == {"ok": 1}
        first, second = only(broker, Control)
        assert first == second

    broker = Broker(again)
    run(broker, body)

    def replaced(message: Message) -> list[bytes]:
        other.instance = "two"
        return GREETED_ANEW

    async def elsewhere(mine: AsyncConnection) -> None:
        await mine.hello()
        with pytest.raises(errors.FlowUnreachable, match="another one listens there now"):
            await mine.command("restart", {})
        assert other.kinds(Control) == [Control]

    other = Broker(replaced)
    run(other, elsewhere)
