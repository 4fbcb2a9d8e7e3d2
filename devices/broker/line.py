"""The way to one replica: what it is to be told waits here until the turn of the loop ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import zmq

from zflow.devices.balancing.replica import Task
from zflow.devices.broker import failures
from zflow.devices.local import tickets
from zflow.devices.protocol import bundles, messages
from zflow.devices.protocol.messages import Encode, Message, Recall, Together
from zflow.devices.protocol.references import Payload
from zflow.devices.sockets.port import Port


class Line:
    """The way to one replica.

    Args:
        plain: makes payload frames of what this replica cannot read, if it is on another machine.
    """

    __slots__ = ("_encode", "_plain", "_waiting", "identity", "port", "tickets")

    def __init__(
        self,
        port: Port,
        identity: bytes,
        encode: Encode,
        plain: Callable[[Payload], Payload] | None,
    ) -> None:
        self.port = port
        self._plain = plain
        self.identity = identity
        self._encode = encode
        self._waiting: list[Message] = []
        self.tickets: tickets.Tickets | None = None  # of what is sent ahead

    def give(self, task: Task, ticket: int = 0) -> None:
        """Send a task, when `flush` is called; with a ticket, to be done by whoever gets that."""
        walk, parts, frames = failures.task_frames(task)
        if self._plain is not None and task.count == 1:
            frames = self._plain(frames)
        self._waiting.append(
            messages.Task(task.id, task.count, walk.endpoint, parts, ticket, frames)
        )

    def give_together(self, tasks: Sequence[Task]) -> None:
        """Send tasks that are to be done in one go, when `flush` is called."""
        self._waiting.append(Together(len(tasks)))
        for task in tasks:
            self.give(task)

    def recall(self, id: int) -> None:
        """Take a task back, when `flush` is called."""
        self._waiting.append(Recall(id))

    def flush(self) -> bool:
        """Send what there is to send; False if the replica cannot be reached any more,
        and nothing was sent.
        """
        waiting, self._waiting = self._waiting, []
        return self._send(waiting)

    def reached(self) -> bool:
        """Try to reach the replica, by taking back a task that is none."""
        return self.say(Recall(0))

    def close(self) -> None:
        """The replica is gone."""
        if self.tickets is not None:
            self.tickets.close()
            self.tickets = None

    def say(self, message: Message) -> bool:
        """Send a message at once."""
        return self._send([message])

    def _send(self, outgoing: Sequence[Message]) -> bool:
        try:
            for frames in bundles.frames_of(outgoing, self._encode):
                self.port.send([self.identity, *frames])
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            return False
        return True
