"""The yardstick: the same bytes echoed through a C `zmq.proxy` by plain pyzmq workers, and a DEALER client.

Broker and workers are processes of their own, as zflow's are; nothing here imports zflow. `zmq.proxy` deals
requests round-robin and knows neither replies that belong together nor workers that die: it is a lower bound.
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
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

import zmq

if TYPE_CHECKING:
    from typing_extensions import Self

READY_WITHIN = 20.0  # seconds
ANSWER_WITHIN = 60.0  # seconds

Message = Sequence[bytes]  # [header, payload]


def seconds_frame(seconds: float) -> bytes:
    """Return the payload that makes a worker sleep before it answers."""
    return b"sleep" + struct.pack("<d", seconds)


class Yardstick:
    """Processes of plain ZeroMQ, and a client in this process; as a context manager it ends them."""

    _folder: str
    _context: zmq.Context[zmq.Socket[bytes]]
    _processes: list[subprocess.Popen[bytes]]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the processes and remove their sockets."""
        self._context.destroy(linger=0)
        for process in self._processes:
            process.kill()
            process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


class ProxyEcho(Yardstick):
    """A running `zmq.proxy` with `workers` REP workers behind it, and a client in this process.

    `sleeps` gives each worker's own service time in seconds (0 by default); a payload made by
    `seconds_frame` overrides it for one request.
    """

    def __init__(self, workers: int = 1, sleeps: Sequence[float] = ()) -> None:
        self._folder = tempfile.mkdtemp(prefix="zflow-bench-")
        self._context = zmq.Context()
        self._processes = [self._spawn("broker")]
        for at in range(workers):
            self._processes.append(self._spawn("worker", str(sleeps[at] if sleeps else 0.0)))
        self._client = self._context.socket(zmq.DEALER)
        self._client.linger = 0
        self._client.set_hwm(0)
        self._client.rcvtimeo = int(ANSWER_WITHIN * 1000)
        self._client.connect(f"ipc://{self._folder}/front")
        self._wait_for(workers)

    def call(self, message: Message) -> list[bytes]:
        """Send one message and wait for its answer."""
        self._client.send_multipart([b"", *message])
        return self._client.recv_multipart()

    def stream(self, messages: Iterable[Message], in_flight: int) -> int:
        """Send all messages with at most `in_flight` unanswered at any time; return the number of answers."""
        send, receive = self._client.send_multipart, self._client.recv_multipart
        waiting = answered = 0
        for message in messages:
            if waiting == in_flight:
                receive()
                waiting -= 1
                answered += 1
            send([b"", *message])
            waiting += 1
        for _ in range(waiting):
            receive()
        return answered + waiting

    def _spawn(self, role: str, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, __file__, role, self._folder, *arguments])

    def _wait_for(self, workers: int) -> None:
        """Return once every worker answers: the proxy deals round-robin, so each gets one of `workers` requests."""
        until = time.monotonic() + READY_WITHIN
        names: set[bytes] = set()
        while len(names) < workers:
            if time.monotonic() > until:
                self.close()
                raise TimeoutError(f"only {len(names)} of {workers} workers answered within {READY_WITHIN:.0f} s")
            names.add(self.call([b"who", b""])[-1])
            time.sleep(0.01)


def simulate(times: Iterable[float], servers: int) -> float:
    """Return the seconds that an ideal central queue needs: each server takes the next request when it is free.

    >>> simulate([3, 1, 1, 1], servers=2)
    3.0
    """
    free = [0.0] * servers
    for seconds in times:
        at = free.index(min(free))
        free[at] += seconds
    return max(free)


def ideal_makespan(requests: int, times: Sequence[float]) -> float:
    """Return the least seconds in which servers of these service times can answer so many requests.

    >>> round(ideal_makespan(300, [0.05, 0.005, 0.005]), 3)
    0.715
    """
    ends: Iterator[float] = iter(sorted(k * seconds for seconds in times for k in range(1, requests + 1)))
    return deque((next(ends) for _ in range(requests)), maxlen=1)[0]


def run_broker(folder: str) -> None:
    """Forward between front and back until killed."""
    context = zmq.Context()
    front, back = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    for socket in (front, back):
        socket.set_hwm(0)
    front.bind(f"ipc://{folder}/front")
    back.bind(f"ipc://{folder}/back")
    zmq.proxy(front, back)


def run_worker(folder: str, seconds: float) -> None:
    """Answer each request with what it brought, after sleeping for as long as it or the worker says."""
    socket = zmq.Context().socket(zmq.REP)
    socket.connect(f"ipc://{folder}/back")
    name = str(id(socket)).encode() + str(time.monotonic_ns()).encode()
    while True:
        message = socket.recv_multipart()
        if message[0] == b"who":
            message[-1] = name
        elif message[-1][:5] == b"sleep":
            time.sleep(struct.unpack("<d", message[-1][5:])[0])
        elif seconds:
            time.sleep(seconds)
        socket.send_multipart(message)


def die_with_parent() -> None:
    """Have the kernel end this process when the benchmark ends, however it ends (Linux only)."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


if __name__ == "__main__":
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.argv[1] == "broker":
        run_broker(sys.argv[2])
    else:
        run_worker(sys.argv[2], float(sys.argv[3]))
