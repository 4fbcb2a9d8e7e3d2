"""The queue before an Executor: fair between clients. Pure logic.

Each client has a lane, first come first served; lanes take turns. So one that floods waits behind
its own requests, and whoever asks for little is served soon.
With a single client it is an ordinary queue.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Collection, Hashable, Iterable, Sequence
from typing import Generic, Protocol, TypeVar


class Queueable(Protocol):
    """What can be queued: it says whose it is."""

    @property
    def client(self) -> Hashable:
        """The client."""

    @property
    def count(self) -> int:
        """How many it is, if it stands for several."""


T = TypeVar("T", bound=Queueable)


class FairQueue(Generic[T]):
    """What waits, with the one whose turn it is in front.

    Attributes:
        size: how many wait, all of each that stands for several.

    >>> from collections import namedtuple
    >>> Request = namedtuple("Request", "client number count", defaults=[1])
    >>> queue = FairQueue()
    >>> for number in range(3):
    ...     queue.append(Request("flood", number))
    >>> queue.append(Request("other", 7))
    >>> [queue.popleft().number for _ in range(len(queue))]
    [0, 7, 1, 2]
    """

    __slots__ = ("_lanes", "size")

    def __init__(self) -> None:
        # None of them empty; the first one's turn is next.
        self._lanes: OrderedDict[Hashable, deque[T]] = OrderedDict()
        self.size = 0

    def __len__(self) -> int:
        return self.size

    @property
    def head(self) -> T:
        """The one whose turn it is.

        Raises:
            StopIteration: there is none.
        """
        return next(iter(self._lanes.values()))[0]

    @property
    def tail(self) -> T:
        """The youngest of the client whose turn it is; raises as `head`."""
        return next(iter(self._lanes.values()))[-1]

    def of(self, client: Hashable) -> Sequence[T]:
        """What waits of that client, the oldest in front."""
        return self._lanes.get(client, ())

    @property
    def clients(self) -> Collection[Hashable]:
        """Those of whom something waits, in the order of their turns."""
        return self._lanes

    def prefer(self, client: Hashable) -> None:
        """It is this client's turn.

        Raises:
            KeyError: nothing waits of it.
        """
        self._lanes.move_to_end(client, last=False)

    def order(self, clients: Iterable[Hashable]) -> None:
        """Clients take turns in this order from now on; something of each of them waits."""
        for client in clients:
            self._lanes.move_to_end(client)

    def append(self, item: T) -> None:
        """Put one behind those of its client."""
        lane = self._lanes.get(item.client)
        if lane is None:
            lane = self._lanes[item.client] = deque()
        lane.append(item)
        self.size += item.count

    def appendleft(self, item: T) -> None:
        """Put one in front of all."""
        self.put_back(item)
        self._lanes.move_to_end(item.client, last=False)

    def put_back(self, item: T) -> None:
        """Put what is left of one that was taken in front of those of its client,
        whose turn it was.
        """
        lane = self._lanes.get(item.client)
        if lane is None:
            lane = self._lanes[item.client] = deque()
        lane.appendleft(item)
        self.size += item.count

    def replace(self, item: T, items: Sequence[T]) -> None:
        """Put these, which are as many, where that one stands.

        Raises:
            KeyError, ValueError: it is not there.
        """
        lane = self._lanes[item.client]
        at = lane.index(item)
        lane.rotate(-at)
        lane.popleft()
        lane.extendleft(reversed(items))
        lane.rotate(at)

    def popleft(self) -> T:
        """Take the one whose turn it is."""
        return self._take(oldest=True)

    def pop(self) -> T:
        """Take the youngest of the client whose turn it is."""
        return self._take(oldest=False)

    def _take(self, oldest: bool) -> T:
        client, lane = next(iter(self._lanes.items()))
        item = lane.popleft() if oldest else lane.pop()
        if not lane:
            del self._lanes[client]
        elif len(self._lanes) > 1:
            self._lanes.move_to_end(client)
        self.size -= item.count
        return item

    def remove(self, item: T) -> None:
        """Take this one out.

        Raises:
            KeyError, ValueError: it is not there.
        """
        lane = self._lanes[item.client]
        lane.remove(item)
        if not lane:
            del self._lanes[item.client]
        self.size -= item.count

    def discard(self, item: T) -> None:
        """Take this one out if it is there."""
        if item in self._lanes.get(item.client, ()):
            self.remove(item)
