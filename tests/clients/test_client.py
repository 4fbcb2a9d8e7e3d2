"""`Client`: from threads, forks and other programs,
and against what answers at its address without being a Flow.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from helpers import TESTS, Gate, Script, Upper, alive, begun, in_background, let_go, texts, wait_for
from peers import ANSWER, greeting, header, said, stranger

from zflow import AsyncClient, Client, Document, DocumentArray, Executor, Flow, errors, requests
from zflow.clients import wire
from zflow.devices.protocol import bundles
from zflow.devices.protocol.messages import (
    KINDS,
    VERSION,
    Failed,
    Hello,
    Message,
    Payload,
    Reply,
    Request,
    Welcome,
    encoder,
)
from zflow.documents import codec

# What the forks do is what is tested; newer Pythons warn of forks where there are threads.
FORKS = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


class Echo(Executor):
    """Gives back what it gets; arrays are doubled."""

    @requests
    def echo(self, docs: DocumentArray, **kwargs: Any) -> None:
        for doc in docs:
            if doc.tensor is not None:
                doc.tensor = doc.tensor * 2


@pytest.fixture(scope="module")
def flow() -> Iterator[Flow]:
    with Flow().add(name="upper", uses=Upper, replicas=2) as running:
        yield running


@pytest.fixture
def own(flow: Flow) -> Iterator[Client]:
    with Client(port=flow.port) as mine:
        yield mine


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client gives up after tenths of a second."""
    monkeypatch.setattr(wire, "PING_AFTER", 50)
    monkeypatch.setattr(wire, "CONNECTING", 0.3)
    monkeypatch.setattr(wire, "SILENCE", 0.3)


# -- where to --------------------------------------------------------------------------------------


@pytest.mark.parametrize("port", [0, -1, 65536, "none", "", 1.5j, True])
def test_ports_that_cannot_be(port: Any) -> None:
    with pytest.raises(errors.BadRequest, match="port must be a number from 1 to 65535"):
        Client(port=port)


def test_the_port_is_needed() -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(errors.BadRequest, match=r"port="):
            kind()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_hosts_and_port_as_text(flow: Flow, host: str) -> None:
    with Client(host, str(flow.port)) as mine:
        assert mine.post("/", Document(text="a")).texts == ["A"]


def test_asyncio_makes_an_async_client(flow: Flow) -> None:
    assert isinstance(Client(port=flow.port, asyncio=True), AsyncClient)


def test_nobody_answers(impatient: None) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but not listening
        mine = Client(port=taken.getsockname()[1])
        with pytest.raises(errors.FlowUnreachable, match=str(taken.getsockname()[1])) as caught:
            mine.post("/", Document())
        assert isinstance(caught.value, ConnectionError)
        mine.close()


@pytest.mark.parametrize(
    "asked",
    [
        lambda client: client.post("/", Document(), timeout=50),
        lambda client: client.index([], timeout=50),
        lambda client: client.info(timeout=50),
        lambda client: client.scale("encoder", 2, timeout=50),
        lambda client: client.restart("encoder", timeout=50),
        lambda client: client.drain("encoder/rep-0", timeout=50),
    ],
    ids=["post", "shortcut", "info", "scale", "restart", "drain"],
)
def test_the_time_that_something_may_take_bounds_the_connecting(
    monkeypatch: pytest.MonkeyPatch, asked: Callable[[Client], Any]
) -> None:
    monkeypatch.setattr(wire, "CONNECTING", 40.0)
    begun = time.monotonic()
    with stranger(lambda message: None) as port, Client(port=port) as mine:
        with pytest.raises(errors.FlowUnreachable, match=f"no Flow answers at .*{port}"):
            asked(mine)
        assert time.monotonic() - begun < wire.CONNECTING


def test_no_such_host(impatient: None) -> None:
    with (
        Client("no such host", 5555) as mine,
        pytest.raises(errors.FlowUnreachable, match="no such host"),
    ):
        mine.post("/")


def test_something_that_speaks_no_zeromq(impatient: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    with server.accept()[0] as connection:
                        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=serve, daemon=True).start()
        with Client(port=server.getsockname()[1]) as mine, pytest.raises(errors.FlowUnreachable):
            mine.post("/")
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    "frames", [[b"hello"], [msgpack.packb([VERSION, 999])], [msgpack.packb([99, 11, 1, {}])]]
)
def test_something_that_speaks_zeromq_but_is_no_flow(impatient: None, frames: list[bytes]) -> None:
    with (
        stranger(lambda message: frames) as port,
        Client(port=port) as mine,
        pytest.raises(errors.FlowUnreachable, match=f"{port} is no zflow Flow"),
    ):
        mine.post("/")


def test_something_that_greets_and_says_nothing_else(impatient: None) -> None:
    with (
        stranger(lambda message: [b""]) as port,
        Client(port=port) as mine,
        pytest.raises(errors.FlowUnreachable, match=f"no Flow answers at .*{port}"),
    ):
        mine.post("/")


def test_a_flow_of_another_version_says_so(impatient: None) -> None:
    refusal = said(Failed(0, 0, [msgpack.packb({"type": "BadRequest"})]))
    with (
        stranger(lambda message: refusal) as port,
        Client(port=port) as mine,
        pytest.raises(errors.BadRequest, match="another version"),
    ):
        mine.post("/")


def test_a_late_failure_of_a_request_that_has_ended_is_no_refusal(impatient: None) -> None:
    """A broker that was started anew may answer what the one before had answered already."""
    failed = Failed(7, 0, [msgpack.packb({"type": "ReplicaCrashed", "message": "late"})])

    def answer(message: Message) -> list[bytes]:
        assert isinstance(message, Hello)
        [frames] = bundles.frames_of(
            [failed, Welcome(message.token, {"instance": "one"})], encoder()
        )
        return list(frames)

    with stranger(answer) as port, Client(port=port) as mine:
        assert mine.info()["instance"] == "one"


LIES: dict[str, tuple[Any, Payload]] = {
    "no payload": (None, []),
    "no documents": (None, [b"\xc1"]),
    "parts for more frames than there are": ([["a", [1]], ["b", [1]]], codec.pack(DocumentArray())),
    "parts for fewer": ([["a", [1]]], codec.pack(DocumentArray()) * 2),
    "a count below one": ([["a", [0, 1]]], codec.pack(DocumentArray())),
    "a count that is no number": ([["a", ["x"]]], codec.pack(DocumentArray())),
    "parts that are no pairs": ([1, 2], codec.pack(DocumentArray())),
    "empty parts": ([], codec.pack(DocumentArray())),
}


@pytest.mark.parametrize("lie", LIES)
def test_an_answer_whose_parts_lie_is_an_error_of_that_request(impatient: None, lie: str) -> None:
    parts, payload = LIES[lie]

    def answer(message: Message) -> list[bytes]:
        if isinstance(message, Request):
            return said(Reply(message.first, 1, parts, None, 1, payload))
        return greeting(message)

    with stranger(answer) as port, Client(port=port) as mine:
        failed: list[Any] = []
        mine.post("/", texts(2), request_size=1, on_error=failed.append)
        assert [type(response.error) for response in failed] == [errors.BadRequest] * 2


def test_of_several_answers_in_one_each_is_read_by_itself(impatient: None) -> None:
    """And what of them answers nothing is dropped."""

    def answer(message: Message) -> list[bytes]:
        if isinstance(message, Request):
            return said(Reply(message.first, 3, None, None, 1, [ANSWER, b"\xc1", ANSWER]))
        return greeting(message)

    with stranger(answer) as port, Client(port=port) as mine:
        failed: list[Any] = []
        found = mine.post("/", DocumentArray(texts(2)), request_size=1, on_error=failed.append)
        assert found.texts == ["answered"]
        assert [type(response.error) for response in failed] == [errors.BadRequest]


NO_LISTS: dict[str, list[Any]] = {
    "fewer payloads than are said": [7, 2, None, None, 1, [ANSWER]],
    "more": [7, 1, None, None, 1, [ANSWER, ANSWER]],
    "none": [7, 0, None, None, 1, []],
    "several, and their payloads behind the header": [7, 2, None, None, 1, None],
    "payloads that are text": [7, 2, None, None, 1, ["a", "b"]],
    "an empty payload": [7, 2, None, None, 1, [ANSWER, b""]],
    "parts of several": [7, 2, [["a", [1]]], None, 1, [ANSWER, ANSWER]],
    "notes of several": [7, 2, None, {}, 1, [ANSWER, ANSWER]],
    "ids that are none": [-1, 2, None, None, 1, [ANSWER, ANSWER]],
}


@pytest.mark.parametrize("what", NO_LISTS)
def test_a_list_of_answers_that_is_none_is_no_answer_of_a_flow(impatient: None, what: str) -> None:
    frames = [header(VERSION, KINDS[Reply], *NO_LISTS[what])]
    with (
        stranger(
            lambda message: greeting(message) if isinstance(message, Hello) else frames
        ) as port,
        Client(port=port) as mine,
        pytest.raises(errors.FlowUnreachable, match=f"{port} is no zflow Flow: a .* that is none"),
    ):
        mine.post("/", Document())


@pytest.mark.parametrize(
    "payload", [[], [b""], [b"\xc1"], [b"\x91" * 50_000], [msgpack.packb({"type": 3})]]
)
def test_an_error_that_cannot_be_read_is_an_error_of_that_request(
    impatient: None, payload: list[bytes]
) -> None:
    def answer(message: Message) -> list[bytes]:
        if isinstance(message, Request):
            return said(Failed(message.first, 1, payload))
        return greeting(message)

    with stranger(answer) as port, Client(port=port) as mine:
        failed: list[Any] = []
        mine.post("/", texts(2), request_size=1, on_error=failed.append)
        assert [isinstance(response.error, errors.ZflowError) for response in failed] == [True] * 2


def test_a_flow_that_stops_answering(impatient: None) -> None:
    heard: list[type[Message]] = []

    def answer(message: Message) -> list[bytes] | None:
        heard.append(type(message))
        return greeting(message) if Request not in heard else None

    with (
        stranger(answer) as port,
        Client(port=port) as mine,
        pytest.raises(errors.FlowUnreachable, match="stopped answering"),
    ):
        mine.post("/", Document())
    assert Hello in heard[heard.index(Request) :], "it asked before it gave up"


# -- at the same time ------------------------------------------------------------------------------


def test_threads_share_a_client(own: Client) -> None:
    def post(thread: int) -> list[str]:
        found = []
        for number in range(40):
            found.extend(own.post("/", Document(text=f"{thread}-{number}x")).texts)
        return found

    with ThreadPoolExecutor(16) as pool:
        for thread, found in enumerate(pool.map(post, range(16))):
            assert found == [f"{thread}-{number}X" for number in range(40)]


def test_threads_share_a_flow_and_stream_through_it(flow: Flow) -> None:
    with ThreadPoolExecutor(8) as pool:
        for start, found in enumerate(
            pool.map(lambda at: flow.post("/", texts(500, at), request_size=7), range(8))
        ):
            assert found.texts == [str(number) for number in range(start, start + 500)]


def test_threads_and_failures_do_not_mix(own: Client) -> None:
    def post(thread: int) -> None:
        for number in range(20):
            if thread % 2:
                with pytest.raises(errors.SerializationError):
                    own.post("/", [Document(), Document(tags={"a": object()})], request_size=1)
            else:
                assert own.post("/", Document(text=f"{thread}-{number}")).texts == [
                    f"{thread}-{number}"
                ]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(post, range(8)))


def _post_in_fork(use: Any, start: int, results: Any) -> None:
    found = []
    for number in range(start, start + 30):
        found.extend(use.post("/", Document(text=f"x{number}")).texts)
    results.put((start, found))


@FORKS
@pytest.mark.parametrize("which", ["flow", "client"])
def test_forked_processes_use_what_the_parent_has_used(flow: Flow, own: Client, which: str) -> None:
    use = flow if which == "flow" else own
    assert use.post("/", Document(text="before")).texts == ["BEFORE"]
    fork = multiprocessing.get_context("fork")
    results = fork.SimpleQueue()
    processes = [
        fork.Process(target=_post_in_fork, args=(use, start, results)) for start in (0, 100, 200)
    ]
    for process in processes:
        process.start()
    assert use.post("/", texts(100), request_size=1).texts == [str(number) for number in range(100)]
    found = dict(results.get() for _ in processes)
    assert found == {
        start: [f"X{number}" for number in range(start, start + 30)] for start in (0, 100, 200)
    }
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert use.post("/", Document(text="after")).texts == ["AFTER"]


@FORKS
def test_forks_while_threads_post(own: Client) -> None:
    stop = threading.Event()

    def post() -> int:
        count = 0
        while not stop.is_set():
            assert own.post("/", Document(text="a")).texts == ["A"]
            count += 1
        return count

    posting = [in_background(post) for _ in range(4)]
    try:
        for _ in range(20):
            pid = os.fork()
            if not pid:
                status = 1
                with contextlib.suppress(BaseException):
                    status = 0 if own.post("/", Document(text="b")).texts == ["B"] else 2
                os._exit(status)
            assert os.waitpid(pid, 0)[1] == 0
    finally:
        stop.set()
    assert all(future.result(30) for future in posting)


@FORKS
def test_a_fork_does_not_end_the_flow() -> None:
    with Flow().add(uses=Upper) as flow:
        pid = os.fork()
        if not pid:
            flow.close()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert flow.post("/", Document(text="a")).texts == ["A"]


def test_a_pickled_client_works_in_another_program(own: Client) -> None:
    code = (
        "import pickle, sys; from zflow import Document; client = pickle.load(sys.stdin.buffer);"
        " print(*client.post('/', (Document(text=f'x{n}') for n in range(5)), "
        "request_size=2).texts)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(own), capture_output=True, check=True
    )
    assert ran.stdout.decode().split() == ["X0", "X1", "X2", "X3", "X4"]


# -- the life of a connection ----------------------------------------------------------------------


def test_info_tells_about_the_flow(flow: Flow, own: Client) -> None:
    from zflow import __version__

    info = own.info()
    assert info["version"] == __version__
    assert info["requests"] == 0
    assert info["executors"]["upper"]["replicas"] == ["upper/rep-0", "upper/rep-1"]
    assert info["executors"]["upper"]["queued"] == 0
    assert info["malformed"] == {}


def test_a_closed_client_connects_anew(own: Client) -> None:
    for _ in range(3):
        assert own.post("/", Document(text="a")).texts == ["A"]
        own.close()
        own.close()


def test_closing_while_another_thread_waits(tmp_path: Path) -> None:
    flow = Flow(timeout_close=2000).add(uses=Gate, uses_with={"folder": str(tmp_path)})
    with flow, Client(port=flow.port) as mine:
        held = in_background(mine.post, "/hold", Document(text="held"))
        begun(tmp_path, "held")
        mine.close()
        let_go(tmp_path, "held")
        assert held.result(30).texts == ["held"]


def test_one_request_is_not_held_up_by_those_of_other_posts(tmp_path: Path) -> None:
    with Flow(timeout_close=2000).add(
        uses=Gate, uses_with={"folder": str(tmp_path)}, replicas=2
    ) as flow:
        held = in_background(flow.post, "/hold", Document(text="held"))
        begun(tmp_path, "held")
        assert flow.post("/", texts(100), request_size=1).texts == [
            str(number) for number in range(100)
        ]
        assert not held.done()
        let_go(tmp_path, "held")
        assert held.result(30).texts == ["held"]


def test_memory_that_was_sent_may_be_written_to_after_the_post() -> None:
    array = np.zeros(500_000)

    def inputs() -> Iterator[Document]:
        for number in range(20):
            array[:] = number  # the same memory each time, as a data loader does it
            yield Document(tensor=array)

    with Flow().add(uses=Echo, replicas=2) as flow:
        result = flow.post("/", inputs(), request_size=1, prefetch=4)
    assert [(doc.tensor == 2 * number).all() for number, doc in enumerate(result)] == [True] * 20


SERVE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from helpers import Gate
from zflow import Flow
with Flow(port=int(sys.argv[1])).add(uses=Gate, uses_with={"folder": sys.argv[2]}) as flow:
    print("serving", flush=True)
    flow.block()
"""


def test_a_flow_that_is_gone_and_back_at_its_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that was with the one that is gone ends with an error;
    the one that is back answers later ones.
    """
    monkeypatch.setattr(wire, "PING_AFTER", 100)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = (port, tmp_path, TESTS)
    with Client(port=port) as mine:
        with Script(SERVE, tmp_path, *arguments) as first:
            assert first.line() == "serving"
            held = in_background(mine.post, "/hold", Document(text="held"))
            begun(tmp_path, "held")
            family = first.family()
            first.process.kill()
        wait_for(lambda: not any(map(alive, family)))
        with Script(SERVE, tmp_path, *arguments) as second:
            assert second.line() == "serving"
            assert isinstance(held.exception(30), errors.FlowUnreachable)
            assert mine.post("/", Document(text="served")).texts == ["served"]
