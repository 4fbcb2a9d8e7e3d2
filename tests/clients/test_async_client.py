"""`AsyncClient`: many posts at once on one event loop, awaited or iterated over."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import psutil
import pytest
from helpers import PATIENCE, Gate, Upper, awaited, let_go, run_script, soon, texts
from peers import greeting, said, stranger, welcome

from zflow import AsyncClient, Document, DocumentArray, Executor, Flow, Response, errors, requests
from zflow.clients import wire
from zflow.devices.protocol.messages import Failed, Hello, Message, Request


class Fussy(Executor):
    """Upper-cases, and raises at 'bad'."""

    @requests
    def upper(self, docs: DocumentArray, **kwargs: Any) -> dict[str, Any]:
        if "bad" in docs.texts:
            raise ValueError("bad text")
        docs.texts = [text.upper() for text in docs.texts]
        return {"n": len(docs)}


@pytest.fixture(scope="module")
def flow() -> Iterator[Flow]:
    with Flow().add(name="fussy", uses=Fussy, replicas=2) as running:
        yield running


@pytest.fixture
def gated(tmp_path: Path) -> Iterator[Flow]:
    with Flow(timeout_close=2000).add(
        name="gate", uses=Gate, uses_with={"folder": str(tmp_path)}
    ) as running:
        yield running


Body = Callable[[AsyncClient], Coroutine[Any, Any, Any]]


def run(flow: Flow, body: Body) -> Any:
    """Run `body(client)` on an event loop of its own."""

    async def main() -> Any:
        async with AsyncClient(port=flow.port) as client:
            return await asyncio.wait_for(body(client), 60)

    return asyncio.run(main())


def test_await_gives_all_documents_in_order(flow: Flow) -> None:
    async def body(client: AsyncClient) -> None:
        result = await client.post(
            "/", (Document(text=f"a{n}") for n in range(250)), request_size=7
        )
        assert isinstance(result, DocumentArray)
        assert result.texts == [f"A{number}" for number in range(250)]
        assert (await client.post("/", Document(text="a"))).texts == ["A"]
        assert await client.post("/", []) == DocumentArray()
        assert await client.post("/") == DocumentArray()
        for name in ("index", "search", "update", "delete"):
            assert (await getattr(client, name)(Document(text=name))).texts == [name.upper()]

    run(flow, body)


def test_async_for_gives_one_array_per_request_in_order(flow: Flow) -> None:
    async def body(client: AsyncClient) -> None:
        found = [docs.texts async for docs in client.post("/", texts(50), request_size=4)]
        assert [len(some) for some in found] == [4] * 12 + [2]
        assert [text for some in found for text in some] == [str(number) for number in range(50)]
        wholes = [response async for response in client.post("/", texts(3), return_responses=True)]
        assert [type(whole) for whole in wholes] == [Response]
        (result,) = wholes[0].parameters["__results__"].values()
        assert result == {"n": 3}

    run(flow, body)


def test_many_posts_at_once(flow: Flow) -> None:
    async def body(client: AsyncClient) -> None:
        async def post(number: int) -> list[str]:
            return (
                await client.post("/", [Document(text=f"a{number}"), Document(text=f"b{number}")])
            ).texts

        found = await asyncio.gather(*map(post, range(500)))
        assert found == [[f"A{number}", f"B{number}"] for number in range(500)]

    run(flow, body)


def test_posts_at_once_before_there_is_a_connection_share_one(flow: Flow) -> None:
    async def main() -> int:
        async with AsyncClient(port=flow.port) as client:
            await asyncio.gather(*(client.post("/", Document(text="a")) for _ in range(50)))
            return sum(
                each.status == "ESTABLISHED" for each in psutil.Process().net_connections("tcp")
            )

    before = sum(each.status == "ESTABLISHED" for each in psutil.Process().net_connections("tcp"))
    assert asyncio.run(main()) - before == 1


def test_a_request_that_waits_holds_up_no_other(gated: Flow, tmp_path: Path) -> None:
    async def body(client: AsyncClient) -> None:
        held = asyncio.ensure_future(awaited(client.post("/hold", Document(text="held"))))
        await soon(lambda: (tmp_path / "held.begun").exists())
        queued = [
            asyncio.ensure_future(awaited(client.post("/", Document(text=str(n)))))
            for n in range(20)
        ]
        assert not held.done()
        let_go(tmp_path, "held")
        assert (await held).texts == ["held"]
        assert [(await each).texts for each in queued] == [[str(number)] for number in range(20)]

    run(gated, body)


async def agen(count: int, given: list[int] | None = None) -> AsyncIterator[Document]:
    for number in range(count):
        await asyncio.sleep(0)
        if given is not None:
            given.append(number)
        yield Document(text=f"a{number}")


def test_async_inputs(flow: Flow) -> None:
    async def body(client: AsyncClient) -> None:
        assert (await client.post("/", agen(0))).texts == []
        assert (await client.post("/", agen(101), request_size=10)).texts == [
            f"A{number}" for number in range(101)
        ]
        sizes = [len(docs) async for docs in client.post("/", agen(25), request_size=10)]
        assert sizes == [10, 10, 5]

    run(flow, body)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_no_more_in_flight_than_prefetch_allows(gated: Flow, tmp_path: Path, kind: str) -> None:
    given: list[int] = []

    def sync_inputs() -> Iterator[Document]:
        for number in range(100):
            given.append(number)
            yield Document(text="same")

    async def async_inputs() -> AsyncIterator[Document]:
        for doc in sync_inputs():
            yield doc

    async def body(client: AsyncClient) -> None:
        inputs = sync_inputs() if kind == "sync" else async_inputs()
        posting = asyncio.ensure_future(
            awaited(client.post("/hold", inputs, request_size=3, prefetch=4))
        )
        await soon(lambda: len(given) >= 12)
        await soon(lambda: (tmp_path / "same.begun").exists())
        assert (await client.info())["requests"] == 4
        assert len(given) == 12
        let_go(tmp_path, "same")
        assert len(await posting) == 100

    run(gated, body)


def test_a_slow_consumer_holds_the_inputs_back(flow: Flow) -> None:
    given: list[int] = []

    async def body(client: AsyncClient) -> None:
        taken = 0
        async for docs in client.post("/", agen(300, given), request_size=5, prefetch=3):
            taken += len(docs)
            await asyncio.sleep(0)
            assert len(given) - taken <= 5 * 3
        assert taken == len(given) == 300

    run(flow, body)


def test_a_long_post_leaves_the_event_loop_to_others(flow: Flow) -> None:
    async def body(client: AsyncClient) -> None:
        turns = 0

        async def turn() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        turning = asyncio.ensure_future(turn())
        for kind in (texts(3000), agen(3000)):
            turns, answered = 0, 0
            async for docs in client.post("/", kind, request_size=1):
                answered += len(docs)
            assert turns > 100, "others had their turns meanwhile"
        turning.cancel()

    run(flow, body)


def test_callbacks(flow: Flow) -> None:
    async def body(client: AsyncClient) -> None:
        done: list[Response] = []
        failed: list[Response] = []
        always: list[Response] = []
        calls = {"on_done": done.append, "on_error": failed.append, "on_always": always.append}
        inputs = [Document(text=text) for text in ("a", "bad", "b")]
        assert await client.post("/", inputs, request_size=1, **calls) is None
        assert [response.docs.texts for response in done] == [["A"], ["B"]]
        assert [response.docs.texts for response in failed] == [["bad"]]
        assert [response.docs.texts for response in always] == [["A"], ["bad"], ["B"]]
        rest = await client.post("/", inputs, request_size=1, on_error=failed.append)
        assert rest.texts == ["A", "B"]

    run(flow, body)


def test_errors_are_raised_where_it_is_awaited_and_harm_no_other(flow: Flow) -> None:
    async def body(client: AsyncClient) -> None:
        good = [
            asyncio.ensure_future(awaited(client.post("/", texts(20), request_size=1)))
            for _ in range(10)
        ]
        for _ in range(5):
            with pytest.raises(errors.ExecutorError, match="bad text"):
                await client.post("/", Document(text="bad"))
            with pytest.raises(errors.SerializationError, match="'odd'"):
                await client.post(
                    "/", [Document(), Document(id="odd", tags={"a": object()})], request_size=1
                )
            with pytest.raises(errors.BadRequest, match="'nobody'"):
                await client.post("/", Document(), target_executor="nobody")
            with pytest.raises(errors.BadRequest, match="7"):
                await client.post("/", 7)
        for each in good:
            assert (await each).texts == [str(number) for number in range(20)]

    run(flow, body)
    with pytest.raises(errors.BadRequest, match="'/'"):
        AsyncClient(port=flow.port).post("no-slash")


def test_async_inputs_that_raise_or_hold_no_documents(flow: Flow) -> None:
    async def broken() -> AsyncIterator[Document]:
        async for doc in agen(50):
            yield doc
        raise ZeroDivisionError

    async def strange() -> AsyncIterator[Any]:
        yield Document()
        yield "text"

    async def body(client: AsyncClient) -> None:
        with pytest.raises(ZeroDivisionError):
            await client.post("/", broken(), request_size=1)
        with pytest.raises(errors.BadRequest, match=r"at 1 .*'text'"):
            await client.post("/", strange())
        assert (await client.post("/", Document(text="a"))).texts == ["A"]

    run(flow, body)


def test_a_cancelled_post_is_forgotten(gated: Flow, tmp_path: Path) -> None:
    async def body(client: AsyncClient) -> None:
        held = asyncio.ensure_future(awaited(client.post("/hold", Document(text="held"))))
        await soon(lambda: (tmp_path / "held.begun").exists())
        held.cancel()
        with pytest.raises(asyncio.CancelledError):
            await held
        let_go(tmp_path, "held")
        assert (await client.post("/", Document(text="next"))).texts == ["next"]

    run(gated, body)


def test_cancelling_one_of_many_first_posts_harms_no_other(flow: Flow) -> None:
    async def body(client: AsyncClient) -> None:
        posts = [
            asyncio.ensure_future(awaited(client.post("/", Document(text="a")))) for _ in range(10)
        ]
        await asyncio.sleep(0)  # they have begun to connect
        posts[0].cancel()
        assert [(await each).texts for each in posts[1:]] == [["A"]] * 9

    run(flow, body)


def test_leaving_async_for_early(flow: Flow) -> None:
    async def body(client: AsyncClient) -> None:
        async for docs in client.post("/", texts(1000), request_size=1, prefetch=10):
            assert docs.texts == ["0"]
            break
        assert (await client.post("/", Document(text="a"))).texts == ["A"]

    run(flow, body)


def test_one_client_on_several_event_loops_in_turn_and_at_once(flow: Flow) -> None:
    client = AsyncClient(port=flow.port)

    async def main() -> list[str]:
        return (
            await client.post(
                "/", [Document(text=f"a{number}") for number in range(20)], request_size=1
            )
        ).texts

    async def last() -> None:
        await main()
        await client.close()

    expected = [f"A{number}" for number in range(20)]
    assert asyncio.run(main()) == expected
    found: list[list[str]] = []
    threads = [threading.Thread(target=lambda: found.append(asyncio.run(main()))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 4
    asyncio.run(last())


def test_event_loops_that_are_over_leave_no_connections_behind(flow: Flow) -> None:
    client = AsyncClient(port=flow.port)

    async def main() -> int:
        await client.post("/", Document(text="a"))
        return len(os.listdir("/proc/self/fd"))

    counts = [asyncio.run(main()) for _ in range(10)]
    assert counts[-1] <= counts[1], "each run takes as many descriptors as the one before"
    asyncio.run(client.close())


def test_clients_that_were_not_closed_are_collected_as_garbage(tmp_path: Path) -> None:
    code, out, err = run_script(GARBAGE, tmp_path)
    assert (code, out, err) == (0, "collected\n", "")


GARBAGE = """
import asyncio, faulthandler, gc, os
from zflow import AsyncClient, Client, Document, Flow

faulthandler.dump_traceback_later(20, exit=True)

async def post(client):
    await client.post("/", Document())

class Holder:
    def __init__(self, client):
        self.me, self.client = self, client

gc.disable()
with Flow() as flow:
    def use():
        holders = [Holder(Client(port=flow.port)), Holder(AsyncClient(port=flow.port))]
        holders[0].client.post("/", Document())
        asyncio.run(post(holders[1].client))
    use()
    gc.collect()
    before = os.listdir("/proc/self/fd"), os.listdir("/proc/self/task")
    for _ in range(5):
        use()
        gc.collect()
    after = os.listdir("/proc/self/fd"), os.listdir("/proc/self/task")
    assert [len(names) for names in after] == [len(names) for names in before], (before, after)
print("collected")
"""


def test_a_closed_client_connects_anew(flow: Flow) -> None:
    async def body(client: AsyncClient) -> None:
        for _ in range(3):
            assert (await client.post("/", Document(text="a"))).texts == ["A"]
            await client.close()
            await client.close()

    run(flow, body)


def test_closing_ends_what_still_waits(gated: Flow, tmp_path: Path) -> None:
    async def body(client: AsyncClient) -> None:
        held = asyncio.ensure_future(awaited(client.post("/hold", Document(text="held"))))
        await soon(lambda: (tmp_path / "held.begun").exists())
        await client.close()
        with pytest.raises(errors.FlowUnreachable, match="closed"):
            await held
        let_go(tmp_path, "held")

    run(gated, body)


def test_info(flow: Flow) -> None:
    async def body(client: AsyncClient) -> None:
        infos = await asyncio.gather(*(client.info() for _ in range(5)))
        assert [info["executors"]["fussy"]["replicas"] for info in infos] == [
            ["fussy/rep-0", "fussy/rep-1"]
        ] * 5

    run(flow, body)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "PING_AFTER", 50)
    monkeypatch.setattr(wire, "CONNECTING", 0.3)
    monkeypatch.setattr(wire, "SILENCE", 0.3)


def test_nobody_answers(impatient: None) -> None:
    async def main(port: int) -> None:
        async with AsyncClient(port=port) as client:
            posts = [asyncio.ensure_future(awaited(client.post("/", Document()))) for _ in range(3)]
            for each in posts:
                with pytest.raises(errors.FlowUnreachable, match=str(port)):
                    await each

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        asyncio.run(main(taken.getsockname()[1]))


def test_the_time_that_something_may_take_bounds_the_connecting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main(port: int) -> None:
        async with AsyncClient(port=port) as client:
            for asked in (
                lambda: client.post("/", Document(), timeout=50),
                lambda: client.search(timeout=50),
                lambda: client.info(timeout=50),
                lambda: client.scale("encoder", 2, timeout=50),
                lambda: client.drain("encoder/rep-0", timeout=50),
            ):
                with pytest.raises(errors.FlowUnreachable, match=f"no Flow answers at .*{port}"):
                    await asked()

    monkeypatch.setattr(wire, "CONNECTING", 40.0)
    begun = time.monotonic()
    with stranger(lambda message: None) as port:
        asyncio.run(main(port))
    assert time.monotonic() - begun < wire.CONNECTING


def test_a_flow_of_another_version_says_so(impatient: None) -> None:
    refusal = said(Failed(0, 0, [msgpack.packb({"type": "BadRequest"})]))

    async def main(port: int) -> None:
        async with AsyncClient(port=port) as client:
            with pytest.raises(errors.BadRequest, match="another version"):
                await client.post("/")

    with stranger(lambda message: refusal) as port:
        asyncio.run(main(port))


@pytest.mark.parametrize("change", ["silent", "another"])
def test_a_flow_that_stops_answering_or_is_another_by_now(impatient: None, change: str) -> None:
    requested = threading.Event()

    def answer(message: Message) -> list[bytes] | None:
        if isinstance(message, Request):
            requested.set()
            return None
        if not requested.is_set():
            return greeting(message)
        if change == "silent" or not isinstance(message, Hello):
            return None
        info = {"executors": {}, "instance": "two"}
        return welcome(message, info)

    async def main(port: int) -> None:
        async with AsyncClient(port=port) as client:
            words = "stopped answering" if change == "silent" else "another one listens"
            with pytest.raises(errors.FlowUnreachable, match=words):
                await client.post("/", Document())

    with stranger(answer) as port:
        asyncio.run(main(port))


def test_memory_that_cannot_be_sent_is_not_waited_for_where_nobody_is_any_more(
    impatient: None,
) -> None:
    with contextlib.ExitStack() as there:
        port = there.enter_context(
            stranger(lambda message: greeting(message) if isinstance(message, Hello) else None)
        )

        async def documents() -> AsyncIterator[Document]:
            there.close()  # the Flow is gone
            for _ in range(100):
                yield Document(tensor=np.ones(100_000))

        async def main() -> None:
            async with AsyncClient(port=port) as client:
                posting = asyncio.ensure_future(
                    awaited(client.post("/", documents(), request_size=1))
                )
                with pytest.raises(errors.FlowUnreachable, match="stopped answering"):
                    await asyncio.wait_for(posting, PATIENCE)

        asyncio.run(main())


def test_many_documents_through_upper_keep_order_over_replicas() -> None:
    async def body(client: AsyncClient) -> None:
        async def post(start: int) -> list[str]:
            return (await client.post("/", texts(200, start), request_size=3)).texts

        for start, found in enumerate(await asyncio.gather(*map(post, range(10)))):
            assert found == [str(number) for number in range(start, start + 200)]

    with Flow().add(uses=Upper, replicas=3) as flow:
        run(flow, body)


# -- changes ---------------------------------------------------------------------------------------


def test_info_takes_as_long_as_it_may(impatient: None) -> None:
    async def main(port: int) -> None:
        async with AsyncClient(port=port) as client:
            with pytest.raises(
                errors.FlowUnreachable, match=f"no Flow answers at tcp://127.0.0.1:{port}"
            ):
                await client.info(timeout=100)
            for wrong in (0, "soon", True):
                with pytest.raises(
                    errors.BadRequest, match="timeout must be a number of ms above 0"
                ):
                    await client.info(timeout=wrong)  # type: ignore[arg-type]

    with stranger(lambda message: None) as port:
        asyncio.run(main(port))


def test_a_flow_is_changed_while_posts_go_on() -> None:
    async def body(client: AsyncClient) -> None:
        posting = asyncio.ensure_future(awaited(client.post("/", texts(2000), request_size=1)))
        assert await client.scale("upper", 3) == {"executor": "upper", "replicas": 3, "before": 2}
        assert (await client.drain("upper/rep-2", timeout=60_000))["replica"] == "upper/rep-2"
        await client.undrain("upper/rep-2")
        assert (await client.scale("upper", 1, force=True))["before"] == 3
        assert (await client.restart("upper"))["restarted"] == 1
        assert (await posting).texts == [str(number) for number in range(2000)]

    with Flow().add(name="upper", uses=Upper, replicas=2) as flow:
        run(flow, body)


def test_a_change_that_cannot_be_is_refused(flow: Flow) -> None:
    async def body(client: AsyncClient) -> None:
        with pytest.raises(errors.ChangeRefused, match="did you mean 'fussy'"):
            await client.scale("fusy", 2)
        with pytest.raises(errors.BadRequest, match="timeout is in milliseconds"):
            await client.restart("fussy", timeout=0.5)
        assert (await client.post("/", Document(text="a"))).texts == ["A"]

    run(flow, body)


# -- of a Flow in this process ---------------------------------------------------------------------


def test_a_flow_has_clients_for_asyncio_until_it_is_closed() -> None:
    flow = Flow().add(name="upper", uses=Upper)
    with pytest.raises(errors.FlowNotRunning, match="is not started"):
        flow.async_client()

    async def main() -> AsyncClient:
        async with flow.async_client() as client:
            assert isinstance(client, AsyncClient)
            assert (await client.post("/", texts(100), request_size=1)).texts == [
                str(number) for number in range(100)
            ]
            assert (await client.scale("upper", 2))["replicas"] == 2
            assert await client.is_flow_ready()
            return client

    async def late(client: AsyncClient) -> None:
        with pytest.raises(errors.FlowNotRunning, match="it was closed"):
            await client.post("/", Document())
        with pytest.raises(errors.FlowNotRunning, match="it was closed"):
            await client.info()
        assert not await client.is_flow_ready()

    with flow:
        client = asyncio.run(main())
    asyncio.run(late(client))
    with pytest.raises(errors.FlowNotRunning, match="was closed"):
        flow.async_client()


def test_a_connection_that_has_outlived_its_flow_takes_no_posts() -> None:
    flow = Flow().add(uses=Upper).start()

    async def main() -> None:
        async with flow.async_client() as client:
            await client.post("/", Document())
            flow.close()
            with pytest.raises(errors.FlowNotRunning, match="closed"):
                await client.post("/", Document())

    asyncio.run(main())
