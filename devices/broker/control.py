"""The broker's line to the process manager: what each tells the other, as msgpack over a pipe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import msgpack


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

    def tell(self, *message: Any) -> None:
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
