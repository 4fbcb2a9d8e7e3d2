"""Whose a task is that waits at a busy replica: the replica's when it begins it, or the broker's,
which takes it back.

The two share a pipe. With a task that is to wait the broker puts a ticket into it. The replica
takes the ticket out before it begins the task, and the broker before it gives the task to somebody
else. What one of them has read the other cannot read, so neither has to ask the other, which is
busy with user code and could not answer.
"""

from __future__ import annotations

import contextlib
import os
import resource
import struct
import time

_RECORD = struct.Struct("=QQ")  # number and task


class Tickets:
    """One end of the pipe: the broker gives and reclaims, the replica takes.

    Args:
        descriptor: of the pipe, readable, writable and not blocking; closed by `close`.
        first: tickets have numbers from this one on;
            larger ones than those of pipes before this one.
    """

    def __init__(self, descriptor: int, first: int = 0) -> None:
        self._descriptor = descriptor
        self._number = first  # of the ticket that was given last; in a replica, that was found last

    def give(self, task: int) -> int:
        """Put in a ticket for this task; returns its number, larger than those before it, or 0:
        there is no room.
        """
        number = self._number + 1
        if not self._write(_RECORD.pack(number, task)):
            return 0
        self._number = number
        return number

    def reclaim(self) -> int | None:
        """Take the oldest ticket out and return its task, which the replica will not begin; None:
        there is none.
        """
        record = self._read()
        return None if not record else _RECORD.unpack(record)[1]

    def take(self, number: int) -> bool:
        """Take out the ticket with this number, larger than all that were asked for before;
        False: it is gone.
        """
        while self._number < number:
            record = self._read()
            if not record:
                return False
            self._number = _RECORD.unpack(record)[0]
        return self._number == number

    def _write(self, record: bytes) -> bool:
        try:
            return os.write(self._descriptor, record) > 0
        except BlockingIOError:
            return False

    def _read(self) -> bytes:
        try:
            return os.read(self._descriptor, _RECORD.size)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        """Close this end."""
        os.close(self._descriptor)
        self._descriptor = -1  # which the system may give to another file


def make(back: str, identity: bytes) -> Tickets | None:
    """Make a replica's pipe, where the broker finds it; returns the replica's end,
    or None if there can be none.
    """
    path = _path(back, identity)
    if path is None:
        return None
    try:
        remove(back, identity)  # of a process that had the same id
        os.mkfifo(path, 0o600)
        return Tickets(os.open(path, os.O_RDWR | os.O_NONBLOCK))
    except OSError:  # the disk is full, say
        return None


def find(back: str, identity: bytes) -> Tickets | None:
    """Return the broker's end of a replica's pipe; None if there is none,
    or connections need the files still left.
    """
    path = _path(back, identity)
    if path is None:
        return None
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    except OSError:
        return None
    if descriptor >= resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2:
        os.close(descriptor)
        return None
    return Tickets(descriptor, time.monotonic_ns())


def remove(back: str, identity: bytes) -> None:
    """Take away the name of a replica's pipe, which nobody needs once both have it open."""
    path = _path(back, identity)
    if path is not None:
        with contextlib.suppress(OSError):  # as a rule, there is none
            os.unlink(path)


def _path(back: str, identity: bytes) -> str | None:
    """Beside the broker's socket for replicas, if that is one in a folder;
    an identity ends with a process id.
    """
    folder, process = back.removeprefix("ipc://"), identity.rpartition(b"#")[2]
    return f"{folder}-{process.decode()}" if folder != back and process.isdigit() else None
