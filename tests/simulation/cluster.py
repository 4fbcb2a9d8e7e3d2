"""A scenario played in virtual time: clients, a network, replicas and a manager around the broker.

What the broker says is carried to processes that work on it and answer; replicas die, leave and
come back as the scenario has it. Everything that is drawn here is drawn from the scenario's seed.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import msgpack

from zflow.devices.balancing.balancer import Balancer
from zflow.devices.balancing.states import State
from zflow.devices.broker.settings import Settings
from zflow.devices.local.tickets import Tickets
from zflow.devices.protocol import bundles, messages
from zflow.devices.protocol.messages import Message
from zflow.devices.protocol.parts import split
from zflow.devices.routing.pool import Limits
from zflow.devices.routing.walk import Node

from . import checks
from .broker import VirtualBroker, virtual_time
from .clock import Clock, Line
from .ledger import Ledger, Request, Violation, payload
from .process import Process
from .scenario import ENDPOINTS, POLLING, Fault, Scenario, Stage

NOTICE = 0.002  # seconds, at most, until sockets or the manager notice that a process has ended
GATHERED = 0.001  # seconds that an answer waits for others, at most
# Seconds of virtual time without the end of a request after which the load has come to a stand.
STILL = 600.0
TAIL, SELDOM = 100.0, 0.01  # of a heavy tail: how much longer, how often
RAISED = msgpack.packb({"type": "ExecutorError", "message": "it did not like it"})


@dataclass
class Account:
    """What came of a run."""

    requests: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    begun: int = 0  # tasks and parts
    repeated: int = 0  # of these, how many had been begun before
    deaths: int = 0
    turns: int = 0
    bulks: int = 0  # requests and visits that came in bulks
    ahead: int = 0  # tasks that were sent ahead
    reclaimed: int = 0  # of these, how many were taken back
    seconds: float = 0.0  # of virtual time
    # Of tasks, between states, by what.
    moves: Counter[tuple[State, State, str]] = field(default_factory=Counter)

    def add(self, other: Account) -> None:
        """Add another run's account."""
        for name in (
            "requests",
            "begun",
            "repeated",
            "deaths",
            "turns",
            "bulks",
            "ahead",
            "reclaimed",
            "seconds",
        ):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for outcome, count in other.outcomes.items():
            self.outcomes[outcome] = self.outcomes.get(outcome, 0) + count
        self.moves.update(other.moves)


def node_of(stage: Stage) -> Node:
    """The Executor as the router knows it."""
    return Node(
        stage.name,
        stage.needs,
        stage.process,
        stage.no_reduce,
        None if stage.endpoints is None else frozenset(stage.endpoints),
        stage.shards,
        stage.replicas,
        POLLING,
        stage.partial,
    )


class Cluster:
    """One scenario, played once.

    Args:
        scenario: what to play.
        balancer: makes the balancers, given `retries` and how to cut a bulk.
    """

    def __init__(self, scenario: Scenario, balancer: Callable[..., Any] = Balancer) -> None:
        self.scenario = scenario
        self.clock = Clock()
        self._random = random.Random(scenario.seed)
        self._network = scenario.network
        nodes = [node_of(stage) for stage in scenario.stages]
        self.ledger = Ledger(nodes)
        settings = Settings(
            nodes=nodes,
            retries=[stage.retries for stage in scenario.stages],
            limits=[
                Limits(stage.timeout, stage.run, stage.queue, stage.queue_bytes)
                for stage in scenario.stages
            ],
            front="",
            public="",
            back="",
            fan="",
            collector="",
            max_message_bytes=2**20,
            max_requests_per_client=scenario.most,
        )
        self.broker = VirtualBroker(
            settings, self.clock, self.ledger, scenario.network.turn, balancer
        )
        self.broker.line.to = self._to_manager
        self.broker.ports["front"].to = self.broker.ports["public"].to = self._to_client
        self.broker.ports["back"].to = self._to_replica
        self.broker.ports["fan"].to = self._to_subscribers
        self.processes: dict[bytes, Process] = {}  # that live, or whose end has not been noticed
        self.account = Account()
        self._subscribers: dict[bytes, dict[bytes, Process]] = {}  # by topic
        self._encode = messages.encoder()
        self._births = 0
        # Stage, shard and group of those that are there, or will be.
        self._seats: set[tuple[int, int, int]] = set()
        self._poison = dict(scenario.poison)
        self._faults = list(scenario.faults)
        self._clients = list(scenario.clients)
        self._client_lines = [(Line(), Line()) for _ in scenario.clients]
        self._shares = [list(accumulate(client.endpoints)) for client in scenario.clients]
        self._to_post = [client.requests for client in scenario.clients]
        # How many of those in flight have ended since it posted last.
        self._owed = [0 for _ in scenario.clients]
        self._ended_at = 0.0

    def run(self) -> Account:
        """Play it to the end.

        Raises:
            Violation: something that must hold does not.
        """
        with virtual_time(self.clock, self._tickets):
            self._begin()
            self._go_on()
            self.ledger.finish()
            self.broker.check_clients()
            for pool in self.broker.pools:
                checks.empty(pool, self.clock.now)
        account = self.account
        account.requests = len(self.ledger.requests)
        account.outcomes = self.ledger.outcomes
        account.turns = self.broker.turns
        account.seconds = self.clock.now
        for pool in self.broker.pools:
            account.begun += sum(pool.begun.values())
            account.bulks += pool.bulks
            account.moves.update(pool.moves)
            account.ahead += pool.ahead
            account.reclaimed += pool.reclaimed
            account.repeated += sum(pool.begun.values()) - len(pool.begun)
        return account

    def _tickets(self, back: str, identity: bytes) -> Tickets | None:
        """The broker's end of the pipe that it shares with a replica,
        which may have died already.
        """
        process = self.processes.get(identity)
        return process.pipe.end() if process is not None and process.pipe is not None else None

    def _begin(self) -> None:
        for number, stage in enumerate(self.scenario.stages):
            for shard in range(stage.shards if stage.process else 0):
                for group in range(stage.replicas):
                    self._start(number, shard, group)
        for number, client in enumerate(self._clients):
            if client.in_flight:
                self._post_some(number, client.in_flight)
            elif client.requests:
                self._post_when_it_likes(number)

    def _go_on(self) -> None:
        clock, broker, ledger = self.clock, self.broker, self.ledger
        ended = 0
        while True:
            if clock.next <= broker.wake:
                if clock.next == math.inf:
                    return
                clock.step()
            else:
                clock.now = broker.wake
                broker.wake = math.inf
                broker.stir()
            if ledger.ended > ended:
                ended, self._ended_at = ledger.ended, clock.now
            elif clock.now > self._ended_at + STILL and broker._walks:
                raise Violation(
                    f"no request has ended for {STILL} s, and {len(broker._walks)} are under way"
                )

    # -- the network -------------------------------------------------------------------------------

    def _delay(self) -> float:
        network, draw = self._network, self._random.random
        delay = network.way + network.jitter * draw()
        if network.slow and draw() < network.slow:
            delay += network.held_up * draw()
        return delay

    def _say(self, process: Process, port: str, line: Line, frames: list[Any]) -> None:
        self.clock.at(
            line.arrival(self.clock.now, self._delay()), self._arrive, process, port, frames
        )

    def _arrive(self, process: Process, port: str, frames: list[Any]) -> None:
        if not process.cut:
            self.broker.arrive(port, frames)

    def _to_replica(self, whom: bytes, message: Message) -> bool:
        process = self.processes.get(whom)
        if process is None or process.gone:
            return False
        at = process.tasks.arrival(self.clock.now, self._delay())
        self.clock.at(at, self._take, process, message)
        return True

    def _to_subscribers(self, topic: bytes, message: Message) -> bool:
        network, draw, now = self._network, self._random.random, self.clock.now
        for process in self._subscribers.get(topic, {}).values():
            if network.lost and draw() < network.lost:
                continue
            if network.late and draw() < network.late:  # another way, past others
                self.clock.at(
                    now + self._delay() + network.held_up * draw(), self._hear, process, message
                )
                continue
            at = process.fan.arrival(now, self._delay())
            self.clock.at(at, self._hear, process, message)
            if network.twice and draw() < network.twice:
                self.clock.at(at + self._delay(), self._hear, process, message)
        return True

    # -- clients -----------------------------------------------------------------------------------

    def _post_when_it_likes(self, number: int) -> None:
        if self._to_post[number]:
            client = self._clients[number]
            self._post_some(number, client.together)
            later = self._random.expovariate(1 / client.every / client.together)
            self.clock.at(self.clock.now + later, self._post_when_it_likes, number)

    def _post_some(self, number: int, count: int) -> None:
        """A client posts so many requests, those for one endpoint in one go."""
        client = self._clients[number]
        while count and self._to_post[number]:
            some = min(count, client.together, self._to_post[number])
            self._to_post[number] -= some
            count -= some
            draw = self._random.random()
            shares = zip(ENDPOINTS, self._shares[number], strict=True)
            endpoint = next((name for name, share in shares if draw < share), ENDPOINTS[0])
            self._ask(number, [self._request(number, endpoint) for _ in range(some)])

    def _request(self, number: int, endpoint: str) -> Message:
        client = self._clients[number]
        targets = None if client.targets is None else frozenset(client.targets)
        again = bool(client.again) and self._random.random() < client.again
        request = self.ledger.post(number, endpoint, targets, again)
        if client.cancels and self._random.random() < client.cancels:
            later = self._random.expovariate(1 / client.patience)
            self.clock.at(self.clock.now + later, self._cancel, request)
        while self._faults and self._faults[0].after <= request.number:
            self._happen(self._faults.pop(0))
        id, docs = request.number, [1 + request.number % 3]
        return messages.Request(
            id, endpoint, client.targets, None, client.timeout, again, docs, [payload(id, -1, 0)]
        )

    def _ask(self, number: int, outgoing: list[Message]) -> None:
        """A client says something to the broker."""
        port = "public" if self._clients[number].public else "front"
        for frames in bundles.frames_of(outgoing, self._encode):
            at = self._client_lines[number][0].arrival(self.clock.now, self._delay())
            self.clock.at(at, self.broker.arrive, port, [b"client-%d" % number, *frames])

    def _cancel(self, request: Request) -> None:
        if request.awaited:
            self._ask(request.client, [messages.Cancel(request.number)])
            self._over(request)

    def _over(self, request: Request) -> None:
        """Its client waits for it no longer."""
        if request.awaited:
            request.awaited = False
            client = self._clients[request.client]
            self._owed[request.client] += 1
            if client.in_flight and self._owed[request.client] >= min(
                client.together, client.in_flight
            ):
                self._owed[request.client] = 0
                self._post_some(request.client, min(client.together, client.in_flight))

    def _to_client(self, whom: bytes, message: Message) -> bool:
        assert isinstance(message, (messages.Reply, messages.Failed))
        request = self.ledger.requests[message.first]
        at = self._client_lines[request.client][1].arrival(self.clock.now, self._delay())
        self.clock.at(at, self._replied, request, message)
        return True

    def _replied(self, request: Request, message: messages.Reply | messages.Failed) -> None:
        if isinstance(message, messages.Reply):
            self.ledger.reply(request, "answered")
            if message.parts is not None:
                split(message.parts, message.payload)  # raises if parts and frames do not fit
        else:
            self.ledger.reply(request, msgpack.unpackb(message.payload[0])["type"])
        self._over(request)

    # -- replicas ----------------------------------------------------------------------------------

    def _start(self, number: int, shard: int, group: int) -> None:
        stage = self.scenario.stages[number]
        self._births += 1
        self._seats.add((number, shard, group))
        identity = f"{stage.name}/shard-{shard}/rep-{group}#{self._births}".encode()
        process = self.processes[identity] = Process(
            identity, number, shard, group, stage.slots, stage.shards > 1
        )
        endpoints = None if stage.endpoints is None else list(stage.endpoints)
        batching = {name: [stage.batch, int(stage.batch_timeout * 1e6)] for name in stage.batched}
        ready = messages.Ready(stage.name, endpoints, stage.slots, shard, group, batching)
        self._say(process, "back", process.back, [identity, *bundles.message(ready, self._encode)])
        if stage.shards > 1:
            at = process.subscriptions.arrival(self.clock.now, self._delay())
            self.clock.at(at, self._subscribe, process)

    def _subscribe(self, process: Process) -> None:
        if not process.gone:
            topic = messages.topic(process.stage, process.group)
            self._subscribers.setdefault(topic, {})[process.identity] = process
            self.broker.arrive("fan", [b"\x01" + messages.own_topic(process.identity)])

    def _take(self, process: Process, message: Message) -> None:
        if process.alive and not process.cut:
            process.take(message)
            self._work(process)

    def _hear(self, process: Process, message: Message) -> None:
        if not process.alive or process.cut:
            return
        for missed in process.hear(message):
            self._answer(process, messages.Missed(*missed))
        self._work(process)

    def _answer(self, process: Process, message: Message) -> None:
        """Shards say all they say to the collector."""
        process.answers.append(message)
        self._tell(process)

    def _work(self, process: Process) -> None:
        while tasks := process.next():
            stage = self.scenario.stages[process.stage]
            pool = self.broker.pools[process.stage]
            results = []
            for id, endpoint, frame in tasks:
                request = int(frame[: frame.index(b".")])
                pool.begin(id, process.shard, process.identity)
                to_all = stage.shards > 1 and POLLING.get(endpoint, POLLING["*"]) == "ALL"
                mine = not to_all or request % stage.shards == process.shard
                if self._poison.get(request) == process.stage and mine:
                    pool.culprits[process.identity] = id
                results.append(
                    (id, payload(request, process.stage, process.shard if to_all else 0))
                )
            if process.identity in pool.culprits:
                self._die(process, self._random.random() < 0.5)
                return
            process.busy += 1
            seconds = self._seconds(stage)
            self.clock.at(self.clock.now + seconds, self._done, process, results, seconds)

    def _seconds(self, stage: Stage) -> float:
        if stage.work == "constant":
            return stage.mean
        if stage.work == "exponential":
            return self._random.expovariate(1 / stage.mean)
        return stage.mean * (TAIL if self._random.random() < SELDOM else 1.0)

    def _done(self, process: Process, results: list[tuple[int, bytes]], seconds: float) -> None:
        if not process.alive:
            return
        process.busy -= 1
        stage = self.scenario.stages[process.stage]
        took = int(seconds * 1e6 / len(results))
        if len(results) > 1 and stage.apart and self._random.random() < stage.apart:
            ids = [id for id, _ in results]
            self._answer(process, messages.Error(ids, took, [RAISED]))
            results = []
        for id, result in results:
            failed = stage.raises and self._random.random() < stage.raises
            process.answers.append(
                messages.Error([id], took, [RAISED])
                if failed
                else messages.Done(id, took, [1], [result])
            )
        if process.leaving:
            self._leave_if_idle(process)
            return
        self._work(process)
        if process.busy and stage.gathers and self._random.random() < stage.gathers:
            self.clock.at(self.clock.now + GATHERED, self._tell, process)
        else:
            self._tell(process)

    def _tell(self, process: Process) -> None:
        """Say what waits to be said, in as few messages as possible."""
        answers, process.answers = process.answers, []
        sharded = self.scenario.stages[process.stage].shards > 1
        port, line = ("collector", process.collector) if sharded else ("back", process.back)
        for frames in bundles.frames_of(answers if process.alive else [], self._encode):
            self._say(process, port, line, [process.identity, *frames])

    # -- what goes wrong ---------------------------------------------------------------------------

    def _happen(self, fault: Fault) -> None:
        stage = self.scenario.stages[fault.stage]
        living = [
            process
            for process in self.processes.values()
            if process.stage == fault.stage and _well(process)
        ]
        if fault.kind == "grow":
            shard, group = fault.which % stage.shards, fault.which % stage.replicas
            if stage.shards == 1 or (fault.stage, shard, group) not in self._seats:
                self._start(fault.stage, shard, group)
            return
        if not living:
            return
        process = living[fault.which % len(living)]
        process.back_after = fault.back
        if fault.kind in ("crash", "mute"):
            self._die(process, fault.kind == "crash")
        elif fault.kind == "cut":
            process.cut = True
            self._vanish(process)
            self.clock.at(self.clock.now + fault.back, self._die, process, False)
        else:
            process.leaving = True
            others = sum(other.shard == process.shard for other in living) > 1
            if fault.kind == "shrink" and others:
                process.back_after = None
            self._leave_if_idle(process)

    def _die(self, process: Process, last_words: bool) -> None:
        """It ends at once. What it has said arrives, or what has not arrived is lost."""
        if not process.alive:
            return
        process.alive = False
        process.cut = process.cut or not last_words
        self.account.deaths += 1
        self._ended(process)

    def _leave_if_idle(self, process: Process) -> None:
        if process.leaving and process.alive and not process.busy:
            self._answer(process, messages.Leave())
            process.alive = False
            self._ended(process)

    def _ended(self, process: Process) -> None:
        """The sockets notice when all it said has come; the manager notices when it likes."""
        now, draw = self.clock.now, self._random.random
        said = max(process.back.last, process.collector.last) if not process.cut else now
        self.clock.at(max(now + NOTICE * draw(), said), self._vanish, process)
        self.clock.at(now + NOTICE * draw(), self._bury, process)
        if process.back_after is None:
            self._seats.discard((process.stage, process.shard, process.group))
        else:  # the manager starts another one in its place
            again = now + NOTICE + process.back_after
            self.clock.at(again, self._start, process.stage, process.shard, process.group)

    def _vanish(self, process: Process) -> None:
        process.gone = True
        if self._subscribers.get(messages.topic(process.stage, process.group), {}).pop(
            process.identity, None
        ):
            self.broker.arrive("fan", [b"\x00" + messages.own_topic(process.identity)])

    def _bury(self, process: Process) -> None:
        del self.processes[process.identity]
        self.broker.line.messages.append(msgpack.packb(("crash", process.identity, "SIGKILL")))
        self.broker.stir()

    def _to_manager(self, message: list[Any]) -> None:
        process = self.processes.get(message[1]) if message[0] == "kill" else None
        if process is not None:
            self.clock.at(self.clock.now + NOTICE * self._random.random(), self._die, process, True)


def _well(process: Process) -> bool:
    return process.alive and not process.leaving and not process.cut
