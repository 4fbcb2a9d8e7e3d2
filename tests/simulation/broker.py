"""The real broker, with queues of frames instead of sockets and virtual time instead of the clock.

All that `zflow.devices.broker.Broker` does between reading a message and sending one is its own code.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any
from unittest import mock

import msgpack
import zmq

from zflow.devices import broker as real
from zflow.devices import protocol
from zflow.devices.broker import Broker, Settings
from zflow.devices.router import Inputs, Walk

from . import checks
from .clock import Clock
from .ledger import Ledger, Violation
from .watch import WatchedPool

Send = Callable[[Sequence[Any]], bool]  # returns whether the message could be sent
CHECKED_PER_TURN = 12  # holdings and tasks that are looked at in a turn, on average


class Queue:
    """What a `protocol.Port` is to the broker. A message that it sends is handed to `to`."""

    def __init__(self) -> None:
        self.messages: deque[list[Any]] = deque()
        self.to: Send = lambda frames: True
        self.socket = self

    def set(self, option: int, value: Any) -> None:
        """There is nothing to set."""

    def close(self) -> None:
        """There is nothing to close."""

    def readable(self) -> bool:
        """Whether a message has arrived."""
        return bool(self.messages)

    def receive_some(self, limit: int) -> list[list[Any]]:
        """Take what has arrived."""
        return [self.messages.popleft() for _ in range(min(limit, len(self.messages)))]

    def send(self, frames: Sequence[Any]) -> None:
        """Send a message, or say that its receiver is gone."""
        if not self.to(frames):
            raise zmq.ZMQError(zmq.EHOSTUNREACH)


class Line:
    """The manager's end of the control line."""

    def __init__(self) -> None:
        self.messages: deque[bytes] = deque()

    def fileno(self) -> int:
        """It is no file."""
        return -1

    def poll(self, timeout: float = 0.0) -> bool:
        """Whether the manager has said something."""
        return bool(self.messages)

    def recv_bytes(self) -> bytes:
        """Take what it said."""
        return self.messages.popleft()

    def send_bytes(self, data: bytes) -> None:
        """It is told something, and does not mind."""


class VirtualBroker(Broker):
    """The broker, turn by turn.

    Args:
        settings: as the real one's.
        clock: the time.
        ledger: where requests are kept.
        turn: seconds from one turn to the next, at least.
        balancer: makes the balancers, given `retries`.
    """

    def __init__(
        self, settings: Settings, clock: Clock, ledger: Ledger, turn: float, balancer: Callable[[int], Any]
    ) -> None:
        self._clock = clock
        self._ledger = ledger
        self._turn = turn
        self.control = Line()
        self.cancelled: deque[int] = deque()  # requests whose clients do not want them any more
        self.wake = math.inf  # when time alone is to bring a turn about
        self.turns = 0
        self._free_at = 0.0
        self._due = False

        def watched(*arguments: Any) -> WatchedPool:
            slack = 0.003 + 2 * turn
            return WatchedPool(*arguments, ledger=ledger, balancer=balancer, slack=slack)

        with mock.patch.object(real, "Pool", watched), mock.patch.object(protocol, "Port", lambda port, small: port):
            super().__init__(settings, self.control)
        self._context.term()
        self.pools: list[WatchedPool] = self._pools  # type: ignore[assignment]
        self.ports: dict[str, Any] = {  # each a Queue
            "collector": self._collector,
            "back": self._back,
            "front": self._front,
            "fan": self._fan,
        }
        self._handlers = {
            "collector": self._from_replica,
            "back": self._from_replica,
            "front": self._from_client,
            "fan": self._subscription,
        }
        self._whole_check = [0] * len(self.pools)  # the turn in which each pool is gone through again
        self._wait_check = [0] * len(self.pools)

    def _listen(self, addresses: Iterable[str], max_bytes: int | None = None, kind: int = 0) -> Any:
        return Queue(), []

    # -- turns ----------------------------------------------------------------------------------------------------

    def arrive(self, port: str, frames: list[Any]) -> None:
        """A message has arrived at that socket."""
        self.ports[port].messages.append(frames)
        self.stir()

    def stir(self) -> None:
        """Something is to be looked at: now, or when the turn that is under way is over."""
        if self._due:
            return
        if self._clock.now >= self._free_at:
            self.turn()
        else:
            self._due = True
            self._clock.at(self._free_at, self.turn)

    def turn(self) -> None:
        """One turn of the loop, as in `Broker.run`, and what must hold after it."""
        self._due = False
        self.turns += 1
        for name, port in self.ports.items():
            if port.messages:
                self._read(port, self._handlers[name])
        if self.control.messages:
            self._obey()
        while self.cancelled:
            self._cancel(self._ledger.requests[self.cancelled.popleft()].walk)
        self._tick()
        self._flush()
        now = self._clock.now
        self._free_at = now + self._turn
        timed = self._lost or any(pool.balancer.timed for pool in self.pools)
        if timed or any(fanout.under_way for _, fanout in self._fanned):
            self.wake = now + self._timeout() / 1000
        else:
            self.wake = math.inf
        self._check(now)
        if any(port.messages for port in self.ports.values()):
            self.stir()

    def _check(self, now: float) -> None:
        turn = self.turns
        for number, pool in enumerate(self.pools):
            size = len(pool.holdings)
            if turn >= self._wait_check[number] and (pool.balancer.queued or pool.standing):
                checks.nobody_waits(pool)
                self._wait_check[number] = turn + (size + pool.balancer.queued) // CHECKED_PER_TURN
            if turn >= self._whole_check[number]:
                checks.agrees(pool, now)
                checks.bounded(pool)
                self._whole_check[number] = turn + 16 + 4 * (size + len(pool.open)) // CHECKED_PER_TURN

    # -- requests -------------------------------------------------------------------------------------------------

    def _take(self, walk: Walk, steps: Any) -> None:
        self._ledger.requests[walk.origin[1]].walk = walk
        super()._take(walk, steps)

    def _answer(self, walk: Walk, inputs: Inputs) -> None:
        self._ledger.answered(self._ledger.requests[walk.origin[1]], inputs)
        super()._answer(walk, inputs)

    def _fail(self, walk: Walk, error: bytes) -> None:
        kind = msgpack.unpackb(error)["type"]
        outcome = {"ReplicaCrashed": "crashed", "DeadlineExceeded": "expired", "ExecutorError": "raised"}.get(kind)
        if outcome is None:
            raise Violation(f"request {walk.origin[1]} failed for an unknown reason: {error!r}")
        self._ledger.end(self._ledger.requests[walk.origin[1]], outcome)
        super()._fail(walk, error)

    def _end(self, walk: Walk) -> None:
        super()._end(walk)
        self._ledger.closed(self._ledger.requests[walk.origin[1]])

    def _cancel(self, walk: Walk | None) -> None:
        """Nobody wants the answer."""
        if walk in self._walks:
            assert walk is not None
            self._ledger.end(self._ledger.requests[walk.origin[1]], "cancelled")
            self._end(walk)


@contextlib.contextmanager
def virtual_time(clock: Clock) -> Iterator[None]:
    """Within this, brokers live by that clock, and log nothing."""
    quiet = logging.getLogger("zflow.simulation")
    quiet.setLevel(logging.CRITICAL)
    with mock.patch.object(real, "time", clock), mock.patch.object(real, "log", quiet):
        yield
