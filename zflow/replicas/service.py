"""A replica's Executor between requests and answers: what it is called with,
what becomes of results and errors.

It knows no sockets and no loop: the worker hands assignments in and sends the answers."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

import msgpack

from zflow import errors
from zflow.devices.local.arena import Arena
from zflow.devices.protocol.messages import Malformed
from zflow.devices.protocol.parts import MEETS, is_single, split
from zflow.documents import codec
from zflow.documents.document import DocumentArray
from zflow.documents.merging import changed, gather, reduce
from zflow.documents.values import Parameters
from zflow.documents.writes import Writes
from zflow.executors import uses
from zflow.executors.each import SomeFailed
from zflow.executors.executor import Executor, instantiate, rooted
from zflow.executors.handlers import DEFAULT, handlers, method_of
from zflow.replicas import randomness
from zflow.replicas.call import RESULTS, Call, Miscounted, alike, join, share
from zflow.replicas.link import Answer, Assignment
from zflow.replicas.parameters import may_differ
from zflow.replicas.seat import Seat
from zflow.system import process

if TYPE_CHECKING:
    import asyncio


BRIEF = 5e-3  # seconds; answers wait only for requests of a kind that took no longer lately
log = logging.getLogger("zflow.worker")

ASYNC_SLOTS = 32  # requests that a replica with async endpoints has under way at once
LONGEST_MESSAGE = 10_000  # characters of an exception's text
LONGEST_TRACEBACK = 64_000  # characters
# That one call is made for; without calls, they are still to be decoded.
Job = tuple[list[Assignment], list[Call]]


class Working(NamedTuple):
    """Tasks that share a call: their own calls, how many Documents each has,
    and the call that is made for all.
    """

    tasks: list[Assignment]
    calls: list[Call]
    counts: list[int]
    made: Call


def _working_directory() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was removed: then only a relative workspace is in trouble
        return ""


class Service:
    """An Executor with its endpoints, between decoded and encoded requests.

    Raises whatever loading or constructing the Executor raises.
    """

    def __init__(self, seat: Seat, memory: Arena | None = None) -> None:
        spec = seat.spec
        self._memory = memory
        self._pid = os.getpid()
        self.name = seat.name
        self._executor, self._executors = spec.name, frozenset(seat.names)
        self._no_reduce = spec.no_reduce
        self._limit = seat.max_message_bytes
        wanted = (
            None
            if spec.seed is None
            else randomness.derived(spec.seed, seat.shard_id, seat.replica_id)
        )
        seed = randomness.fresh() if wanted is None else wanted
        randomness.begin(seed)
        start = _working_directory()  # modules of the user's may change it
        loaded = uses.load(
            spec.uses,
            uses_with=spec.uses_with,
            uses_metas=spec.uses_metas,
            uses_requests=spec.uses_requests,
            uses_dynamic_batching=spec.uses_dynamic_batching,
            no_reduce=spec.no_reduce,
            py_modules=spec.py_modules,
            folder=spec.folder,
            install_requirements=spec.install_requirements,
            owner=f"executor {spec.name!r}",
        )
        randomness.begin(seed)  # numpy may have come with the Executor
        self.executor: Executor = instantiate(
            loaded.cls,
            uses_with=loaded.uses_with,
            metas=rooted(loaded.metas, start),
            requests=loaded.requests,
            runtime_args={
                "name": seat.name,
                "shard_id": seat.shard_id,
                "shards": spec.shards,
                "replica_id": seat.replica_id,
                "replicas": spec.replicas,
                "workspace": spec.workspace,
                "seed": wanted,
            },
        )
        found = handlers(self.executor, loaded.requests, loaded.batching)
        self._bound = {
            endpoint: (handler, handler.bind(self.executor)) for endpoint, handler in found.items()
        }
        self.endpoints = list(found)
        self.batching = {
            name: handler.batching
            for name, handler in found.items()
            if handler.batching is not None
        }
        self._warned: set[str] = set()  # methods
        self._longest: dict[str, float] = {}  # seconds, by endpoint that is bound
        self.is_async = any(handler.is_async for handler in found.values())
        self.loop: asyncio.AbstractEventLoop | None = None
        self.slots = ASYNC_SLOTS if self.is_async else 1

    def prepare(self, task: Assignment) -> Call:
        """Decode a request, and put its parts together where several branches met.

        Raises:
            Stale: the request has ended meanwhile, and with it what it had in shared memory.
        """
        frames = task.frames
        if self._memory is not None and len(frames) > 1:
            frames = self._memory.fetch(frames)
        handler, function = (
            self._bound.get(task.endpoint) or self._bound.get(DEFAULT) or (None, None)
        )
        if task.parts is None:
            docs, parameters = codec.unpack(frames)
            call = Call(handler, function, docs, parameters, None, None)
            if not parameters or not may_differ(parameters, self._executor):
                return call
            return call.of(self._executor, self._executors)
        try:
            pieces = split(task.parts, frames)
        except Malformed as error:
            raise errors.BadRequest(f"a message cannot be decoded: {error}") from None
        came = None
        if pieces and pieces[-1][0] == MEETS:
            came = pieces = pieces[:-1]
        docs_map, parameters, _ = gather(pieces)
        matrix = list(docs_map.values())
        if not self._no_reduce or (came and is_single(came)):
            call = Call(handler, function, reduce(matrix), parameters, None, None, came)
        else:
            together = DocumentArray(doc for docs in matrix for doc in docs)
            call = Call(handler, function, together, parameters, matrix, docs_map, came)
        return call.of(self._executor, self._executors)

    def jobs(self, tasks: list[Assignment]) -> list[Job]:
        """Put together what one call can be made for. What cannot be decoded is left to fail
        alone.
        """
        if len(tasks) == 1:
            return [(tasks, [])]
        jobs: list[Job] = []
        good, calls = [], []
        for task in tasks:
            try:
                calls.append(self.prepare(task))
                good.append(task)
            except Exception:
                jobs.append(([task], []))
        return jobs + [
            ([good[at] for at in some], [calls[at] for at in some]) for some in alike(calls)
        ]

    def encode(self, call: Call, value: object) -> tuple[Sequence[codec.Frame], int]:
        """Encode what the Executor returned; returns the frames,
        and how many Documents are in them.
        """
        docs, parameters = call.docs, call.parameters if call.own is None else call.carried()
        if value is not None:
            returned = self._checked(call, value)
            if isinstance(returned, dict):
                parameters.setdefault(RESULTS, {})[self.name] = returned
            else:
                docs = returned
        return self._encode(docs, parameters, call), len(docs)

    def begin(self, tasks: list[Assignment], calls: list[Call]) -> Working:
        """Return the call that is to be made for all of them."""
        return Working(tasks, calls, [len(call.docs) for call in calls], join(calls))

    def end(self, working: Working, value: object) -> list[Answer]:
        """Encode what the Executor returned, for each of the tasks that it was called for."""
        tasks, calls, counts, made = working
        if value is not None:
            self._checked(made, value)
        try:
            shares = share(calls, counts, made, value, self.name)
        except Miscounted as error:
            self._warn(made, error)
            raise
        answers = []
        for task, call, (docs, parameters) in zip(tasks, calls, shares, strict=True):
            try:
                answers.append(Answer([task], self._encode(docs, parameters, call), len(docs)))
            except BaseException as error:
                answers.append(self.failure([task], error))
        return answers

    def _checked(self, call: Call, value: object) -> DocumentArray | dict[str, object]:
        if isinstance(value, (DocumentArray, dict)):
            return value
        raise TypeError(
            f"{self._method(call)} returned {type(value).__name__}; "
            "a handler returns a DocumentArray, a dict, or None to keep the docs as it changed them"
        )

    def _method(self, call: Call) -> str:
        return f"{type(self.executor).__name__}.{call.handler.method if call.handler else '?'}"

    def _encode(
        self, docs: DocumentArray, parameters: Parameters, call: Call
    ) -> Sequence[codec.Frame]:
        writes = None if call.pieces is None else changed(call.pieces, call.docs, docs, parameters)
        return self._pack(docs, parameters, writes)

    def _pack(
        self, docs: DocumentArray, parameters: Parameters, writes: Writes | None = None
    ) -> Sequence[codec.Frame]:
        frames = codec.pack(docs, parameters, writes)
        size = sum(map(len, frames))
        if size > self._limit:
            raise errors.RequestTooLarge(
                f"the result of {self.name} has {size} bytes, over the limit of {self._limit} "
                "(max_message_bytes);"
                f" the largest is {codec.largest(docs)}"
            )
        return frames

    def _warn(self, made: Call, error: Miscounted) -> None:
        """Say once for each method why its batches do not work out."""
        method = self._method(made)
        if method not in self._warned:
            self._warned.add(method)
            log.warning(
                "%s: %s; a method that takes several requests at once must return as many "
                "Documents as it is given,"
                " in their order",
                method,
                error,
            )

    def failure(self, tasks: Sequence[Assignment], error: BaseException) -> Answer:
        """Encode an error as the answer to tasks."""
        what = f"raised at {tasks[0].endpoint!r}"
        if len(tasks) > 1:
            what += f" (called for {len(tasks)} requests at once)"
        if isinstance(error, SomeFailed) and error.__cause__ is not None:
            told = errors.to_wire(as_error(error.__cause__, self.name, f"{what} for {error}"))
            told["failed"] = error.failed
            self._add_docs(told, cast("DocumentArray", error.docs))
        else:
            told = errors.to_wire(as_error(error, self.name, what))
        return Answer(tasks, [msgpack.packb(told, unicode_errors="backslashreplace")], None)

    def _add_docs(self, told: dict[str, object], docs: DocumentArray) -> None:
        """Send along with an error what came of the Documents that have not failed."""
        try:
            told["docs"] = [bytes(frame) for frame in self._pack(docs, {})]
        except errors.ZflowError as error:
            told["message"] = f"{told['message']} (the others' results cannot be sent: {error})"

    def is_brief(self, endpoint: str) -> bool:
        """Whether the last requests for this endpoint took no longer than a hiccup of the
        machine.
        """
        return self._longest.get(endpoint if endpoint in self._bound else DEFAULT, math.inf) < BRIEF

    def took(self, endpoint: str, seconds: float) -> None:
        """A request for this endpoint, or a batch, took so long;
        one that was long is forgotten after some dozens.
        """
        bound = endpoint if endpoint in self._bound else DEFAULT
        self._longest[bound] = max(seconds, 0.9 * self._longest.get(bound, 0.0))

    def close(self) -> None:
        """Call the Executor's `close`; what it raises is logged."""
        try:
            # An attribute of the user's may have hidden the method, `self.close = True`.
            closing: object = method_of(self.executor, "close")()
            if hasattr(closing, "__await__"):
                import asyncio

                (self.loop or asyncio.new_event_loop()).run_until_complete(closing)
        except BaseException as error:
            if os.getpid() != self._pid:
                process.leave(error)  # forked in there, and to end there
            log.exception("%s.close() failed", type(self.executor).__name__)


def as_error(error: BaseException, name: str, what: str, way_out: str = "") -> errors.ZflowError:
    """Turn what user code raised into an error that can be sent; zflow's own go as they are."""
    import traceback

    if isinstance(error, (errors.SerializationError, errors.RequestTooLarge, errors.BadRequest)):
        return type(error)(f"{name}: {error.message}")
    if isinstance(error, (errors.InvalidExecutor, errors.NotSupported, errors.InvalidFlow)):
        return type(error)(error.message)
    trace = error.__traceback__
    while (
        trace is not None
        and os.path.dirname(trace.tb_frame.f_code.co_filename) in _OURS
        and trace.tb_next is not None
    ):
        trace = trace.tb_next
    lines = traceback.format_exception(type(error), error, trace)
    kind = type(error).__name__
    try:
        text = str(error)[:LONGEST_MESSAGE]
    except Exception:
        text = "<its str() fails>"
    message = f"{name} {what}: {kind}: {text}" if text else f"{name} {what}: {kind}"
    shown = "".join(lines)[-LONGEST_TRACEBACK:]
    return errors.ExecutorError(message + way_out, executor=name, exception=kind, traceback=shown)


# The folders whose frames a traceback of user code begins with: they say nothing of it.
_OURS = {os.path.dirname(function.__code__.co_filename) for function in (as_error, handlers)}
