"""The broker's line to the process manager: what each tells the other, as msgpack over a pipe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import msgpack

from zflow.devices.routing.walk import Origin


class Control(Protocol):
    """One end of the line, as `multiprocessing.Connection` offers it."""

    def fileno(self) -> int: ...
    def poll(self, timeout: float = 0.0) -> bool: ...
    def recv_bytes(self) -> bytes: ...
    def send_bytes(self, data: bytes) -> None: ...


class ManagerLine:
    """The broker's end.

    Args:
        control: the pipe.

    Attributes:
        broken: whether the manager is gone, and with it the Flow.
    """

    def __init__(self, control: Control) -> None:
        self._control = control
        self.broken = False

    def fileno(self) -> int:
        """What to watch for something to read."""
        return self._control.fileno()

    def tell(self, *message: object) -> None:
        """Tell the manager something: a word and what belongs to it."""
        try:
            self._control.send_bytes(msgpack.packb(message))
        except OSError:
            self.broken = True

    def heard(self) -> Iterator[list[Any]]:
        """Yield what the manager has said: for each thing a word and what belongs to it."""
        try:
            while self._control.poll():
                yield msgpack.unpackb(self._control.recv_bytes())
        except (EOFError, OSError):
            self.broken = True


class Commands:
    """The commands that the manager carries out:
    so few that neither of the two ever waits for the other to read.

    Args:
        first: numbers begin after this one; the manager may still answer those of a broker before.
    """

    MOST = 64
    MOST_OF_ONE = 16  # client

    def __init__(self, first: int) -> None:
        self._number = first
        self._given: dict[int, Origin] = {}

    def begin(self, origin: Origin) -> int:
        """Return the number of a new command of this origin;
        0 if too many are under way.
        """
        whose = sum(given[:2] == origin[:2] for given in self._given.values())
        if len(self._given) >= self.MOST or whose >= self.MOST_OF_ONE:
            return 0
        self._number += 1
        self._given[self._number] = origin
        return self._number

    def end(self, number: int) -> Origin | None:
        """A command is done; returns who gave it, or None if that was said to a broker before."""
        return self._given.pop(number, None)
