"""Makes a scenario that fails small: takes out whatever it still fails without.

A smaller scenario need not fail in the same way, or for the same reason;
any failure is worth a look.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from zflow.devices.balancing.balancer import Balancer

from .cluster import Cluster
from .scenario import Network, Scenario, Stage

RUNS = 600  # that a failure is worth


def failure(scenario: Scenario, balancer: Callable[[int], Any] = Balancer) -> str | None:
    """Play the scenario; return what went wrong, or None."""
    try:
        Cluster(scenario, balancer).run()
    except Exception as error:  # also what a confused balancer raises by itself
        return f"{type(error).__name__}: {error}"
    return None


def shrink(
    scenario: Scenario, balancer: Callable[[int], Any] = Balancer, runs: int = RUNS
) -> Scenario:
    """Return a scenario that fails, and to which nothing can be done
    any more that `_smaller` knows.

    Args:
        scenario: one that fails.
        balancer: makes the balancers, given `retries`.
        runs: how many scenarios are tried at most.
    """
    while True:
        for smaller in _smaller(scenario):
            runs -= 1
            if runs < 0:
                return scenario
            if failure(smaller, balancer) is not None:
                scenario = smaller
                break
        else:
            return scenario


def _smaller(scenario: Scenario) -> Iterator[Scenario]:
    """Scenarios with a little less, those with much less first."""
    for clients in _shorter(scenario.clients):
        if clients:
            yield replace(scenario, clients=clients)
    for number, client in enumerate(scenario.clients):
        for requests in {client.requests // 4, client.requests // 2, client.requests - 1} - {
            0,
            client.requests,
        }:
            yield replace(
                scenario,
                clients=_with(scenario.clients, number, replace(client, requests=requests)),
            )
    for faults in _shorter(scenario.faults):
        yield replace(scenario, faults=faults)
    for poison in _shorter(scenario.poison):
        yield replace(scenario, poison=poison)
    for number in range(len(scenario.stages)):
        if sum(stage.process for stage in scenario.stages) > scenario.stages[number].process:
            yield _without(scenario, number)
    for number, stage in enumerate(scenario.stages):
        for plainer in _plainer(stage):
            yield replace(scenario, stages=_with(scenario.stages, number, plainer))
    for number, client in enumerate(scenario.clients):
        simpler: list[dict[str, Any]] = [
            {"cancels": 0.0},
            {"targets": None},
            {"timeout": 0},
            {"again": 0.0},
            {"public": False},
            {"together": 1},
            {"together": max(1, client.together // 2)},
            {"in_flight": client.in_flight // 2},
        ]
        for changes in simpler:
            fewer = replace(client, **changes)
            if fewer != client and (fewer.in_flight or not client.in_flight):
                yield replace(scenario, clients=_with(scenario.clients, number, fewer))
    plain = Network(scenario.network.way, jitter=0.0)
    for name in ("lost", "twice", "late", "slow", "jitter", "turn"):
        if getattr(scenario.network, name):
            yield replace(
                scenario, network=replace(scenario.network, **{name: getattr(plain, name)})
            )


def _shorter(some: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """Without its first half, its second half, a quarter, and so on down to one."""
    length = len(some)
    while length:
        length = (length + 1) // 2 if length > 1 else 0
        for begin in range(0, len(some), max(1, length)):
            yield some[:begin] + some[begin + max(1, length) :]


def _with(some: Sequence[Any], number: int, one: Any) -> tuple[Any, ...]:
    return (*some[:number], one, *some[number + 1 :])


def _plainer(stage: Stage) -> Iterator[Stage]:
    changes: list[dict[str, Any]] = [
        {"shards": 1},
        {"shards": max(2, stage.shards // 2)},
        {"replicas": 1},
        {"replicas": max(1, stage.replicas // 2)},
        {"replicas": max(1, stage.replicas - 1)},
        {"slots": 1},
        {"timeout": None},
        {"run": None},
        {"queue": None},
        {"queue_bytes": None},
        {"work": "constant"},
        {"raises": 0.0},
        {"gathers": 0.0},
        {"partial": False},
        {"no_reduce": False},
        {"endpoints": None},
    ]
    for change in changes:
        plainer = replace(stage, **change)
        if plainer != stage and plainer.shards <= stage.shards:
            yield plainer


def _without(scenario: Scenario, number: int) -> Scenario:
    """Take an Executor out; who needed it needs what it needed."""
    gone = scenario.stages[number]
    stages = []
    for stage in scenario.stages:
        if gone.name in stage.needs:
            needs = [
                need
                for each in stage.needs
                for need in (gone.needs if each == gone.name else (each,))
            ]
            stage = replace(stage, needs=tuple(dict.fromkeys(needs)))
        stages.append(stage)
    clients = [
        client
        if client.targets is None
        else replace(client, targets=tuple(name for name in client.targets if name != gone.name))
        for client in scenario.clients
    ]
    return replace(
        scenario,
        stages=tuple(stages[:number] + stages[number + 1 :]),
        clients=tuple(clients),
        faults=tuple(
            replace(fault, stage=fault.stage - (fault.stage > number))
            for fault in scenario.faults
            if fault.stage != number
        ),
        poison=tuple(
            (request, stage - (stage > number))
            for request, stage in scenario.poison
            if stage != number
        ),
    )
