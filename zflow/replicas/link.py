"""A replica's line to the broker: its sockets, and the tasks that have arrived but not begun.

It knows frames and headers; what is in a payload, and what is done with it,
is the worker's business.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import zmq

from zflow.devices.local import tickets
from zflow.devices.local.arena import Arena
from zflow.devices.protocol import bundles, messages
from zflow.devices.protocol.messages import (
    Accepted,
    Beacon,
    Done,
    Error,
    Fanout,
    Leave,
    Malformed,
    Message,
    Missed,
    Ready,
    Recall,
    Refused,
    Task,
    Together,
    singles,
)
from zflow.devices.protocol.references import is_fixed
from zflow.devices.routing.fanout import Listener
from zflow.devices.sockets import descriptors, factory, zap
from zflow.devices.sockets.flusher import Flusher
from zflow.devices.sockets.guard import Guard
from zflow.devices.sockets.port import BATCH, Port, buffers
from zflow.replicas.seat import Seat, identity
from zflow.suggest import printable
from zflow.system import process

if TYPE_CHECKING:
    from zflow.executors.batching import Batching

log = logging.getLogger("zflow.link")

IDLE = 1000  # ms that a replica waits for work before it looks around
LONGEST_HOLD = 0.005  # seconds that an answer waits for those of the tasks behind it
MOST_FAILED = 1000  # tasks in one message
LONGEST_REASON = 10_000  # characters
REGISTERING = 10_000  # ms to wait for the broker's word


class Assignment(NamedTuple):
    """One request as it came from the broker."""

    id: int
    endpoint: str
    parts: Any
    frames: Sequence[Any]


class Answer(NamedTuple):
    """What came of tasks.

    Attributes:
        tasks: one as a rule; more if a batch of them could not be done in one go.
        frames: the result, or an error.
        docs: how many Documents are in the result; None: it is an error.
    """

    tasks: Sequence[Assignment]
    frames: Sequence[Any]
    docs: int | None


class StopNow(BaseException):
    """Raised by a signal while the replica waits for work: anywhere in there, so no
    `except Exception` may catch it.
    """


class Stop:
    """Whether the replica has been asked to end, by the process manager,
    and whether this process is the replica.

    Attributes:
        waiting: it waits for work, and does so until a signal comes.
        wake: what else is to be called when it is asked, if it waits on an event loop.
        forked: this is a process that user code has forked from the replica:
            it has to leave sockets alone, and end.
    """

    def __init__(self) -> None:
        self.asked = False
        self.waiting = False
        self.wake: Callable[[], object] | None = None
        self.forked = False

    def note_fork(self) -> None:
        """Called in each process that is forked from the replica."""
        self.forked = True

    def ask(self, *_: Any) -> None:
        """Ask it to end: at once if it waits for work, else when it has finished what it is
        doing.
        """
        self.asked = True
        if self.wake is not None:
            self.wake()
        if self.waiting:
            self.waiting = False
            raise StopNow


class Link:
    """The replica's sockets, and the tasks that have arrived but not begun.

    A replica of an Executor with shards has two more: it hears fan-outs on a SUB socket, and
    answers on a PUSH socket to the broker's collector.

    Raises:
        OSError, zmq.ZMQError: there are too few file descriptors, or none where it connects.
    """

    def __init__(self, seat: Seat, stop: Stop, slots: int, memory: Arena | None = None) -> None:
        self.stop = stop
        self._memory = memory
        self._direction = messages.TO_REPLICA if memory is None else messages.TO_LOCAL_REPLICA
        self._gave_back = True
        self._slots = slots
        self._seat = seat
        descriptors.make_sure()
        self._context = zmq.Context()
        # A successor must not be taken for the one before it, whose connection may still linger.
        self._identity = identity(seat.name, os.getpid())
        if seat.machine is not None:
            # Another machine may have the same name.
            self._identity += b"-" + os.urandom(4).hex().encode()
        back = self._socket(zmq.DEALER)
        back.set(zmq.ROUTING_ID, self._identity)
        back.set(zmq.RCVTIMEO, IDLE)
        self._monitor: zmq.Socket[bytes] | None = None
        self._turned_away = ""  # why
        if seat.machine is not None:
            self._monitor = zap.watch(back)
            # Where the Flow has refused it, there will never be anybody to send to.
            back.set(zmq.SNDTIMEO, 0)
        if seat.keys is not None:
            zap.secure(back, *seat.keys)
        back.connect(seat.back)
        self._back = Port(back, 2)
        self._fan: Port | None = None
        self._collector: Port | None = None
        if seat.spec.shards > 1 and seat.fan is not None and seat.collector is not None:
            self._join_fan_out(seat.fan, seat.collector)
        self._listener = Listener()
        self._encode = messages.encoder()
        self._backlog: dict[int, Assignment] = {}
        # Of these, whose that is their tickets say: the numbers of those, by task.
        self._ahead: dict[int, int] = {}
        self._tickets: tickets.Tickets | None = None
        self._together: set[int] = set()  # of these, a batch
        self._coming = 0  # how many tasks of the batch have not arrived
        self._recalled: set[int] = set()  # parts of fan-outs, maybe, that are still to be heard
        self._endpoints: list[str] | None = None
        # By endpoint: Documents at most, and microseconds.
        self._batching: dict[str, list[int]] = {}
        self._accepted = False
        self.refused: str | None = None  # why the broker does not take it into the pool
        self._guard = Guard(log)
        self._answers: list[Done | Error] = []  # that wait to be sent
        self._flusher = Flusher(self.flush, LONGEST_HOLD)
        self.turn = self._flusher.turn  # the main thread's, but while it calls the Executor
        self.hold = self._flusher.hold  # let the answers wait for those of the tasks to come

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.set(zmq.SNDHWM, 0)
        socket.set(zmq.RCVHWM, 0)
        socket.set(zmq.LINGER, 2000)  # ms; the last answers still go out
        socket.set(zmq.IPV6, 1)
        socket.set(zmq.RECONNECT_IVL, factory.RECONNECT)
        socket.set(zmq.RECONNECT_IVL_MAX, factory.RECONNECT_AT_MOST)
        factory.beat(socket)
        return socket

    def _join_fan_out(self, publisher: str, collecting: str) -> None:
        fan = self._socket(zmq.SUB)
        fan.subscribe(messages.topic(self._seat.node, self._seat.replica_id))
        fan.subscribe(messages.own_topic(self._identity))
        fan.connect(publisher)
        self._fan = Port(fan, 3)
        collector = self._socket(zmq.PUSH)
        collector.connect(collecting)
        self._collector = Port(collector, 2)

    @property
    def descriptors(self) -> list[int]:
        """What an event loop watches."""
        return [port.socket.fileno() for port in (self._back, self._fan) if port is not None]

    def register(self, endpoints: list[str], batching: dict[str, Batching]) -> str | None:
        """Join the broker's pool; returns None, or why that is not possible."""
        self._endpoints = endpoints
        self._batching = {
            name: [said.size, round(said.timeout * 1e6)] for name, said in batching.items()
        }
        if (length := len(bundles.message(self._ready(), self._encode)[0])) > messages.MAX_HEADER:
            return (
                f"its {len(endpoints)} endpoints, with what it says of batching, take {length} "
                "bytes, over the limit of"
                f" {messages.MAX_HEADER}: give them shorter names, or make several Executors of it"
            )
        while not self._accepted and self.refused is None:
            if not self._back.wait(REGISTERING / 1000):
                return self.turned_away or f"the broker at {self._seat.back} gave no answer"
            # No more than that: what comes after it is to wake the loop.
            self._take(self._back.receive())
        return self.refused

    @property
    def turned_away(self) -> str | None:
        """Why the Flow does not let this replica in, if it is on another machine and was told
        so.
        """
        if self._monitor is not None and not self._turned_away:
            self._turned_away = zap.turned_away(self._monitor)
        return (
            f"the Flow at {self._seat.back} refuses it: {self._turned_away}"
            if self._turned_away
            else None
        )

    def _greeted(self) -> None:
        """There is a new connection, and maybe a new broker: what the one before wanted,
        this one will send again.
        """
        self._backlog.clear()
        self._ahead.clear()
        self._make_tickets()
        self._together.clear()
        self._coming = 0
        self._say_back([self._ready()])

    def _ready(self) -> Ready:
        seat = self._seat
        place = (self._slots, seat.shard_id, seat.replica_id)
        return Ready(seat.spec.name, self._endpoints, *place, self._batching)

    def _make_tickets(self) -> None:
        """Have tasks sent ahead, if the broker can take them back from here,
        and they are done one after the other.
        """
        seat = self._seat
        if seat.machine is None and seat.spec.shards == 1 and self._slots == 1:
            if self._tickets is not None:
                self._tickets.close()  # what is in there is of another connection
            self._tickets = tickets.make(seat.back, self._identity)

    def drain(self) -> None:
        """Take in what has arrived, without waiting."""
        while self._back.readable():
            for frames in self._back.receive_some(BATCH):
                self._take(frames)
        if self._fan is not None:
            while self._fan.readable():
                for frames in self._fan.receive_some(BATCH):
                    self._hear(frames)
            for task in self._recalled:
                self._backlog.pop(task, None)
            self._recalled.clear()

    def wait(self) -> bool:
        """Wait at most `IDLE` ms for messages and take them in; False if there were none."""
        if self._fan is not None:
            found = zmq.zmq_poll(
                [(self._back.socket, zmq.POLLIN), (self._fan.socket, zmq.POLLIN)], IDLE
            )
            self.drain()
            return bool(found)
        try:
            for frames in self._back.receive_some(BATCH):
                self._take(frames)
        except zmq.Again:
            return False
        return True

    def _take(self, frames: list[Any]) -> None:
        if not frames[0]:
            self._greeted()
            return
        try:
            for message in bundles.read(frames, 0, self._direction):
                self._told(message)
        except Exception as error:  # such as what only another broker would say
            self._guard.note(error)

    def _told(self, message: Message) -> None:
        if isinstance(message, Task):
            if message.ticket:
                if self._tickets is None:
                    raise Malformed("a ticket where there are none")
                self._ahead[message.first] = message.ticket
            for task in singles(message):
                self._given(task)
        elif isinstance(message, Together):
            self._together.clear()
            self._coming = message.total
        elif isinstance(message, Recall):
            self._ahead.pop(message.task, None)
            if self._backlog.pop(message.task, None) is None and self._fan is not None:
                self._recalled.add(message.task)
        elif isinstance(message, Accepted):
            tickets.remove(self._seat.back, self._identity)
            self._listener = Listener(message.number)
            self._accepted = True
        elif isinstance(message, Refused):
            self.refused = printable(message.reason[:LONGEST_REASON])
            # By another Flow, or by this one before its own replicas were others.
            if self._accepted:
                log.warning("not in the pool any more: %s", self.refused)
                self.stop.asked = True

    def _given(self, task: Task) -> None:
        id = task.first
        self._recalled.discard(id)  # given to this one once more
        self._backlog[id] = Assignment(id, task.endpoint, task.parts, buffers(task.payload))
        if self._coming:
            self._coming -= 1
            self._together.add(id)

    def _hear(self, frames: list[Any]) -> None:
        """Take in what was published: frames are the topic, the header and the payload."""
        try:
            for message in bundles.read(frames, 1, self._direction):
                self._published(message)
        except Exception as error:
            self._guard.note(error)

    def _published(self, message: Message) -> None:
        new, missed = False, None
        if isinstance(message, Fanout):
            new, missed = self._listener.heard(message.number)
        elif isinstance(message, Beacon):
            missed = self._listener.told(message.number)
        else:
            raise Malformed("what is not published")
        if missed is not None:
            self._say([Missed(*missed)])
        if isinstance(message, Fanout) and new and self._seat.shard_id not in message.skip:
            id = message.base + self._seat.shard_id
            self._backlog[id] = Assignment(
                id, message.endpoint, message.parts, buffers(message.payload)
            )

    @property
    def has_more(self) -> bool:
        """Whether anything has arrived that is not begun."""
        return bool(self._backlog)

    def next(self) -> list[Assignment]:
        """The oldest task that has arrived and was not recalled,
        and with it the batch that it belongs to; or none.
        """
        first = next(iter(self._backlog), None)
        while first in self._ahead and not self._may_begin(first):
            del self._backlog[first]
            first = next(iter(self._backlog), None)
        if first is None:
            return []
        if first not in self._together:
            return [self._backlog.pop(first)]
        if self._coming:
            return []
        together = [self._backlog.pop(id) for id in list(self._backlog) if id in self._together]
        self._together.clear()
        return together

    def _may_begin(self, task: int) -> bool:
        """Take the ticket of a task that was sent ahead; False if it is somebody else's by now."""
        assert self._tickets is not None
        return self._tickets.take(self._ahead.pop(task))

    def answer(self, answers: Sequence[Answer], seconds: float) -> None:
        """Answer tasks that were worked on for so long, each.

        Small answers wait for those that come with them, until `flush` is called.
        """
        self._gave_back = False
        took = int(seconds * 1e6)
        mutable = False
        for tasks, frames, docs in answers:
            if docs is None:
                self._say_failed([task.id for task in tasks], took, frames)
                continue
            if len(frames) > 1:
                if self._memory is not None:
                    frames = self._memory.share(frames)
                mutable = mutable or not is_fixed(frames)
            self._answers.append(Done(tasks[0].id, took, [docs], frames))
        if mutable:
            self.flush()  # the Executor may write to this memory again

    def _say_failed(self, ids: list[int], took: int, error: Sequence[Any]) -> None:
        # The last ones first: each message puts its tasks in front of all that wait.
        while ids:
            at = len(ids) - MOST_FAILED
            at = at if at > 1 else 0  # an error of one alone would be taken for its own
            self._answers.append(Error(ids[at:], took, error))
            ids = ids[:at]

    def flush(self) -> None:
        """Send the answers, and return when the memory of all results is free to
        be written to by the Executor.
        """
        if self._answers:
            answers, self._answers = self._answers, []
            for tracker in self._say(answers):
                tracker.wait()

    def _say_back(self, outgoing: Sequence[Message]) -> list[zmq.MessageTracker]:
        try:
            return self._back.say(outgoing, self._encode)
        except zmq.Again:
            return []  # the Flow has turned it away, as whoever waits for work finds out

    def _say(self, outgoing: Sequence[Message]) -> list[zmq.MessageTracker]:
        if self._collector is None:
            return self._say_back(outgoing)
        trackers: list[zmq.MessageTracker] = []
        for frames in bundles.frames_of(outgoing, self._encode):
            trackers += self._collector.send_tracked([self._identity, *frames])
        return trackers

    def give_back_memory(self) -> None:
        """There is nothing to do at the moment: give back what memory is free."""
        if self._memory is not None:
            self._memory.trim()
        if not self._gave_back:
            self._gave_back = True
            process.give_back_memory()

    def leave(self) -> None:
        """Say that nothing more is begun here, and close when the last answers are out."""
        self._say([Leave()])
        self.close()

    def close(self) -> None:
        """Close when the last answers are out, but soon."""
        if self._monitor is not None:
            zap.unwatch(self._back.socket, self._monitor)
        for port in (self._back, self._fan, self._collector):
            if port is not None:
                port.socket.close()
        if self._tickets is not None:
            self._tickets.close()
        self._context.term()
