"""What the broker itself says: errors, names for people, and payloads put into one message.
Pure functions.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgpack

from zflow.devices.balancing.actions import Fail
from zflow.devices.balancing.replica import Task
from zflow.devices.protocol.messages import Note, Parts
from zflow.devices.protocol.parts import Inputs, flat
from zflow.devices.protocol.references import Frame, Payload
from zflow.devices.routing.pool import Pool, request_of
from zflow.devices.routing.walk import Walk

MOST_PAYLOADS = 8192  # that meet: a header has some 3 bytes for each
LONGEST_NOTES = 32 * 1024  # bytes of what a client is told besides a result
LOOKED_AT = 1 << 20  # bytes of an error from elsewhere: what it is stands in front
MOST_LOOKED_AT = 16  # fields of it
LONGEST_SHOWN = 200  # characters of a text from elsewhere


def task_frames(task: Task) -> tuple[Walk, Parts | None, Payload]:
    """Return a task's walk, and its inputs as `flat` gives them."""
    walk, inputs = request_of(task)
    return walk, *flat(inputs)


def name_of(identity: bytes) -> str:
    """A replica's name, for people: `encoder/rep-0`. What could not be part of one is escaped:
    it goes into logs.
    """
    return shown(identity.decode(errors="replace").split("#")[0])


def shown(text: str) -> str:
    """Return a text from elsewhere as it may be logged: short, in one line,
    with nothing that moves a cursor.
    """
    text = text[:LONGEST_SHOWN]
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def error(type: str, message: str) -> bytes:
    """An error as a payload; `type` names a class of `zflow.errors`."""
    return msgpack.packb({"type": type, "message": message})  # type: ignore[no-any-return]


def why(pool: Pool, fail: Fail) -> bytes:
    """Why a task was given up, as an error."""
    name = pool.node.name
    if fail.task.shard is not None and pool.fanout is not None:
        name = f"{name}/shard-{fail.task.shard}"
    held_by = name_of(fail.held_by) if fail.held_by is not None else None
    if fail.reason == "crashed":
        deaths = ", ".join(f"{name_of(replica)} ({how})" for replica, how in fail.task.deaths)
        return error(
            "ReplicaCrashed",
            f"{fail.task.crashes} replica(s) of Executor {name!r} died while they had this "
            f"request: {deaths};"
            f" it is not tried again (retries={pool.balancer.retries})",
        )
    if fail.reason == "again":
        return error(
            "ReplicaCrashed",
            f"Executor {name!r} may have begun this request before the broker died; it is not "
            "begun again (retries=0)",
        )
    if fail.reason == "unbound":
        endpoint = request_of(fail.task)[0].endpoint
        return error(
            "ReplicaCrashed",
            f"the last replica of Executor {name!r} that bound {endpoint!r:.200} has ended before "
            "it had this request;"
            " those that are there now do not bind it",
        )
    if fail.reason == "overloaded":
        limits = pool.limits
        most = (
            f"max_queue={limits.queue}"
            if limits.queue is not None and pool.waiting >= limits.queue
            else None
        )
        return error(
            "Overloaded",
            f"{pool.waiting} requests wait for Executor {name!r}, and no more are taken"
            f" ({most or f'max_queue_bytes={limits.queue_bytes}'}); post again later, or with "
            "on_overload='wait'",
        )
    if fail.reason == "overran":
        limit = round((pool.limits.run or 0.0) * 1000)
        return error(
            "DeadlineExceeded",
            f"{held_by} was at this request for {fail.seconds:.3g} s, over timeout_run={limit} ms; "
            "it is started anew",
        )
    nobody = (
        f"none of the addresses of external Executor {name!r} answers: "
        f"{', '.join(pool.node.addresses)}"
    )
    if fail.reason == "unreachable":
        return error("FlowUnreachable", f"{nobody}; are they running?")
    walk, _ = request_of(fail.task)
    at = "running in" if fail.begun else "waiting at"
    place = f"{at} {held_by}" if held_by else f"queued for Executor {name!r}"
    where = f"it was {place} for {fail.seconds:.3g} s"
    if not held_by and pool.node.addresses and not pool.balancer.replicas:
        where = f"{where}; {nobody}"
    if walk.timeout is not None and walk.deadline <= fail.task.deadline:
        return error(
            "DeadlineExceeded", f"not answered within timeout={walk.timeout * 1000:.0f} ms; {where}"
        )
    limit = round((pool.timeout or 0.0) * 1000)
    return error(
        "DeadlineExceeded",
        f"Executor {name!r} did not answer within timeout_send={limit} ms; {where}",
    )


def too_much(inputs: Inputs) -> bytes | None:
    """Why a request is given up where so many payloads meet that no header can tell of all of
    them.
    """
    count = len(inputs[0][1]) if len(inputs) == 1 else sum(len(payloads) for _, payloads in inputs)
    if count <= MOST_PAYLOADS:
        return None
    return error(
        "BadRequest",
        f"{count} payloads meet in this request, and there may be {MOST_PAYLOADS} of them",
    )


def shards_note(pool: Pool, errors: Mapping[int, Frame]) -> Note:
    """What the client is told of an ALL request of which some shards have failed."""
    shards = pool.node.shards
    failed = {str(shard): _message(packed) for shard, packed in sorted(errors.items())}
    return {"shards": shards, "succeeded": shards - len(failed), "failed": failed}


def fitting(notes: dict[str, Note]) -> dict[str, Note]:
    """Return what the client is told of shards that have failed as a header can hold it:
    texts cut, or left out.
    """
    for longest in (300, 30, 0):
        if len(msgpack.packb(notes)) <= LONGEST_NOTES:
            return notes
        notes = {name: _cut(note, longest) for name, note in notes.items()}
    return notes if len(msgpack.packb(notes)) <= LONGEST_NOTES else {}


def _cut(note: Note, longest: int) -> Note:
    failed = note["failed"].items() if longest else ()
    return {**note, "failed": {shard: message[:longest] for shard, message in failed}}


def told(packed: Frame) -> dict[str, str]:
    """Return the `type` and the `message` of an error from elsewhere, those that are texts.

    Nothing else of it is made objects: a few bytes can be lists that take 50 times their size.

    >>> told(msgpack.packb({"type": "BadRequest", "failed": [[1, "a"]], "message": "why"}))
    {'type': 'BadRequest', 'message': 'why'}
    """
    found: dict[str, str] = {}
    buffer = packed if isinstance(packed, (bytes, bytearray, memoryview)) else packed.buffer
    unpacker = msgpack.Unpacker(unicode_errors="replace", max_array_len=0, max_map_len=0)
    unpacker.feed(memoryview(buffer)[:LOOKED_AT])
    try:
        for _ in range(min(unpacker.read_map_header(), MOST_LOOKED_AT)):
            name = unpacker.unpack()
            if name not in ("type", "message"):
                unpacker.skip()
            elif type(text := unpacker.unpack()) is str:
                found[name] = text
    except Exception:  # it is no error, or ends too soon
        return found
    return found


def _message(packed: Frame) -> str:
    """The text of an error that a replica has sent."""
    return told(packed).get("message", "its error cannot be read")[:1000]
