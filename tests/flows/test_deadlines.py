"""`timeout=` of a post, and posts that are given up:
what nobody waits for any more is not begun.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import (
    PATIENCE,
    Append,
    Gate,
    awaited,
    begun,
    in_background,
    let_go,
    soon,
    texts,
    wait_for,
)
from peers import greeting, stranger

from zflow import AsyncClient, Client, Document, DocumentArray, Executor, Flow, errors, requests
from zflow.clients import exchange, wire
from zflow.devices.protocol.messages import Hello

KINDS = ["sync", "async"]


class Sharded(Executor):
    """Shard 0 holds what is posted to `/hold` until the file is there."""

    @requests(on="/hold")
    def hold(self, docs: DocumentArray, parameters: dict[str, Any], **kwargs: Any) -> None:
        if self.runtime_args.shard_id == 0:
            Path(f"{parameters['until']}.begun").touch()
            while not Path(parameters["until"]).exists():
                time.sleep(0.001)


def gate(folder: Path, **options: Any) -> Flow:
    flow: Flow = Flow(timeout_close=2000).add(
        name="gate", uses=Gate, uses_with={"folder": str(folder)}, **options
    )
    return flow


def rounded(seconds: float) -> float:
    """The most that a message may say for so many seconds: it gives three digits."""
    return seconds * 1.005 + 0.001


@pytest.fixture
def gated(tmp_path: Path) -> Iterator[Flow]:
    with gate(tmp_path) as running:
        yield running


def poster(kind: str, flow: Flow) -> Callable[..., Any]:
    """A function that posts and returns what comes back."""

    async def post(*arguments: Any, **options: Any) -> Any:
        async with AsyncClient(port=flow.port) as mine:
            return await mine.post(*arguments, **options)

    if kind == "sync":
        return flow.post
    return lambda *arguments, **options: asyncio.run(post(*arguments, **options))


def in_progress(flow: Flow) -> int:
    with Client(port=flow.port) as mine:
        return int(mine.info()["requests"])


# -- timeout ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_request_that_runs_too_long_fails_with_where_it_was_and_for_how_long(
    gated: Flow, tmp_path: Path, kind: str
) -> None:
    begin = time.monotonic()
    with pytest.raises(errors.DeadlineExceeded) as caught:
        poster(kind, gated)("/hold", Document(text="held"), timeout=300)
    found = re.fullmatch(
        r"not answered within timeout=300 ms; it was running in gate/rep-0 for ([\d.]+) s",
        str(caught.value),
    )
    assert found, caught.value
    assert 0 < float(found[1]) < rounded(time.monotonic() - begin)
    begun(tmp_path, "held")
    assert in_progress(gated) == 0
    let_go(tmp_path, "held")
    assert gated.post("/", Document(text="next")).texts == ["next"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_request_that_waits_too_long_fails_with_where_it_was_and_is_never_begun(
    gated: Flow, tmp_path: Path, kind: str
) -> None:
    held = in_background(gated.post, "/hold", Document(text="held"))
    begun(tmp_path, "held")
    begin = time.monotonic()
    with pytest.raises(errors.DeadlineExceeded) as caught:
        poster(kind, gated)("/hold", Document(text="late"), timeout=300)
    found = re.fullmatch(
        r"not answered within timeout=300 ms; it was queued for Executor 'gate' for ([\d.]+) s",
        str(caught.value),
    )
    assert found, caught.value
    assert 0.3 <= float(found[1]) < rounded(time.monotonic() - begin), "it was nowhere else"
    assert in_progress(gated) == 1
    let_go(tmp_path, "held", "late")
    assert held.result(PATIENCE).texts == ["held"]
    assert gated.post("/", Document(text="next")).texts == ["next"]
    assert not (tmp_path / "late.begun").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_each_request_of_a_post_has_the_time_and_the_late_ones_fail_alone(
    gated: Flow, tmp_path: Path, kind: str
) -> None:
    """The first one is held until the ones behind it are late too."""
    failed: list[Any] = []
    result = poster(kind, gated)(
        "/hold", texts(4), request_size=1, timeout=300, on_error=failed.append
    )
    assert result == DocumentArray()
    assert [response.docs.texts for response in failed] == [[str(number)] for number in range(4)]
    assert {type(response.error) for response in failed} == {errors.DeadlineExceeded}
    let_go(tmp_path, "0", "1", "2", "3")
    assert len(poster(kind, gated)("/hold", texts(4), request_size=1, timeout=30_000)) == 4


@pytest.mark.parametrize("kind", KINDS)
def test_a_timeout_that_is_long_enough_changes_nothing(gated: Flow, kind: str) -> None:
    found = poster(kind, gated)("/", texts(1000), request_size=1, timeout=60_000)
    assert found.texts == [str(number) for number in range(1000)]


def test_the_shorter_of_both_limits_counts_and_is_named(tmp_path: Path) -> None:
    with gate(tmp_path, timeout_send=300) as flow:
        with pytest.raises(
            errors.DeadlineExceeded,
            match=r"^Executor 'gate' did not answer within timeout_send=300 ms",
        ):
            flow.post("/hold", Document(text="a"), timeout=20_000)
        let_go(tmp_path, "a")
    with gate(tmp_path, timeout_send=20_000) as flow:
        with pytest.raises(errors.DeadlineExceeded, match=r"^not answered within timeout=300 ms;"):
            flow.post("/hold", Document(text="b"), timeout=300)
        let_go(tmp_path, "b")


def test_the_time_runs_through_all_executors_and_the_one_it_ends_in_is_named(
    tmp_path: Path,
) -> None:
    first, last = tmp_path / "first", tmp_path / "last"
    first.mkdir()
    last.mkdir()
    flow = gate(first).add(uses=Append).add(name="last", uses=Gate, uses_with={"folder": str(last)})
    with flow:
        posting = in_background(flow.post, "/hold", Document(text="a"), timeout=1500)
        begun(first, "a")
        let_go(first, "a")
        begun(last, "ax")
        error = posting.exception(PATIENCE)
        let_go(last, "ax")
    found = re.fullmatch(
        r"not answered within timeout=1500 ms; it was running in last/rep-0 for ([\d.]+) s",
        str(error),
    )
    assert found, error
    assert float(found[1]) <= 1.5, "the rest of the time went into the first one"


@pytest.mark.parametrize("kind", KINDS)
def test_shards_that_run_or_wait_too_long_are_named(tmp_path: Path, kind: str) -> None:
    until = tmp_path / "until"
    flow = Flow(timeout_close=2000).add(name="e", uses=Sharded, shards=2, polling="ALL")
    with flow:
        post = poster(kind, flow)
        begin = time.monotonic()
        with pytest.raises(errors.DeadlineExceeded) as caught:
            post("/hold", Document(), {"until": str(until)}, timeout=300)
        found = re.search(
            r"timeout=300 ms; it was running in e/shard-0/rep-0 for ([\d.]+) s$", str(caught.value)
        )
        assert found, caught.value
        assert float(found[1]) < rounded(time.monotonic() - begin)
        assert Path(f"{until}.begun").exists()
        # Shard 0 is still busy; so many that no more may be sent ahead.
        waiting = [
            in_background(post, "/hold", Document(), {"until": str(until)}, timeout=300)
            for _ in range(3)
        ]
        messages = [str(each.exception(PATIENCE)) for each in waiting]
        until.touch()
    for message in messages:
        found = re.search(
            r"timeout=300 ms; it was (?:queued for Executor 'e/shard-\d'|(?:running in|waiting at) "
            r"e/shard-0/rep-0)"
            r" for ([\d.]+) s$",
            message,
        )
        assert found, message
        assert float(found[1]) < rounded(time.monotonic() - begin), message


@pytest.mark.parametrize("kind", KINDS)
def test_a_flow_that_does_not_say_in_time_that_it_is_late(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "PING_AFTER", 50)
    monkeypatch.setattr(exchange, "LATE", 0.1)

    async def post(port: int) -> None:
        async with AsyncClient(port=port) as mine:
            await mine.post("/", Document(), timeout=100)

    def post_sync(port: int) -> None:
        with Client(port=port) as mine:
            mine.post("/", Document(), timeout=100)

    with (
        stranger(lambda message: greeting(message) if isinstance(message, Hello) else None) as port,
        pytest.raises(
            errors.DeadlineExceeded, match=rf"timeout=100 ms; the Flow at .*{port} does not say why"
        ),
    ):
        asyncio.run(post(port)) if kind == "async" else post_sync(port)


# -- given up --------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["flow", "client"])
@pytest.mark.parametrize("what", ["callback", "failure", "generator"])
def test_a_post_that_is_given_up_takes_its_requests_with_it(
    tmp_path: Path, way: str, what: str
) -> None:
    class Odd(Gate):
        """Holds, and then raises at what is called 'bad'."""

        @requests(on="/hold")
        def hold(self, docs: DocumentArray, **kwargs: Any) -> None:
            super().hold(docs)
            if "bad" in docs.texts:
                raise LookupError("bad")

    names = ["bad", *map(str, range(20))]

    def inputs() -> Iterator[Document]:
        yield from (Document(text=name) for name in names)
        if what == "generator":
            begun(tmp_path, "bad")
            raise ZeroDivisionError

    def stop(response: Any) -> None:
        raise ZeroDivisionError

    options = {"on_always": stop} if what == "callback" else {}
    flow = Flow(timeout_close=2000).add(name="gate", uses=Odd, uses_with={"folder": str(tmp_path)})
    with flow, Client(port=flow.port) as mine:
        use = flow if way == "flow" else mine
        posting = in_background(use.post, "/hold", inputs(), request_size=1, **options)
        begun(tmp_path, "bad")
        if what != "generator":
            wait_for(lambda: in_progress(flow) == len(names))
            let_go(tmp_path, "bad")
        expected = errors.ExecutorError if what == "failure" else ZeroDivisionError
        assert isinstance(posting.exception(PATIENCE), expected)
        wait_for(lambda: in_progress(flow) == 0, what="none of the requests is kept")
        let_go(tmp_path, *names)
        assert flow.post("/", Document(text="next")).texts == ["next"]
        # One more than was answered may have been begun before it was given up.
        assert not any((tmp_path / f"{name}.begun").exists() for name in names[2:])


@pytest.mark.parametrize("way", ["cancelled", "cancelled and closed", "left", "closed"])
def test_an_async_post_that_is_given_up_takes_its_requests_with_it(
    gated: Flow, tmp_path: Path, way: str
) -> None:
    names = [str(number) for number in range(20)]

    async def main() -> None:
        async with AsyncClient(port=gated.port) as mine, AsyncClient(port=gated.port) as other:

            async def requests_are(count: int) -> None:
                while (await other.info())["requests"] != count:
                    await asyncio.sleep(0.005)

            if way == "left":
                let_go(tmp_path, "0")
                async for docs in mine.post("/hold", texts(20), request_size=1):
                    assert docs.texts == ["0"]
                    break
            else:
                posting = asyncio.ensure_future(
                    awaited(mine.post("/hold", texts(20), request_size=1))
                )
                await soon(lambda: (tmp_path / "0.begun").exists())
                await asyncio.wait_for(requests_are(20), PATIENCE)
                if way.startswith("cancelled"):
                    posting.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await posting
                    if way.endswith("closed"):
                        await mine.close()
                else:
                    await mine.close()
                    with pytest.raises(errors.FlowUnreachable, match="closed"):
                        await posting
            await asyncio.wait_for(requests_are(0), PATIENCE)
            let_go(tmp_path, *names)
            assert (await other.post("/", Document(text="next"))).texts == ["next"]

    asyncio.run(main())
    assert not any((tmp_path / f"{name}.begun").exists() for name in names[2:])


def test_giving_up_one_post_leaves_the_others(gated: Flow, tmp_path: Path) -> None:
    async def main() -> None:
        async with AsyncClient(port=gated.port) as mine:
            held = asyncio.ensure_future(awaited(mine.post("/hold", Document(text="held"))))
            await soon(lambda: (tmp_path / "held.begun").exists())
            posts = [
                asyncio.ensure_future(awaited(mine.post("/", Document(text=str(n)))))
                for n in range(40)
            ]
            await asyncio.sleep(0)
            for each in posts[::2]:
                each.cancel()
            let_go(tmp_path, "held")
            assert (await held).texts == ["held"]
            assert [(await each).texts for each in posts[1::2]] == [
                [str(number)] for number in range(1, 40, 2)
            ]
            assert (await mine.info())["requests"] == 0

    asyncio.run(main())


def test_a_fan_out_that_is_given_up_is_not_begun_by_those_that_have_not(tmp_path: Path) -> None:
    until = tmp_path / "until"

    async def main(port: int) -> None:
        async with AsyncClient(port=port) as mine, AsyncClient(port=port) as other:
            await mine.info()  # it is connected, so that what is posted first is sent first
            posts = [
                asyncio.ensure_future(
                    awaited(mine.post("/hold", Document(), {"until": f"{until}{n}"}))
                )
                for n in range(30)
            ]
            await soon(lambda: Path(f"{until}0.begun").exists())
            while (await other.info())["requests"] != 30:
                await asyncio.sleep(0.005)
            for each in posts:
                each.cancel()
            while (await other.info())["requests"]:
                await asyncio.sleep(0.005)
            for number in range(30):
                Path(f"{until}{number}").touch()
            assert len(await other.post("/hold", Document(), {"until": f"{until}0"})) == 1

    with Flow(timeout_close=2000).add(name="e", uses=Sharded, shards=2, polling="ALL") as flow:
        asyncio.run(asyncio.wait_for(main(flow.port or 0), PATIENCE))
    # What is taken back may come a moment too late for the next one.
    assert len(list(tmp_path.glob("*.begun"))) < 5
