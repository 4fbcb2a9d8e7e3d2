"""Trains: messages of very many tiny frames,
which take a multiple of their bytes of memory and of time.

Nothing tells how many frames libzmq has received of a message that is not whole. But a piece of
what is under way does: whether it reads as frames that all say that more follow (ZMTP 3, RFC 23).
Encrypted frames are never that small.
"""

from __future__ import annotations

from typing import Final

SAMPLE: Final = 16 << 10  # bytes; two pieces, so that not all of it can be data of one small frame
DENSE: Final = 16  # bytes of a sample, for each frame in it, up to which it is one of a train
PIECE: Final = 8192  # bytes that libzmq reads in one go, unless it is within a frame that is larger
MOST_STEPS: Final = 20_000  # so that nothing that can be sent takes long to look through

_MORE, _MORE_LONG = 1, 3  # the first byte of a frame
_LONG_HEADER = 9


def may_be(sample: bytes) -> bool:
    """Whether it is worth while to look closer."""
    return (
        len(sample) == SAMPLE and sample.count(_MORE) + sample.count(_MORE_LONG) >= SAMPLE // DENSE
    )


def frames_in(sample: bytes) -> int:
    """Return how many frames are in a piece of what is sent, wherever the first one begins;
    0 if that is no train.

    >>> frames_in(bytes([1, 0]) * 1000)
    996
    >>> frames_in(bytes(2000))
    0
    """
    least = len(sample) // DENSE
    steps = MOST_STEPS
    for start in range(256):
        count = _frames_from(sample, start)
        if count >= max(1, least):
            return count
        steps -= 1 - count
        if steps < 0:
            break
    return 0


def _frames_from(sample: bytes, at: int) -> int:
    """How many frames there are if one begins here; below 0,
    after how many one says that none follows.
    """
    count, end = 0, len(sample) - _LONG_HEADER
    while at < end:
        if sample[at] == _MORE:
            at += 2 + sample[at + 1]
        elif sample[at] == _MORE_LONG:
            at += _LONG_HEADER + int.from_bytes(sample[at + 1 : at + _LONG_HEADER], "big")
        else:
            return -count
        count += 1
    return count


class Pieces:
    """Tells from what libzmq has left to read whether it reads in pieces,
    as it does with small frames only.

    Data of a large frame may look like a train, but is read as it comes.
    """

    ENOUGH: Final = 3  # of them are more than a sample

    def __init__(self) -> None:
        self._received = self._waiting = -1
        self._pieces = 0

    def saw(self, received: int, waiting: int) -> bool | None:
        """So many bytes have arrived since the connection began, and so many wait;
        returns what is known by now.
        """
        if self._received >= 0:
            read = self._waiting + received - self._received - waiting
            if read % PIECE or (read and not waiting):
                return False  # what is read as it comes leaves nothing
            self._pieces += read // PIECE
        self._received, self._waiting = received, waiting
        return True if self._pieces >= self.ENOUGH else None
