"""Whatever arrives at the broker, or at a client, that is no message of ours: counted,
answered or refused.
"""

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
    Script,
    Upper,
    replicas,
    texts,
    wait_for,
)
from peers import PAYLOAD, back, dealer, front, header, malformed, request, said

from zflow import Client, Flow
from zflow.devices.protocol import bundles
from zflow.devices.protocol.messages import (
    BUNDLE,
    KINDS,
    MOST_ID,
    MOST_TOGETHER,
    SMALL,
    TO_CLIENT,
    TO_REPLICA,
    VERSION,
    Cancel,
    Done,
    Error,
    Failed,
    Hello,
    Leave,
    Message,
    Ready,
    Refused,
    Reply,
    Request,
    Welcome,
)

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
    "a kind that is no number": [request(kind="Request"), PAYLOAD],
    "a kind that cannot be hashed": [request(kind=[KINDS[Request]]), PAYLOAD],
    "a version nested a thousand deep": [b"\x92" + b"\x91" * 1000 + b"\x01\x01", PAYLOAD],
    "the pickle of a command": [b"cos\nsystem\n(S'touch /tmp/zflow-was-here'\ntR."],
}
AT_FRONT = {
    **ANYWHERE,
    "a request without payload": [request()],
    "an id that is text": [request(first="7"), PAYLOAD],
    "an id that is a float": [request(first=7.0), PAYLOAD],
    "an endpoint that is bytes": [request(endpoint=b"/"), PAYLOAD],
    "an endpoint that is none": [request(endpoint=None), PAYLOAD],
    "targets that are text": [request(targets="upper"), PAYLOAD],
    "targets that are numbers": [request(targets=[1]), PAYLOAD],
    "targets that cannot be hashed": [request(targets=[["upper"]]), PAYLOAD],
    "a timeout that is text": [request(timeout="1000"), PAYLOAD],
    "a timeout that is a float": [request(timeout=1e3), PAYLOAD],
    "a timeout that is none": [request(timeout=None), PAYLOAD],
    "parts that are text": [request(parts="upper"), PAYLOAD],
    "parts that are no pairs": [request(parts=[1]), PAYLOAD],
    "parts of a name that is a number": [request(parts=[[1, [1]]]), PAYLOAD],
    "parts of no payload": [request(parts=[["a", []]]), PAYLOAD],
    "no parts for a frame": [request(parts=[]), PAYLOAD],
    "parts for more frames than there are": [request(parts=[["a", [1]], ["b", [1]]]), PAYLOAD],
    "parts for fewer": [request(parts=[["a", [1]]]), PAYLOAD, PAYLOAD],
    "a part of no frames": [request(parts=[["a", [0, 1]]]), PAYLOAD],
    "a count that is text": [request(parts=[["a", ["1"]]]), PAYLOAD],
    "small parts of more bytes than there are": [
        request(parts=[["a", [-len(PAYLOAD), -1]]]),
        PAYLOAD,
    ],
    "small parts of fewer": [request(parts=[["a", [1 - len(PAYLOAD)]]]), PAYLOAD],
    "small parts of no frame": [request(parts=[["a", [-1]]])],
    "begun before, as a number": [request(again=1), PAYLOAD],
    "too many fields": [header(*msgpack.unpackb(request()), None), PAYLOAD],
    "too few fields": [header(VERSION, KINDS[Request], 7, "/", None, None), PAYLOAD],
    "a request as it was in older versions": [
        header(VERSION, KINDS[Request], 7, "/", None, None, 0, 1),
        PAYLOAD,
    ],
    "a cancel without an id": [header(VERSION, KINDS[Cancel])],
    "a cancel of what is no id": [header(VERSION, KINDS[Cancel], "7")],
    "a hello without a token": [header(VERSION, KINDS[Hello])],
    "what a broker says": said(Reply(7, 1, None, None, 1, [PAYLOAD])),
    "what a replica says": said(Done(1, 1, [1], [PAYLOAD])),
    "a thousand frames": [b"x"] * 1000,
    # Payloads in the header, and several requests in one.
    "a payload in the header and one behind it": [request(payload=[PAYLOAD]), PAYLOAD],
    "several in the header and one behind it": [
        request(docs=[1, 1], payload=[PAYLOAD] * 2),
        PAYLOAD,
    ],
    "an empty payload in the header": [request(payload=[b""])],
    "a payload that is text": [request(payload=["a"])],
    "a payload that is a list": [request(payload=[[PAYLOAD]])],
    "payloads that are a map": [request(payload={})],
    "references of who shares no memory": [request(payload=b"\2"), PAYLOAD, PAYLOAD],
    "documents that are a number": [request(docs=1), PAYLOAD],
    "documents of nothing": [request(docs=[]), PAYLOAD],
    "nothing at all": [request(docs=[], payload=[])],
    "a count of documents that is text": [request(docs=["1"]), PAYLOAD],
    "a count of documents that is almost one": [request(docs=[True]), PAYLOAD],
    "a count of documents among several that is none": [
        request(docs=[1, None], payload=[PAYLOAD] * 2)
    ],
    "more counts than payloads": [request(docs=[1, 1], payload=[PAYLOAD])],
    "fewer counts than payloads": [request(docs=[1], payload=[PAYLOAD] * 2)],
    "several requests whose payloads are behind the header": [
        request(docs=[1, 1]),
        PAYLOAD,
        PAYLOAD,
    ],
    "several requests of which one is empty": [request(docs=[1, 1], payload=[PAYLOAD, b""])],
    "several requests of which one is text": [request(docs=[1, 1], payload=[PAYLOAD, "a"])],
    "several requests that are too large": [request(docs=[1] * 9, payload=[bytes(SMALL)] * 9)],
    "too many requests": [
        request(docs=[1] * (MOST_TOGETHER + 1), payload=[b"x"] * (MOST_TOGETHER + 1))
    ],
    "several requests that were begun before": [
        request(again=True, docs=[1, 1], payload=[PAYLOAD] * 2)
    ],
    "several requests of parts": [request(parts=[["a", [1]]], docs=[1, 1], payload=[PAYLOAD] * 2)],
    "several requests below zero": [request(first=-1, docs=[1, 1], payload=[PAYLOAD] * 2)],
    "several requests beyond all ids": [
        request(first=MOST_ID - 1, docs=[1, 1], payload=[PAYLOAD] * 2)
    ],
    "a bundle of nothing": [header(VERSION, BUNDLE, [])],
    "a bundle and a frame behind it": [
        header(VERSION, BUNDLE, [[[VERSION, KINDS[Hello], 7]]]),
        PAYLOAD,
    ],
    "a bundle in a bundle": [
        header(VERSION, BUNDLE, [[[VERSION, BUNDLE, [[[VERSION, KINDS[Hello], 7]]]]]])
    ],
}
AT_BACK = {
    **ANYWHERE,
    "what a client says": [request(), PAYLOAD],
    "ready without fields": [header(VERSION, KINDS[Ready])],
    "ready with slots that are text": [header(VERSION, KINDS[Ready], "upper", None, "1", 0, 0, {})],
    "a hello without a token": [header(VERSION, KINDS[Hello])],
    "an answer from nobody": said(Done(1, 1, [1], [PAYLOAD])),
    "answers from nobody": said(Done(1, 1, [1, 1], [PAYLOAD, PAYLOAD])),
    "an error from nobody": said(Error([1], 1, [PAYLOAD])),
    "nobody leaves": said(Leave()),
    "an answer of the wrong types": [header(VERSION, KINDS[Done], "1", 1.5, [1], None), PAYLOAD],
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
    "too many endpoints": (
        ["upper", [str(number) for number in range(1001)], 1, 0, 0, {}],
        "1001 endpoints",
    ),
    "an endpoint that is too long": (
        ["upper", ["/" * 1025], 1, 0, 0, {}],
        "at most 1024 characters",
    ),
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
            stranger.send(header(VERSION, KINDS[Ready], *fields))
            [answer] = bundles.read(stranger.recv_multipart(), 0, TO_REPLICA)
            assert isinstance(answer, Refused)
            assert words in answer.reason
            assert len(answer.reason) < 500
        with Client(port=flow.port) as client:
            assert client.info()["executors"]["upper"]["replicas"] == ["upper/rep-0", "upper/rep-1"]
        assert malformed(flow) == before, "it is no malformed message"
    serves(flow)


def test_who_asks_at_the_back_is_told_that_it_is_for_replicas(flow: Flow) -> None:
    with dealer(back()) as stranger, Client(port=flow.port) as client:
        stranger.send_multipart(said(Hello(5)))
        answer = bundles.read(stranger.recv_multipart(), 0, TO_REPLICA)
        assert answer == [Welcome(5, {**client.info(), "for_replicas": True})]


def test_an_answer_from_nobody_is_counted_by_its_name(flow: Flow) -> None:
    """There may be some when a broker was started anew; that is no reason to complain."""
    what = "an answer from an unknown replica"
    before = malformed(flow).get(what, 0)
    with dealer(back(), b"upper/rep-5#1") as stranger:
        stranger.send_multipart(said(Done(1, 1, [1], [PAYLOAD])))
        stranger.send_multipart(said(Leave()))
        wait_for(lambda: malformed(flow).get(what, 0) == before + 2)
    serves(flow)


def test_random_messages_at_both_ends(flow: Flow) -> None:
    generator = random.Random(5)
    # Not of an Executor that there is: with some luck it would still be well-formed, and be taken
    # into the pool.
    messages: list[Message] = [
        Ready("nobody", None, 1, 0, 0, {}),
        Request(7, "/", None, None, 0, False, [1, 1], [PAYLOAD, PAYLOAD]),
        Done(1, 1, [1], [PAYLOAD]),
    ]
    good = [request(), *(frame for message in messages for frame in said(message)), PAYLOAD]

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
    source = (
        "from zflow import Flow\nwith Flow() as flow:\n    print(flow.port, flush=True)\n    "
        "input()\n"
    )
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
                # Counted, but not logged.
                other.send_multipart(said(Done(number, 1, [1], [PAYLOAD])))
            wait_for(lambda: sum(client.info()["malformed"].values()) == 150)
        assert script.process.stdin is not None
        script.process.stdin.write("\n")
        script.process.stdin.flush()
        code, _, err = script.end()
    assert code == 0
    lines = err.splitlines()
    assert len(lines) == 2, lines
    assert all("zflow: broker: WARNING dropped a malformed message" in line for line in lines)


# -- answered with an error ------------------------------------------------------------------------


def refused(stranger: zmq.Socket[bytes], frames: list[bytes]) -> tuple[int, dict[str, Any]]:
    """Send a request; the id and the error that come back."""
    stranger.send_multipart(frames)
    [answer] = bundles.read(stranger.recv_multipart(), 0, TO_CLIENT)
    assert isinstance(answer, Failed)
    assert 0 <= answer.took < PATIENCE * 1e6
    return answer.first, msgpack.unpackb(answer.payload[0])


def test_another_version_is_answered(flow: Flow) -> None:
    before = sum(malformed(flow).values())
    with dealer(front(flow)) as stranger:
        id, error = refused(
            stranger, [header(VERSION + 1, KINDS[Request], 41, "/", None, "and more"), PAYLOAD]
        )
        assert (id, error["type"]) == (41, "BadRequest")
        assert f"version {VERSION} " in error["message"]
        assert refused(stranger, [header(VERSION + 1, KINDS[Hello])])[0] == 0
        assert refused(stranger, [header(None, KINDS[Request], 2**64 - 1)])[0] == 0
    assert sum(malformed(flow).values()) == before + 3
    serves(flow)


def test_an_unknown_executor_is_answered(flow: Flow) -> None:
    with dealer(front(flow)) as stranger:
        id, error = refused(stranger, [request(first=-3, targets=["upper", "nobody"]), PAYLOAD])
        assert (id, error["type"]) == (-3, "BadRequest")
        assert "'nobody'" in error["message"]
        assert "'upper'" in error["message"]
        assert (
            len(refused(stranger, [request(targets=["x" * 50_000]), PAYLOAD])[1]["message"]) < 1000
        )
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
def test_a_payload_that_is_none_is_answered_by_the_replica(
    flow: Flow, payload: list[bytes]
) -> None:
    before = replicas("upper")
    ways = [[request(first=5), *payload]]
    if len(payload) == 1 and payload[0]:
        ways.append([request(first=5, payload=payload)])
    with dealer(front(flow)) as stranger:
        for frames in ways:
            id, error = refused(stranger, frames)
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


# -- at the front door, below the messages ---------------------------------------------------------


def test_connections_that_speak_no_zeromq(flow: Flow) -> None:
    address = ("127.0.0.1", flow.port)
    half = [socket.create_connection(address) for _ in range(20)]  # say nothing at all
    for number in range(200):
        with socket.create_connection(address) as connection, contextlib.suppress(OSError):
            connection.sendall(os.urandom(number))
    for connection in half:
        # Begin a greeting as they should, and say no more.
        connection.sendall(b"\xff\0\0\0\0\0\0\0\1\x7f")
    serves(flow)
    for connection in half:
        connection.close()
    serves(flow)


def test_clients_that_vanish_with_their_requests_in_flight(flow: Flow) -> None:
    for _ in range(20):
        with dealer(front(flow)) as stranger:
            for number in range(20):
                stranger.send_multipart([request(first=number), PAYLOAD])
    with Client(port=flow.port) as client:
        wait_for(lambda: client.info()["requests"] == 0, what="none of their requests is kept")
    serves(flow)
