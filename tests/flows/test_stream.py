"""Long posts: a bounded number of requests in flight, in constant memory."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import Gate, begun, in_background, let_go, run_script, texts, wait_for

from zflow import Client, Document, DocumentArray, Executor, Flow, Response, requests


class SlowFirst(Executor):
    """Takes its time for the first request: the others overtake it."""

    @requests
    def work(self, docs: DocumentArray, **kwargs: Any) -> None:
        if docs[0].text == "0":
            time.sleep(0.05)


@pytest.fixture(scope="module")
def trio() -> Iterator[Flow]:
    with Flow().add(name="slow-first", uses=SlowFirst, replicas=3) as running:
        yield running


@pytest.fixture
def gated(tmp_path: Path) -> Iterator[Flow]:
    with Flow(timeout_close=2000).add(
        name="gate", uses=Gate, uses_with={"folder": str(tmp_path)}
    ) as running:
        yield running


def test_no_more_in_flight_than_prefetch_allows(gated: Flow, tmp_path: Path) -> None:
    given = 0

    def counted() -> Iterator[Document]:
        nonlocal given
        for given in range(1, 101):  # noqa: B007
            yield Document(text="same")

    with contextlib.ExitStack() as stack:
        stack.callback(let_go, tmp_path, "same")
        posting = in_background(gated.post, "/hold", counted(), request_size=3, prefetch=4)
        begun(tmp_path, "same")
        wait_for(lambda: given == 12, what="as many are read as may be in flight")
        info = Client(port=gated.port).info()
        assert (info["requests"], given) == (4, 12)
    assert len(posting.result(30)) == 100
    assert given == 100


@pytest.mark.parametrize(("request_size", "prefetch"), [(1, 1), (1, 7), (10, 3), (100, 128)])
def test_what_is_read_stays_ahead_of_what_is_answered_by_a_bound(
    trio: Flow, request_size: int, prefetch: int
) -> None:
    given = answered = most = 0

    def counted() -> Iterator[Document]:
        nonlocal given, most
        for doc in texts(1000):
            given += 1
            most = max(most, given - answered)
            yield doc

    def count(response: Response) -> None:
        nonlocal answered
        answered += len(response.docs)

    trio.post("/", counted(), request_size=request_size, prefetch=prefetch, on_done=count)
    assert (given, answered) == (1000, 1000)
    assert most <= request_size * prefetch


def test_many_documents_stream_in_constant_memory(tmp_path: Path) -> None:
    code, out, err = run_script(STREAM, tmp_path)
    assert (code, err) == (0, "")
    answered, mine, theirs = map(int, out.split())
    assert answered == 60_000
    # All Documents together have 120 MB.
    assert mine < 40e6, "the user's process keeps what it has sent or got"
    assert theirs < 60e6, "the broker or a replica keeps what has passed through"


STREAM = """
import psutil
from zflow import Document, Executor, Flow, requests

class Touch(Executor):
    @requests
    def touch(self, docs, **kwargs):
        for doc in docs:
            doc.tags["touched"] = True

def documents(count):
    return (Document(text=f"{number:2000}") for number in range(count))

def memory():
    me = psutil.Process()
    children = me.children(recursive=True)
    return me.memory_info().rss, sum(child.memory_info().rss for child in children)

answered = 0
def count(response):
    global answered
    answered += len(response.docs)

with Flow().add(uses=Touch, replicas=2) as flow:
    flow.index(documents(10_000), on_done=lambda response: None)
    before = memory()
    flow.index(documents(60_000), on_done=count)
    after = memory()
print(answered, after[0] - before[0], after[1] - before[1])
"""


def test_a_generator_may_wait_for_what_its_first_request_brings_about(
    gated: Flow, tmp_path: Path
) -> None:
    def documents() -> Iterator[Document]:
        yield Document(text="first")
        begun(tmp_path, "first")
        let_go(tmp_path, "first", "second")
        yield Document(text="second")

    assert gated.post("/hold", documents(), request_size=1).texts == ["first", "second"]


def test_a_generator_that_was_quick_may_wait_for_what_its_last_requests_bring_about(
    gated: Flow, tmp_path: Path
) -> None:
    """They wait for the next one to be sent with them, but only so long."""
    names = [str(number) for number in range(60)]
    let_go(tmp_path, *names, "last")

    def documents() -> Iterator[Document]:
        for name in names:
            yield Document(text=name)
        begun(tmp_path, names[-1])
        yield Document(text="last")

    assert gated.post("/hold", documents(), request_size=1).texts == [*names, "last"]


def test_a_generator_that_raises_takes_back_what_waits_to_be_sent(gated: Flow) -> None:
    def documents() -> Iterator[Document]:
        yield from texts(60)
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        gated.post("/", documents(), request_size=1)
    wait_for(lambda: Client(port=gated.port).info()["requests"] == 0, what="nothing is under way")
    assert gated.post("/", texts(3), request_size=1).texts == ["0", "1", "2"]
