"""What the broker does with messages that it cannot handle: counts them,
and fails the requests they were about.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from types import TracebackType

from zflow.devices.balancing.replica import Task
from zflow.devices.broker import failures
from zflow.devices.protocol import messages
from zflow.devices.protocol.references import Payload
from zflow.devices.routing.fanout import Scatter
from zflow.devices.routing.pool import request_of
from zflow.devices.routing.walk import Walk
from zflow.devices.sockets.guard import Guard

log = logging.getLogger("zflow.broker")

OURS = "the broker failed at it"


class Mishaps(Guard):
    """Counts what goes wrong.

    Args:
        walks: returns all requests that have not ended.
        fail: ends one of them with an error.

    Attributes:
        counts: by fixed phrases, of which there are few.
    """

    def __init__(
        self, walks: Callable[[], Iterable[Walk]], fail: Callable[[Walk, bytes], None]
    ) -> None:
        super().__init__(log)
        self._walks = walks
        self._fail = fail
        self.counts: Counter[str] = Counter()

    def message(self, error: Exception, frames: Payload) -> None:
        """A message is dropped, the first frame of which says whose it is."""
        if not isinstance(error, messages.Malformed):
            self.note(error)
            return
        what = str(error)
        self.counts[what] += 1
        if self.counts[what] == 1 and not isinstance(error, messages.Unexpected):
            sizes = [len(frame) for frame in frames[1:9]]
            log.warning(
                "dropped a malformed message: %s (frames of %s bytes); more are only counted",
                what,
                sizes,
            )

    def note(self, error: Exception) -> None:
        """The broker has failed. The requests that it was at fail:
        else their clients would wait for ever.
        """
        super().note(error)
        self.counts[OURS] += 1
        walks, tasks = at_hand(error.__traceback__)
        self.fail(walks)
        self.fail_tasks(tasks)

    def fail_tasks(self, tasks: Collection[int]) -> None:
        """End the requests that these tasks are for with the error that the broker has failed."""
        if tasks:
            self.fail({id(walk): walk for walk in self._walks() if walk.has_open(tasks)}.values())

    def fail(self, walks: Iterable[Walk]) -> None:
        """The same for these requests."""
        told = failures.error(
            "ZflowError", "the Flow itself failed at this request, and goes on; its log says more"
        )
        for walk in list(walks):
            try:
                self._fail(walk, told)
            except Exception as another:  # what was left half done may set off more
                super().note(another)


def at_hand(traceback: TracebackType | None) -> tuple[list[Walk], set[int]]:
    """The requests, and the ids of tasks, that functions were about when they raised:
    what they had in variables.
    """
    found: dict[int, Walk] = {}
    tasks: set[int] = set()
    while traceback is not None:
        for name, value in traceback.tb_frame.f_locals.items():
            found.update((id(walk), walk) for walk in _walks_of(value) if not walk.over)
            if name == "id" and type(value) is int:
                tasks.add(value)
        traceback = traceback.tb_next
    return list(found.values()), tasks


def _walks_of(value: object) -> Iterator[Walk]:
    if isinstance(value, tuple) and value:  # an outcome, or a payload of the balancer's
        value = value[0]
    if isinstance(value, Walk):
        yield value
    elif isinstance(value, Task) and (isinstance(value.payload, (tuple, Scatter))):
        yield from _walks_of(request_of(value))
    elif isinstance(value, Scatter):
        yield from _walks_of(value.payload)
