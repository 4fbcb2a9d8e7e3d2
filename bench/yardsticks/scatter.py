"""The yardstick for fan-out: a plain pyzmq ROUTER that sends each request to S DEALER
workers and collects S answers.

ROUTER and workers are processes of their own, as zflow's broker and replicas are; nothing here
imports zflow. It has one request under way at a time, keeps none, and knows neither which worker is
idle nor which has died: a lower bound.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

import zmq

from bench.yardsticks.proxy import Message, Yardstick, die_with_parent

LARGE = 64 * 1024  # bytes from which a message is passed on without being copied


class RouterFanout(Yardstick):
    """A running ROUTER with `shards` workers, and a client in this process.

    `answer` has the sizes in bytes of the frames that each worker answers.
    """

    def __init__(self, shards: int, answer: Sequence[int]) -> None:
        super().__init__()
        self.pid = self._spawn(__name__, "router", shards).pid  # of the ROUTER
        self._spawn(__name__, "workers", shards, *answer)
        self._client = self._connect()

    def call(self, message: Message) -> list[bytes]:
        """Send one request to all workers and wait for all answers: their frames,
        one worker's after the other's.
        """
        self._client.send_multipart([b"", *message], copy=sum(map(len, message)) < LARGE)
        return self._client.recv_multipart()[1:]


# -- the processes ---------------------------------------------------------------------------------


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
