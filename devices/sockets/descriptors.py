"""Whether this process can open what libzmq needs for a socket.

Where it cannot, libzmq may end the whole process when it makes a context's first socket, so that
is asked before. Nothing of zmq is used here.
"""

from __future__ import annotations

import errno
import os
from typing import Final

NEEDED: Final = 8  # by a context's threads, a socket, its connection and what watches that
FEW: Final = (errno.EMFILE, errno.ENFILE)  # of this process, of the machine; libzmq says the same


def make_sure(count: int = NEEDED) -> None:
    """Raise the system's error, with one of the numbers `FEW`, if so many descriptors cannot be
    opened now. Others may take them meanwhile.

    Raises:
        OSError: there are too few.
    """
    opened: list[int] = []
    try:
        for _ in range(count):
            opened.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    finally:
        for one in opened:
            os.close(one)
