"""One `post`: its inputs cut into requests, a bounded number of them in flight,
results in the order of the inputs.

Pure logic between the Documents and the wire; the sockets, sync and asyncio alike, are in
`connection` and `async_connection`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgpack

from zflow import errors
from zflow.clients.response import Response
from zflow.clients.retrying import Retrying
from zflow.devices.local.arena import Arena, Stale
from zflow.devices.protocol.messages import Cancel, Failed, Note, Reply, Request
from zflow.devices.protocol.parts import split
from zflow.devices.protocol.references import Payload, references
from zflow.devices.sockets.clock import monotonic
from zflow.documents import codec
from zflow.documents.document import DocumentArray
from zflow.documents.merging import gather, reduce
from zflow.documents.values import Parameters
from zflow.suggest import short

LATE = 1.0  # seconds after its time was over that the Flow may take to say so
MAX_IN_FLIGHT = 256 * 1024 * 1024  # bytes of one post in flight, if that is more than one request


@dataclass(slots=True)
class _Sent:
    """A request that was sent: its place in the order, and what it takes in flight."""

    place: int
    docs: DocumentArray
    size: int
    payload: Payload
    deadline: float
    failures: int = 0  # how often it was tried in vain
    why: str = ""  # the last time


class Exchange:
    """What one `post` has sent and what has come back.

    Args:
        endpoint: such as `'/index'`.
        batches: the Documents of each request.
        parameters: sent with each request.
        targets: the names of the Executors to visit, or None for all.
        limits: how many requests may be in flight, 1 or more (those answered out of order count
            until the ones before them are answered); the ms that each may take, or None; and
            what is sent again, after which pauses.
        max_message_bytes: the largest request that the Flow takes.
        ids: where the requests' ids come from.
        memory: the memory shared with the Flow, if there is any;
            what is put there is freed with the answer.
    """

    def __init__(
        self,
        endpoint: str,
        batches: Iterator[DocumentArray],
        parameters: Parameters | None,
        targets: list[str] | None,
        limits: tuple[int, int | None, Retrying],
        max_message_bytes: int,
        ids: Iterator[int],
        memory: Arena | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._batches = batches
        self._parameters = parameters
        self._targets = targets
        self._prefetch, self._timeout, self._retrying = limits
        self._limit = max_message_bytes
        # Requests that have failed for now, and when to send them again.
        self._held_back: dict[int, float] = {}
        self._ids = ids
        self._memory = memory
        self._sent: dict[int, _Sent] = {}
        self._answered: dict[int, Response] = {}
        self._places = 0  # requests sent so far
        self._delivered = 0
        self._bytes = 0
        self._exhausted = False

    @property
    def finished(self) -> bool:
        """Whether everything was sent, answered and delivered."""
        return self._exhausted and self._delivered == self._places

    @property
    def has_room(self) -> bool:
        """Whether another request may be sent, if there is one."""
        if self._exhausted or self._places - self._delivered >= self._prefetch:
            return False
        return self._bytes < MAX_IN_FLIGHT

    @property
    def made(self) -> int:
        """How many requests were made so far."""
        return self._places

    def next(self) -> Request | None:
        """The message of the next request, or None when there are no more inputs.

        Raises:
            SerializationError: a Document or the parameters cannot be sent.
            RequestTooLarge: the request is larger than the Flow takes.
        """
        docs = next(self._batches, None)
        if docs is None:
            self._exhausted = True
            return None
        return self.request(docs)

    def exhaust(self) -> None:
        """There are no more inputs."""
        self._exhausted = True

    def request(self, docs: DocumentArray) -> Request:
        """The message of a request with these Documents; raises as `next`."""
        frames = codec.pack(docs, self._parameters)
        size = len(frames[0]) if len(frames) == 1 else sum(map(len, frames))
        if size > self._limit:
            raise errors.RequestTooLarge(
                f"a request of {len(docs)} Documents has {size} bytes, over the Flow's limit of "
                f"{self._limit}"
                f" (max_message_bytes); the largest is {codec.largest(docs)}; send fewer with "
                "request_size=,"
                " or raise the limit"
            )
        payload: Payload = frames
        if self._memory is not None and len(frames) > 1:
            payload = self._memory.share(frames)
        id = next(self._ids)
        deadline = math.inf if self._timeout is None else monotonic() + self._timeout / 1000
        self._sent[id] = _Sent(self._places, docs, size, payload, deadline)
        self._places += 1
        self._bytes += size
        return Request(
            id, self._endpoint, self._targets, None, self._timeout or 0, False, [len(docs)], payload
        )

    def again(self) -> Iterator[Request]:
        """The messages of the requests that were not answered,
        for a broker that may not have got them.
        """
        now = monotonic()
        for id, sent in self._sent.items():
            if id not in self._held_back:
                yield self._request(id, sent, True, now)

    def _request(self, id: int, sent: _Sent, again: bool, now: float) -> Request:
        left, docs = self._left(sent, now), [len(sent.docs)]
        return Request(id, self._endpoint, self._targets, None, left, again, docs, sent.payload)

    def _left(self, sent: _Sent, now: float) -> int:
        """The ms that are left of a request's time; 0: it may take any."""
        return 0 if sent.deadline == math.inf else max(1, int((sent.deadline - now) * 1000))

    # -- trying again ------------------------------------------------------------------------------

    def _hold_back(self, id: int, sent: _Sent, error: errors.ZflowError) -> bool:
        """Keep what has failed, to be sent again after a pause, and say whether it is."""
        pause = self._retrying.pause(sent.failures + 1, error)
        if pause is None:
            return False
        sent.failures, sent.why = sent.failures + 1, error.message
        self._held_back[id] = min(monotonic() + pause, sent.deadline)
        return True

    @property
    def pause(self) -> float | None:
        """The seconds until something that was held back is to be sent again, or None."""
        return max(0.0, min(self._held_back.values()) - monotonic()) if self._held_back else None

    def due(self) -> Iterator[Request]:
        """The messages of what was held back long enough; what has no time left fails."""
        now = monotonic()
        for id in [id for id, at in self._held_back.items() if at <= now]:
            del self._held_back[id]
            sent = self._sent.get(id)
            if sent is not None and sent.deadline > now:
                yield self._request(id, sent, False, now)
            elif sent is not None:
                self._too_late(id, f"tried {sent.failures} times, at last: {sent.why}")

    def cancelled(self) -> Iterator[Cancel]:
        """The messages that tell the broker that nobody wants the answers still to come."""
        for id, sent in self._sent.items():
            self._free(sent.payload)
            yield Cancel(id)

    def expire(self, address: str) -> bool:
        """Fail the requests to which nobody has said anything long after their time was over;
        whether there are any.
        """
        if self._timeout is None:
            return False
        late = monotonic() - LATE
        expired = [id for id, sent in self._sent.items() if sent.deadline < late]
        for id in expired:
            self._too_late(id, f"the Flow at {address} does not say why")
        return bool(expired)

    def _too_late(self, id: int, why: str) -> None:
        sent = self._end(id)
        error = errors.DeadlineExceeded(f"not answered within timeout={self._timeout} ms; {why}")
        self._answered[sent.place] = self._failed(sent.docs, error)

    def take(self, answer: Reply | Failed) -> bool:
        """Take in an answer; one that belongs to no open request is of no use and is dropped.

        Returns whether it was the last one to its request.
        """
        id, frames = answer.first, answer.payload
        sent = self._sent.get(id)
        if sent is None:
            self._free(frames)
            return True
        if self._memory is not None and len(frames) > 1:
            try:
                whole = self._memory.fetch(frames)
            except Stale:
                # Of a broker that is gone; the request is sent again to the one that is there now.
                return False
            self._free(frames)
            frames = whole
        if isinstance(answer, Reply):
            response = self._response(answer, frames, sent.docs)
        else:
            error = _error(frames)
            if self._hold_back(id, sent, error):
                return False
            response = self._failed(sent.docs, error)
        self._end(id)
        self._answered[sent.place] = response
        return True

    def _free(self, frames: Sequence[object]) -> None:
        if self._memory is not None and len(frames) > 1:
            self._memory.release(references(frames))

    def _end(self, id: int) -> _Sent:
        """A request is not under way any more."""
        sent = self._sent.pop(id)
        self._bytes -= sent.size
        if self._memory is not None:
            self._free(sent.payload)
        return sent

    def _failed(self, sent: DocumentArray, error: errors.ZflowError) -> Response:
        return Response(sent, dict(self._parameters or {}), self._endpoint, error)

    def _response(self, answer: Reply, frames: Sequence[Any], sent: DocumentArray) -> Response:
        try:
            if answer.parts is None:
                docs, parameters = codec.unpack(frames)
            else:
                arrays, parameters, _ = gather(split(answer.parts, frames))
                docs = reduce(list(arrays.values()))
            if answer.notes:
                parameters["__shards__"] = {
                    name: _shards_note(note) for name, note in answer.notes.items()
                }
            return Response(docs, parameters, self._endpoint)
        except errors.BadRequest as error:
            return Response(sent, {}, self._endpoint, error)
        # Whatever a malformed answer sets off, only its own request fails by it.
        except Exception as error:
            undecodable = errors.BadRequest(f"the answer cannot be decoded: {short(error)}")
            return Response(sent, {}, self._endpoint, undecodable)

    def ready(self) -> Iterator[Response]:
        """The responses whose turn it is, in the order of the inputs."""
        while (response := self._answered.pop(self._delivered, None)) is not None:
            self._delivered += 1
            yield response


def _error(frames: Payload) -> errors.ZflowError:
    try:
        data = msgpack.unpackb(frames[0], unicode_errors="replace")
    except Exception:
        return errors.BadRequest("the answer is an error that cannot be decoded")
    error = errors.from_wire(data)
    if isinstance(error, errors.ExecutorError):
        try:
            error.docs = codec.unpack(data["docs"])[0] if "docs" in data else DocumentArray()
        except Exception:  # an error is told, whatever else was said
            error.docs = DocumentArray()
    return error


def _shards_note(note: Note) -> dict[str, object]:
    """What the broker says of an ALL request of which some shards have failed; on the wire,
    keys are texts.
    """
    failed = {int(shard): message for shard, message in dict(note.get("failed", {})).items()}
    return {"shards": note.get("shards"), "succeeded": note.get("succeeded"), "failed": failed}
