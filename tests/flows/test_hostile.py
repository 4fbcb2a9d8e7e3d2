"""Clients with nothing but the port who would take the broker's memory or time: each is cut,
and others are served.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import psutil
import pytest
import zmq
from helpers import Script, Upper, in_background, run_script, wait_for
from peers import CutError, Raw, dealer, front, request, said, zmtp

from zflow import Client, Document, DocumentArray, Executor, Flow, cli, requests
from zflow.devices.protocol import bundles
from zflow.devices.protocol.messages import TO_CLIENT, Failed, Hello, Welcome
from zflow.devices.sockets import factory, listener, zap
from zflow.documents import codec
from zflow.errors import InvalidFlow, ZflowError
from zflow.network.keys import keys_of

pytestmark = pytest.mark.slow

MB = 1 << 20


class Large(Executor):
    """Answers with so many bytes as it is asked for."""

    @requests
    def large(self, docs: DocumentArray, **_: Any) -> DocumentArray:
        return DocumentArray([Document(blob=bytes(int(doc.text))) for doc in docs])

    @requests(on="/same")
    def same(self, docs: DocumentArray, **_: Any) -> DocumentArray:
        return docs


@pytest.fixture(scope="module")
def flow() -> Iterator[Flow]:
    with Flow(max_message_bytes=4 * MB, replica_port=0, shared_memory=0).add(
        name="large", uses=Large
    ) as running:
        yield running


@pytest.fixture
def served(flow: Flow) -> Iterator[psutil.Process]:
    """The broker, which must serve others all the time, and be the same in the end."""
    over = threading.Event()

    def post() -> None:
        with Client(port=flow.port) as client:
            while not over.is_set():
                assert client.post("/same", Document(text="other")).texts == ["other"]

    with Client(port=flow.port) as client:
        broker = client.info()["pid"]
        posting = in_background(post)
        yield psutil.Process(broker)
        over.set()
        posting.result(60)
        assert client.info()["pid"] == broker


@pytest.mark.parametrize("door", ["port", "replica_port"])
def test_a_message_that_never_ends_is_cut_while_it_arrives(
    flow: Flow, served: psutil.Process, door: str
) -> None:
    before = served.memory_info().rss
    with Raw(getattr(flow, door)) as client:
        with pytest.raises(CutError):
            client.send(*[bytes(900_000)] * 300, more=True)
        assert served.memory_info().rss - before < 200 * MB
        wait_for(client.was_cut)


def test_so_is_one_over_an_encrypted_connection_but_not_the_largest_one(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    assert cli.main(["keys", "new", str(folder)]) == 0
    keys = keys_of(str(folder))
    assert keys is not None
    with (
        Flow(max_message_bytes=4 * MB, curve=str(folder), shared_memory=0).add(uses=Large) as flow,
        Client(port=flow.port, curve=folder) as client,
        zmq.Context() as context,
    ):
        largest = DocumentArray(
            [Document(blob=os.urandom(20_000 + number)) for number in range(190)]
        )
        for _ in range(20):
            assert client.post("/same", largest).blobs == largest.blobs
        broker = client.info()["pid"]
        before = psutil.Process(broker).memory_info().rss
        endless = factory.dealer(context)
        zap.secure(endless, *keys)
        endless.connect(front(flow))
        assert endless.recv() == b""
        endless.send_multipart([bytes(900_000)] * 300, copy=False)
        assert endless.recv() == b"", "it is greeted anew, as its connection was cut"
        assert psutil.Process(broker).memory_info().rss - before < 150 * MB
        endless.close()
        assert client.post("/same", largest).blobs == largest.blobs
        assert client.info()["pid"] == broker


def test_a_million_empty_frames_are_no_reason_to_keep_others_waiting(
    flow: Flow, served: psutil.Process
) -> None:
    with Raw(flow.port) as silent, Raw(flow.port) as client:
        with contextlib.suppress(OSError):  # it may be cut already
            client.socket.sendall(b"\x01\x00" * 1_000_000 + b"\x00\x00")
        wait_for(client.was_cut, what="it is cut")
        assert not silent.was_cut(), "that is not because it said nothing"


def test_who_never_reads_is_cut_and_its_requests_are_cancelled(
    flow: Flow, served: psutil.Process
) -> None:
    before = served.memory_info().rss
    payload = bytes(codec.pack(DocumentArray([Document(text="300000")]))[0])
    with Raw(flow.port) as client:
        with pytest.raises(CutError):
            _ask_and_ask(client, flow, payload)
        assert served.memory_info().rss - before < 500 * MB
    wait_for(lambda: flow_requests(flow) <= 1, what="nothing is left of its requests")


def _ask_and_ask(client: Raw, flow: Flow, payload: bytes) -> None:
    for id in range(4000):  # 1.2 GB of answers, were they kept
        client.send(request(first=id), payload)
        wait_for(lambda: flow_requests(flow) < 100, what="they are answered")


def flow_requests(flow: Flow) -> int:
    with Client(port=flow.port) as client:
        count: int = client.info()["requests"]
        return count


def test_who_reads_late_but_reads_gets_all_of_it(flow: Flow, served: psutil.Process) -> None:
    payload = bytes(codec.pack(DocumentArray([Document(text="2000000")]))[0])
    with Raw(flow.port) as client:
        for id in range(20):
            client.send(request(first=id), payload)
        wait_for(lambda: flow_requests(flow) <= 1, what="all are answered")
        frames = [client.frame() for _ in range(1 + 20 * 3)]
    assert sum(len(frame) == 2_000_000 for frame in frames) == 20


def test_a_train_of_greetings_is_not_answered_many_times_over(
    flow: Flow, served: psutil.Process
) -> None:
    with Raw(flow.port) as client:
        trained = b"".join(zmtp(said(Hello(token))[0], more=False) for token in range(1, 5001))
        client.socket.sendall(trained)
        assert client.frame() == b"", "it is greeted"
        tokens = [0]
        while tokens[-1] < 5000:
            [answer] = bundles.read([client.frame(), client.frame()], 0, TO_CLIENT)
            assert isinstance(answer, Welcome)
            tokens.append(answer.token)
    assert tokens == sorted(tokens)
    assert len(tokens) < 1000


HANGS_UP = """
import sys, zmq
sys.path.insert(0, sys.argv[1])
from peers import Raw
from zflow.devices.sockets import factory

factory.HEARTBEAT = 50
context = zmq.Context()
router, (address,) = factory.listen(context, zmq.ROUTER, ["tcp://127.0.0.1:*"])
with Raw(int(address.rpartition(":")[2])) as client:
    router.poll(0)
    client.socket.settimeout(1)
    try:
        while True:
            client.send(b"x" * 100)
    except TimeoutError:
        client.reset()
router.poll(0)
zmq.zmq_poll([], 500)
print("alive")
context.destroy(linger=0)
"""


def test_who_hangs_up_while_its_messages_wait_does_not_end_the_broker(tmp_path: Path) -> None:
    status, out, error = run_script(HANGS_UP, tmp_path, Path(__file__).parents[1])
    assert (status, out.strip()) == (0, "alive"), error


FEW_DESCRIPTORS = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (150, 150))
sys.path.insert(0, sys.argv[1])
from helpers import Upper
from zflow import Client, Document, Flow

with Flow().add(name="upper", uses=Upper) as flow:
    with Client(port=flow.port) as client:
        broker = client.info()["pid"]
    print(flow.port, broker, flush=True)
    input()
    assert flow.scale("upper", 3)["replicas"] == 3
    assert flow.post("/", Document(text="local")).texts == ["LOCAL"]
    print("served", flush=True)
    input()
"""


def test_connections_that_say_nothing_leave_descriptors_for_those_of_this_machine(
    tmp_path: Path,
) -> None:
    with Script(
        FEW_DESCRIPTORS, tmp_path, Path(__file__).parents[1], stdin=subprocess.PIPE
    ) as script:
        assert script.process.stdin is not None
        port, broker = map(int, script.line().split())
        silent = [socket.socket() for _ in range(400)]
        for one in silent:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        wait_for(lambda: psutil.Process(broker).num_fds() > 90, what="most are taken")
        print(file=script.process.stdin, flush=True)
        assert script.line() == "served"
        for one in silent:
            one.close()
        with Client(port=port) as client:
            wait_for(lambda: answers(client), what="clients can connect again")
            assert client.info()["pid"] == broker
        print(file=script.process.stdin, flush=True)
        assert script.end()[0] == 0


def answers(client: Client) -> bool:
    try:
        return client.post("/", Document(text="a"), timeout=2000).texts == ["A"]
    except ZflowError:
        return False


def test_more_connections_than_there_can_be_are_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(listener, "descriptors", lambda hard=False: 1000)
    with pytest.raises(
        InvalidFlow, match=r"max_connections=900 .* 1000 file descriptors .* leaves 866 "
    ):
        Flow(max_connections=900).add(uses=Upper).start()
    with pytest.raises(InvalidFlow, match="leaves 433 "):
        Flow(max_connections=900, replica_port=0).add(uses=Upper).start()
    caplog.set_level("INFO")
    with Flow().add(uses=Upper) as flow:
        assert flow.post("/", Document(text="a")).texts == ["A"]
    assert "max_connections is 866" in caplog.text


def test_payloads_that_no_header_can_tell_of_fail_their_request_only(flow: Flow) -> None:
    """A replica that cannot read a task would be thought to be busy with it for ever."""
    with dealer(front(flow)) as client:
        client.send_multipart([request(parts=[["gateway", [-1] * 20_000]]), b"x" * 20_000])
        [answer] = bundles.read(client.recv_multipart(), 0, TO_CLIENT)
        assert isinstance(answer, Failed)
        assert (
            "20000 payloads meet in this request" in msgpack.unpackb(answer.payload[0])["message"]
        )
    assert flow.post("/same", Document(text="others")).texts == ["others"]
