"""The broker is killed: it is started anew at its addresses, and each request is answered once,
and right.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from helpers import (
    PATIENCE,
    TESTS,
    Gate,
    Script,
    alive,
    begun,
    children,
    in_background,
    kill,
    let_go,
    pid_of,
    replicas,
    socket_folders,
    texts,
    titled,
    under_way,
    wait_for,
)

from zflow import AsyncClient, Client, Document, DocumentArray, Executor, Flow, errors, requests
from zflow.clients import wire
from zflow.processes import broker_child

pytestmark = pytest.mark.slow

COUNT = 2000  # requests
HERE = str(TESTS)


class Square(Executor):
    """Squares numbers, and says which shard did."""

    @requests
    def square(self, docs: DocumentArray, **kwargs: Any) -> None:
        time.sleep(0.0005)
        for doc in docs:
            doc.tags["square"] = int(doc.text) ** 2
            doc.matches.append(
                Document(text=self.runtime_args.name, tags={"shard": self.runtime_args.shard_id})
            )


class AsyncSquare(Executor):
    """The same on an event loop, many at once."""

    @requests
    async def square(self, docs: DocumentArray, **kwargs: Any) -> None:
        await asyncio.sleep(0.002)
        for doc in docs:
            doc.tags["square"] = int(doc.text) ** 2


class Killer(threading.Thread):
    """Kills the broker at random moments, and replicas of an Executor too if it is told one,
    as long as it lasts.
    """

    def __init__(self, seed: int, executor: str = "") -> None:
        super().__init__(daemon=True)
        self._random = random.Random(seed)
        self._executor = executor
        self._ended = threading.Event()
        self.killed = 0

    def run(self) -> None:
        while not self._ended.wait(self._random.uniform(0.02, 0.6)):
            for pid in titled("broker").values():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    self.killed += 1
            others = sorted(replicas(self._executor).values()) if self._executor else []
            if others and self._random.random() < 0.5:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._random.choice(others), signal.SIGKILL)

    def __enter__(self) -> Killer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever the broker dies it is started anew at once:
    pauses would keep it from being killed.
    """
    monkeypatch.setattr(broker_child, "STEADY", 0.0)


def epoch(flow: Flow) -> int:
    """How often the broker that answers was started before."""
    with Client(port=flow.port) as mine:
        return int(mine.info()["epoch"])


def joined(flow: Flow, executor: str) -> list[str]:
    with Client(port=flow.port) as mine:
        return list(mine.info()["executors"][executor]["replicas"])


def post_and_check(post: Callable[..., Any], start: int, shards: int = 0) -> int:
    """Post, and check that each request was answered once, in order,
    and by each shard once if there are several.
    """
    answers: Counter[str] = Counter()
    found: list[Document] = []

    def take(response: Any) -> None:
        answers.update(response.docs.texts)
        found.extend(response.docs)

    post("/", texts(COUNT, start), request_size=1, on_done=take)
    assert [doc.text for doc in found] == [str(number) for number in range(start, start + COUNT)]
    assert set(answers.values()) == {1}
    assert all(doc.tags["square"] == int(doc.text) ** 2 for doc in found)
    if shards:
        assert all(
            [match.tags["shard"] for match in doc.matches] == list(range(shards)) for doc in found
        )
    return COUNT


def async_post(port: int | None) -> Callable[..., Any]:
    async def post(*arguments: Any, **options: Any) -> None:
        async with AsyncClient(port=port or 0) as mine:
            await mine.post(*arguments, **options)

    return lambda *arguments, **options: asyncio.run(post(*arguments, **options))


def until_killed(killer: Killer, times: int, post: Callable[[int], int]) -> int:
    """Post again and again until the broker was killed so often; how many requests that were."""
    posted = 0
    while not posted or killer.killed < times:
        posted += post(posted)
    return posted


# -- nothing is lost -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Square, AsyncSquare])
def test_nothing_is_lost_while_the_broker_is_killed_again_and_again(
    steady: None, kind: type[Executor]
) -> None:
    with Flow().add(name="square", uses=kind, replicas=3) as flow, Client(port=flow.port) as tcp:
        with Killer(seed=5) as killer:
            posts = [flow.post, tcp.post, async_post(flow.port)]
            running = [
                in_background(
                    until_killed, killer, 3, lambda start, post=post: post_and_check(post, start)
                )  # type: ignore[misc]
                for post in posts
            ]
            for each in running:
                each.result(3 * PATIENCE)
        wait_for(lambda: epoch(flow) >= 3)
        wait_for(lambda: len(joined(flow, "square")) == 3, what="all replicas take part")
        assert post_and_check(flow.post, 0) == COUNT


def test_nothing_is_lost_in_fan_outs_while_the_broker_is_killed_again_and_again(
    steady: None,
) -> None:
    flow = Flow().add(name="square", uses=Square, shards=2, replicas=2, polling="ALL")
    with flow, Client(port=flow.port) as tcp:
        with Killer(seed=6) as killer:
            running = [
                in_background(
                    until_killed, killer, 3, lambda start, post=post: post_and_check(post, start, 2)
                )  # type: ignore[misc]
                for post in (flow.post, tcp.post)
            ]
            for each in running:
                each.result(3 * PATIENCE)
        wait_for(lambda: len(joined(flow, "square")) == 4, what="all replicas take part")
        assert post_and_check(flow.post, 0, shards=2) == COUNT


def test_nothing_is_lost_while_the_broker_and_replicas_are_killed(steady: None) -> None:
    flow = Flow().add(name="square", uses=Square, replicas=3, retries=100)
    with flow:
        with Killer(seed=7, executor="square") as killer:
            until_killed(killer, 3, lambda start: post_and_check(flow.post, start))
        wait_for(lambda: len(joined(flow, "square")) == 3, what="all replicas take part")


# -- one death -------------------------------------------------------------------------------------


def test_a_broker_that_dies_is_started_anew_at_its_addresses() -> None:
    with Flow().add(name="square", uses=Square, replicas=2) as flow, Client(port=flow.port) as tcp:
        port, folders, before = flow.port, socket_folders(), replicas("square")
        info = tcp.info()
        assert (info["epoch"], info["closing"]) == (0, False)
        for number in (1, 2, 3):
            old = pid_of("broker")
            kill(old)
            assert flow.post("/", Document(text="3"))[0].tags["square"] == 9
            assert tcp.post("/", Document(text="4"))[0].tags["square"] == 16
            again = tcp.info()
            assert (again["epoch"], again["instance"]) == (number, info["instance"])
            assert again["pid"] != old
        assert (flow.port, socket_folders(), replicas("square")) == (port, folders, before)


def test_the_death_of_the_broker_is_told_once_each_time(tmp_path: Path) -> None:
    source = (
        "import sys\nsys.path.insert(0, sys.argv[1])\nfrom helpers import Upper\nfrom zflow import "
        "Flow\n"
        "with Flow().add(uses=Upper, replicas=2) as flow:\n"
        "    print(flow.port, flush=True)\n    input()\n"
    )
    with Script(source, tmp_path, HERE, stdin=-1) as script:
        with Client(port=script.line()) as mine:
            for number in (1, 2):
                kill(pid_of("broker"))
                wait_for(lambda number=number: mine.info()["epoch"] == number)  # type: ignore[misc]
                assert mine.post("/", Document(text="a")).texts == ["A"]
        assert script.process.stdin is not None
        script.process.stdin.write("\n")
        script.process.stdin.flush()
        code, _, err = script.end()
    assert code == 0
    assert [line.partition("WARNING ")[2] for line in err.splitlines()] == [
        "the broker died (SIGKILL); starting it anew"
    ] * 2


def test_a_request_that_a_replica_is_at_when_the_broker_dies(tmp_path: Path) -> None:
    with (
        Flow().add(name="gate", uses=Gate, uses_with={"folder": str(tmp_path)}) as flow,
        Client(port=flow.port) as tcp,
    ):
        held = [
            in_background(use.post, "/hold", Document(text=text))
            for use, text in ((flow, "a"), (tcp, "b"))
        ]
        wait_for(lambda: list(tmp_path.glob("*.begun")), what="one of them is begun")
        queued = in_background(flow.post, "/", texts(50), request_size=1)
        with Client(port=flow.port) as mine:
            wait_for(lambda: mine.info()["requests"] == 52)
        (pid,) = replicas("gate").values()
        kill(pid_of("broker"))
        wait_for(lambda: epoch(flow) == 1)
        with Client(port=flow.port) as mine:
            wait_for(lambda: mine.info()["requests"] == 52, what="all of them were sent again")
        assert joined(flow, "gate") == [], "it is busy, and has not seen the new broker"
        assert not any(each.done() for each in (*held, queued))
        let_go(tmp_path, "a", "b")
        assert [each.result(PATIENCE).texts for each in held] == [["a"], ["b"]]
        assert queued.result(PATIENCE).texts == [str(number) for number in range(50)]
        assert {pid} == set(begun(tmp_path, "a", "b")), "the replica is the one it was"
        assert replicas("gate") == {"gate/rep-0": pid}
        wait_for(lambda: epoch(flow) == 1 and joined(flow, "gate") == ["gate/rep-0"])


def test_a_timeout_runs_on_when_the_broker_dies(tmp_path: Path) -> None:
    with Flow(timeout_close=2000).add(
        name="gate", uses=Gate, uses_with={"folder": str(tmp_path)}
    ) as flow:
        posting = in_background(flow.post, "/hold", Document(text="a"), timeout=2500)
        begin = time.monotonic()
        begun(tmp_path, "a")
        kill(pid_of("broker"))
        wait_for(lambda: epoch(flow) == 1)
        error = posting.exception(PATIENCE)
        assert isinstance(error, errors.DeadlineExceeded)
        assert time.monotonic() - begin > 2.4, "not sooner"
        let_go(tmp_path, "a")
        assert flow.post("/", Document(text="next")).texts == ["next"]


# -- while it closes -------------------------------------------------------------------------------


def _ends(future: Future[Any]) -> None:
    """The post ends, with a result or an error that says that the Flow is over."""
    error = future.exception(PATIENCE)
    assert error is None or isinstance(error, errors.FlowNotRunning | errors.FlowUnreachable), error


def test_the_broker_dies_while_the_flow_closes(tmp_path: Path) -> None:
    flow = Flow(timeout_close=20_000).add(
        name="gate", uses=Gate, uses_with={"folder": str(tmp_path)}, replicas=2
    )
    flow.start()
    held = [in_background(flow.post, "/hold", Document(text=text)) for text in ("a", "b", "c")]
    wait_for(lambda: len(list(tmp_path.glob("*.begun"))) == 2)
    pids = replicas("gate").values()
    with Client(port=flow.port) as mine:
        closing = in_background(flow.close)
        wait_for(lambda: mine.info()["closing"])
        kill(pid_of("broker"))
        wait_for(lambda: mine.info()["epoch"] == 1, what="it is started anew")
        with pytest.raises(errors.FlowNotRunning, match="is closing and takes no more requests"):
            mine.post("/")
        let_go(tmp_path, "a", "b", "c")
        assert [each.result(PATIENCE).texts for each in held] == [["a"], ["b"], ["c"]]
        closing.result(PATIENCE)
    assert {path.name for path in tmp_path.glob("*.closed")} == {f"{pid}.closed" for pid in pids}, (
        "they could close"
    )
    assert (children(), socket_folders()) == ([], [])


@pytest.mark.parametrize("seed", range(4))
def test_the_broker_dies_at_some_moment_of_the_closing(seed: int) -> None:
    flow = Flow().add(name="square", uses=Square, replicas=2).start()
    broker = pid_of("broker")
    streaming = in_background(
        flow.post, "/", texts(10**6), request_size=1, on_done=lambda response: None
    )
    under_way(flow.port, streaming)
    closing = in_background(flow.close)
    threading.Event().wait(random.Random(seed).uniform(0, 0.03))
    with contextlib.suppress(ProcessLookupError):
        os.kill(broker, signal.SIGKILL)
    closing.result(PATIENCE)
    _ends(streaming)
    assert (children(), socket_folders()) == ([], [])
    with flow:
        assert flow.post("/", Document(text="3"))[0].tags["square"] == 9


# -- too often -------------------------------------------------------------------------------------


def test_a_broker_that_dies_all_the_time_takes_the_flow_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zflow.processes.children.FIRST_BACKOFF", 0.001)
    assert broker_child.DEATHS == 10, "as docs/reliability.md says"
    monkeypatch.setattr(broker_child, "DEATHS", 3)
    monkeypatch.setattr(broker_child, "STEADY", 3600.0)  # however long it takes here to find it
    flow = Flow().add(name="gate", uses=Gate, uses_with={"folder": str(tmp_path)}, replicas=2)
    with flow:
        held = in_background(flow.post, "/hold", Document(text="held"))
        monkeypatch.setattr(wire, "SILENCE", 2.0)
        outer = in_background(Client(port=flow.port).post, "/hold", Document(text="outer"))
        blocking = in_background(flow.block)
        begun(tmp_path, "held", "outer")
        for number in range(4):
            family = [child.pid for child in children()]
            kill(pid_of("broker"))
            if number < 3:
                wait_for(lambda: titled("broker"), what=f"it is back for the {number + 1}. time")
        words = r"the broker died \(SIGKILL\) 4 times in a row"
        for waiting in (held, blocking):
            error = waiting.exception(PATIENCE)
            assert isinstance(error, errors.FlowNotRunning), error
            assert re.search(words, str(error)), error
        with pytest.raises(errors.FlowNotRunning, match=words):
            flow.post("/", Document())
        assert isinstance(outer.exception(PATIENCE), errors.FlowUnreachable)
        wait_for(lambda: not any(map(alive, family)), what="all processes have ended")
    assert (children(), socket_folders()) == ([], [])
    with flow:
        let_go(tmp_path, "again")
        assert flow.post("/hold", Document(text="again")).texts == ["again"]


def test_deaths_that_are_far_apart_are_not_counted_together(steady: None) -> None:
    with Flow().add(name="square", uses=Square) as flow:
        for number in range(1, 15):
            kill(pid_of("broker"))
            wait_for(lambda number=number: epoch(flow) == number)  # type: ignore[misc]
        assert flow.post("/", Document(text="3"))[0].tags["square"] == 9


def test_a_broker_that_cannot_start_again_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else listens at its port by then."""
    import socket

    monkeypatch.setattr("zflow.processes.children.FIRST_BACKOFF", 0.01)
    monkeypatch.setattr(broker_child, "DEATHS", 3)
    with Flow().add(name="square", uses=Square) as flow:
        port = flow.port
        os.kill(pid_of("manager"), signal.SIGSTOP)
        broker = pid_of("broker")
        os.kill(broker, signal.SIGKILL)
        with socket.socket() as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

            def is_mine() -> bool:
                with contextlib.suppress(OSError):
                    taken.bind(("127.0.0.1", port))
                    taken.listen()
                    return True
                return False

            wait_for(is_mine, what="the port is free")
            os.kill(pid_of("manager"), signal.SIGCONT)
            with pytest.raises(errors.FlowNotRunning, match=rf"{port}.*port="):
                flow.block()
