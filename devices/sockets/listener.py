"""How many file descriptors connections from elsewhere may take,
and how a socket stops taking more for a while.

libzmq ends the process if none is left when a process of this machine connects. So while few are
left, the kernel is told to drop what comes to the listening socket: those who connect try again by
themselves, about each second, and open connections don't notice. (Unbinding would end them: libzmq
closes the connections of an address with its listener.)
"""

from __future__ import annotations

import array
import contextlib
import os
import resource
import socket as sockets
import struct
import sys
from typing import Final

OWN: Final = 64  # descriptors that a broker needs before anybody connects, about
PER_REPLICA: Final = 6  # that each replica of this machine takes
LEAST_RESERVE: Final = 64
# Connections beyond the limit that may be in their handshake, to be refused.
HALF_OPEN: Final = 1000

_ATTACH_FILTER, _DETACH_FILTER = 26, 27  # SO_..., which Python does not name
_DROP_ALL: Final = struct.pack("=HBBI", 0x06, 0, 0, 0)  # the BPF program `return 0`


def descriptors(hard: bool = False) -> int:
    """How many file descriptors this process may have; with `hard`, if it raises its limit."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1 if hard else 0]
    return sys.maxsize if most == resource.RLIM_INFINITY else most


def reserve(most: int) -> int:
    """How many of so many descriptors are kept for processes of this machine
    that connect while the Flow runs.
    """
    return max(LEAST_RESERVE, most // 16)


def room(most: int, replicas: int, doors: int) -> int:
    """How many connections to each of its doors a broker can have that may have `most`
    descriptors.
    """
    return max(0, (most - reserve(most) - OWN - PER_REPLICA * replicas) // doors)


def used() -> int:
    """How many file descriptors this process has."""
    return len(os.listdir("/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"))


class Listener:
    """Where a socket listens.

    Attributes:
        resting: whether new connections are left waiting.
    """

    def __init__(self) -> None:
        self._socket: sockets.socket | None = None
        self.resting = False

    def bound(self, descriptor: int) -> None:
        """It listens from now on, with this descriptor of libzmq's."""
        self.close()
        with contextlib.suppress(OSError):
            self._socket = sockets.socket(fileno=os.dup(descriptor))

    def rest(self, resting: bool) -> None:
        """Let new connections wait, or no longer. Where the system cannot do that,
        they do not wait.
        """
        if self._socket is None:
            return
        program = array.array("B", _DROP_ALL)
        with contextlib.suppress(OSError):
            if resting:
                option = struct.pack("@HP", 1, program.buffer_info()[0])
                self._socket.setsockopt(sockets.SOL_SOCKET, _ATTACH_FILTER, option)
            else:
                self._socket.setsockopt(sockets.SOL_SOCKET, _DETACH_FILTER, 0)
            self.resting = resting

    def close(self) -> None:
        """Let go of the descriptor."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
