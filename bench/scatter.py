"""The yardstick for fan-out: a plain pyzmq ROUTER that sends each request to S DEALER workers and collects S answers.

ROUTER and workers are processes of their own, as zflow's broker and replicas are; nothing here imports zflow. It has
one request under way at a time, keeps none, and knows neither which worker is idle nor which has died: a lower bound.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import zmq
from proxy import ANSWER_WITHIN, Message, Yardstick, die_with_parent

LARGE = 64 * 1024  # bytes from which a message is passed on without being copied


class RouterFanout(Yardstick):
    """A running ROUTER with `shards` workers, and a client in this process.

    `answer` has the sizes in bytes of the frames that each worker answers.
    """

    def __init__(self, shards: int, answer: Sequence[int]) -> None:
        self._folder = tempfile.mkdtemp(prefix="zflow-bench-")
        self._context = zmq.Context()
        self._processes = [self._spawn("router", shards), self._spawn("workers", shards, *answer)]
        self._client = self._context.socket(zmq.DEALER)
        self._client.linger = 0
        self._client.rcvtimeo = int(ANSWER_WITHIN * 1000)
        self._client.connect(f"ipc://{self._folder}/front")
        self.pid = self._processes[0].pid  # of the ROUTER

    def call(self, message: Message) -> list[bytes]:
        """Send one request to all workers and wait for all answers: their frames, one worker's after the other's."""
        self._client.send_multipart([b"", *message], copy=sum(map(len, message)) < LARGE)
        return self._client.recv_multipart()[1:]

    def _spawn(self, role: str, *numbers: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, __file__, role, self._folder, *map(str, numbers)])


def cpu_seconds(pid: int) -> tuple[float, float]:
    """Return the processor time that a process has used so far: its main thread alone, and all of its threads."""
    times = {int(thread): _thread_seconds(pid, thread) for thread in os.listdir(f"/proc/{pid}/task")}
    return times[pid], sum(times.values())


def _thread_seconds(pid: int, thread: str) -> float:
    """Return the seconds of one thread; nanoseconds count where the kernel tells them."""
    try:
        with open(f"/proc/{pid}/task/{thread}/schedstat") as file:
            return int(file.read().split()[0]) * 1e-9
    except FileNotFoundError:
        with open(f"/proc/{pid}/task/{thread}/stat") as file:
            user, system = file.read().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


# -- the processes ----------------------------------------------------------------------------------------------------


def run_router(folder: str, shards: int) -> None:
    """Pass each request on to all workers, and their answers back in one message, until killed."""
    context = zmq.Context()
    front, back = context.socket(zmq.ROUTER), context.socket(zmq.ROUTER)
    for socket in (front, back):
        socket.set_hwm(0)
    back.bind(f"ipc://{folder}/back")
    workers = [back.recv_multipart()[0] for _ in range(shards)]
    front.bind(f"ipc://{folder}/front")
    while True:
        frames: list[Any] = front.recv_multipart(copy=False)
        copy = sum(map(len, frames)) < LARGE
        if copy:
            frames = [frame.bytes for frame in frames]
        client, empty, *message = frames
        for worker in workers:
            back.send_multipart([worker, *message], copy=copy)
        answer: list[Any] = [client, empty]
        for _ in workers:
            answer.extend(back.recv_multipart()[1:])
        front.send_multipart(answer)


def run_worker(folder: str, answer: Sequence[bytes]) -> None:
    """Send `answer` to every request, until killed."""
    socket = zmq.Context().socket(zmq.DEALER)
    socket.connect(f"ipc://{folder}/back")
    socket.send(b"here")
    while True:
        socket.recv_multipart(copy=False)
        socket.send_multipart(answer)


def run_workers(folder: str, shards: int, answer: Sequence[bytes]) -> None:
    """Fork so many workers, which end with this process."""
    for _ in range(shards):
        if os.fork() == 0:
            die_with_parent()
            run_worker(folder, answer)
    signal.pause()


if __name__ == "__main__":
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    role, folder, *numbers = sys.argv[1:]
    if role == "router":
        run_router(folder, int(numbers[0]))
    else:
        run_workers(folder, int(numbers[0]), [bytes(int(size)) for size in numbers[1:]])
