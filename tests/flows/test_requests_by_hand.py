"""Requests as clients may say them by hand: each id for itself, several in one, sent again,
cancelled.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest
import zmq
from helpers import PATIENCE, Gate, Upper, begun, let_go, wait_for
from peers import PAYLOAD, dealer, front, request, said

from zflow import Client, Document, DocumentArray, Flow
from zflow.devices.protocol import bundles
from zflow.devices.protocol.messages import (
    MOST_ID,
    MOST_TOGETHER,
    TO_CLIENT,
    Cancel,
    Failed,
    Reply,
    singles,
)
from zflow.documents import codec


@pytest.fixture(scope="module")
def flow() -> Iterator[Flow]:
    with Flow().add(name="upper", uses=Upper, replicas=2) as running:
        yield running


def payload_of(text: str) -> bytes:
    return bytes(codec.pack(DocumentArray([Document(text=text)]))[0])


def answered(stranger: zmq.Socket[bytes], count: int) -> list[tuple[int, str]]:
    """The next answers: ids, with the only text of a result or what kind of error it is;
    they may come in one.
    """
    found: list[tuple[int, str]] = []
    while len(found) < count:
        for message in bundles.read(stranger.recv_multipart(), 0, TO_CLIENT):
            assert isinstance(message, (Reply, Failed))
            assert 0 <= message.took < PATIENCE * 1e6
            if isinstance(message, Failed):
                found.append((message.first, msgpack.unpackb(message.payload[0])["type"]))
                continue
            assert (message.parts, message.notes) == (None, None)
            for reply in singles(message):
                [text] = codec.unpack(reply.payload)[0].texts
                found.append((reply.first, text))
    return found


def test_one_id_for_several_requests_in_turn(flow: Flow) -> None:
    with dealer(front(flow)) as stranger:
        for _ in range(10):
            stranger.send_multipart([request(first=1), PAYLOAD])
            assert answered(stranger, 1) == [(1, "A")]


@pytest.fixture
def gated(tmp_path: Path) -> Iterator[Flow]:
    with Flow(timeout_close=2000).add(
        name="gate", uses=Gate, uses_with={"folder": str(tmp_path)}
    ) as running:
        yield running


def test_a_request_that_is_sent_again_while_it_is_under_way_is_done_once(
    gated: Flow, tmp_path: Path
) -> None:
    with dealer(front(gated)) as stranger, dealer(front(gated)) as other:
        for _ in range(10):
            stranger.send_multipart([request(first=1, endpoint="/hold"), PAYLOAD])
        stranger.send_multipart([request(first=2), PAYLOAD])
        with Client(port=gated.port) as client:
            wait_for(lambda: client.info()["requests"] == 2, what="two of them are requests")
            other.send_multipart([request(first=1), PAYLOAD])  # of another client: another request
            wait_for(
                lambda: client.info()["requests"] == 3, what="another client's ids are its own"
            )
        let_go(tmp_path, "a")
        assert answered(stranger, 2) == [(1, "a"), (2, "a")]
        assert answered(other, 1) == [(1, "a")]
    assert len(begun(tmp_path, "a")) == 1


def test_a_cancelled_request_is_not_answered_nor_begun(gated: Flow, tmp_path: Path) -> None:
    with (
        dealer(front(gated)) as stranger,
        dealer(front(gated)) as other,
        Client(port=gated.port) as client,
    ):
        stranger.send_multipart([request(first=1, endpoint="/hold"), PAYLOAD])
        begun(tmp_path, "a")
        for id in (2, 3):
            stranger.send_multipart([request(first=id, endpoint="/hold"), payload_of(f"b{id}")])
        wait_for(lambda: client.info()["requests"] == 3)
        for id in (2, 2, 4, -(2**63), 2**64 - 1):  # twice, and some that were never there
            stranger.send_multipart(said(Cancel(id)))
        other.send_multipart(said(Cancel(1)))  # of another client: not its business
        wait_for(lambda: client.info()["requests"] == 2)
        let_go(tmp_path, "a", "b2", "b3")
        assert answered(stranger, 2) == [(1, "a"), (3, "b3")]
        assert client.post("/", Document(text="next")).texts == ["next"]
        stranger.set(zmq.RCVTIMEO, 0)
        with pytest.raises(zmq.Again):
            stranger.recv_multipart()
    assert not (tmp_path / "b2.begun").exists()


# -- several in one --------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, MOST_TOGETHER])
@pytest.mark.parametrize("first", [0, 7, MOST_ID - MOST_TOGETHER])
def test_each_request_of_several_in_one_is_answered(flow: Flow, first: int, count: int) -> None:
    payloads = [payload_of(f"{number}x") for number in range(count)]
    with dealer(front(flow)) as stranger:
        stranger.send(request(first=first, docs=[1] * count, payload=payloads))
        expected = [(first + number, f"{number}X") for number in range(count)]
        assert sorted(answered(stranger, count)) == expected


def test_what_fails_one_of_several_fails_no_other(flow: Flow) -> None:
    with dealer(front(flow)) as stranger:
        stranger.send(request(docs=[1, 1, 1], payload=[PAYLOAD, b"\xc1", PAYLOAD]))
        assert sorted(answered(stranger, 3)) == [(7, "A"), (8, "BadRequest"), (9, "A")]
        stranger.send(request(docs=[2**40, -1], payload=[PAYLOAD, PAYLOAD]))
        assert sorted(answered(stranger, 2)) == [(7, "A"), (8, "A")], (
            "how many Documents are said to be there is a hint"
        )


def test_what_is_wrong_with_all_of_several_is_told_of_each(flow: Flow) -> None:
    with dealer(front(flow)) as stranger:
        for wrong in ({"targets": ["nobody"]}, {"endpoint": "/" * 2000}):
            stranger.send(request(docs=[1, 1, 1], payload=[PAYLOAD] * 3, **wrong))
            assert sorted(answered(stranger, 3)) == [(id, "BadRequest") for id in (7, 8, 9)]


def test_of_several_that_are_sent_again_only_those_are_done_that_are_not_under_way(
    gated: Flow, tmp_path: Path
) -> None:
    payloads = [payload_of(text) for text in ("a", "b", "c")]
    with dealer(front(gated)) as stranger, Client(port=gated.port) as client:
        for first, some in ((1, payloads[:2]), (1, payloads), (2, payloads[1:])):
            stranger.send(
                request(first=first, endpoint="/hold", docs=[1] * len(some), payload=some)
            )
        wait_for(lambda: client.info()["requests"] == 3, what="each of them is a request once")
        let_go(tmp_path, "a", "b", "c")
        assert sorted(answered(stranger, 3)) == [(1, "a"), (2, "b"), (3, "c")]
        assert client.info()["requests"] == 0
    assert [len(begun(tmp_path, text)) for text in ("a", "b", "c")] == [1, 1, 1]


def test_one_of_several_is_cancelled_and_the_others_are_not(gated: Flow, tmp_path: Path) -> None:
    with dealer(front(gated)) as stranger, Client(port=gated.port) as client:
        stranger.send_multipart([request(first=1, endpoint="/hold"), payload_of("a")])
        begun(tmp_path, "a")
        several = [payload_of(f"b{id}") for id in (2, 3, 4)]
        stranger.send(request(first=2, endpoint="/hold", docs=[1, 1, 1], payload=several))
        wait_for(lambda: client.info()["requests"] == 4)
        stranger.send_multipart(said(Cancel(3)))
        wait_for(lambda: client.info()["requests"] == 3)
        let_go(tmp_path, "a", "b2", "b3", "b4")
        assert answered(stranger, 3) == [(1, "a"), (2, "b2"), (4, "b4")]
    assert not (tmp_path / "b3.begun").exists()
