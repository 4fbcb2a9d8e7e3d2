"""A replica that says what is not so, a Flow that does to its clients,
and what is nested deep wherever it comes in.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pytest
import zmq
from helpers import PATIENCE, Upper, in_background, replicas, texts, wait_for
from peers import PAYLOAD, back, dealer, front, header, malformed, said, stranger, welcome

from zflow import Client, Flow, errors
from zflow.devices.protocol import bundles
from zflow.devices.protocol.messages import (
    BUNDLE,
    FROM_CLIENT,
    FROM_REPLICA,
    KINDS,
    MOST_TOGETHER,
    SMALL,
    TO_CLIENT,
    TO_LOCAL_REPLICA,
    TO_REPLICA,
    VERSION,
    Accepted,
    Cancel,
    Control,
    Controlled,
    Direction,
    Done,
    Error,
    Failed,
    Hello,
    Leave,
    Message,
    Missed,
    Ready,
    Reply,
    Request,
    Task,
)

NASTY = {"args": 3, "__class__": "x", "__dict__": 1, "characters_written": "x", "with_traceback": 1}
DEEP = b"\x91" * 50_000 + b"\x01"


@pytest.fixture(scope="module")
def flow() -> Iterator[Flow]:
    with Flow().add(name="upper", uses=Upper, replicas=2) as running:
        yield running


def serves(flow: Flow) -> None:
    """The Flow goes on serving, with the replicas it had."""
    assert flow.post("/", texts(20), request_size=1).texts == [str(number) for number in range(20)]
    assert len(replicas("upper")) == 2


# -- a replica that lies ---------------------------------------------------------------------------


@contextlib.contextmanager
def liar() -> Iterator[tuple[Flow, zmq.Socket[bytes]]]:
    """A Flow whose pool a stranger has joined; only the stranger binds `/lie`,
    but nobody knows that.
    """
    with (
        Flow(timeout_close=1000).add(name="lonely", uses=Upper, timeout_send=20_000) as flow,
        dealer(back(), b"lonely/rep-9#1") as stranger,
    ):
        stranger.send_multipart(said(Ready("lonely", ["/lie"], 1, 0, 0, {})))
        assert bundles.read(stranger.recv_multipart(), 0, TO_LOCAL_REPLICA) == [Accepted(0)]
        yield flow, stranger


def serves_alone(flow: Flow) -> None:
    """The liar is gone, and the Flow goes on serving."""
    with Client(port=flow.port) as client:
        wait_for(lambda: client.info()["executors"]["lonely"]["replicas"] == ["lonely/rep-0"])
        assert client.post("/", texts(20), request_size=1).texts == [
            str(number) for number in range(20)
        ]


def given(stranger: zmq.Socket[bytes]) -> Task:
    """The only task that it is given."""
    [task] = bundles.read(stranger.recv_multipart(), 0, TO_LOCAL_REPLICA)
    assert isinstance(task, Task)
    assert task == Task(task.first, 1, "/lie", None, 0, task.payload)
    return task


@pytest.mark.parametrize(
    ("kind", "payload", "error"),
    [
        (Done, [b"\xc1"], errors.BadRequest),
        (Done, [PAYLOAD, PAYLOAD], errors.BadRequest),
        (Error, [b"\xc1"], errors.BadRequest),
        (Error, [b""], errors.BadRequest),
        (Error, [msgpack.packb("text")], errors.ZflowError),
        (Error, [msgpack.packb({"type": "SystemExit", "message": 3})], errors.ZflowError),
        (
            Error,
            [msgpack.packb({"type": "ExecutorError", "message": "told", **NASTY})],
            errors.ExecutorError,
        ),
        (
            Error,
            [msgpack.packb({"type": "FlowUnreachable", "message": "told", **NASTY})],
            errors.FlowUnreachable,
        ),
        (Error, [DEEP], errors.BadRequest),
        (
            Error,
            [msgpack.packb({"type": "BadRequest", "message": "told"}), b"more"],
            errors.BadRequest,
        ),
    ],
)
def test_an_answer_that_is_none_fails_its_request_only(
    kind: type[Message], payload: list[bytes], error: type[Exception]
) -> None:
    with liar() as (flow, stranger):
        failed: list[Any] = []
        posting = in_background(
            flow.post, "/lie", texts(30), request_size=1, on_error=failed.append
        )
        id = given(stranger).first
        stranger.send_multipart(
            said(Done(id, 100, [1], payload) if kind is Done else Error([id], 100, payload))
        )
        stranger.send_multipart(said(Leave()))
        assert len(posting.result(PATIENCE)) == 29
        assert [type(response.error) for response in failed] == [error]
        assert str(failed[0].error)


#: What an answer to a task is not, by the task's id.
NO_ANSWERS: dict[str, Callable[[int], list[bytes]]] = {
    "no payload": lambda id: [header(VERSION, KINDS[Done], id, 1, [1], None)],
    "an error without a payload": lambda id: [header(VERSION, KINDS[Error], [id], 1, None)],
    "an error of no task": lambda id: [header(VERSION, KINDS[Error], [], 1, [PAYLOAD])],
    "an error of a task that is text": lambda id: [
        header(VERSION, KINDS[Error], [id, "x"], 1, [PAYLOAD])
    ],
    "two errors of a task": lambda id: [header(VERSION, KINDS[Error], [id], 1, [PAYLOAD, PAYLOAD])],
    "a payload in the header and one behind it": lambda id: [
        *said(Done(id, 1, [1], [PAYLOAD])),
        PAYLOAD,
    ],
    "more counts of Documents than payloads": lambda id: [
        header(VERSION, KINDS[Done], id, 1, [1, 1], [PAYLOAD])
    ],
    "fewer": lambda id: [header(VERSION, KINDS[Done], id, 1, [1], [PAYLOAD] * 2)],
    "none": lambda id: [header(VERSION, KINDS[Done], id, 1, [], [])],
    "a count that is text": lambda id: [header(VERSION, KINDS[Done], id, 1, ["1"], [PAYLOAD])],
    "several behind the header": lambda id: [
        header(VERSION, KINDS[Done], id, 1, [1, 1], None),
        PAYLOAD,
        PAYLOAD,
    ],
    "an empty one among several": lambda id: [
        header(VERSION, KINDS[Done], id, 1, [1, 1], [PAYLOAD, b""])
    ],
    "several that are too large": lambda id: [
        header(VERSION, KINDS[Done], id, 1, [1] * 9, [bytes(SMALL)] * 9)
    ],
}


def test_what_is_no_answer_leaves_its_task_open() -> None:
    with liar() as (flow, stranger):
        posting = in_background(flow.post, "/lie", texts(30), request_size=1, return_responses=True)
        task = given(stranger)
        for what, frames in NO_ANSWERS.items():
            before = sum(malformed(flow).values())
            stranger.send_multipart(frames(task.first))
            wait_for(lambda before=before: sum(malformed(flow).values()) == before + 1, what=what)  # type: ignore[misc]
        assert "the broker failed at it" not in malformed(flow)
        stranger.send_multipart(said(Done(task.first, 1, [1], [PAYLOAD])))
        stranger.send_multipart(said(Leave()))
        found = [response.docs.texts for response in posting.result(PATIENCE)]
        assert found.count(["a"]) == 1
        assert len(found) == 30


def test_a_replica_of_another_machine_answers_what_it_was_given_and_nothing_besides() -> None:
    what = "an answer to what it was not given"
    flow = Flow(replica_port=0, timeout_close=1000).add(
        name="lonely", uses=Upper, timeout_send=20_000
    )
    with flow, dealer(f"tcp://127.0.0.1:{flow.replica_port}", b"lonely/rep-0@far#1-0a") as far:
        far.send_multipart(said(Ready("lonely", None, 1, 0, 0, {})))
        assert bundles.read(far.recv_multipart(), 0, TO_REPLICA) == [Accepted(0)]
        posting = in_background(flow.post, "/", texts(30), request_size=1, return_responses=True)
        task: Message = Accepted(0)
        while not isinstance(task, Task):  # it may be asked whether it is there
            [task] = bundles.read(far.recv_multipart(), 0, TO_REPLICA)
        id = task.first
        lies: list[Message] = [
            Done(id - 2, 1, [1, 1], [b"\xc1", b"\xc1"]),
            Done(id + 1, 1, [1, 1], [b"\xc1", b"\xc1"]),
            Error([id + 1, id + 2], 1, [PAYLOAD]),
        ]
        for lie in lies:
            far.send_multipart(said(lie))
        wait_for(lambda: malformed(flow).get(what) == len(lies))
        # Of several in one, what it was given counts: some may have been taken back meanwhile.
        far.send_multipart(said(Done(id - 1, 1, [1, 1, 1], [b"\xc1", PAYLOAD, b"\xc1"])))
        far.send_multipart(said(Leave()))
        found = [(response.docs.texts, response.error) for response in posting.result(PATIENCE)]
        assert found.count((["a"], None)) == 1
        assert len(found) == 30
        assert all(error is None for _, error in found)
        serves_alone(flow)


def test_answers_to_tasks_that_are_not_there() -> None:
    with liar() as (flow, stranger):
        for task in (0, -1, 2**63, 10**6):
            stranger.send_multipart(said(Done(task, -5, [1], [PAYLOAD])))
            stranger.send_multipart(said(Error([task], 2**63, [PAYLOAD])))
        stranger.send_multipart(said(Done(10**6, 1, [1, -1], [PAYLOAD, PAYLOAD])))
        stranger.send_multipart(said(Error([-1, 10**6, 2**63], 1, [PAYLOAD])))
        stranger.send(header(VERSION, KINDS[Done], 1, 1, [1], None))
        stranger.send_multipart(said(Ready("lonely", None, 3, 0, 0, {})))  # again
        for _ in range(2):
            stranger.send_multipart(said(Leave()))
        serves_alone(flow)
        assert "the broker failed at it" not in malformed(flow)


NESTED: Any = "x"
for _ in range(1000):
    NESTED = [NESTED]


NESTED_ERROR = msgpack.packb({"type": NESTED, "message": NESTED})


def everywhere(direction: Direction, right: list[Message]) -> Iterator[list[bytes]]:
    """Each of these messages with what is nested 1,000 deep in each of its fields,
    also where it has the right type.
    """
    for message in right:
        [first, *frames] = said(message)
        assert bundles.read([first, *frames], 0, direction) == [message]
        fields = msgpack.unpackb(first)
        for at, field in enumerate(fields[2:], 2):
            for nested in (NESTED, {"x": NESTED}, {"/": NESTED}, [[NESTED, NESTED]]):
                if at == len(fields) - 1 or type(field) in (list, dict, type(None)):
                    yield [header(*fields[:at], nested, *fields[at + 1 :]), *frames]


def test_what_is_nested_deep_ends_nothing_wherever_it_comes_in() -> None:
    from_client: list[Message] = [
        Hello(7),
        Request(7, "/", ["upper"], [], 0, False, [1], [PAYLOAD]),
        Request(7, "/", None, None, 0, True, [1], [PAYLOAD, PAYLOAD]),
        Request(7, "/", None, None, 0, False, [1, 1], [PAYLOAD, PAYLOAD]),
        Control(7, "scale", {}),
        Cancel(7),
    ]
    from_replica: list[Message] = [
        Ready("upper", ["/"], 1, 0, 0, {}),
        Done(1, 1, [1], [NESTED_ERROR]),
        Done(1, 1, [1], [NESTED_ERROR, NESTED_ERROR]),
        Done(1, 1, [1, 1], [b"a", b"b"]),
        Error([1], 1, [NESTED_ERROR]),
        Error([1, 2], 1, [bytes(5000)]),
        Missed(1, 1),
    ]
    assert {*map(type, from_client)} == {kind for kind, _ in FROM_CLIENT.values()}
    assert {*map(type, from_replica), Hello, Leave} == {kind for kind, _ in FROM_REPLICA.values()}
    flow = (
        Flow(replica_port=0)
        .add(name="upper", uses=Upper)
        .add(name="sharded", uses=Upper, shards=2, polling="ALL")
    )
    joining = said(Ready("upper", None, 1024, 0, 0, {}))
    with flow, Client(port=flow.port) as client:
        broker = client.info()["pid"]
        with (
            dealer(front(flow)) as stranger,
            dealer(f"tcp://127.0.0.1:{flow.replica_port}", b"upper/rep-0@far#1-0a") as elsewhere,
            dealer(back(), b"upper/rep-9#1") as replica,
            zmq.Context() as context,
            context.socket(zmq.PUSH) as collector,
        ):
            collector.connect(back().replace("/back", "/collector"))
            for each in (elsewhere, replica):
                each.send_multipart(joining)
                assert bundles.read(each.recv_multipart(), 0, TO_LOCAL_REPLICA) == [Accepted(0)]
            for frames in everywhere(FROM_CLIENT, from_client):
                stranger.send_multipart(frames)
            for frames in everywhere(FROM_REPLICA, from_replica):
                for each in (elsewhere, replica):
                    each.send_multipart(frames)
                collector.send_multipart([b"upper/rep-9#1", *frames])
            for each in (elsewhere, replica):
                each.send_multipart(said(Leave()))
            collector.send_multipart([b"upper/rep-9#1", header(VERSION, 99)])
            wait_for(lambda: client.info()["executors"]["upper"]["replicas"] == ["upper/rep-0"])
            assert client.post("/", texts(20), request_size=1).texts == [
                str(number) for number in range(20)
            ]
            assert "the broker failed at it" not in client.info()["malformed"]
            assert client.info()["pid"] == broker


@pytest.mark.parametrize("command", ["scale", "restart", "drain", "undrain", "x" * 2000])
@pytest.mark.parametrize(
    "arguments",
    [
        {"executor": NESTED, "replica": NESTED},
        {"replica": "x" * 5000, "executor": "x" * 5000},
        {"executor": "upper", "replicas": {"min": 1}, "replica": {}},
        {b"executor": "upper", b"replica": "upper/rep-0"},
        {str(number): number for number in range(1000)},
    ],
)
def test_a_command_that_is_none_is_refused_and_ends_nothing(
    flow: Flow, command: str, arguments: Any
) -> None:
    with dealer(front(flow)) as dealing:
        dealing.send_multipart(said(Control(7, command, arguments)))
        [answer] = bundles.read(dealing.recv_multipart(), 0, TO_CLIENT)
    assert isinstance(answer, Controlled)
    assert answer.id == 7
    assert "a few names with plain values" in answer.result["error"]
    serves(flow)


def test_many_commands_at_once_block_nobody(flow: Flow) -> None:
    """Bundled, they are all there in one turn of the broker's loop."""
    command = (VERSION, KINDS[Control], 0, "restart", {"executor": "nobody" * 100})
    with dealer(front(flow)) as dealing:
        for _ in range(50):
            dealing.send(header(VERSION, BUNDLE, [[command] for _ in range(MOST_TOGETHER)]))
        heard = 0
        while heard < 50 * MOST_TOGETHER:
            for answer in bundles.read(dealing.recv_multipart(), 0, TO_CLIENT):
                assert isinstance(answer, Controlled)
                assert "error" in answer.result
                heard += 1
        dealing.send_multipart(said(Control(5000, "scale", {"executor": "upper", "replicas": 2})))
        last = bundles.read(dealing.recv_multipart(), 0, TO_CLIENT)
    assert last == [Controlled(5000, {"executor": "upper", "replicas": 2, "before": 2})]
    serves(flow)


# -- a Flow that lies to its clients ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("info", "answer", "error"),
    [
        ({"max_message_bytes": "x", "executors": 7, "instance": NESTED}, [PAYLOAD], None),
        ({"max_message_bytes": NESTED}, [PAYLOAD], None),
        ({}, [NESTED_ERROR], "its message is no text"),
        ({}, [msgpack.packb(NESTED)], "malformed error received"),
    ],
)
def test_a_client_of_a_flow_that_says_what_cannot_be(
    info: dict[str, Any], answer: list[bytes], error: str | None
) -> None:
    def says(message: Message) -> list[bytes]:
        if isinstance(message, Control):
            return said(Controlled(message.id, {"error": NESTED}))
        if not isinstance(message, Request):
            return welcome(message, info)
        if error is None:
            return said(Reply(message.first, 1, None, None, 5, answer))
        return said(Failed(message.first, 5, answer))

    with stranger(says) as port, Client(port=port) as client:
        with pytest.raises(errors.ChangeRefused, match="the Flow does not say why"):
            client.scale("upper", 2)
        if error is None:
            assert client.post("/", texts(1), on_overload="wait").texts == ["a"]
        else:
            with pytest.raises(errors.ZflowError, match=error):
                client.post("/", texts(1), on_overload="wait")
