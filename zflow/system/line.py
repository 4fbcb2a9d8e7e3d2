"""What two processes say to each other over a pipe: a word, and what belongs to it.

It goes as msgpack, so nothing that is heard is unpickled.
Which words there are is the business of those who speak.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgpack

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

#: An error as `errors.to_wire` tells it, to go with the word `failed`.
Failure = dict[str, str]


def failure(message: str, kind: str = "StartupFailed") -> Failure:
    """Return what is said of an error of that kind without making one.

    >>> failure("its watchdog died")
    {'type': 'StartupFailed', 'message': 'its watchdog died'}
    """
    return {"type": kind, "message": message}


def say(line: Connection, word: str, *arguments: object) -> None:
    """Say a word, and what belongs to it.

    Raises:
        OSError: nobody listens any more.
    """
    # Texts of errors may have half a surrogate pair in them: names of files that are not UTF-8 do.
    line.send_bytes(msgpack.packb((word, *arguments), unicode_errors="backslashreplace"))


def hear(line: Connection) -> list[Any]:
    """Wait for what the other end says next: the word, and what belongs to it.

    Raises:
        EOFError, OSError: the other end is closed.
    """
    return list(msgpack.unpackb(line.recv_bytes()))
