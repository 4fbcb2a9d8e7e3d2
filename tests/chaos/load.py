"""The clients of the Flow under chaos: they post, check each answer,
and note in a ledger what became of a request.
"""

from __future__ import annotations

import asyncio
import mmap
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from dataclasses import dataclass
from typing import Any

import numpy as np
from helpers import in_background

from zflow import AsyncClient, Client, Document, Flow, errors

from . import executors

LOST, ANSWERED, FAILED = 0, 1, 2  # what became of a request; lost as long as nothing did
MOST_WRONG = 20  # answers that are described in full
MOST_REQUESTS = 2**28

LARGE = 20_000  # numbers in a large request, which is not copied on its way
TIMEOUT = 1500  # ms, of the client that sets one
TASKS = 4  # posts at once of an asynchronous client


class Ledger:
    """What became of each request, by its number, from 0; in a few bytes each,
    for there are many. Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.endpoints = list(executors.SIGNERS)
        # In memory of its own, as they come: what grew by being moved would leave holes among what
        # is measured.
        self._endpoint = mmap.mmap(-1, MOST_REQUESTS)  # by request: index of its endpoint
        self._state = mmap.mmap(-1, MOST_REQUESTS)  # by request: what became of it
        self._sent = 0
        self.twice: list[int] = []  # requests that something became of twice
        self.wrong: list[str] = []
        self.wrong_count = 0
        self.failures: Counter[tuple[str, str]] = Counter()  # by client and class of the error
        self.examples: dict[tuple[str, str], str] = {}  # a message for each
        # By client: seconds waited, for which, until when.
        self.slowest: dict[str, tuple[float, int, float]] = {}
        self._begun = time.monotonic()

    def size(self) -> int:
        """The bytes of memory that it takes, about."""
        return 2 * self._sent

    @property
    def endpoint(self) -> bytes:
        """By request: the index of its endpoint."""
        return self._endpoint[: self._sent]

    @property
    def state(self) -> bytes:
        """By request: what became of it."""
        return self._state[: self._sent]

    def send(self, endpoint: str) -> int:
        """A request is about to be sent; returns its number."""
        with self._lock:
            number, self._sent = self._sent, self._sent + 1
            self._endpoint[number] = self.endpoints.index(endpoint)
            self._state[number] = LOST
            return number

    def answered(self, number: int, client: str, objection: str, waited: float) -> None:
        """Its answer is here; `objection` says what is wrong with it, if anything."""
        with self._lock:
            self._becomes(number, ANSWERED)
            self._note_wait(number, client, waited)
            if objection:
                self.wrong_count += 1
                self.wrong += [objection] if len(self.wrong) < MOST_WRONG else []

    def failed(self, number: int, client: str, error: BaseException, waited: float) -> None:
        """It has failed."""
        with self._lock:
            self._becomes(number, FAILED)
            self._note_wait(number, client, waited)
            key = (client, type(error).__name__)
            self.failures[key] += 1
            self.examples.setdefault(key, str(error).partition("\n")[0])

    def _note_wait(self, number: int, client: str, waited: float) -> None:
        if client not in self.slowest or waited > self.slowest[client][0]:
            self.slowest[client] = (waited, number, time.monotonic() - self._begun)

    @property
    def waits(self) -> list[str]:
        """The longest wait of each client, the longest one first, for people."""
        found = []
        for client, (waited, number, until) in sorted(
            self.slowest.items(), key=lambda item: item[1], reverse=True
        ):
            where = self.endpoints[self._endpoint[number]]
            found.append(
                f"{waited:.1f} s until {until:.1f} s for request {number} at {where} ({client})"
            )
        return found

    def _becomes(self, number: int, state: int) -> None:
        if self._state[number] != LOST:
            self.twice.append(number)
        self._state[number] = state

    def count(self, state: int) -> int:
        """To how many requests that has happened."""
        return self.state.count(state)


@dataclass(frozen=True)
class Habits:
    """How a client uses the Flow.

    Args:
        name: for people.
        endpoints: where it posts, with weights.
        share: of all requests.
        expects: the errors that it is to expect under chaos.
        timeout: ms for each request; None for any time.
        stream: it posts generators instead of lists.
        prefetch: its requests in flight.
        inside: it uses `Flow.post`, in the process that started the Flow.
        over_cable: its way to the Flow is a cable that is cut and frozen.
        asynchronous: it is an AsyncClient, and posts several times at once.
    """

    name: str
    endpoints: Mapping[str, float]
    share: float
    expects: tuple[type[errors.ZflowError], ...] = ()
    timeout: int | None = None
    stream: bool = False
    prefetch: int = 16
    inside: bool = False
    over_cable: bool = False
    asynchronous: bool = False


MIXED = {"/plain": 5, "/waits": 3, "/any": 2, "/all": 3, "/whole": 2}

EVERYBODY = (
    Habits("flow", MIXED, 0.25, inside=True),
    Habits("stream", MIXED, 0.2, inside=True, stream=True),
    Habits("once", {"/once": 1}, 0.1, (errors.ReplicaCrashed,)),
    Habits("deadline", MIXED, 0.1, (errors.DeadlineExceeded,), timeout=TIMEOUT),
    Habits("cable", {"/plain": 3, "/all": 1, "/whole": 1}, 0.15, over_cable=True),
    Habits("asyncio", MIXED, 0.1, prefetch=4, asynchronous=True),
    Habits(
        "asyncio, cable",
        {"/waits": 2, "/all": 1},
        0.1,
        prefetch=4,
        asynchronous=True,
        over_cable=True,
    ),
)


class Batches:
    """The batches of requests that a client posts, and when each one's turn is.
    Used by several tasks at once.

    Args:
        rate: requests a second; 0 for as many as there can be.
    """

    def __init__(self, load: Load, habits: Habits, rate: float) -> None:
        self._load = load
        self._habits = habits
        self._rate = rate
        self._luck = random.Random(f"{load.seed}/{habits.name}")
        self._next = time.monotonic()

    def pause(self) -> float:
        """The seconds until the next batch may be posted;
        who is late by more than a second need not catch up.
        """
        now = time.monotonic()
        self._next = max(self._next, now - 1.0)
        return max(0.0, self._next - now)

    def batch(self) -> tuple[str, list[Document]]:
        """The next one: where it is posted, and its requests, of one Document each."""
        luck, habits = self._luck, self._habits
        (endpoint,) = luck.choices(list(habits.endpoints), list(habits.endpoints.values()))
        most = max(1, min(40, int(self._rate / 2))) if self._rate else 40
        size = luck.randint(1, most)
        self._next += size / self._rate if self._rate else 0.0
        return endpoint, [self._request() for _ in range(size)]

    def _request(self) -> Document:
        luck = self._luck
        seconds = luck.uniform(0.0002, 0.002)
        if self._load.skewed:
            seconds = min(0.5, 0.001 * luck.paretovariate(0.7))
        doc = Document(text=luck.randbytes(luck.randint(1, 500)).hex(), tags={"seconds": seconds})
        if luck.random() < 0.02:
            doc.tensor = np.full(LARGE, luck.random())
        return doc


class Posted:
    """One post: its requests, and what comes back."""

    def __init__(self, ledger: Ledger, client: str, endpoint: str, docs: list[Document]) -> None:
        self._ledger = ledger
        self._client = client
        self._endpoint = endpoint
        self._docs = docs
        self._responses = 0
        for doc in docs:
            doc.id = str(ledger.send(endpoint))
        self._begun = time.monotonic()

    def response(self, response: Any) -> None:
        """A response; they come in the order of the inputs, so the order says whose it is."""
        sent = self._docs[min(self._responses, len(self._docs) - 1)]
        self._responses += 1
        number = int(sent.id)
        waited = time.monotonic() - self._begun
        if response.error is None:
            objection = executors.objection(sent, response.docs, self._endpoint)
            self._ledger.answered(number, self._client, objection, waited)
        else:
            self._ledger.failed(number, self._client, response.error, waited)

    def error(self, error: BaseException) -> None:
        """The post as a whole has failed, and with it all that were not answered."""
        for doc in self._docs[self._responses :]:
            self._ledger.failed(int(doc.id), self._client, error, time.monotonic() - self._begun)


class Load:
    """All clients at once, until told to end.

    Args:
        flow: started.
        cable_port: where the Flow is reached over a cable.
        rate: requests a second of all together; 0 for as many as there can be.
    """

    def __init__(self, flow: Flow, cable_port: int, seed: int, rate: float) -> None:
        self.seed = seed
        self.skewed = False  # whether durations are drawn from a heavy tail
        self.ledger = Ledger()
        self._flow = flow
        self._ended = threading.Event()
        self._begun = time.monotonic()
        self._clients: list[Client] = []
        port = flow.port
        assert port is not None
        self._running: dict[str, futures.Future[None]] = {}
        for habits in EVERYBODY:
            batches = Batches(self, habits, rate * habits.share)
            where = cable_port if habits.over_cable else port
            if habits.asynchronous:
                running = in_background(asyncio.run, self._serve_async(habits, batches, where))
            else:
                running = in_background(self._serve, habits, batches, self._post_to(habits, where))
            self._running[habits.name] = running

    def _post_to(self, habits: Habits, port: int) -> Callable[..., Any]:
        if habits.inside:
            return self._flow.post
        self._clients.append(Client(port=port))
        return self._clients[-1].post  # type: ignore[no-any-return]

    def _serve(self, habits: Habits, batches: Batches, post: Callable[..., Any]) -> None:
        while not self._ended.wait(batches.pause()):
            endpoint, docs = batches.batch()
            posted = Posted(self.ledger, habits.name, endpoint, docs)
            inputs: list[Document] | Iterator[Document] = iter(docs) if habits.stream else docs
            try:
                post(endpoint, inputs, **self._options(habits, posted))
            except BaseException as error:
                posted.error(error)

    async def _serve_async(self, habits: Habits, batches: Batches, port: int) -> None:
        async with AsyncClient(port=port) as client:

            async def serve() -> None:
                while not self._ended.is_set():
                    await asyncio.sleep(min(0.5, pause) if (pause := batches.pause()) else 0)
                    if pause > 0.5 or self._ended.is_set():
                        continue
                    endpoint, docs = batches.batch()
                    posted = Posted(self.ledger, habits.name, endpoint, docs)
                    try:
                        await client.post(endpoint, docs, **self._options(habits, posted))
                    except BaseException as error:
                        posted.error(error)

            await asyncio.gather(*(serve() for _ in range(TASKS)))

    def _options(self, habits: Habits, posted: Posted) -> dict[str, Any]:
        options: dict[str, Any] = {"request_size": 1, "prefetch": habits.prefetch}
        options.update(on_always=posted.response, on_error=lambda response: None)
        if habits.timeout is not None:
            options["timeout"] = habits.timeout
        return options

    def end(self, patience: float) -> tuple[float, list[str]]:
        """Post no more and wait for what is under way.

        Returns:
            The seconds that there was load, and what is wrong with the clients: that one hangs,
            or has broken.
        """
        self._ended.set()
        lasted = time.monotonic() - self._begun
        waiting = futures.wait(self._running.values(), patience).not_done
        wrong = []
        for name, running in self._running.items():
            if running in waiting:
                wrong.append(
                    f"the client {name!r} still waits {patience:.0f} s after the end of the load"
                )
            elif error := running.exception():
                wrong.append(f"the client {name!r} has ended with {type(error).__name__}: {error}")
        for client in self._clients:
            client.close()
        return lasted, wrong


def unexpected(failures: Mapping[tuple[str, str], int]) -> dict[tuple[str, str], int]:
    """The failures that a client was not to expect, by client and class."""
    expected = {(habits.name, kind.__name__) for habits in EVERYBODY for kind in habits.expects}
    return {key: count for key, count in failures.items() if key not in expected}
