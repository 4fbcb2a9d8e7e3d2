"""The real broker, with queues of frames instead of sockets and virtual time instead of the clock.

All that `zflow.devices.broker.broker.Broker` does between reading a message
and sending one is its own code.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any
from unittest import mock

import msgpack
import zmq

from zflow.devices.balancing import replica
from zflow.devices.broker import back, draining, front, outbox
from zflow.devices.broker import broker as real
from zflow.devices.broker.broker import Broker
from zflow.devices.broker.settings import Settings
from zflow.devices.local import tickets
from zflow.devices.protocol import bundles, messages
from zflow.devices.protocol.messages import Message
from zflow.devices.protocol.parts import Inputs
from zflow.devices.routing.walk import Walk
from zflow.devices.sockets import factory, gate

from . import checks
from .clock import Clock
from .ledger import Ledger, Violation
from .watch import WatchedPool

Send = Callable[[bytes, Message], bool]  # to whom, and what; returns whether it could be sent
SAID = {**messages.TO_CLIENT, **messages.TO_REPLICA}
CHECKED_PER_TURN = 12  # holdings and tasks that are looked at in a turn, on average


class Queue:
    """What a `Port` is to the broker. A message that it sends is handed to `to`."""

    def __init__(self) -> None:
        self.messages: deque[list[Any]] = deque()
        self.to: Send = lambda whom, message: True
        self.socket = self

    def set(self, option: int, value: Any) -> None:
        """There is nothing to set."""

    def close(self) -> None:
        """There is nothing to close."""

    def readable(self) -> bool:
        """Whether a message has arrived."""
        return bool(self.messages)

    def receive_some(self, limit: int, senders: None = None) -> list[list[Any]]:
        """Take what has arrived."""
        return [self.messages.popleft() for _ in range(min(limit, len(self.messages)))]

    def send(self, frames: Sequence[Any]) -> None:
        """Send each message that these frames say, of a list each one,
        or say that their receiver is gone.
        """
        for message in bundles.read(frames, 1, SAID):
            for one in (
                messages.singles(message) if isinstance(message, messages.LISTED) else (message,)
            ):
                if not self.to(frames[0], one):
                    raise zmq.ZMQError(zmq.EHOSTUNREACH)


class Line:
    """The broker's end of the control line. What the manager is told is handed to `to`."""

    def __init__(self) -> None:
        self.messages: deque[bytes] = deque()
        self.to: Callable[[list[Any]], None] = lambda message: None

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
        """Tell it something."""
        self.to(msgpack.unpackb(data))


class OpenGate:
    """Nobody is asked for keys."""

    factory: Sequence[Any] = ()

    def __init__(self, *arguments: Any) -> None:
        pass

    wait = math.inf

    def guard(self, *arguments: Any) -> mock.Mock:
        """Let everybody in."""
        return mock.Mock()

    def tick(self) -> None:
        """Nothing changes."""


def _listen(
    context: Any, kind: int, addresses: Iterable[str], max_bytes: int | None = None
) -> tuple[Queue, list[str]]:
    return Queue(), list(addresses)


def _let_through(error: Exception) -> None:
    raise error


class VirtualBroker(Broker):
    """The broker, turn by turn.

    Args:
        settings: as the real one's.
        clock: the time.
        ledger: where requests are kept.
        turn: seconds from one turn to the next, at least.
        balancer: makes the balancers, given `retries` and how to cut a bulk.

    Attributes:
        ports: its ends of the lines, each a `Queue`.
        line: the manager's.
        wake: when time alone is to bring a turn about.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        ledger: Ledger,
        turn: float,
        balancer: Callable[..., Any],
    ) -> None:
        self._clock = clock
        self._ledger = ledger
        self._turn = turn
        self.line = Line()
        self.wake = math.inf
        self.turns = 0
        self._free_at = 0.0
        self._due = False

        def watched(*arguments: Any) -> WatchedPool:
            slack = 0.003 + 2 * turn
            return WatchedPool(*arguments, ledger=ledger, balancer=balancer, slack=slack)

        with (
            mock.patch.object(real, "Pool", watched),
            mock.patch.object(front, "Port", lambda port, small: port),
            mock.patch.object(front, "GuardedPort", lambda port, *_: port),
            mock.patch.object(back, "Port", lambda port, small: port),
            mock.patch.object(factory, "listen", _listen),
            mock.patch.object(factory, "bind", lambda socket, addresses: list(addresses)),
            mock.patch.object(gate, "Gate", OpenGate),
        ):
            super().__init__(settings, self.line)
        self._context.term()
        self._mishaps.note = _let_through  # type: ignore[method-assign]  # what goes wrong is what is looked for
        self._task_id = 0  # the same each time
        self.pools: list[WatchedPool] = self._pools  # type: ignore[assignment]
        local, self._public = self._front._ports
        self.ports: dict[str, Any] = {
            "collector": self._back._collector,
            "back": self._back._ports[0],
            "fan": self._back._fan,
            "front": local,
            "public": self._public,
        }
        self._handlers = {**self._back.handlers(self._read), **self._front.handlers()}
        # The turn in which each pool is gone through again.
        self._whole_check = [0] * len(self.pools)
        self._wait_check = [0] * len(self.pools)

    # -- turns -------------------------------------------------------------------------------------

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
        for port, read in self._handlers.items():
            if port.messages:
                read()
        if self.line.messages:
            self._obey()
        self._tick()
        self._outbox.flush()
        now = self._clock.now
        self._free_at = now + self._turn
        timed = self._back.wait < 1.0 or any(pool.timed for pool in self.pools)
        self.wake = now + self._timeout() / 1000 if timed else math.inf
        self._check(now)
        if any(port.messages for port in self.ports.values()):
            self.stir()

    def _check(self, now: float) -> None:
        turn = self.turns
        if turn % 64 == 0:
            self.check_clients()
        for number, pool in enumerate(self.pools):
            size = len(pool.holdings)
            if turn >= self._wait_check[number] and (pool.balancer.queued or pool.standing):
                checks.nobody_waits(pool, now)
                self._wait_check[number] = turn + (size + pool.balancer.queued) // CHECKED_PER_TURN
            if turn >= self._whole_check[number]:
                checks.agrees(pool, now)
                checks.bounded(pool)
                self._whole_check[number] = (
                    turn + 16 + 4 * (size + len(pool.open)) // CHECKED_PER_TURN
                )

    def check_clients(self) -> None:
        """The front has counted right what those who connect from elsewhere have in flight."""
        flying = Counter(
            walk.client for walk in self._walks.values() if walk.origin[0] is self._public
        )
        if flying != self._front._in_flight:
            raise Violation(
                f"in flight are {flying}, but the front has counted {self._front._in_flight}"
            )

    # -- requests ----------------------------------------------------------------------------------

    def cancel(self, walk: Walk) -> None:
        """Nobody wants the answer."""
        self._ledger.end(self._ledger.of(walk), "cancelled")
        super().cancel(walk)

    def _answer(self, walk: Walk, inputs: Inputs, now: float) -> None:
        for request, own in self._ledger.each(walk, inputs):
            self._ledger.answered(request, own)
        super()._answer(walk, inputs, now)

    def _fail(self, walk: Walk, error: bytes) -> None:
        for request in self._ledger.all_of(walk):
            self._ledger.end(request, _outcome(error))
        super()._fail(walk, error)

    def _end(self, walk: Walk) -> None:
        super()._end(walk)
        for request in self._ledger.all_of(walk):
            self._ledger.closed(request)


OUTCOMES = {
    "ReplicaCrashed": "crashed",
    "DeadlineExceeded": "expired",
    "ExecutorError": "raised",
    "Overloaded": "overloaded",
}


def _outcome(error: bytes) -> str:
    """What an error is in the ledger."""
    said = msgpack.unpackb(error)
    if said["type"] not in OUTCOMES:
        raise Violation(f"a request failed for an unknown reason: {said}")
    return "overran" if "timeout_run" in said["message"] else OUTCOMES[said["type"]]


@contextlib.contextmanager
def virtual_time(clock: Clock, find: Callable[[str, bytes], Any]) -> Iterator[None]:
    """Within this, brokers live by that clock, find their ends of replicas' pipes by that,
    and log nothing.
    """
    quiet = logging.getLogger("zflow.simulation")
    quiet.setLevel(logging.CRITICAL)
    with contextlib.ExitStack() as patches:
        patches.enter_context(mock.patch.object(tickets, "find", find))
        patches.enter_context(
            mock.patch.object(replica, "LONG", 0.0)
        )  # nothing costs anything here
        for module in (real, back, outbox, draining):
            patches.enter_context(mock.patch.object(module, "time", clock))
        for module in (real, back):
            patches.enter_context(mock.patch.object(module, "log", quiet))
        yield
