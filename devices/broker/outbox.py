"""What the pools say is to be done: gathered while the broker's loop turns, sent at the turn's end.

Sending goes together because each message that ZeroMQ's thread is woken for costs more than the
message. Why something is sent, and to whom, was decided before.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from zflow.devices.balancing.actions import Fail, Kill, Recall, Send, SendAhead, SendBatch
from zflow.devices.broker import failures
from zflow.devices.broker.addresses import Address
from zflow.devices.broker.back import Back
from zflow.devices.broker.control import ManagerLine
from zflow.devices.broker.front import Front
from zflow.devices.broker.line import Line
from zflow.devices.broker.mishaps import Mishaps
from zflow.devices.protocol import messages
from zflow.devices.protocol.messages import Fanout
from zflow.devices.protocol.parts import flat
from zflow.devices.routing.fanout import Publish
from zflow.devices.routing.pool import Actions, Outcome, Pool


class Outbox:
    """What a turn of the loop has to send.

    Args:
        back: publishes, and is told who could not be reached.
        front: sends what clients are told, in the same moment.
        manager: is told whom to kill.
        mishaps: keeps what fails at one replica from the others.
        go_on: takes a walk to where it goes next, if a task was given up.
    """

    def __init__(
        self,
        back: Back,
        front: Front,
        manager: ManagerLine,
        mishaps: Mishaps,
        go_on: Callable[[Pool, Outcome, float], None],
    ) -> None:
        self._back = back
        self._front = front
        self._manager = manager
        self._mishaps = mishaps
        self._go_on = go_on
        # The ids of tasks, by the line that they go over.
        self._given: dict[Line | Address, list[int]] = {}
        self._to_publish: list[tuple[Pool, Publish]] = []

    def do(self, pool: Pool, actions: Actions) -> None:
        """Carry out what the pool says: a task that was given up at once, what is to be sent at the
        turn's end.
        """
        for action in actions:
            if type(action) is Send:
                line, task = action.replica.line, action.task
                line.give(task)
                self._given.setdefault(line, []).extend(range(task.id, task.id + task.count))
            elif type(action) is SendAhead:
                line = action.replica.line
                line.give(action.task, action.ticket)
                self._given.setdefault(line, []).append(action.task.id)
            elif type(action) is SendBatch:
                line = action.replica.line
                line.give_together(action.tasks)
                self._given.setdefault(line, []).extend(task.id for task in action.tasks)
            elif type(action) is Recall:
                line = action.replica.line
                line.recall(action.task.id)
                self._given.setdefault(line, [])
            elif type(action) is Fail:
                now = time.monotonic()
                outcome, more = pool.failed(action, failures.why(pool, action), now)
                self.do(pool, more)
                if outcome is not None:
                    self._go_on(pool, outcome, now)
            elif type(action) is Kill:
                self._manager.tell("kill", action.replica.name)
            elif type(action) is Publish:
                self._to_publish.append((pool, action))

    def flush(self) -> None:
        """Send what the turn has brought about, and what follows from that."""
        call = self._mishaps.call
        while self._given or self._to_publish or self._front.waiting:
            published, self._to_publish = self._to_publish, []
            for pool, publish in published:
                call(self._publish, pool, publish)
            given, self._given = self._given, {}
            for line, ids in given.items():
                sent = call(line.flush)
                if sent is None:
                    self._mishaps.fail_tasks(ids)
                elif not sent:
                    for id in reversed(ids):  # each goes in front of those that wait
                        self._back.unreachable(line.identity, id)
            self._front.flush()  # who is cut by it had requests, and others get what held those

    def _publish(self, pool: Pool, action: Publish) -> None:
        walk, inputs = action.scatter.payload
        parts, frames = flat(inputs)
        number, base, skip = action.number, action.scatter.base, list(action.skip)
        said = Fanout(number, base, walk.endpoint, parts, skip, frames)
        self._back.publish(messages.topic(pool.index, action.group), said)
