"""The yardstick: the same bytes passed through a C `zmq.proxy` by plain pyzmq workers,
and a DEALER client.

Broker and workers are processes of their own, as zflow's are; nothing here imports zflow.
`zmq.proxy` deals requests round-robin and knows neither replies that belong together nor workers
that die: it is a lower bound.
"""

from __future__ import annotations

import ctypes
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import zmq

if TYPE_CHECKING:
    from typing_extensions import Self

ROOT = Path(__file__).resolve().parents[2]
READY_WITHIN = 20.0  # seconds
ANSWER_WITHIN = 60.0  # seconds
PAGE = 4096  # bytes

Message = Sequence[Any]  # frames: bytes or buffers, the header first
Kind = Literal["echo", "mirror", "sink"]


def seconds_frame(seconds: float) -> bytes:
    """Return the payload that makes a worker sleep before it answers;
    the answer says how long it slept.
    """
    return b"sleep" + struct.pack("<d", seconds)


def seconds_in(frame: bytes) -> float:
    """Return what `seconds_frame` was made of."""
    return float(struct.unpack("<d", frame[5:])[0])


class Yardstick:
    """Processes of plain ZeroMQ, and a client in this process;
    as a context manager it ends them.
    """

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="zflow-bench-")
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the processes and remove their sockets."""
        self._context.destroy(linger=0)
        for process in self._processes:
            process.kill()
            process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _spawn(self, module: str, role: str, *arguments: object) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", module, role, self._folder, *map(str, arguments)]
        process = subprocess.Popen(command, cwd=ROOT)
        self._processes.append(process)
        return process

    def _connect(self) -> zmq.Socket[bytes]:
        """Return a client of the broker."""
        client = self._context.socket(zmq.DEALER)
        client.linger = 0
        client.set_hwm(0)
        client.rcvtimeo = int(ANSWER_WITHIN * 1000)
        client.connect(f"ipc://{self._folder}/front")
        return client


class ProxyEcho(Yardstick):
    """A running `zmq.proxy` with `workers` REP workers behind it, and a client in this process.

    Args:
        workers: how many.
        sleeps: each worker's own service time in seconds, 0 by default; a payload made by
            `seconds_frame` overrides it for one request.
        kind: what workers do: `'echo'` answers small messages with themselves; `'mirror'` does so
            without copying them; `'sink'` reads a byte of each page and answers with nothing.
    """

    def __init__(self, workers: int = 1, sleeps: Sequence[float] = (), kind: Kind = "echo") -> None:
        super().__init__()
        self._spawn(__name__, "broker")
        for at in range(workers):
            self._spawn(__name__, kind, sleeps[at] if sleeps else 0.0)
        self.client = self._connect()
        self._wait_for(workers)

    @property
    def pids(self) -> list[int]:
        """Process ids: the broker's, then each worker's."""
        return [process.pid for process in self._processes]

    def call(self, message: Message) -> list[bytes]:
        """Send one message and wait for its answer."""
        self.client.send_multipart([b"", *message])
        return self.client.recv_multipart()

    def stream(self, messages: Iterable[Message], in_flight: int, copy: bool = True) -> int:
        """Send all messages with at most `in_flight` unanswered at any time;
        return the number of answers.

        Args:
            messages: what to send.
            in_flight: how many may be on their way.
            copy: whether frames are copied, which is quicker below some 64 KiB.
        """
        send, receive = self.client.send_multipart, self.client.recv_multipart
        flags = 0
        waiting = answered = 0
        for message in messages:
            if waiting == in_flight:
                receive(flags, copy)
                waiting -= 1
                answered += 1
            send([b"", *message], copy=copy)
            waiting += 1
        for _ in range(waiting):
            receive(flags, copy)
        return answered + waiting

    def _wait_for(self, workers: int) -> None:
        """Return once every worker answers: the proxy deals round-robin,
        so each gets one of `workers` requests.
        """
        until = time.monotonic() + READY_WITHIN
        names: set[bytes] = set()
        while len(names) < workers:
            if time.monotonic() > until:
                self.close()
                raise TimeoutError(
                    f"only {len(names)} of {workers} workers answered within {READY_WITHIN:.0f} s"
                )
            names.add(self.call([b"who", b""])[-1])
            time.sleep(0.01)


# -- the processes ---------------------------------------------------------------------------------


def run_broker(folder: str) -> None:
    """Forward between front and back until killed."""
    context = zmq.Context()
    front, back = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    for socket in (front, back):
        socket.set_hwm(0)
    front.bind(f"ipc://{folder}/front")
    back.bind(f"ipc://{folder}/back")
    zmq.proxy(front, back)


def run_echo(folder: str, seconds: float) -> None:
    """Answer each request with what it brought, after sleeping for as
    long as it or the worker says.
    """
    socket, name = _worker(folder)
    while True:
        message = socket.recv_multipart()
        if message[0] == b"who":
            message[-1] = name
        elif message[-1][:5] == b"sleep":
            begin = time.perf_counter()
            time.sleep(seconds_in(message[-1]))
            message[-1] = seconds_frame(time.perf_counter() - begin)
        elif seconds:
            time.sleep(seconds)
        socket.send_multipart(message)


def run_large(folder: str, mirror: bool) -> None:
    """Answer each request with what it brought, or with nothing; no frame is copied."""
    import numpy as np

    socket, name = _worker(folder)
    while True:
        header, *payload = socket.recv_multipart(copy=False)
        if header.bytes == b"who":
            socket.send_multipart([header, name])
        elif mirror:
            socket.send_multipart([header, *payload], copy=False)
        else:
            for frame in payload:
                np.frombuffer(frame.buffer, np.uint8)[::PAGE].sum()
            socket.send_multipart([header, b""])


def _worker(folder: str) -> tuple[zmq.Socket[bytes], bytes]:
    """Return a worker's socket and a name for it."""
    socket = zmq.Context().socket(zmq.REP)
    socket.connect(f"ipc://{folder}/back")
    return socket, str(id(socket)).encode() + str(time.monotonic_ns()).encode()


def die_with_parent() -> None:
    """Have the kernel end this process when the benchmark ends, however it ends (Linux only)."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def main(role: str, folder: str, *arguments: str) -> None:
    """Be the broker or a worker."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if role == "broker":
        run_broker(folder)
    elif role == "echo":
        run_echo(folder, float(arguments[0]))
    else:
        run_large(folder, mirror=role == "mirror")


if __name__ == "__main__":
    main(*sys.argv[1:])
