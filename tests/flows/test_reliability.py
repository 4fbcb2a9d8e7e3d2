"""Nothing lost: replicas are killed, told to end or stuck, under load;
each request is answered once, and right.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import (
    PATIENCE,
    Gate,
    begun,
    in_background,
    kill,
    let_go,
    pid_of,
    replicas,
    texts,
    wait_for,
)

from zflow import AsyncClient, Client, Document, DocumentArray, Executor, Flow, errors, requests


class Square(Executor):
    """Squares numbers, in about a millisecond each; notes in a file that it has begun a request."""

    def __init__(self, log: str = "", only_if: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.log = log
        if only_if and Path(only_if).exists():
            raise RuntimeError("not yet")

    @requests
    def square(self, docs: DocumentArray, **kwargs: Any) -> None:
        if self.log:
            with open(self.log, "a", encoding="utf-8") as file:
                file.write("".join(f"{text}\n" for text in docs.texts))
        time.sleep(0.001)
        for doc in docs:
            doc.tags["square"] = int(doc.text) ** 2
            doc.tags["by"] = self.runtime_args.name

    @requests(on="/large")
    def large(self, docs: DocumentArray, **kwargs: Any) -> None:
        for doc in docs:
            doc.tensor = doc.tensor**2


class AsyncSquare(Executor):
    """The same on an event loop, many at once."""

    @requests
    async def square(self, docs: DocumentArray, **kwargs: Any) -> None:
        await asyncio.sleep(0.005)
        for doc in docs:
            doc.tags["square"] = int(doc.text) ** 2


class Poison(Executor):
    """Some texts kill it."""

    def __init__(self, log: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.log = log

    @requests
    def eat(self, docs: DocumentArray, **kwargs: Any) -> None:
        if docs and docs[0].text == "poison":
            with open(self.log, "a", encoding="utf-8") as file:
                file.write(f"{self.runtime_args.name}\n")
            os.kill(os.getpid(), signal.SIGKILL)
        docs.texts = [f"{text} eaten" for text in docs.texts]


class Uneven(Executor):
    """Replica 0 is ten times slower than the others."""

    @requests
    def work(self, docs: DocumentArray, **kwargs: Any) -> None:
        time.sleep(0.02 if self.runtime_args.replica_id == 0 else 0.002)
        docs[0].tags["by"] = self.runtime_args.name


class Load:
    """Posts from several threads until it is ended, each request once; then has what came back."""

    def __init__(self, flow: Flow, threads: int = 3) -> None:
        self._flow = flow
        self._stop = threading.Event()
        self.answers: Counter[str] = Counter()
        self._running = [in_background(self._post, thread) for thread in range(threads)]

    def _post(self, thread: int) -> tuple[int, list[Document]]:
        given = 0

        def inputs() -> Iterator[Document]:
            nonlocal given
            while not self._stop.is_set():
                yield Document(text=str(thread * 10**6 + given))
                given += 1

        def count(response: Any) -> None:
            self.answers.update(response.docs.texts)
            found.extend(response.docs)

        found: list[Document] = []
        self._flow.post("/", inputs(), request_size=1, prefetch=16, on_done=count)
        return given, found

    def more(self, count: int) -> None:
        """Wait until that many more are answered."""
        goal = sum(self.answers.values()) + count
        wait_for(lambda: sum(self.answers.values()) >= goal, what="the load is answered")

    def end(self) -> int:
        """Stop posting, check what came back, and return how many there were."""
        self._stop.set()
        total = 0
        for thread, future in enumerate(self._running):
            given, found = future.result(PATIENCE)
            assert [doc.text for doc in found] == [
                str(thread * 10**6 + number) for number in range(given)
            ]
            assert all(doc.tags["square"] == int(doc.text) ** 2 for doc in found)
            total += given
        assert set(self.answers.values()) <= {1}
        return total


# -- kill -9 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Square, AsyncSquare])
def test_replicas_killed_again_and_again_under_load(kind: type[Executor]) -> None:
    with Flow().add(name="square", uses=kind, replicas=3, retries=100) as flow:
        load = Load(flow)
        for turn in range(9):
            name = f"square/rep-{turn % 3}"
            pid = wait_for(lambda name=name: replicas("square").get(name))  # type: ignore[misc]
            load.more(20)
            kill(pid)
            load.more(20)
        assert load.end() >= 9 * 40
        wait_for(lambda: len(replicas("square")) == 3, what="all are back")
        wait_for(lambda: len(_joined(flow, "square")) == 3, what="all of them take part")


def _joined(flow: Flow, executor: str) -> list[str]:
    with Client(port=flow.port) as client:
        return list(client.info()["executors"][executor]["replicas"])


def test_killed_while_large_arrays_are_on_their_way() -> None:
    count = 40
    with Flow().add(name="square", uses=Square, replicas=3, retries=100) as flow:
        inputs = (Document(tensor=np.full(250_000, float(number))) for number in range(count))
        posting = in_background(flow.post, "/large", inputs, request_size=1, prefetch=8)
        for turn in range(6):
            if pid := replicas("square").get(f"square/rep-{turn % 3}"):
                kill(pid)
        result = posting.result(PATIENCE)
    assert [(doc.tensor == number**2).all() for number, doc in enumerate(result)] == [True] * count


def test_the_last_one_alive_serves_and_when_there_is_none_requests_wait(tmp_path: Path) -> None:
    cause = tmp_path / "cause"
    flow = Flow().add(name="square", uses=Square, uses_with={"only_if": str(cause)}, replicas=3)
    with flow:
        cause.touch()  # none comes back as long as this is there
        kill(pid_of("square/rep-0"))
        kill(pid_of("square/rep-2"))
        result = flow.post("/", texts(50), request_size=1)
        assert {doc.tags["by"] for doc in result} == {"square/rep-1"}
        kill(pid_of("square/rep-1"))
        waiting = in_background(flow.post, "/", texts(50), request_size=1)
        wait_for(lambda: _joined(flow, "square") == [], what="none is left")
        assert not waiting.done()
        cause.unlink()
        assert [doc.tags["square"] for doc in waiting.result(PATIENCE)] == [
            number**2 for number in range(50)
        ]


def test_a_request_is_done_again_by_another_replica(tmp_path: Path) -> None:
    with Flow().add(
        name="gate", uses=Gate, uses_with={"folder": str(tmp_path)}, replicas=2
    ) as flow:
        posting = in_background(flow.post, "/hold", Document(text="held"))
        (first,) = begun(tmp_path, "held")
        kill(first)
        wait_for(lambda: len(begun(tmp_path, "held")) == 2, what="another one begins it")
        let_go(tmp_path, "held")
        (doc,) = posting.result(PATIENCE)
        assert begun(tmp_path, "held") == [first, doc.tags["pid"]]


def test_without_retries_a_request_is_begun_once_at_most(tmp_path: Path) -> None:
    flow = Flow(timeout_close=2000)
    flow.add(name="gate", uses=Gate, uses_with={"folder": str(tmp_path)}, replicas=2, retries=0)
    with flow, contextlib.ExitStack() as stack:
        names = ["a", "b", "c", "d"]
        stack.callback(let_go, tmp_path, *names)
        posts = {name: in_background(flow.post, "/hold", Document(text=name)) for name in names}
        held = wait_for(lambda: _held(tmp_path, names, 2))
        (victim,) = begun(tmp_path, held[0])
        kill(victim)
        error = posts[held[0]].exception(PATIENCE)
        assert isinstance(error, errors.ReplicaCrashed)
        assert all(word in str(error) for word in ("'gate'", "gate/rep-", "retries=0")), error
        let_go(tmp_path, *names)
        for name in names:
            if name != held[0]:
                assert posts[name].result(PATIENCE).texts == [name]
            assert len(begun(tmp_path, name)) == 1


def _held(folder: Path, names: list[str], count: int) -> list[str]:
    found = [name for name in names if (folder / f"{name}.begun").exists()]
    return found if len(found) >= count else []


# -- poison ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("retries", "crashes"), [(-1, 4), (1, 2), (0, 1)])
def test_a_request_that_kills_every_replica_ends_alone(
    tmp_path: Path, retries: int, crashes: int
) -> None:
    log = tmp_path / "log"
    flow = Flow().add(
        name="eater", uses=Poison, uses_with={"log": str(log)}, replicas=3, retries=retries
    )
    with flow:
        good = [
            in_background(flow.post, "/", texts(200), request_size=1, on_error=_keep())
            for _ in range(2)
        ]
        with pytest.raises(errors.ReplicaCrashed) as caught:
            flow.post("/", Document(text="poison"))
        assert all(word in str(caught.value) for word in ("'eater'", str(crashes), "eater/rep-")), (
            caught.value
        )
        # One that is taken back from a busy replica too late, as it has just begun it, is not held
        # against it. That is rare, and rarer in a row; how often it happens is the machine's
        # business.
        assert crashes <= len(log.read_text().split()) <= (10 * crashes if retries else 1)
        for each in good:
            found = each.result(PATIENCE).texts
            # Without, what was with the replica that died fails too: it may have been begun.
            if retries:
                assert found == [f"{number} eaten" for number in range(200)]
        wait_for(lambda: len(_joined(flow, "eater")) == 3, what="the pool is whole again")
        assert flow.post("/", texts(20), request_size=1).texts == [
            f"{number} eaten" for number in range(20)
        ]


def _keep() -> Callable[[Any], None]:
    return [].append


# -- told to end -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Square, AsyncSquare])
def test_a_replica_that_is_told_to_end_ends_what_it_has_begun_and_loses_nothing(
    tmp_path: Path, kind: type[Executor]
) -> None:
    log = tmp_path / "log"
    log.touch()
    options = {"log": str(log)} if kind is Square else {}
    # With retries=0 a request that is lost would be an error; none is.
    with Flow().add(name="square", uses=kind, uses_with=options, replicas=3, retries=0) as flow:
        load = Load(flow)
        for turn in range(6):
            name = f"square/rep-{turn % 3}"
            pid = wait_for(lambda name=name: replicas("square").get(name))  # type: ignore[misc]
            wait_for(lambda name=name: name in _joined(flow, "square"))  # type: ignore[misc]
            load.more(20)
            kill(pid, signal.SIGTERM)
            load.more(20)
        total = load.end()
    if kind is Square:
        counts = Counter(log.read_text().split())
        assert (len(counts), set(counts.values())) == (total, {1}), "each was begun once"


def test_a_replica_that_is_told_to_end_finishes_its_request_first(tmp_path: Path) -> None:
    with Flow().add(
        name="gate", uses=Gate, uses_with={"folder": str(tmp_path)}, replicas=2, retries=0
    ) as flow:
        posting = in_background(flow.post, "/hold", Document(text="held"))
        (holder,) = begun(tmp_path, "held")
        os.kill(holder, signal.SIGTERM)
        assert len(flow.post("/", texts(50), request_size=1)) == 50
        let_go(tmp_path, "held")
        assert posting.result(PATIENCE)[0].tags["pid"] == holder
        wait_for((tmp_path / f"{holder}.closed").exists, what="then it closes")


# -- stuck -----------------------------------------------------------------------------------------


def test_a_request_that_takes_long_traps_no_others(tmp_path: Path) -> None:
    async def post(flow: Flow) -> None:
        async with AsyncClient(port=flow.port) as client:

            async def one(endpoint: str, text: str) -> list[str]:
                return [
                    doc.text
                    async for docs in client.post(endpoint, Document(text=text))
                    for doc in docs
                ]

            # Requests that take no time: several are sent to a replica ahead, and then one is held.
            await asyncio.gather(*(one("/", str(number)) for number in range(500)))
            tasks = {}
            for number in range(300):
                endpoint = "/hold" if number in (20, 150) else "/"
                tasks[number] = asyncio.ensure_future(one(endpoint, f"{number}"))
            fast = [tasks[number] for number in tasks if number not in (20, 150)]
            await asyncio.wait_for(asyncio.gather(*fast), PATIENCE)
            assert not tasks[20].done()
            assert not tasks[150].done()
            let_go(tmp_path, "20", "150")
            assert await tasks[20] == ["20"]
            assert await tasks[150] == ["150"]

    flow = Flow(timeout_close=2000).add(
        name="gate", uses=Gate, uses_with={"folder": str(tmp_path)}, replicas=3
    )
    with flow:
        for _ in range(2):
            for path in tmp_path.iterdir():
                path.unlink()
            asyncio.run(post(flow))


def test_a_replica_that_hangs_delays_nobody_but_its_own_request() -> None:
    with Flow(timeout_close=500).add(
        name="square", uses=Square, replicas=2, timeout_send=1500
    ) as flow:
        flow.post("/", texts(100), request_size=1)
        os.kill(pid_of("square/rep-0"), signal.SIGSTOP)
        failed: list[Any] = []
        result = flow.post("/", texts(200), request_size=1, on_error=failed.append)
        os.kill(pid_of("square/rep-0"), signal.SIGCONT)
        assert len(result) + len(failed) == 200
        assert {type(response.error) for response in failed} <= {errors.DeadlineExceeded}
        assert len(failed) <= 2, "only what it may have begun"
        wait_for(lambda: len(flow.post("/", texts(1))) == 1)
        assert len(flow.post("/", texts(100), request_size=1)) == 100


class HoldsOne(Gate):
    """Answers at once, but holds what it is told to hold, whatever the endpoint."""

    @requests
    def hold_one(self, docs: DocumentArray, **kwargs: Any) -> None:
        if docs[0].text == "held":
            self.hold(docs)


def test_answers_do_not_wait_for_a_request_behind_them_that_takes_long(tmp_path: Path) -> None:
    """Answers to quick requests travel together, but not until the slow one among them has
    ended.
    """
    with Flow().add(name="one", uses=HoldsOne, uses_with={"folder": str(tmp_path)}) as flow:
        flow.post("/", texts(3000), request_size=1)  # until many wait at the replica
        answered: list[str] = []
        inputs = DocumentArray([*texts(100), Document(text="held")])
        post = in_background(
            flow.post,
            "/",
            inputs,
            request_size=1,
            on_done=lambda response: answered.extend(response.docs.texts),
        )
        begun(tmp_path, "held")
        wait_for(lambda: len(answered) == 100, what="all others are answered")
        assert not post.done()
        let_go(tmp_path, "held")
        post.result(PATIENCE)
        assert answered == inputs.texts


def test_the_idle_one_gets_the_request() -> None:
    with Flow().add(name="uneven", uses=Uneven, replicas=3) as flow:
        result = flow.post("/", texts(210), request_size=1)
    share = Counter(doc.tags["by"] for doc in result)
    # In turns each would get 70; by speed the slow one gets a twenty-first.
    assert share["uneven/rep-0"] <= 25
