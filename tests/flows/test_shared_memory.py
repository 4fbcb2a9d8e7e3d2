"""Arrays through shared memory: what is sent is what arrives, whoever shares it;
and the memory comes back.
"""

from __future__ import annotations

import asyncio
import os
import struct
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import psutil
import pytest
from helpers import (
    PATIENCE,
    Gate,
    Script,
    Work,
    awaited,
    begun,
    in_background,
    joined,
    let_go,
    soon,
    wait_for,
)
from peers import PAYLOAD, back, dealer, front, header, malformed, request, said
from sharing import (
    SIZE,
    Add,
    Shard,
    arrays,
    comes_back,
    no_file,
    resident,
    right,
    the_client_keeps_nothing,
)

from zflow import (
    AsyncClient,
    Client,
    Document,
    DocumentArray,
    Executor,
    Flow,
    Response,
    errors,
    requests,
)
from zflow.devices.local import arena
from zflow.devices.protocol import bundles
from zflow.devices.protocol.messages import (
    BUNDLE,
    MEMBER,
    TO_CLIENT,
    VERSION,
    Done,
    Hello,
    Message,
    Welcome,
)
from zflow.devices.protocol.references import Reference, references
from zflow.system import process

CANARY = b"what another tenant has got"

__all__ = ["no_file", "the_client_keeps_nothing"]  # fixtures


class Later(Executor):
    """The same as Add, on an event loop."""

    @requests
    async def add(self, docs: DocumentArray, **kwargs: Any) -> None:
        await asyncio.sleep(0.001)
        for doc in docs:
            doc.tensor += 1.0


@pytest.fixture(scope="module")
def flow() -> Iterator[Flow]:
    with Flow().add(name="add", uses=Add, replicas=2) as running:
        yield running


# -- what is sent is what arrives ------------------------------------------------------------------


def test_arrays_there_and_back(flow: Flow) -> None:
    before = resident(flow)
    seen = []
    results = flow.post("/", arrays(50), request_size=1, return_responses=True)
    flow.post("/", arrays(3), request_size=1, on_done=lambda _: seen.append(resident(flow)))
    assert right(DocumentArray(response.docs[0] for response in results), 50)
    assert max(seen) > before
    comes_back(flow)


def test_what_was_received_is_the_users_own_and_can_be_changed(flow: Flow) -> None:
    kept = flow.post("/", arrays(20), request_size=1)
    for doc in kept:
        doc.tensor *= 2
    assert right(flow.post("/", arrays(20), request_size=1), 20)
    assert all(bool((doc.tensor == 2 * (at + 1.0)).all()) for at, doc in enumerate(kept))


def test_the_users_arrays_may_change_as_soon_as_they_are_asked_for_the_next(flow: Flow) -> None:
    array = np.zeros(SIZE)

    def generator() -> Iterator[Document]:
        for number in range(30):
            array[:] = number
            yield Document(tensor=array)

    assert right(flow.post("/", generator(), request_size=1, prefetch=10), 30)


@pytest.mark.parametrize("size", [1, SIZE // 2, arena.HUGE // 8 + 1])
def test_arrays_of_any_size_and_several_in_one_request(flow: Flow, size: int) -> None:
    assert right(flow.post("/", arrays(7, size), request_size=3), 7)
    blob = os.urandom(3 * arena.SHARED_FROM)
    docs = [
        Document(
            blob=blob, tensor=np.zeros(2), chunks=[Document(embedding=np.ones(SIZE), blob=blob)]
        )
    ]
    (doc,) = flow.post("/", docs)
    assert doc.blob == doc.chunks[0].blob == blob
    assert doc.chunks[0].embedding.sum() == SIZE


def test_threads(flow: Flow) -> None:
    posting = [
        in_background(flow.post, "/", arrays(30), request_size=2, prefetch=5) for _ in range(4)
    ]
    assert all(right(future.result(PATIENCE), 30) for future in posting)
    comes_back(flow)


def test_without_room_payloads_travel_as_frames() -> None:
    with Flow(shared_memory=8 * SIZE).add(uses=Add) as flow:
        assert right(flow.post("/", arrays(40), request_size=1), 40)
        comes_back(flow)


def test_a_graph_of_branches_that_some_requests_pass_by() -> None:
    class Other(Executor):
        @requests(on="/other")
        def other(self, docs: DocumentArray, **kwargs: Any) -> None:
            for doc in docs:
                doc.embedding = doc.tensor * 2

    flow = (
        Flow()
        .add(name="first", uses=Add)
        .add(name="left", uses=Other)
        .add(name="right", needs="first", uses=Other)
    )
    with flow.needs(["left", "right"], name="joined") as flow:
        assert right(flow.post("/", arrays(10), request_size=1), 10)
        found = flow.post("/other", arrays(10), request_size=1)
        assert all(bool((doc.embedding == 2 * (at + 1.0)).all()) for at, doc in enumerate(found))
        comes_back(flow)


def test_an_executor_that_nobody_visits_gives_back_what_was_sent() -> None:
    with Flow(unknown_endpoints="pass").add(uses=Shard) as flow:
        assert right(flow.post("/nobody", arrays(10), request_size=1), 10, more=0.0)
        comes_back(flow)


def test_a_request_that_is_refused_gives_back_what_was_sent() -> None:
    with Flow().add(uses=Shard) as flow:
        with pytest.raises(errors.BadRequest, match="no Executor binds '/nobody'"):
            flow.post("/nobody", arrays(10), request_size=1)
        comes_back(flow)


def test_what_one_shard_changes_no_other_sees() -> None:
    with Flow().add(uses=Shard, shards=3, replicas=2) as flow:
        for _ in range(3):
            for at, doc in enumerate(flow.post("/search", arrays(10), request_size=1)):
                assert sorted(float(match.tensor[0]) - at for match in doc.matches) == [
                    10.0,
                    100.0,
                    1000.0,
                ]
        comes_back(flow)


def test_async_executors() -> None:
    with Flow().add(uses=Later) as flow:
        assert right(flow.post("/", arrays(60), request_size=1), 60)
        comes_back(flow)


def test_a_fresh_interpreter() -> None:
    with Flow(start_method="spawn").add(uses=Add) as flow:
        assert right(flow.post("/", arrays(20), request_size=1), 20)
        assert resident(flow)
        comes_back(flow)


# -- from asyncio ----------------------------------------------------------------------------------


def on_a_loop(flow: Flow, body: Callable[[AsyncClient], Awaitable[Any]]) -> Any:
    """What `body` returns, with a client of the Flow's own on an event loop."""

    async def main() -> Any:
        async with flow.async_client() as client:
            return await asyncio.wait_for(body(client), PATIENCE)

    return asyncio.run(main())


def test_an_async_client_of_the_flow_shares_it_as_the_flow_does(flow: Flow) -> None:
    async def body(client: AsyncClient) -> None:
        before, most = resident(flow), 0
        posts = [
            asyncio.ensure_future(awaited(client.post("/", arrays(20), request_size=1)))
            for _ in range(5)
        ]
        async for docs in client.post("/", arrays(20), request_size=1):
            most = max(most, resident(flow))
            assert len(docs) == 1
        assert most > before
        for post in posts:
            assert right(await post, 20)
        with pytest.raises(errors.ExecutorError):
            await client.post("/fail", arrays(20), request_size=1)
        async for _ in client.post("/", arrays(50), request_size=1):
            break

    on_a_loop(flow, body)
    comes_back(flow)


def test_the_arrays_of_an_async_generator_may_change_as_soon_as_it_is_asked_for_the_next(
    flow: Flow,
) -> None:
    array = np.zeros(SIZE)

    async def documents() -> AsyncIterator[Document]:
        for number in range(30):
            array[:] = number
            yield Document(tensor=array)

    assert right(
        on_a_loop(flow, lambda client: awaited(client.post("/", documents(), request_size=1))), 30
    )


def test_an_async_client_elsewhere_gets_frames(flow: Flow) -> None:
    async def main() -> None:
        async with AsyncClient(port=flow.port) as client:
            before = resident(flow)
            assert right(
                await client.post("/", arrays(20), request_size=1, target_executor="none|add"), 20
            )
            assert before <= resident(flow)

    asyncio.run(main())
    comes_back(flow)


def test_an_async_post_that_is_cancelled_gives_its_memory_back(tmp_path: Path) -> None:
    async def body(client: AsyncClient) -> None:
        docs = arrays(3)
        posting = asyncio.ensure_future(awaited(client.post("/hold", docs, request_size=1)))
        await soon(lambda: (tmp_path / "0.begun").exists())
        posting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await posting
        let_go(tmp_path, *docs.texts)

    with Flow().add(uses=Gate, uses_with={"folder": str(tmp_path)}) as flow:
        on_a_loop(flow, body)
        comes_back(flow)


def test_a_fork_does_not_write_to_the_memory_of_the_process_that_started_the_flow(
    flow: Flow,
) -> None:
    client = flow.async_client()

    async def post() -> bool:
        return right(await client.post("/", arrays(20), request_size=1), 20)

    assert asyncio.run(post())
    assert flow._launched is not None
    assert flow._launched.sharing.descriptor is not None
    region = arena.Arena(flow._launched.sharing.descriptor)._window(arena.CLIENT, 0).words
    before = bytes(region[: 8 * 64])

    def forked() -> int:
        return (
            0
            if asyncio.run(post()) and asyncio.run(post()) and bytes(region[: 8 * 64]) == before
            else 1
        )

    pid = process.fork(forked)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert bytes(region[: 8 * 64]) == before
    assert asyncio.run(post())
    asyncio.run(client.close())
    comes_back(flow)


# -- who does not share it -------------------------------------------------------------------------


def test_clients_of_other_processes_and_over_tcp_get_frames(flow: Flow) -> None:
    with Client(port=flow.port) as other:
        assert right(other.post("/", arrays(20), request_size=1), 20)
    reader, writer = os.pipe()

    def post() -> int:
        os.write(
            writer, b"right" if right(flow.post("/", arrays(20), request_size=1), 20) else b"wrong"
        )
        return 0

    os.waitpid(process.fork(post), 0)
    assert os.read(reader, 10) == b"right"
    for end in (reader, writer):
        os.close(end)
    comes_back(flow)


#: References as they travel, and as they did when their content told what they were.
FORMS = [
    lambda block: block.pack(),
    lambda block: struct.pack("<8sIIQQQ", b"\xc1zflow\0\1", *astuple(block)),
]


@pytest.mark.parametrize("form", FORMS)
def test_nothing_that_comes_over_tcp_is_a_reference(form: Any) -> None:
    """In no form: as a frame, in a header or a bundle, put together from parts,
    and with what only members may say.
    """
    with Flow().add(name="add", uses=Add) as flow:
        assert flow._launched is not None
        assert flow._launched.sharing.descriptor is not None
        victim = arena.Arena(flow._launched.sharing.descriptor, region=99, limit=2**20)
        live = references(victim.share([b"", CANARY * 1000]))[0]
        never_used = Reference(region=1, slot=7, offset=2**29, length=2**28, generation=2**63)
        forged = [form(live), form(replace(live, length=20_000)), form(never_used)]
        # Which no slot that was never used has had.
        reference = struct.pack("<IIQQQ", 1, 7, 2**29, 2**28, 0)
        for block in (*forged, reference):
            attacks = [
                [request(), PAYLOAD, block],
                [request(), block],
                [request(parts=[["x", [1, 1]]]), PAYLOAD, block],
                [request(parts=[["gateway", [-len(block), -len(block)]]]), block + block],
                [request(parts=[["gateway", [-len(PAYLOAD), -len(block)]]]), PAYLOAD + block],
                [request(payload=b"\2"), PAYLOAD, block],
                [request(payload=[block])],
                [request(docs=[1, 1], payload=[PAYLOAD, block])],
                [header(VERSION, BUNDLE, [[msgpack.unpackb(request()), PAYLOAD, block]] * 2)],
                [
                    header(
                        VERSION,
                        BUNDLE,
                        [[msgpack.unpackb(request(payload=b"\2")), PAYLOAD, block]] * 2,
                    )
                ],
            ]
            before = resident(flow)
            with dealer(front(flow), identity=b"\x02" + os.urandom(15)) as stranger:
                for frames in attacks:
                    stranger.send_multipart(frames)
                stranger.send_multipart(said(Hello(77)))
                heard: list[Message] = []
                while Welcome not in map(type, heard) or len(heard) < 2:
                    frames = stranger.recv_multipart()
                    assert CANARY not in b"".join(frames)
                    heard += bundles.read(frames, 0, TO_CLIENT)
            assert right(flow.post("/", arrays(5)), 5)
            wait_for(
                lambda before=before: resident(flow) <= before + 2**16, what="no memory was made"
            )  # type: ignore[misc]
        assert victim.holds([live]), "nor is anybody's freed"


def test_a_member_may_refer_to_its_own_region_only(flow: Flow) -> None:
    assert flow._launched is not None
    assert flow._launched.sharing.descriptor is not None
    other = arena.Arena(flow._launched.sharing.descriptor, region=98, limit=2**20)
    live = references(other.share([b"", CANARY * 1000]))[0]
    before = malformed(flow)
    with dealer(back().removesuffix("back") + "front", identity=MEMBER + os.urandom(15)) as member:
        member.send_multipart([request(payload=b"\2"), PAYLOAD, live.pack()])
        wait_for(lambda: malformed(flow) != before)
    assert malformed(flow)["a request whose memory is gone"] == 1
    assert other.holds([live])


def test_what_a_replica_sends_that_is_in_no_pool_is_freed(flow: Flow) -> None:
    assert flow._launched is not None
    assert flow._launched.sharing.descriptor is not None
    memory = arena.Arena(flow._launched.sharing.descriptor, region=99, limit=2**20)
    payload = memory.share([PAYLOAD, bytes(SIZE)])
    with dealer(back(), identity=b"add/rep-7#%d" % os.getpid()) as unknown:
        unknown.send_multipart(said(Done(7, 1, [1], payload)))
        wait_for(lambda: not memory.holds(references(payload)), what="the block is free")
    assert memory.reclaim(99)


def test_other_flows_and_replicas_of_other_machines_get_frames(tmp_path: Path) -> None:
    with (
        Flow(replica_port=0).add(name="work", uses=Work) as far,
        joined(far, tmp_path),
        Flow().add(name="far", external=True, port=far.port).add(uses=Add) as near,
    ):
        found = near.post("/", arrays(100), request_size=1)
        assert right(found, 100)
        assert len({doc.tags["by"] for doc in found}) == 2
        assert right(far.post("/", arrays(100), request_size=1), 100, more=0.0)
        comes_back(near)
        comes_back(far)


# -- limits ----------------------------------------------------------------------------------------


def test_limits_count_what_the_references_stand_for(tmp_path: Path) -> None:
    with Flow(max_message_bytes=16 * SIZE).add(
        uses=Gate, uses_with={"folder": str(tmp_path)}, max_queue_bytes=9 * SIZE
    ) as flow:
        with pytest.raises(errors.RequestTooLarge):
            flow.post("/", arrays(3), request_size=3)
        held = in_background(flow.post, "/hold", Document(text="held"))
        begun(tmp_path, "held")
        refused: list[Response] = []
        filling = in_background(flow.post, "/", arrays(30), request_size=1, on_error=refused.append)
        wait_for(lambda: Client(port=flow.port).info()["executors"]["executor0"]["queued"] == 1)
        with pytest.raises(errors.Overloaded, match="max_queue_bytes"):
            flow.post("/", arrays(1))
        let_go(tmp_path, "held")
        held.result(PATIENCE)
        filling.result(PATIENCE)
        assert refused
        assert len(flow.post("/", arrays(3), request_size=1, on_overload="wait")) == 3
        comes_back(flow)


# -- requests that end otherwise -------------------------------------------------------------------


def test_failures_give_their_memory_back(flow: Flow) -> None:
    failed: list[Any] = []
    flow.post("/fail", arrays(20), request_size=1, on_error=failed.append)
    assert len(failed) == 20
    comes_back(flow)


def test_a_post_that_is_given_up_gives_its_memory_back(flow: Flow) -> None:
    def give_up(_: Any) -> None:
        raise KeyboardInterrupt

    for _ in range(5):
        with pytest.raises(KeyboardInterrupt):
            flow.post("/", arrays(50), request_size=1, on_done=give_up)
    comes_back(flow)


def test_requests_that_are_late_give_their_memory_back(tmp_path: Path) -> None:
    with Flow().add(uses=Gate, uses_with={"folder": str(tmp_path)}) as flow:
        late: list[Any] = []
        docs = arrays(3)
        flow.post("/hold", docs, request_size=1, timeout=50, on_error=late.append)
        assert [type(response.error) for response in late] == [errors.DeadlineExceeded] * 3
        let_go(tmp_path, *docs.texts)
        assert len(flow.post("/", arrays(3))) == 3
        comes_back(flow)


# -- whether there is any --------------------------------------------------------------------------


def test_a_flow_may_say_how_much() -> None:
    with Flow(shared_memory=0).add(uses=Add) as flow:
        assert right(flow.post("/", arrays(5)), 5)
        assert flow._launched is not None
        assert str(flow._launched.sharing) == "payloads by frames: shared_memory=0"
    with Flow(shared_memory=2**28).add(uses=Add) as flow:
        assert right(flow.post("/", arrays(5)), 5)
        assert flow._launched is not None
        assert str(flow._launched.sharing) == "payloads from 16 KiB by shared memory, up to 256 MiB"


@pytest.mark.parametrize("wrong", [-2, 1.5, True, False, "1 GiB"])
def test_how_much_cannot_be(wrong: Any) -> None:
    with pytest.raises(
        errors.InvalidFlow, match="shared_memory must be a number of bytes, 0 for none"
    ):
        Flow(shared_memory=wrong)


def test_a_part_of_the_machines_memory_when_nothing_is_said() -> None:
    with Flow().add(uses=Add) as flow:
        assert flow._launched is not None
        assert 0 < flow._launched.sharing.limit <= psutil.virtual_memory().total // 8 + 1


def test_a_system_that_has_none_sends_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    with Flow().add(uses=Add) as flow:
        assert right(flow.post("/", arrays(10), request_size=1), 10)
        assert flow._launched is not None
        assert str(flow._launched.sharing) == "payloads by frames: this system has no memfd_create"


def test_processes_of_limited_size_send_frames(tmp_path: Path) -> None:
    source = (
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (2 ** 33, 2 ** 33))\nimport numpy "
        "as np\n"
        "from zflow import Document, Flow\nwith Flow().add() as flow:\n    "
        "print(flow._launched.sharing)\n"
        "    print(flow.post('/', Document(tensor=np.ones(10 ** 5)))[0].tensor.sum())\n"
    )
    with Script(source, tmp_path) as script:
        code, out, err = script.end()
    assert (code, out) == (
        0,
        "payloads by frames: the size of processes is limited (ulimit -v)\n100000.0\n",
    ), err


# -- the end ---------------------------------------------------------------------------------------


def test_nothing_is_kept_when_a_flow_is_closed_also_if_others_still_have_its_memory(
    tmp_path: Path,
) -> None:
    first, second = (Flow().add(name="add", uses=Add) for _ in range(2))
    first.start()
    assert first._launched is not None
    assert first._launched.sharing.descriptor is not None
    mine = os.dup(first._launched.sharing.descriptor)
    kept = first.post("/", arrays(20), request_size=1)
    with second:  # its processes have it, too
        before = os.fstat(mine).st_blocks
        first.close()
        assert os.fstat(mine).st_blocks == 0 < before
        assert right(second.post("/", arrays(20), request_size=1), 20)
    assert right(kept, 20)
    os.close(mine)


def test_an_answer_that_is_still_to_be_read_is_not_taken_away(tmp_path: Path) -> None:
    flow = Flow().add(name="gate", uses=Gate, uses_with={"folder": str(tmp_path)}).start()
    assert flow._launched is not None
    assert flow._launched.sharing.descriptor is not None
    mine = os.dup(flow._launched.sharing.descriptor)
    first, closed = threading.Event(), threading.Event()
    sums: list[float] = []

    def read(response: Response) -> None:
        sums.append(float(response.docs[0].tensor.sum()))
        first.set()
        assert closed.wait(PATIENCE)

    let_go(tmp_path, "first")
    inputs = [Document(text=text, tensor=np.ones(SIZE)) for text in ("first", "second")]
    posting = in_background(flow.post, "/hold", inputs, request_size=1, on_done=read)
    assert first.wait(PATIENCE)
    begun(tmp_path, "second")
    let_go(tmp_path, "second")
    flow.close()
    assert os.fstat(mine).st_blocks > 0
    closed.set()
    posting.result(PATIENCE)
    assert sums == [SIZE] * 2
    wait_for(lambda: os.fstat(mine).st_blocks == 0)
    os.close(mine)


def test_an_answer_that_an_async_post_is_still_to_read_is_not_taken_away(tmp_path: Path) -> None:
    flow = Flow().add(name="gate", uses=Gate, uses_with={"folder": str(tmp_path)}).start()
    assert flow._launched is not None
    assert flow._launched.sharing.descriptor is not None
    mine = os.dup(flow._launched.sharing.descriptor)
    let_go(tmp_path, "first", "second")
    inputs = [Document(text=text, tensor=np.ones(SIZE)) for text in ("first", "second")]

    async def main() -> None:
        async with flow.async_client() as client:
            sums = []
            async for docs in client.post("/hold", inputs, request_size=1):
                sums.append(float(docs[0].tensor.sum()))
                if len(sums) == 1:
                    begun(tmp_path, "second")
                    flow.close()
                    assert os.fstat(mine).st_blocks > 0
            assert sums == [SIZE] * 2
            assert os.fstat(mine).st_blocks == 0

    asyncio.run(main())
    os.close(mine)
