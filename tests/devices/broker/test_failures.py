"""What the broker itself says: why a request was given up, what became of shards,
and names for people.
"""

from __future__ import annotations

import tracemalloc
from typing import Any

import msgpack
import pytest
import zmq

from zflow.devices.balancing.actions import Fail
from zflow.devices.balancing.replica import Replica, Task
from zflow.devices.broker import failures
from zflow.devices.protocol.messages import MAX_HEADER
from zflow.devices.routing.fanout import Scatter
from zflow.devices.routing.pool import Limits, Pool
from zflow.devices.routing.walk import Node, Walk

HELD = b"work/rep-0#41"


def pool(limits: Limits | None = None, **node: Any) -> Pool:
    return Pool(0, Node("work", **node), 1, limits or Limits())


def task(walk: Walk | None = None, deadline: float = 9.0) -> Task:
    return Task(7, (walk or Walk("origin", "/"), [("", [[b"payload"]])]), deadline)


def said(pool: Pool, fail: Fail) -> tuple[str, str]:
    """The type of the error and its text."""
    error = msgpack.unpackb(failures.why(pool, fail))
    assert set(error) == {"type", "message"}
    return error["type"], error["message"]


def test_a_crash_names_each_replica_that_died_with_the_request_and_how() -> None:
    crashed = task()
    crashed.crashes = 2
    crashed.deaths = ((HELD, "SIGKILL"), (b"work/rep-1#42", "exit status 3"))
    assert said(pool(), Fail(crashed, "crashed")) == (
        "ReplicaCrashed",
        "2 replica(s) of Executor 'work' died while they had this request: work/rep-0 (SIGKILL), "
        "work/rep-1 (exit"
        " status 3); it is not tried again (retries=1)",
    )


def test_of_an_executor_with_shards_the_shard_is_named() -> None:
    part = Task(8, Scatter(7, 2, (Walk("origin", "/"), [])), shard=1)
    part.crashes, part.deaths = 1, ((b"work/shard-1/rep-0#41", "SIGSEGV"),)
    _, message = said(pool(shards=2), Fail(part, "crashed"))
    assert "Executor 'work/shard-1' died" in message
    assert "work/shard-1/rep-0 (SIGSEGV)" in message


def test_what_may_have_been_begun_before_the_broker_died() -> None:
    kind, message = said(pool(), Fail(task(), "again"))
    assert kind == "ReplicaCrashed"
    assert "Executor 'work' may have begun this request before the broker died" in message


def test_overload_names_the_limit_that_was_reached() -> None:
    full = pool(Limits(queue=0, queue_bytes=100))
    assert said(full, Fail(task(), "overloaded")) == (
        "Overloaded",
        "0 requests wait for Executor 'work', and no more are taken (max_queue=0); post again "
        "later, or with"
        " on_overload='wait'",
    )
    assert (
        "(max_queue_bytes=100)"
        in said(pool(Limits(queue_bytes=100)), Fail(task(), "overloaded"))[1]
    )
    assert (
        "(max_queue_bytes=100)"
        in said(pool(Limits(queue=5, queue_bytes=100)), Fail(task(), "overloaded"))[1]
    )


def test_a_replica_that_overran_is_named_with_the_limit() -> None:
    assert said(pool(Limits(run=0.5)), Fail(task(), "overran", HELD, 0.7531)) == (
        "DeadlineExceeded",
        "work/rep-0 was at this request for 0.753 s, over timeout_run=500 ms; it is started anew",
    )


def test_addresses_none_of_which_answers_are_named() -> None:
    far = pool(addresses=("tcp://a:1", "tcp://b:2"))
    assert said(far, Fail(task(), "unreachable")) == (
        "FlowUnreachable",
        "none of the addresses of external Executor 'work' answers: tcp://a:1, tcp://b:2; are they "
        "running?",
    )


@pytest.mark.parametrize(
    ("held_by", "begun", "where"),
    [
        (None, True, "it was queued for Executor 'work' for 1.5 s"),
        (HELD, True, "it was running in work/rep-0 for 1.5 s"),
        (HELD, False, "it was waiting at work/rep-0 for 1.5 s"),
    ],
)
def test_a_deadline_says_where_the_request_was(
    held_by: bytes | None, begun: bool, where: str
) -> None:
    limited = pool(Limits(timeout=2.0))
    kind, message = said(limited, Fail(task(), "expired", held_by, 1.5, begun))
    assert (kind, message) == (
        "DeadlineExceeded",
        f"Executor 'work' did not answer within timeout_send=2000 ms; {where}",
    )


def test_the_deadline_that_came_first_is_named() -> None:
    walk = Walk("origin", "/", timeout=0.25)
    walk.deadline = 9.0
    limited = pool(Limits(timeout=2.0))
    assert (
        "not answered within timeout=250 ms" in said(limited, Fail(task(walk, 9.0), "expired"))[1]
    )
    assert "within timeout_send=2000 ms" in said(limited, Fail(task(walk, 8.0), "expired"))[1]


def test_a_deadline_at_addresses_that_do_not_answer_says_so() -> None:
    far = pool(Limits(timeout=2.0), addresses=("tcp://a:1",))
    assert "none of the addresses" in said(far, Fail(task(), "expired"))[1]
    far.join(Replica(b"work@a:1"), 0, 0.0)
    assert "none of the addresses" not in said(far, Fail(task(), "expired"))[1]


def test_the_note_on_shards_counts_those_that_failed_and_tells_why() -> None:
    errors = {
        2: failures.error("ExecutorError", "broken"),
        0: b"\xc1",
        1: msgpack.packb({"message": "x" * 5000}),
    }
    assert failures.shards_note(pool(shards=4), errors) == {
        "shards": 4,
        "succeeded": 1,
        "failed": {"0": "its error cannot be read", "1": "x" * 1000, "2": "broken"},
    }


@pytest.mark.parametrize(
    ("identity", "name"),
    [
        (b"encoder/rep-0#41", "encoder/rep-0"),
        (b"encoder/shard-1/rep-0@host#41-0a1b2c3d", "encoder/shard-1/rep-0@host"),
        (b"\xff", "\ufffd"),
    ],
)
def test_names_for_people(identity: bytes, name: str) -> None:
    assert failures.name_of(identity) == name


def test_the_frames_of_a_task_are_its_payload_or_parts() -> None:
    walk = Walk("origin", "/")
    assert failures.task_frames(Task(1, (walk, [("", [[b"a", b"b"]])]))) == (
        walk,
        None,
        [b"a", b"b"],
    )
    joined = [("left", [[b"a"]]), ("right", [[b"bc"]])]
    assert failures.task_frames(Task(1, (walk, joined))) == (
        walk,
        [["left", [-1]], ["right", [-2]]],
        [b"abc"],
    )
    assert failures.task_frames(Task(1, Scatter(1, 2, (walk, joined))))[0] is walk


def test_a_name_from_elsewhere_is_one_line_and_moves_no_cursor() -> None:
    forged = b"rep-0\n2026-01-01 ERROR all is lost\x1b[2J\xff#1"
    assert failures.name_of(forged) == r"rep-0\n2026-01-01 ERROR all is lost\x1b[2J\ufffd"
    assert failures.name_of("grün/rep-0#1".encode()) == "grün/rep-0"
    assert len(failures.name_of(b"x" * 10_000)) == failures.LONGEST_SHOWN


# -- errors from elsewhere -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("packed", "told"),
    [
        ({"type": "BadRequest", "message": "why"}, {"type": "BadRequest", "message": "why"}),
        ({"type": 7, "failed": [[1, "a"]], "message": "why"}, {"message": "why"}),
        ({"type": "BadRequest", "message": ["why"]}, {"type": "BadRequest"}),
        ({"message": "x" * 500_000, "docs": bytes(3 << 20)}, {"message": "x" * 500_000}),
        (["message", "why"], {}),
        ("why", {}),
    ],
)
def test_what_an_error_is(packed: Any, told: dict[str, str]) -> None:
    for frame in (msgpack.packb(packed), memoryview(msgpack.packb(packed))):
        assert failures.told(frame) == told
    assert failures.told(zmq.Frame(msgpack.packb(packed))) == told


@pytest.mark.parametrize("packed", [b"", b"\xc1", b"\x82\xa7message", b"\xdf\xff\xff\xff\xff\x80"])
def test_what_is_none(packed: bytes) -> None:
    assert failures.told(packed) == {}


@pytest.mark.parametrize("name", ["message", "failed"])
def test_to_look_at_one_takes_little_memory_whatever_is_in_it(name: str) -> None:
    empty = msgpack.Packer().pack_array_header(4_000_000) + b"\x80" * 4_000_000
    packed = b"\x81" + msgpack.packb(name) + empty
    tracemalloc.start()
    try:
        assert failures.told(packed) == {}
        assert tracemalloc.get_traced_memory()[1] < len(packed)
    finally:
        tracemalloc.stop()


# -- notes -----------------------------------------------------------------------------------------


def notes(shards: int, length: int) -> dict[str, Any]:
    failed = {str(shard): "\u20ac" * length for shard in range(shards)}
    return {"index": {"shards": shards + 1, "succeeded": 1, "failed": failed}}


@pytest.mark.parametrize(
    ("shards", "length", "left"), [(3, 1000, 1000), (30, 1000, 300), (300, 1000, 30)]
)
def test_what_is_said_of_many_shards_is_cut_until_a_header_holds_it(
    shards: int, length: int, left: int
) -> None:
    fitting = failures.fitting(notes(shards, length))
    assert fitting == notes(shards, left)
    assert len(msgpack.packb(fitting)) < MAX_HEADER / 2


def test_how_many_have_failed_is_said_if_there_is_no_room_for_which() -> None:
    assert failures.fitting(notes(30_000, 1000)) == {
        "index": {"shards": 30_001, "succeeded": 1, "failed": {}}
    }


def test_names_that_no_header_holds_are_left_out() -> None:
    wide = {"\u20ac" * 30_000: {"shards": 2, "succeeded": 1, "failed": {}}}
    assert failures.fitting(wide) == {}
