"""A replica's process in the simulation: its lines to the broker, what has arrived,
what it works on.

It does what `zflow.replicas.worker` and `zflow.replicas.link` do, with the real `Listener`;
time passes elsewhere.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from zflow.devices.local.tickets import Tickets
from zflow.devices.protocol.messages import (
    Accepted,
    Beacon,
    Fanout,
    Message,
    Recall,
    Task,
    Together,
)
from zflow.devices.routing.fanout import Listener

from .clock import Line


class Pipe:
    """What a replica and the broker share, and the broker's end of it."""

    def __init__(self) -> None:
        self._records: deque[bytes] = deque()

    def end(self) -> Tickets:
        """Return one more end."""
        return _End(self._records)


class _End(Tickets):
    def __init__(self, records: deque[bytes]) -> None:
        super().__init__(-1)
        self._records = records

    def _write(self, record: bytes) -> bool:
        self._records.append(record)
        return True

    def _read(self) -> bytes:
        return self._records.popleft() if self._records else b""

    def close(self) -> None:
        """There is nothing to close."""


class Process:
    """One replica.

    Args:
        identity: what the broker calls it; no two processes share one.
        stage: its Executor's number.
        shard: its shard.
        group: which replica of the shard it is.
        slots: how many tasks it works on at once.
        sharded: whether it is one of several shards.
    """

    def __init__(
        self, identity: bytes, stage: int, shard: int, group: int, slots: int, sharded: bool
    ) -> None:
        self.identity = identity
        self.stage = stage
        self.shard = shard
        self.group = group
        self.slots = slots
        self.back = Line()  # to the broker's ROUTER
        self.collector = Line()
        self.tasks = Line()  # from the broker's ROUTER
        self.fan = Line()  # from its XPUB
        self.subscriptions = Line()
        self.backlog: dict[int, tuple[str, Any]] = {}  # endpoint and first frame, by task
        self.together: set[int] = set()  # of these, a batch
        self.coming = 0  # how many tasks of it have not arrived
        self.pipe = Pipe() if slots == 1 and not sharded else None
        self._tickets = self.pipe.end() if self.pipe is not None else None
        self._ahead: dict[int, int] = {}  # the numbers of tickets, by task
        self.busy = 0
        self.answers: list[Message] = []  # that wait for others
        self.alive = True
        self.leaving = False
        self.cut = False  # nothing that it says arrives any more, nor what it is sent
        self.gone = False  # the broker's sockets have noticed
        # Seconds from its end until a successor is there, if one is to come.
        self.back_after: float | None = 0.01
        self.accepted = False
        self._listener = Listener()
        self._heard: list[Message] = []  # before it was accepted

    def take(self, message: Message) -> None:
        """A message has come from the ROUTER."""
        if isinstance(message, Task):
            id = message.first
            self.backlog[id] = (message.endpoint, message.payload[0])
            if message.ticket:
                self._ahead[id] = message.ticket
            if self.coming:
                self.coming -= 1
                self.together.add(id)
        elif isinstance(message, Together):
            self.together.clear()
            self.coming = message.total
        elif isinstance(message, Recall):
            self.backlog.pop(message.task, None)
            self._ahead.pop(message.task, None)
        else:
            assert isinstance(message, Accepted)
            self.accepted = True
            self._listener = Listener(message.number)

    def hear(self, message: Message) -> list[tuple[int, int]]:
        """A publication has come. Returns what was missed, if anything: first and last."""
        if not self.accepted:
            self._heard.append(message)
            return []
        missed = [self._listen(heard) for heard in (*self._heard, message)]
        self._heard.clear()
        return [gap for gap in missed if gap is not None]

    def _listen(self, message: Message) -> tuple[int, int] | None:
        if isinstance(message, Beacon):
            return self._listener.told(message.number)
        assert isinstance(message, Fanout)
        new, missed = self._listener.heard(message.number)
        if new and self.shard not in message.skip:
            self.backlog[message.base + self.shard] = (message.endpoint, message.payload[0])
        return missed

    def next(self) -> list[tuple[int, str, Any]]:
        """The next task to begin, or the next batch of them, if there is one and a slot for it."""
        if self.busy >= self.slots or not self.alive or self.leaving:
            return []
        first = next(iter(self.backlog), None)
        while first in self._ahead and not self._may_begin(first):
            del self.backlog[first]
            first = next(iter(self.backlog), None)
        if first is None:
            return []
        if first not in self.together:
            return [(first, *self.backlog.pop(first))]
        if self.coming:
            return []
        tasks = [(id, *self.backlog.pop(id)) for id in list(self.backlog) if id in self.together]
        self.together.clear()
        return tasks

    def _may_begin(self, task: int) -> bool:
        assert self._tickets is not None
        return self._tickets.take(self._ahead.pop(task))
