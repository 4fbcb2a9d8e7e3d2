"""A cable between two machines that is none: a TCP proxy that a test can freeze, cut,
slow down and heal.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from typing import Any


class Cable:
    """Passes on what comes to `port` to another port of this machine.

    Args:
        to: the other port.
        delay: seconds that everything takes, in each direction.
        jitter: up to so many seconds more, drawn for each connection and direction: what is sent
            over one may overtake what was sent over another before.
    """

    def __init__(self, to: int, delay: float = 0.0, jitter: float = 0.0, seed: int = 1) -> None:
        self._to = to
        self._delay = delay
        self._jitter = jitter
        self._random = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._flowing = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._whole = True
        self.connections = 0  # that were made so far
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server: asyncio.Server = self._call(self._open())
        self.port: int = self._server.sockets[0].getsockname()[1]

    def __enter__(self) -> Cable:
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def freeze(self) -> None:
        """Nothing comes through any more, and nobody is told."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def cut(self) -> None:
        """All connections break, and there are no new ones."""
        self._call(self._cut())

    def heal(self) -> None:
        """Everything comes through again."""
        self._whole = True
        self._loop.call_soon_threadsafe(self._flowing.set)

    def _call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _open(self) -> asyncio.Server:
        self._flowing.set()
        return await asyncio.start_server(self._connected, "127.0.0.1", 0)

    async def _close(self) -> None:
        self._server.close()
        await self._cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _cut(self) -> None:
        self._whole = False
        for writer in list(self._writers):
            writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._whole:
            writer.transport.abort()
            return
        self.connections += 1
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.transport.abort()
            return
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            self._writers.add(sink)
            task = self._loop.create_task(
                self._pump(source, sink, self._delay + self._random.random() * self._jitter)
            )
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, delay: float
    ) -> None:
        due: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        writing = self._loop.create_task(self._write(due, sink))
        try:
            with contextlib.suppress(OSError):
                while data := await source.read(1 << 16):
                    due.put_nowait((self._loop.time() + delay, data))
            due.put_nowait((self._loop.time() + delay, b""))
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writing
        finally:
            writing.cancel()
            self._writers.discard(sink)

    async def _write(
        self, due: asyncio.Queue[tuple[float, bytes]], sink: asyncio.StreamWriter
    ) -> None:
        while True:
            at, data = await due.get()
            await asyncio.sleep(at - self._loop.time())
            await self._flowing.wait()
            if not data or sink.transport.is_closing():
                sink.close()
                return
            sink.write(data)
            await sink.drain()
