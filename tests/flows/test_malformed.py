"""Whatever arrives at the broker, or at a client, that is no message of ours: counted, answered or refused."""

from __future__ import annotations

import contextlib
import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq
from helpers import (
    PATIENCE,
    Gate,
    Script,
    Upper,
    begun,
    in_background,
    let_go,
    replicas,
    texts,
    wait_for,
)
from peers import PAYLOAD, back, dealer, front, header, malformed, request, stranger, welcome

from zflow import Client, Document, DocumentArray, Flow, errors
from zflow.devices.protocol import bundles, messages
from zflow.devices.protocol.messages import (
    CANCEL,
    CONTROL,
    CONTROLLED,
    DONE,
    ERROR,
    HELLO,
    LEAVE,
    READY,
    REQUEST,
    TO_CLIENT,
    VERSION,
)
from zflow.documents import codec

NASTY = {"args": 3, "__class__": "x", "__dict__": 1, "characters_written": "x", "with_traceback": 1}
DEEP = b"\x91" * 50_000 + b"\x01"


@pytest.fixture(scope="module")
def flow() -> Iterator[Flow]:
    with Flow(max_message_bytes=1_000_000).add(name="upper", uses=Upper, replicas=2) as running:
        yield running


def serves(flow: Flow) -> None:
    """The Flow goes on serving, with the replicas it had."""
    assert flow.post("/", texts(20), request_size=1).texts == [str(number) for number in range(20)]
    assert len(replicas("upper")) == 2


ANYWHERE = {
    "an empty frame": [b""],
    "random bytes": [bytes(range(256))],
    "text": [b"GET / HTTP/1.1\r\n\r\n"],
    "a number": [header(1)[1:]],
    "an empty array": [header()],
    "a map": [msgpack.packb({1: 2})],
    "only a version": [header(VERSION)],
    "a header that is cut off": [request()[:-3], PAYLOAD],
    "a header with more behind it": [request() + b"more", PAYLOAD],
    "a megabyte of header": [request(endpoint="/" + "x" * 2**20), PAYLOAD],
    "a header deep in itself": [DEEP],
    "a count that lies": [b"\xdd\xff\xff\xff\xff"],
    "an extension type": [header(VERSION, msgpack.ExtType(5, b"x"))],
    "another version as text": [request(version="1"), PAYLOAD],
    "a version that is almost one": [request(version=True), PAYLOAD],
    "an unknown kind": [header(VERSION, 99)],
    "a kind that is no number": [request(kind="REQUEST"), PAYLOAD],
    "a kind that cannot be hashed": [request(kind=[REQUEST]), PAYLOAD],
    "a version nested a thousand deep": [b"\x92" + b"\x91" * 1000 + b"\x01\x01", PAYLOAD],
    "the pickle of a command": [b"cos\nsystem\n(S'touch /tmp/zflow-was-here'\ntR."],
}
AT_FRONT = {
    **ANYWHERE,
    "a request without payload": [request()],
    "an id that is text": [request(id="7"), PAYLOAD],
    "an id that is a float": [request(id=7.0), PAYLOAD],
    "an endpoint that is bytes": [request(endpoint=b"/"), PAYLOAD],
    "an endpoint that is none": [request(endpoint=None), PAYLOAD],
    "targets that are text": [request(targets="upper"), PAYLOAD],
    "targets that are numbers": [request(targets=[1]), PAYLOAD],
    "targets that cannot be hashed": [request(targets=[["upper"]]), PAYLOAD],
    "a timeout that is text": [request(ms="1000"), PAYLOAD],
    "a timeout that is a float": [request(ms=1e3), PAYLOAD],
    "a timeout that is none": [request(ms=None), PAYLOAD],
    "parts that are text": [request(parts="upper"), PAYLOAD],
    "parts that are no pairs": [request(parts=[1]), PAYLOAD],
    "parts of a name that is a number": [request(parts=[[1, [1]]]), PAYLOAD],
    "parts of no payload": [request(parts=[["a", []]]), PAYLOAD],
    "no parts for a frame": [request(parts=[]), PAYLOAD],
    "parts for more frames than there are": [request(parts=[["a", [1]], ["b", [1]]]), PAYLOAD],
    "parts for fewer": [request(parts=[["a", [1]]]), PAYLOAD, PAYLOAD],
    "a part of no frames": [request(parts=[["a", [0, 1]]]), PAYLOAD],
    "a count that is text": [request(parts=[["a", ["1"]]]), PAYLOAD],
    "small parts of more bytes than there are": [request(parts=[["a", [-len(PAYLOAD), -1]]]), PAYLOAD],
    "small parts of fewer": [request(parts=[["a", [1 - len(PAYLOAD)]]]), PAYLOAD],
    "small parts of no frame": [request(parts=[["a", [-1]]])],
    "too many fields": [request(one_more=None), PAYLOAD],
    "too few fields": [header(VERSION, REQUEST, 7, "/", None, None), PAYLOAD],
    "a request as it was in older versions": [header(VERSION, REQUEST, 7, "/", None, None, 0), PAYLOAD],
    "a cancel without an id": [header(VERSION, CANCEL)],
    "a cancel of what is no id": [header(VERSION, CANCEL, "7")],
    "a hello without a token": [header(VERSION, HELLO)],
    "what a broker says": [header(VERSION, messages.REPLY, 7, None, None, 1), PAYLOAD],
    "what a replica says": [header(VERSION, DONE, 1, 1, 1), PAYLOAD],
    "a thousand frames": [b"x"] * 1000,
}
AT_BACK = {
    **ANYWHERE,
    "what a client says": [request(), PAYLOAD],
    "ready without fields": [header(VERSION, READY)],
    "ready with slots that are text": [header(VERSION, READY, "upper", None, "1", 0, 0, {})],
    "a hello without a token": [header(VERSION, HELLO)],
    "an answer from nobody": [header(VERSION, DONE, 1, 1, 1), PAYLOAD],
    "an error from nobody": [header(VERSION, ERROR, 1, 1), PAYLOAD],
    "nobody leaves": [header(VERSION, LEAVE)],
    "an answer of the wrong types": [header(VERSION, DONE, "1", 1.5, 1), PAYLOAD],
}
REFUSED = {
    "an unknown Executor": (["nobody", None, 1, 0, 0, {}], "no Executor 'nobody'"),
    "an Executor with an endless name": (["x" * 60_000, None, 1, 0, 0, {}], "no Executor 'xxx"),
    "no slots": (["upper", None, 0, 0, 0, {}], "0 slots"),
    "slots below none": (["upper", None, -1, 0, 0, {}], "-1 slots"),
    "too many slots": (["upper", None, 10**6, 0, 0, {}], "1000000 slots"),
    "endpoints that are numbers": (["upper", [1], 1, 0, 0, {}], "endpoints"),
    "endpoints that cannot be hashed": (["upper", [["/"]], 1, 0, 0, {}], "endpoints"),
    "a shard that is none": (["upper", None, 1, 1, 0, {}], "no shard 1"),
    "a shard below none": (["upper", None, 1, -1, 0, {}], "no shard -1"),
    "a group that is none": (["upper", None, 1, 0, -1, {}], "no replica number -1"),
    "a group too far": (["upper", None, 1, 0, 10**9, {}], "no replica number 1000000000"),
    "too many endpoints": (["upper", [str(number) for number in range(1001)], 1, 0, 0, {}], "1001 endpoints"),
    "an endpoint that is too long": (["upper", ["/" * 1025], 1, 0, 0, {}], "at most 1024 characters"),
    "batches of too many Documents": (["upper", None, 1, 0, 0, {"/": [2**64 - 1, 0]}], "batches"),
    "batches that wait for ever": (["upper", None, 1, 0, 0, {"/": [5, 2**64 - 1]}], "batches"),
    "batching that is a number": (["upper", None, 1, 0, 0, {"/": 32}], "batches"),
    "batches of no Documents": (["upper", None, 1, 0, 0, {"/": [0, 0]}], "batches"),
    "batches that wait for a negative time": (["upper", None, 1, 0, 0, {"/": [32, -1]}], "batches"),
}


@pytest.mark.parametrize("what", AT_FRONT)
def test_at_the_front(flow: Flow, what: str) -> None:
    _dropped_and_counted(flow, front(flow), AT_FRONT[what])


@pytest.mark.parametrize("what", AT_BACK)
def test_at_the_back(flow: Flow, what: str) -> None:
    _dropped_and_counted(flow, back(), AT_BACK[what])


def _dropped_and_counted(flow: Flow, address: str, frames: list[bytes]) -> None:
    before = sum(malformed(flow).values())
    with dealer(address) as stranger:
        for _ in range(3):
            stranger.send_multipart(frames)
        wait_for(lambda: sum(malformed(flow).values()) == before + 3, what="each is counted")
    serves(flow)
    assert not os.path.exists("/tmp/zflow-was-here")


@pytest.mark.parametrize("what", REFUSED)
def test_a_replica_that_cannot_be_is_told_why_and_not_taken_in(flow: Flow, what: str) -> None:
    fields, words = REFUSED[what]
    before = malformed(flow)
    with dealer(back(), b"upper/rep-5#1") as stranger:
        for _ in range(2):
            stranger.send(header(VERSION, READY, *fields))
            version, kind, reason = msgpack.unpackb(stranger.recv())
            assert (version, kind) == (VERSION, messages.REFUSED)
            assert words in reason
            assert len(reason) < 500
        with Client(port=flow.port) as client:
            assert client.info()["executors"]["upper"]["replicas"] == ["upper/rep-0", "upper/rep-1"]
        assert malformed(flow) == before, "it is no malformed message"
    serves(flow)


def test_who_asks_at_the_back_is_told_that_it_is_for_replicas(flow: Flow) -> None:
    with dealer(back()) as stranger, Client(port=flow.port) as client:
        stranger.send(header(VERSION, HELLO, 5))
        said, info = map(msgpack.unpackb, stranger.recv_multipart())
        assert said == [VERSION, messages.WELCOME, 5]
        assert info == {**client.info(), "for_replicas": True}


def test_an_answer_from_nobody_is_counted_by_its_name(flow: Flow) -> None:
    """There may be some when a broker was started anew; that is no reason to complain."""
    what = "an answer from an unknown replica"
    before = malformed(flow).get(what, 0)
    with dealer(back(), b"upper/rep-5#1") as stranger:
        stranger.send_multipart([header(VERSION, DONE, 1, 1, 1), PAYLOAD])
        stranger.send(header(VERSION, LEAVE))
        wait_for(lambda: malformed(flow).get(what, 0) == before + 2)
    serves(flow)


def test_random_messages_at_both_ends(flow: Flow) -> None:
    generator = random.Random(5)
    # Not of an Executor that there is: with some luck it would still be well-formed, and be taken into the pool.
    ready = header(VERSION, READY, "nobody", None, 1, 0, 0, {})
    good = [request(), ready, header(VERSION, DONE, 1, 1, 1), PAYLOAD]

    def frame() -> bytes:
        some = bytearray(generator.choice([*good, generator.randbytes(generator.randrange(40))]))
        for _ in range(generator.randrange(1, 4)):
            if some:
                some[generator.randrange(len(some))] = generator.randrange(256)
        return bytes(some[: generator.randrange(len(some) + 1)])

    before = sum(malformed(flow).values())
    with dealer(front(flow)) as one, dealer(back()) as other:
        for _ in range(1500):
            for stranger in (one, other):
                stranger.send_multipart([frame() for _ in range(generator.randrange(1, 4))])
        wait_for(lambda: sum(malformed(flow).values()) > before + 2000)
        serves(flow)
    serves(flow)


def test_kinds_are_few_whatever_comes(flow: Flow) -> None:
    counts = malformed(flow)
    assert len(counts) <= 14
    assert all(isinstance(count, int) for count in counts.values())


def test_each_kind_is_logged_once(tmp_path: Path) -> None:
    source = "from zflow import Flow\nwith Flow() as flow:\n    print(flow.port, flush=True)\n    input()\n"
    with Script(source, tmp_path, stdin=-1) as script:
        port = script.line()
        with (
            dealer(f"tcp://127.0.0.1:{port}") as stranger,
            dealer(back(), b"nobody/rep-0#1") as other,
            Client(port=port) as client,
        ):
            for number in range(50):
                stranger.send_multipart([b"hello %d" % number])
                stranger.send_multipart([header(VERSION, 99, number)])
                other.send_multipart([header(VERSION, DONE, number, 1, 1), PAYLOAD])  # counted, but not logged
            wait_for(lambda: sum(client.info()["malformed"].values()) == 150)
        assert script.process.stdin is not None
        script.process.stdin.write("\n")
        script.process.stdin.flush()
        code, _, err = script.end()
    assert code == 0
    lines = err.splitlines()
    assert len(lines) == 2, lines
    assert all("zflow: broker: WARNING dropped a malformed message" in line for line in lines)


# -- answered with an error -------------------------------------------------------------------------------------------


def refused(stranger: zmq.Socket[bytes], frames: list[bytes]) -> tuple[int, dict[str, Any]]:
    """Send a request; the id and the error that come back."""
    stranger.send_multipart(frames)
    answer, error = stranger.recv_multipart()
    version, kind, id, took = msgpack.unpackb(answer)
    assert (version, kind) == (VERSION, messages.FAILED)
    assert 0 <= took < PATIENCE * 1e6
    return id, msgpack.unpackb(error)


def test_another_version_is_answered(flow: Flow) -> None:
    before = sum(malformed(flow).values())
    with dealer(front(flow)) as stranger:
        id, error = refused(stranger, [header(VERSION + 1, REQUEST, 41, "/", None, "and more"), PAYLOAD])
        assert (id, error["type"]) == (41, "BadRequest")
        assert f"version {VERSION} " in error["message"]
        assert refused(stranger, [header(VERSION + 1, HELLO)])[0] == 0
        assert refused(stranger, [header(None, REQUEST, 2**64 - 1)])[0] == 0
    assert sum(malformed(flow).values()) == before + 3
    serves(flow)


def test_an_unknown_executor_is_answered(flow: Flow) -> None:
    with dealer(front(flow)) as stranger:
        id, error = refused(stranger, [request(id=-3, targets=["upper", "nobody"]), PAYLOAD])
        assert (id, error["type"]) == (-3, "BadRequest")
        assert "'nobody'" in error["message"]
        assert "'upper'" in error["message"]
        assert len(refused(stranger, [request(targets=["x" * 50_000]), PAYLOAD])[1]["message"]) < 1000
    serves(flow)


def test_an_endpoint_that_is_too_long_is_answered(flow: Flow) -> None:
    with dealer(front(flow)) as stranger:
        assert refused(stranger, [request(endpoint="/" * 2000), PAYLOAD])[1]["type"] == "BadRequest"
    serves(flow)


@pytest.mark.parametrize(
    "payload",
    [
        [b""],
        [b"\xc1"],
        [PAYLOAD[:-5]],
        [PAYLOAD, b"one frame too many"],
        [msgpack.packb([99, {}, []])],
        [msgpack.packb({"a": 1})],
        [DEEP],
        [b"\xdd\xff\xff\xff\xff"],
        [b""] * 1500,
        [b"\xd4" * 500],
    ],
)
def test_a_payload_that_is_none_is_answered_by_the_replica(flow: Flow, payload: list[bytes]) -> None:
    before = replicas("upper")
    with dealer(front(flow)) as stranger:
        id, error = refused(stranger, [request(id=5), *payload])
    assert (id, error["type"]) == (5, "BadRequest")
    assert "upper/rep-" in error["message"]
    assert replicas("upper") == before
    serves(flow)


def test_a_request_over_the_limit_is_answered_and_one_far_over_it_is_cut_off(flow: Flow) -> None:
    with dealer(front(flow)) as stranger:
        error = refused(stranger, [request(), b"x" * 600_000, b"x" * 600_000])[1]
        assert error["type"] == "RequestTooLarge"
        assert "1000000" in error["message"]
        stranger.send_multipart([request(), b"x" * 2_000_000])
        assert stranger.recv_multipart() == [b""], "it is greeted anew when it has connected again"
        stranger.set(zmq.RCVTIMEO, 50)
        with pytest.raises(zmq.Again):
            stranger.recv_multipart()
    serves(flow)


# -- at the front door, below the messages ----------------------------------------------------------------------------


def test_connections_that_speak_no_zeromq(flow: Flow) -> None:
    address = ("127.0.0.1", flow.port)
    half = [socket.create_connection(address) for _ in range(20)]  # say nothing at all
    for number in range(200):
        with socket.create_connection(address) as connection, contextlib.suppress(OSError):
            connection.sendall(os.urandom(number))
    for connection in half:
        connection.sendall(b"\xff\0\0\0\0\0\0\0\1\x7f")  # begin a greeting as they should, and say no more
    serves(flow)
    for connection in half:
        connection.close()
    serves(flow)


def test_clients_that_vanish_with_their_requests_in_flight(flow: Flow) -> None:
    for _ in range(20):
        with dealer(front(flow)) as stranger:
            for number in range(20):
                stranger.send_multipart([request(id=number), PAYLOAD])
    with Client(port=flow.port) as client:
        wait_for(lambda: client.info()["requests"] == 0, what="none of their requests is kept")
    serves(flow)


def answered(stranger: zmq.Socket[bytes]) -> tuple[int, list[str]]:
    """The next answer's id and texts."""
    answer, payload = stranger.recv_multipart()
    version, kind, id, parts, notes, took = msgpack.unpackb(answer)
    assert (version, kind, parts, notes) == (VERSION, messages.REPLY, None, None)
    assert 0 <= took < PATIENCE * 1e6
    return id, list(codec.unpack([payload])[0].texts)


def test_one_id_for_several_requests_in_turn(flow: Flow) -> None:
    with dealer(front(flow)) as stranger:
        for _ in range(10):
            stranger.send_multipart([request(id=1), PAYLOAD])
            assert answered(stranger) == (1, ["A"])


@pytest.fixture
def gated(tmp_path: Path) -> Iterator[Flow]:
    with Flow(timeout_close=2000).add(name="gate", uses=Gate, uses_with={"folder": str(tmp_path)}) as running:
        yield running


def test_a_request_that_is_sent_again_while_it_is_under_way_is_done_once(gated: Flow, tmp_path: Path) -> None:
    with dealer(front(gated)) as stranger, dealer(front(gated)) as other:
        for _ in range(10):
            stranger.send_multipart([request(id=1, endpoint="/hold"), PAYLOAD])
        stranger.send_multipart([request(id=2), PAYLOAD])
        with Client(port=gated.port) as client:
            wait_for(lambda: client.info()["requests"] == 2, what="two of them are requests")
            other.send_multipart([request(id=1), PAYLOAD])  # of another client: another request
            wait_for(lambda: client.info()["requests"] == 3, what="another client's ids are its own")
        let_go(tmp_path, "a")
        assert [answered(stranger) for _ in range(2)] == [(1, ["a"]), (2, ["a"])]
        assert answered(other) == (1, ["a"])
    assert len(begun(tmp_path, "a")) == 1


def test_a_cancelled_request_is_not_answered_nor_begun(gated: Flow, tmp_path: Path) -> None:
    with dealer(front(gated)) as stranger, dealer(front(gated)) as other, Client(port=gated.port) as client:
        stranger.send_multipart([request(id=1, endpoint="/hold"), PAYLOAD])
        begun(tmp_path, "a")
        for id in (2, 3):
            text = bytes(codec.pack(DocumentArray([Document(text=f"b{id}")]))[0])
            stranger.send_multipart([request(id=id, endpoint="/hold"), text])
        wait_for(lambda: client.info()["requests"] == 3)
        for id in (2, 2, 4, -(2**63), 2**64 - 1):  # twice, and some that were never there
            stranger.send(header(VERSION, CANCEL, id))
        other.send(header(VERSION, CANCEL, 1))  # of another client: not its business
        wait_for(lambda: client.info()["requests"] == 2)
        let_go(tmp_path, "a", "b2", "b3")
        assert [answered(stranger) for _ in range(2)] == [(1, ["a"]), (3, ["b3"])]
        assert client.post("/", Document(text="next")).texts == ["next"]
        stranger.set(zmq.RCVTIMEO, 0)
        with pytest.raises(zmq.Again):
            stranger.recv_multipart()
    assert not (tmp_path / "b2.begun").exists()


# -- a replica that lies ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def liar() -> Iterator[tuple[Flow, zmq.Socket[bytes]]]:
    """A Flow whose pool a stranger has joined; only the stranger binds `/lie`, but nobody knows that."""
    with (
        Flow(timeout_close=1000).add(name="lonely", uses=Upper, timeout_send=20_000) as flow,
        dealer(back(), b"lonely/rep-9#1") as stranger,
    ):
        stranger.send(header(VERSION, READY, "lonely", ["/lie"], 1, 0, 0, {}))
        assert msgpack.unpackb(stranger.recv()) == [VERSION, messages.ACCEPTED, 0]
        yield flow, stranger


@pytest.mark.parametrize(
    ("kind", "payload", "error"),
    [
        (DONE, [b"\xc1"], errors.BadRequest),
        (DONE, [PAYLOAD, PAYLOAD], errors.BadRequest),
        (ERROR, [b"\xc1"], errors.BadRequest),
        (ERROR, [b""], errors.BadRequest),
        (ERROR, [msgpack.packb("text")], errors.ZflowError),
        (ERROR, [msgpack.packb({"type": "SystemExit", "message": 3})], errors.ZflowError),
        (ERROR, [msgpack.packb({"type": "ExecutorError", "message": "told", **NASTY})], errors.ExecutorError),
        (ERROR, [msgpack.packb({"type": "FlowUnreachable", "message": "told", **NASTY})], errors.FlowUnreachable),
        (ERROR, [DEEP], errors.BadRequest),
        (ERROR, [msgpack.packb({"type": "BadRequest", "message": "told"}), b"more"], errors.BadRequest),
    ],
)
def test_an_answer_that_is_none_fails_its_request_only(kind: int, payload: list[bytes], error: type[Exception]) -> None:
    with liar() as (flow, stranger):
        failed: list[Any] = []
        posting = in_background(flow.post, "/lie", texts(30), request_size=1, on_error=failed.append)
        task = msgpack.unpackb(stranger.recv_multipart()[0])
        assert task[1:2] + task[3:] == [messages.TASK, "/lie", None]
        stranger.send_multipart([header(VERSION, kind, task[2], 100, *([1] if kind == DONE else [])), *payload])
        stranger.send(header(VERSION, LEAVE))
        assert len(posting.result(PATIENCE)) == 29
        assert [type(response.error) for response in failed] == [error]
        assert str(failed[0].error)


def test_answers_to_tasks_that_are_not_there(tmp_path: Path) -> None:
    with liar() as (flow, stranger):
        for task in (0, -1, 2**63, 10**6):
            stranger.send_multipart([header(VERSION, DONE, task, -5, 1), PAYLOAD])
            stranger.send_multipart([header(VERSION, ERROR, task, 2**63), PAYLOAD])
        stranger.send_multipart([header(VERSION, DONE, 1, 1, 1)])
        stranger.send(header(VERSION, READY, "lonely", None, 3, 0, 0, {}))  # again
        stranger.send(header(VERSION, LEAVE))
        stranger.send(header(VERSION, LEAVE))
        with Client(port=flow.port) as client:
            wait_for(lambda: client.info()["executors"]["lonely"]["replicas"] == ["lonely/rep-0"])
            assert client.post("/", texts(20), request_size=1).texts == [str(number) for number in range(20)]


NESTED: Any = "x"
for _ in range(1000):
    NESTED = [NESTED]


def everywhere(shapes: messages.Shapes, right: dict[int, list[Any]]) -> Iterator[bytes]:
    """Each kind of message with what is nested 1,000 deep in each of its fields, also where it has the right type."""
    for kind, fields in right.items():
        assert tuple(map(type, [VERSION, kind, *fields])) in shapes[kind]
        for at, field in enumerate(fields):
            for nested in (NESTED, {"x": NESTED}, {"/": NESTED}, [[NESTED, NESTED]]):
                if at == len(fields) - 1 or type(field) in (list, dict, type(None)):
                    yield header(VERSION, kind, *fields[:at], nested, *fields[at + 1 :])


def test_what_is_nested_deep_ends_nothing_wherever_it_comes_in() -> None:
    from_client = {
        messages.HELLO: [7],
        REQUEST: [7, "/", ["upper"], [], 0, 1],
        messages.AGAIN: [7, "/", None, None, 0, 1],
        messages.REQUESTS: [7, "/", None, 0, [1, 1], [PAYLOAD, PAYLOAD]],
        CONTROL: [7, "scale", {}],
        CANCEL: [7],
    }
    from_replica = {
        READY: ["upper", ["/"], 1, 0, 0, {}],
        DONE: [1, 1, 1],
        messages.DONES: [1, 1, [1, 1], [b"a", b"b"]],
        ERROR: [1, 1],
        messages.APART: [[1], 1],
        messages.MISSED: [1, 1],
    }
    assert {**from_client, CANCEL: 0}.keys() == messages.FROM_CLIENT.keys()
    assert {**from_replica, HELLO: 0, LEAVE: 0}.keys() == messages.FROM_REPLICA.keys()
    flow = Flow(replica_port=0).add(name="upper", uses=Upper).add(name="sharded", uses=Upper, shards=2, polling="ALL")
    joining = header(VERSION, READY, "upper", None, 1024, 0, 0, {})
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
                each.send(joining)
                assert msgpack.unpackb(each.recv())[1] == messages.ACCEPTED
            for frame in everywhere(messages.FROM_CLIENT, from_client):
                stranger.send_multipart([frame, PAYLOAD])
            for frame in everywhere(messages.FROM_REPLICA, from_replica):
                for each in (elsewhere, replica):
                    each.send_multipart([frame, msgpack.packb({"type": NESTED, "message": NESTED})])
                collector.send_multipart([b"upper/rep-9#1", frame, PAYLOAD])
            for each in (elsewhere, replica):
                each.send(header(VERSION, LEAVE))
            collector.send_multipart([b"upper/rep-9#1", header(VERSION, 99)])
            wait_for(lambda: client.info()["executors"]["upper"]["replicas"] == ["upper/rep-0"])
            assert client.post("/", texts(20), request_size=1).texts == [str(number) for number in range(20)]
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
def test_a_command_that_is_none_is_refused_and_ends_nothing(flow: Flow, command: str, arguments: Any) -> None:
    with dealer(front(flow)) as dealing:
        dealing.send(header(VERSION, CONTROL, 7, command, arguments))
        ((_, kind, id, result),) = [msgpack.unpackb(frame) for frame in dealing.recv_multipart()]
    assert (kind, id) == (CONTROLLED, 7)
    assert "a few names with plain values" in result["error"]
    serves(flow)


def test_many_commands_at_once_block_nobody(flow: Flow) -> None:
    """Bundled, they are all there in one turn of the broker's loop."""
    command = (VERSION, CONTROL, 0, "restart", {"executor": "nobody" * 100})
    with dealer(front(flow)) as dealing:
        for _ in range(50):
            dealing.send(header(VERSION, bundles.BUNDLE, [[command] for _ in range(bundles.MAX_ENTRIES)]))
        heard = 0
        while heard < 50 * bundles.MAX_ENTRIES:
            for said, _ in bundles.read(dealing.recv_multipart(), 0, TO_CLIENT):
                assert said[1] == CONTROLLED
                assert "error" in said[3]
                heard += 1
        dealing.send(header(VERSION, CONTROL, 5000, "scale", {"executor": "upper", "replicas": 2}))
        ((said, _),) = bundles.read(dealing.recv_multipart(), 0, TO_CLIENT)
    assert said[2:] == [5000, {"executor": "upper", "replicas": 2, "before": 2}]
    serves(flow)


# -- a Flow that lies to its clients ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("info", "answer", "error"),
    [
        ({"max_message_bytes": "x", "executors": 7, "instance": NESTED}, [PAYLOAD], None),
        ({"max_message_bytes": NESTED}, [PAYLOAD], None),
        ({}, [msgpack.packb({"type": NESTED, "message": NESTED})], "its message is no text"),
        ({}, [msgpack.packb(NESTED)], "malformed error received"),
    ],
)
def test_a_client_of_a_flow_that_says_what_cannot_be(
    info: dict[str, Any], answer: list[bytes], error: str | None
) -> None:
    def says(said: list[Any]) -> list[bytes]:
        if said[1] == HELLO:
            return welcome(said, info)
        if said[1] == CONTROL:
            return [header(VERSION, CONTROLLED, said[2], {"error": NESTED})]
        kind = (messages.REPLY, said[2], None, None, 5) if error is None else (messages.FAILED, said[2], 5)
        return [header(VERSION, *kind), *answer]

    with stranger(says) as port, Client(port=port) as client:
        with pytest.raises(errors.ChangeRefused, match="the Flow does not say why"):
            client.scale("upper", 2)
        if error is None:
            assert client.post("/", texts(1), on_overload="wait").texts == ["a"]
        else:
            with pytest.raises(errors.ZflowError, match=error):
                client.post("/", texts(1), on_overload="wait")
