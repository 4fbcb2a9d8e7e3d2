"""What a shard of the index holds, in a file that all its replicas append to and read.
Knows nothing of Executors.

A record is written behind its length and checksum, by one process at a time. A process that is
killed while it writes leaves an unfinished record, which the next one to write cuts off. Nothing is
forced to the disk: what was written survives the end of any process, but not that of the machine.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import struct
import zlib
from collections.abc import Iterator
from io import FileIO
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_HEAD = struct.Struct("<QQI")  # bytes of JSON, bytes of vectors, checksum of both


class Entries(NamedTuple):
    """Some entries of an index: `vectors` has a row for each, and they are all of one length."""

    names: list[str]
    texts: list[str]
    vectors: NDArray[np.float32]


class Log:
    """A file of `Entries` that grows at its end only; several processes may use it at once.

    Args:
        path: the file; it is created if it is not there.

    Raises:
        ValueError: on reading a record that is not what was written; the message says where it is.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        self._file = FileIO(path, "a+")
        self._read_to = 0  # bytes

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self) -> list[Entries]:
        """Return what was appended since this was last called, by whichever process,
        the oldest first.
        """
        if os.fstat(self._file.fileno()).st_size == self._read_to:
            return []
        with self._locked(fcntl.LOCK_SH):
            return list(self._records())

    def append(self, entries: Entries) -> list[Entries]:
        """Append `entries`; return what others had appended before, and them."""
        about = json.dumps([entries.names, entries.texts]).encode()
        vectors = np.ascontiguousarray(entries.vectors, dtype="<f4").tobytes()
        head = _HEAD.pack(len(about), len(vectors), zlib.crc32(about + vectors))
        record = memoryview(head + about + vectors)
        with self._locked(fcntl.LOCK_EX):
            before = list(self._records())
            # Whoever left something unfinished there is gone: the lock is ours.
            self._file.truncate(self._read_to)
            while record:
                record = record[self._file.write(record) :]
            self._read_to = self._file.tell()
        return [*before, entries]

    @contextlib.contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        fcntl.flock(self._file, how)  # the kernel takes it back from a process that ends
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def _records(self) -> Iterator[Entries]:
        """Yield the finished records that were not read yet."""
        self._file.seek(self._read_to)
        rest = memoryview(self._file.readall())
        while len(rest) >= _HEAD.size:
            about, vectors, checksum = _HEAD.unpack_from(rest)
            end = _HEAD.size + about + vectors
            if len(rest) < end:
                return
            body = rest[_HEAD.size : end]
            if zlib.crc32(body) != checksum:
                raise ValueError(
                    f"{self._path} is damaged: the record at byte {self._read_to} is not what was "
                    "written"
                )
            rest = rest[end:]
            self._read_to += end
            names, texts = json.loads(bytes(body[:about]))
            yield Entries(
                names, texts, np.frombuffer(body[about:], dtype="<f4").reshape(len(names), -1)
            )
