"""What there is in a cluster and what goes wrong there, as plain data,
all of it drawn from one number.
"""

from __future__ import annotations

import json
import random
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any

ENDPOINTS = ("/one", "/all", "/some")
BOUND = (*ENDPOINTS, "/default")  # what an Executor may bind
BATCHED = ("/one", "/default")  # whose requests may be put together
POLLING = {"*": "ANY", "/all": "ALL"}


@dataclass(frozen=True)
class Stage:
    """One Executor.

    Args:
        name: its name.
        needs: those before it.
        process: False for a join that only waits.
        no_reduce: it wants the results of several predecessors apart.
        endpoints: what it binds; None for everything.
        shards: how many shards.
        replicas: of each shard.
        slots: requests that one replica works on at once.
        partial: results of a fan-out go on although some shards failed.
        retries: how many crashes a request survives.
        timeout: seconds that a request may take here, or None.
        run: seconds that a replica may be at one request, or None.
        queue: how many requests may wait, or None.
        queue_bytes: how many bytes of requests may be here, or None.
        work: `'constant'`, `'exponential'` or `'heavy'`: how long requests take.
        mean: seconds; a heavy tail is a hundred times as long, once in a hundred requests.
        raises: share of requests that end in an exception.
        batch: how many Documents are given in one go at the endpoints of `BATCHED` that it binds; 0
            for one request.
        batch_timeout: seconds that requests may wait for others.
        apart: share of batches that cannot be done in one go.
        gathers: share of answers that wait for those of the tasks to come.
    """

    name: str
    needs: tuple[str, ...]
    process: bool = True
    no_reduce: bool = False
    endpoints: tuple[str, ...] | None = None
    shards: int = 1
    replicas: int = 1
    slots: int = 1
    partial: bool = False
    retries: int = 3
    timeout: float | None = None
    run: float | None = None
    queue: int | None = None
    queue_bytes: int | None = None
    work: str = "constant"
    mean: float = 0.001
    raises: float = 0.0
    batch: int = 0
    batch_timeout: float = 0.0
    apart: float = 0.0
    gathers: float = 0.0

    @property
    def batched(self) -> tuple[str, ...]:
        """The endpoints whose requests are put together."""
        bound = ENDPOINTS if self.endpoints is None else self.endpoints
        return tuple(name for name in BATCHED if name in bound) if self.batch else ()


@dataclass(frozen=True)
class Client:
    """Somebody who posts.

    Args:
        requests: how many.
        in_flight: how many at a time; 0 if they come when they like.
        every: mean seconds between two of them, if they come when they like.
        endpoints: the share of each of `ENDPOINTS`, adding up to 1.
        targets: the only Executors that are meant, or None.
        cancels: share of requests that are cancelled.
        patience: mean seconds until they are.
        timeout: ms that each request may take, 0 for any time.
        again: share of requests that are posted as if they had been posted before, to a broker that
            died.
        public: whether it connects from elsewhere.
        together: how many requests it posts in one go.
    """

    requests: int
    in_flight: int = 1
    every: float = 0.001
    endpoints: tuple[float, ...] = (1.0, 0.0, 0.0)
    targets: tuple[str, ...] | None = None
    cancels: float = 0.0
    patience: float = 0.01
    timeout: int = 0
    again: float = 0.0
    public: bool = False
    together: int = 1


@dataclass(frozen=True)
class Fault:
    """Something that happens to a replica.

    Args:
        after: how many requests were posted when it happens.
        kind: `'crash'`, `'mute'` (a crash that swallows what was on its way), `'cut'` (the
            connection is lost, the process lives on and is killed later), `'leave'` (in good
            order), `'shrink'` (leaves for good), `'grow'`.
        stage: the Executor's number.
        which: chooses the replica.
        back: seconds until a successor is there.
    """

    after: int
    kind: str
    stage: int
    which: int
    back: float


@dataclass(frozen=True)
class Network:
    """What lies between the processes.

    Args:
        way: seconds from one process to another, at least.
        jitter: seconds more, at most.
        slow: share of messages that are held up.
        held_up: by how many seconds, at most.
        turn: seconds between two turns of the broker's loop.
        lost, twice, late: shares of the publications to one subscriber that are lost, repeated,
            out of order.
    """

    way: float = 100e-6
    jitter: float = 50e-6
    slow: float = 0.0
    held_up: float = 0.01
    turn: float = 0.0
    lost: float = 0.0
    twice: float = 0.0
    late: float = 0.0


@dataclass(frozen=True)
class Scenario:
    """All of it.

    `poison` are requests, by number, that kill whatever replica of that Executor begins them.
    `most` is how many requests a client that connects from elsewhere may have in flight.
    """

    seed: int
    stages: tuple[Stage, ...]
    clients: tuple[Client, ...]
    faults: tuple[Fault, ...] = ()
    poison: tuple[tuple[int, int], ...] = ()
    network: Network = Network()
    most: int = 10_000

    @property
    def requests(self) -> int:
        """How many requests are posted."""
        return sum(client.requests for client in self.clients)


def draw(seed: int, requests: int) -> Scenario:
    """Draw a scenario with so many requests. One seed in 50 has 1,000 replicas,
    another one 64 shards.
    """
    rng = random.Random(seed)
    size = {0: "replicas", 25: "shards"}.get(seed % 50) or rng.choices(["small", "middle"], [3, 1])[
        0
    ]
    stages = _stages(rng, size)
    clients = _clients(rng, stages, requests)
    faults = _faults(rng, stages, requests)
    several = rng.choice([0, 0, 1, 3, 10])
    workers = [number for number, stage in enumerate(stages) if stage.process]
    poison = sorted({rng.randrange(requests): rng.choice(workers) for _ in range(several)}.items())
    network, most = _network(rng), rng.choice([3, 10_000, 10_000])
    stages = tuple(_with_batches(rng, stage) for stage in stages)
    if rng.random() < 0.6:
        stages, clients = _with_bundles(rng, stages, clients, network.way, size != "shards")
    return Scenario(seed, stages, clients, faults, tuple(poison), network, most)


def _stages(rng: random.Random, size: str) -> tuple[Stage, ...]:
    count = rng.choices(
        [1, 2, 3, 4, 5], [35, 30, 18, 10, 7] if size in ("small", "middle") else [60, 30, 10, 0, 0]
    )[0]
    mean = 10 ** rng.uniform(-4.5, -1.5)
    giant = rng.randrange(count)
    stages: list[Stage] = []
    for number in range(count):
        names = ["gateway", *(stage.name for stage in stages)]
        needs = [names[-1]]
        if rng.random() < 0.3:
            needs = sorted(
                rng.sample(names, min(len(names), rng.choice([1, 2, 2, 3]))), key=names.index
            )
        shards, replicas = _extent(rng, size if number == giant or size == "small" else "middle")
        if size == "replicas" and number != giant:
            replicas *= 4
        stages.append(
            Stage(
                name=f"e{number}",
                needs=tuple(needs),
                process=number == giant or len(needs) == 1 or rng.random() < 0.7,
                no_reduce=rng.random() < 0.2,
                endpoints=None
                if rng.random() < 0.8
                else tuple(rng.sample(BOUND, rng.choice([1, 2]))),
                shards=shards,
                replicas=replicas,
                slots=rng.choice([1, 1, 1, 2, 4, 32]) if replicas < 100 else 1,
                partial=rng.random() < 0.3,
                retries=rng.choice([0, 1, 2, 3, 3, 3]),
                timeout=rng.choice([None, None, None, 20, 200, 2000]),
                run=rng.choice([None, None, None, 4, 40]),
                queue=rng.choice([None, None, None, None, 5, 100]),
                queue_bytes=rng.choice([None, None, None, None, 60, 1000]),
                work=rng.choice(["constant", "exponential", "exponential", "heavy"]),
                mean=mean * 10 ** rng.uniform(-0.5, 0.5) * max(1.0, replicas / 50),
                raises=rng.choice([0.0, 0.0, 0.001, 0.02]),
            )
        )
    return tuple(_with_times(stage) for stage in stages)


def _with_times(stage: Stage) -> Stage:
    """What was drawn are multiples of the mean work."""
    timeout = None if stage.timeout is None else 0.005 + stage.timeout * stage.mean
    run = None if stage.run is None else 0.002 + stage.run * stage.mean
    return replace(stage, timeout=timeout, run=run)


def _with_batches(rng: random.Random, stage: Stage) -> Stage:
    if rng.random() < 0.6:
        return stage
    timeout = stage.mean * rng.choice([0.0, 0.0, 0.5, 5.0])
    return replace(
        stage,
        batch=rng.choice([2, 4, 30]),
        batch_timeout=timeout,
        apart=rng.choice([0.0, 0.0, 0.1]),
    )


def _with_bundles(
    rng: random.Random,
    stages: tuple[Stage, ...],
    clients: tuple[Client, ...],
    way: float,
    may_be_plain: bool,
) -> tuple[tuple[Stage, ...], tuple[Client, ...]]:
    """Clients post several requests in one go; at times everything is as bulks need it,
    and work short.
    """
    stages = tuple(replace(stage, gathers=rng.choice([0.0, 0.5, 0.9])) for stage in stages)
    if may_be_plain and rng.random() < 0.6 and all(stage.process for stage in stages):
        plain = {"run": None, "queue_bytes": None, "batch": 0, "shards": 1}
        names = ["gateway", *(stage.name for stage in stages)]
        mean = way * 10 ** rng.uniform(-2.5, 0.5)
        stages = tuple(
            replace(stage, needs=(before,), mean=mean, retries=max(1, stage.retries), **plain)
            for before, stage in zip(names, stages, strict=False)
        )
        clients = tuple(
            replace(client, in_flight=client.in_flight and 3 + 2 * client.in_flight)
            for client in clients
        )
    return stages, tuple(replace(client, together=rng.choice([1, 3, 10, 70])) for client in clients)


def _extent(rng: random.Random, size: str) -> tuple[int, int]:
    """How many shards, and how many replicas of each."""
    if size == "replicas":
        return 1, 1000
    if size == "shards":
        return 64, rng.choice([1, 2, 4])
    if size == "middle":
        return (
            (rng.randint(2, 16), rng.randint(1, 4))
            if rng.random() < 0.4
            else (1, rng.randint(4, 64))
        )
    return (rng.randint(2, 4), rng.randint(1, 3)) if rng.random() < 0.4 else (1, rng.randint(1, 8))


def _clients(rng: random.Random, stages: tuple[Stage, ...], requests: int) -> tuple[Client, ...]:
    count = min(requests, round(10 ** rng.uniform(0, 2)))
    parts = sum(stage.shards for stage in stages)
    to_all = min(0.5, 3 / parts) if any(stage.shards > 1 for stage in stages) else 0.1
    capacity = min(stage.replicas * stage.slots * stage.shards / stage.mean for stage in stages)
    rate = (
        capacity
        * rng.choice([0.3, 0.7, 0.95, 1.3])
        / (1 + to_all * max(stage.shards for stage in stages))
    )
    is_open = rng.choice([0.0, 0.5, 1.0])
    crowd = max(1.0, 1.2 * max(stage.replicas * stage.shards for stage in stages) / count)
    cancels = rng.choice([0.0, 0.0, 0.01, 0.2])
    timeout = rng.choice([0, 0, 0, 20, 200])
    again = rng.choice([0.0, 0.0, 0.0, 0.05])
    clients = []
    for number in range(count):
        targets = None
        if rng.random() < 0.1:
            targets = tuple(stage.name for stage in stages if stage.process and rng.random() < 0.6)
        clients.append(
            Client(
                requests=requests // count + (number < requests % count),
                in_flight=0
                if rng.random() < is_open
                else max(1, round(crowd * rng.choice([0.2, 0.5, 1.0, 3.0]))),
                every=count / rate,
                endpoints=(0.8 * (1 - to_all), to_all, 0.2 * (1 - to_all)),
                targets=targets,
                cancels=cancels,
                patience=20 * stages[0].mean,
                timeout=round(timeout * (0.1 + 1000 * stages[0].mean)) if rng.random() < 0.5 else 0,
                again=again,
                public=rng.random() < 0.3,
            )
        )
    return tuple(clients)


def _faults(rng: random.Random, stages: tuple[Stage, ...], requests: int) -> tuple[Fault, ...]:
    most = max(stage.replicas * stage.shards for stage in stages)
    count = round(rng.choice([0, 3, 10, 30]) * max(1.0, most / 100))
    kinds = rng.sample(["crash", "mute", "cut", "leave", "shrink", "grow"], rng.randint(1, 6))
    workers = [number for number, stage in enumerate(stages) if stage.process]
    back = rng.choice([0.001, 0.02, 0.5])
    return tuple(
        Fault(
            after,
            rng.choice(kinds),
            rng.choice(workers),
            rng.randrange(10_000),
            back * rng.uniform(0.5, 2),
        )
        for after in sorted(rng.randrange(requests) for _ in range(min(count, requests // 10)))
    )


def _network(rng: random.Random) -> Network:
    way = rng.choice([20e-6, 100e-6, 500e-6])
    return Network(
        way=way,
        jitter=way * rng.choice([0.0, 0.5, 4.0]),
        slow=rng.choice([0.0, 0.001, 0.02]),
        held_up=rng.choice([0.002, 0.02, 0.1]),
        turn=rng.choice([0.0, 0.0, 50e-6, 0.002]),
        lost=rng.choice([0.0, 0.01, 0.1]),
        twice=rng.choice([0.0, 0.01]),
        late=rng.choice([0.0, 0.01, 0.1]),
    )


# -- as text ---------------------------------------------------------------------------------------


def to_json(scenario: Scenario) -> str:
    """Return the scenario as JSON; what has its default is left out."""
    return json.dumps(_plain(scenario))


def from_json(text: str) -> Scenario:
    """Return the scenario that `to_json` has written."""
    plain = json.loads(text)
    return Scenario(
        seed=plain["seed"],
        stages=tuple(Stage(**_tuples(stage)) for stage in plain["stages"]),
        clients=tuple(Client(**_tuples(client)) for client in plain["clients"]),
        faults=tuple(Fault(**fault) for fault in plain.get("faults", ())),
        poison=_tuples(plain).get("poison", ()),
        network=Network(**plain.get("network", {})),
        most=plain.get("most", 10_000),
    )


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if not hasattr(value, "__dataclass_fields__"):
        return value
    kept = {field.name: (getattr(value, field.name), field.default) for field in fields(value)}
    return {
        name: _plain(each)
        for name, (each, default) in kept.items()
        if default is MISSING or each != default
    }


def _tuples(plain: dict[str, Any]) -> dict[str, Any]:
    def changed(value: Any) -> Any:
        return tuple(map(changed, value)) if isinstance(value, list) else value

    return {name: changed(value) for name, value in plain.items()}
