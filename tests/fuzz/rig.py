"""A whole run: the Flow, those who use it, the hostile processes, and what came of it all."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from helpers import ROOT, in_background

from tests.chaos.usage import MIB, History, Watch, processes
from zflow import Client, Document, DocumentArray, Executor, Flow, requests

from . import mutations
from .hostile import CANARY

SAMPLES = 40  # of a process, to judge whether it grows
GROWTH = 8 * MIB  # what a process may grow, in the last quarter of its samples against the second
LARGE = 4096  # numbers in an array that travels through shared memory
PAUSE = 0.002  # seconds between two posts of a user
MEASURED = 2000  # posts of each user without anybody else, and as many with somebody who is busy


class Echo(Executor):
    """Answers with something that nobody else is to see, in the text and in an array."""

    @requests
    def echo(self, docs: DocumentArray, **kwargs: Any) -> None:
        for doc in docs:
            doc.tags["secret"] = CANARY.decode()
            doc.tensor = np.frombuffer(
                (CANARY * (1 + 8 * LARGE // len(CANARY)))[: 8 * LARGE], np.uint8
            )


class Own(Executor):
    """What hostile peers ask for, and what they say to be."""

    @requests(on=mutations.OWN)
    def own(self, docs: DocumentArray, **kwargs: Any) -> None:
        """Nothing."""


class User:
    """Posts again and again, checks what comes back, and notes how long it took."""

    def __init__(self, flow: Flow, inside: bool) -> None:
        self.waits: list[float] = []
        self.wrong: list[str] = []
        self._ended = threading.Event()
        self._running = in_background(self._run, flow, inside)

    def _run(self, flow: Flow, inside: bool) -> None:
        with Client(port=flow.port) as client:
            while not self._ended.wait(PAUSE):
                begun = time.perf_counter()
                try:
                    (answer,) = (flow if inside else client).post(
                        "/", Document(text="mine"), timeout=20_000
                    )
                    if answer.text != "mine" or answer.tags.get("secret") != CANARY.decode():
                        self.wrong.append(f"a wrong answer: {answer!r:.200}")
                except Exception as error:
                    self.wrong.append(f"{type(error).__name__}: {error}"[:300])
                self.waits.append(time.perf_counter() - begun)

    def end(self) -> None:
        """Post no more."""
        self._ended.set()
        self._running.result()


@dataclass
class Account:
    """What came of a run; good if nothing is wrong."""

    sent: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    p99: dict[str, float] = field(default_factory=dict)  # ms, by who else was there
    posts: int = 0
    malformed: int = 0
    wrong: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The account, for people."""
        ratio = self.p99["hostile"] / self.p99["busy"]
        waits = ", ".join(f"{who} {ms:.2f} ms" for who, ms in self.p99.items())
        sent = sum(self.sent[port] for port in mutations.PORTS)
        return [
            f"sent {sent} messages in {self.seconds:.0f} s: {dict(self.sent)}",
            f"the Flow has counted {self.malformed} as malformed",
            f"{self.posts} posts of others; p99: {waits}; hostile to busy {ratio:.2f}",
            *(f"WRONG: {complaint}" for complaint in self.wrong),
            "good" if not self.wrong else "NOT GOOD",
        ]


def run(count: int, seed: int, rate: float = 0.0, measured: int = MEASURED) -> Account:
    """Send so many messages to a Flow that others use meanwhile.

    Args:
        rate: messages a second of each hostile process, at most; 0 for as many as there can be.
        measured: how many posts of each user the other waits are measured with.
    """
    account = Account()
    with flow() as running:
        before = dict(processes())
        watch = Watch(0.5)
        users = [User(running, inside) for inside in (True, False)]
        account.p99["alone"] = _waits(users, _after(users, measured))
        with _busy(running):
            account.p99["busy"] = _waits(users, _after(users, measured))
        begun = time.monotonic()
        account.p99["hostile"] = _waits(
            users, lambda: _be_hostile(running, count, seed, rate, account)
        )
        account.seconds = time.monotonic() - begun
        for user in users:
            user.end()
            account.wrong += user.wrong[:5]
            account.posts += len(user.waits)
        with Client(port=running.port) as client:
            account.malformed = sum(client.info()["malformed"].values())
        if dict(processes()) != before:
            account.wrong.append(f"other processes than before: {dict(processes())}, not {before}")
        account.wrong += _grown(watch.end())
    if not account.malformed:
        account.wrong.append("nothing was malformed: the hostile ones have not reached the Flow")
    return account


@contextmanager
def flow() -> Iterator[Flow]:
    """The Flow; all may reach it, replicas too."""
    built = Flow(replica_port=0, max_message_bytes=4 * MIB)
    built.add(name="echo", uses=Echo, replicas=2).add(name=mutations.JOINABLE, uses=Own)
    with built as running:
        yield running


def _after(users: list[User], posts: int) -> Any:
    """A function that returns when each has posted so often."""

    def wait() -> None:
        begun = [len(user.waits) for user in users]
        while any(
            len(user.waits) < count + posts and not user.wrong
            for user, count in zip(users, begun, strict=True)
        ):
            time.sleep(0.01)

    return wait


def _waits(users: list[User], meanwhile: Any) -> float:
    """The ms that 99 of 100 posts took at most, while something was done."""
    begun = [len(user.waits) for user in users]
    meanwhile()
    waits = sorted(
        wait for user, count in zip(users, begun, strict=True) for wait in user.waits[count:]
    )
    return 1000 * waits[len(waits) * 99 // 100] if waits else 0.0


@contextmanager
def _busy(flow: Flow) -> Iterator[None]:
    """Others keep the machine as busy as hostile ones would: they ask for what they may ask for."""
    ended = threading.Event()
    code = (
        "import sys; from zflow import Client, Document\nwith Client(port=int(sys.argv[1])) as "
        "client:\n"
    )
    code += f"    while True: client.post({mutations.OWN!r}, [Document()] * 2000, request_size=1)"
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(flow.port)], cwd=ROOT)
        for _ in mutations.PORTS
    ]
    try:
        yield
    finally:
        ended.set()
        for process in running:
            process.kill()
            process.wait()


def _be_hostile(flow: Flow, count: int, seed: int, rate: float, account: Account) -> None:
    """Run a hostile process for each port, and note what they tell."""
    addresses = {mutations.FRONT: flow.port, mutations.REPLICAS: flow.replica_port}
    running = {}
    for number, (port, where) in enumerate(addresses.items()):
        told = [
            f"tcp://127.0.0.1:{where}",
            port,
            str(count // len(addresses)),
            str(seed + number),
            str(rate),
        ]
        command = [sys.executable, "-m", "tests.fuzz.hostile", *told]
        running[port] = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    for port, process in running.items():
        said, _ = process.communicate()
        if process.returncode:
            account.wrong.append(
                f"the hostile process at {port} has ended with {process.returncode}"
            )
            continue
        told = json.loads(said)
        account.sent[port] = told["sent"]
        account.sent["heard"] += told["heard"]
        account.sent["cut"] += told["cut"]
        if told["seen"]:
            account.wrong.append(f"{told['seen']} messages to {port} had what is another's in them")


def _grown(histories: list[History]) -> list[str]:
    found = []
    for history in histories:
        if len(history.samples) < SAMPLES:
            continue
        memory, descriptors = history.growth()
        if memory > GROWTH:
            found.append(f"{history.name} grew by {memory / MIB:.1f} MiB")
        if descriptors > 4:
            found.append(f"{history.name} has {descriptors} descriptors more")
    return found
