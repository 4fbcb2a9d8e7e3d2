"""Whole clusters in virtual time: some dozens of seeds, of all sizes,
and each way of being wrong is noticed.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace

import pytest
from helpers import ROOT

from .broken import BROKEN, Forgetful
from .cluster import Account, Cluster
from .scenario import Client, Fault, Network, Scenario, Stage, draw, from_json, to_json
from .shrink import failure, shrink

pytestmark = pytest.mark.slow


def run(
    *stages: Stage, clients: int = 1, network: Network | None = None, **rest: object
) -> Account:
    each = Client(requests=200, in_flight=4, endpoints=(0.0, 1.0, 0.0))
    return Cluster(
        Scenario(1, stages, (each,) * clients, network=network or Network(), **rest)
    ).run()  # type: ignore[arg-type]


@pytest.mark.parametrize("first", [1, 26, 51, 76])
def test_nothing_that_must_hold_is_broken(first: int) -> None:
    total = Account()
    for seed in range(first, first + 12):
        total.add(Cluster(draw(seed, 200)).run())
    assert total.requests == 12 * 200 == sum(total.outcomes.values())
    assert total.outcomes["answered"] > 0.5 * total.requests
    assert total.deaths > 25


def test_a_thousand_replicas() -> None:
    scenario = draw(50, 3000)
    assert max(stage.replicas for stage in scenario.stages) == 1000
    assert Cluster(scenario).run().requests == 3000


def test_sixty_four_shards() -> None:
    scenario = draw(25, 1000)
    assert max(stage.shards for stage in scenario.stages) == 64
    assert Cluster(scenario).run().begun > 1000


def test_a_seed_is_played_the_same_each_time() -> None:
    assert draw(7, 300) == draw(7, 300)
    assert vars(Cluster(draw(7, 300)).run()) == vars(Cluster(draw(7, 300)).run())
    assert draw(7, 300) != draw(8, 300)


def test_a_scenario_is_the_same_after_a_while_as_text() -> None:
    for seed in range(60):
        assert from_json(to_json(draw(seed, 100))) == draw(seed, 100)


def test_without_faults_each_request_is_answered_after_one_task_per_executor_and_shard() -> None:
    account = run(
        Stage("a", ("gateway",), replicas=3), Stage("b", ("a",), shards=4, replicas=2), clients=3
    )
    assert account.outcomes["answered"] == account.requests == 600
    assert (account.begun, account.repeated, account.deaths) == (600 * 5, 0, 0)


def test_a_request_that_kills_replicas_fails_and_no_other_one_does() -> None:
    account = run(
        Stage("a", ("gateway",), replicas=3, retries=2), poison=((20, 0), (21, 0), (90, 0))
    )
    assert account.outcomes["crashed"] == 3
    assert account.outcomes["answered"] == 197
    assert account.deaths == 9


def test_parts_of_a_fan_out_that_expire_together_end_the_request_once() -> None:
    account = run(Stage("a", ("gateway",), shards=3, timeout=0.01, mean=0.02))
    assert account.outcomes["expired"] == 200


def test_a_lost_fan_out_whose_request_has_ended_does_not_occupy_its_replica() -> None:
    """Without any other request that would show the gap."""
    stage = Stage("a", ("gateway",), shards=2, timeout=0.02, mean=0.001)
    account = run(stage, network=Network(lost=0.3))
    assert account.outcomes["expired"] > 20  # found by a beacon only after that
    assert account.outcomes["answered"] > 20


def test_a_fan_out_does_not_wait_for_nothing_when_the_one_before_it_ends_in_a_crash() -> None:
    stage = Stage(
        "a", ("gateway",), shards=2, retries=0, partial=True, work="exponential", mean=0.005
    )
    faults = tuple(Fault(after, "crash", 0, after, 0.01) for after in range(5, 400, 5))
    account = run(stage, clients=2, faults=faults)
    assert account.outcomes["answered"] + account.outcomes["crashed"] == 400


def test_a_replica_that_has_died_before_it_could_join_never_does() -> None:
    """The manager's word that it is dead comes before its own that it is ready."""
    stage = Stage("a", ("gateway",), shards=2)
    client = Client(requests=50, in_flight=0, every=0.002, endpoints=(0.0, 1.0, 0.0))
    scenario = Scenario(
        1,
        (stage,),
        (client,),
        (Fault(0, "crash", 0, 0, 0.05),),
        network=Network(way=0.01, jitter=0.0),
    )
    assert Cluster(scenario).run().outcomes["answered"] == 50


def test_parts_of_fan_outs_that_their_clients_have_given_up_do_not_count_as_waiting() -> None:
    stage = Stage("a", ("gateway",), shards=2, replicas=2, queue=5, mean=0.02)
    client = Client(
        requests=300,
        in_flight=0,
        every=0.005,
        endpoints=(0.0, 1.0, 0.0),
        cancels=0.9,
        patience=0.001,
    )
    outcomes = Cluster(Scenario(1, (stage,), (client,))).run().outcomes
    assert outcomes["overloaded"] < outcomes["answered"] < outcomes["cancelled"]


def test_a_full_queue_refuses_and_a_queue_with_room_does_not() -> None:
    """Of the 32 in flight two are worked on, so 30 wait at most."""
    assert (
        run(Stage("a", ("gateway",), replicas=2, queue=30), clients=8).outcomes["overloaded"] == 0
    )
    outcomes = run(Stage("a", ("gateway",), replicas=2, queue=3), clients=8).outcomes
    assert outcomes["overloaded"] > 0
    assert outcomes["overloaded"] + outcomes["answered"] == 8 * 200
    outcomes = run(Stage("a", ("gateway",), replicas=2, queue_bytes=60), clients=8).outcomes
    assert outcomes["overloaded"] > 0


def test_who_is_at_a_request_for_too_long_is_killed_and_nobody_else_suffers() -> None:
    stage = Stage("a", ("gateway",), replicas=3, run=0.02, work="heavy", mean=0.001)
    account = run(stage, clients=3)
    assert account.outcomes["overran"] == account.deaths > 0
    assert account.outcomes["answered"] + account.outcomes["overran"] == 600


def test_who_is_at_a_request_that_nobody_waits_for_any_more_is_killed_as_well() -> None:
    stage = Stage("a", ("gateway",), replicas=3, run=0.03, timeout=0.02, work="heavy", mean=0.001)
    account = run(stage, clients=3)
    assert account.outcomes["overran"] == 0
    assert account.outcomes["expired"] >= account.deaths > 0


def test_requests_have_a_timeout_of_their_own() -> None:
    stages = Stage("a", ("gateway",), mean=0.02), Stage("b", ("a",), mean=0.02)
    clients = Client(requests=20, timeout=30), Client(requests=20, timeout=5000)
    outcomes = Cluster(Scenario(1, stages, clients)).run().outcomes
    assert (outcomes["expired"], outcomes["answered"]) == (20, 20)


def test_what_may_have_been_begun_before_is_not_begun_where_it_must_not_be_repeated() -> None:
    client = Client(requests=100, again=0.5)
    for retries, refused in (0, True), (1, False):
        stage = Stage("a", ("gateway",), retries=retries)
        assert bool(Cluster(Scenario(1, (stage,), (client,))).run().outcomes["crashed"]) == refused


def test_a_client_from_elsewhere_may_have_only_so_many_requests_in_flight() -> None:
    stage = Stage("a", ("gateway",), replicas=8)
    clients = Client(requests=100, in_flight=4), Client(requests=100, in_flight=4, public=True)
    assert Cluster(Scenario(1, (stage,), clients, most=4)).run().outcomes["overloaded"] == 0
    assert 0 < Cluster(Scenario(1, (stage,), clients, most=3)).run().outcomes["overloaded"] <= 100


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_a_broken_balancer_is_caught_within_a_hundred_seeds(name: str) -> None:
    scenarios = (draw(seed, 100) for seed in range(1, 101))
    assert any(failure(scenario, BROKEN[name]) and not failure(scenario) for scenario in scenarios)


def test_a_failing_scenario_is_made_small() -> None:
    scenario = next(
        draw(seed, 300) for seed in range(14, 100) if failure(draw(seed, 300), Forgetful)
    )
    small = shrink(scenario, Forgetful)
    assert failure(small, Forgetful) is not None
    assert failure(small) is None
    assert small.requests <= 30
    assert len(small.stages) == 1
    assert len(small.faults) <= 2
    assert replace(small, network=scenario.network) != scenario


def module(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.simulation", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_command_prints_the_account() -> None:
    done = module("--seeds", "4", "--first", "30", "--requests", "50", "--processes", "2")
    assert done.returncode == 0, done.stderr
    assert "4 seeds, 200 requests: " in done.stdout
    assert re.search(r"[\d,]+ requests/s", done.stdout)


def test_the_command_prints_what_fails_small_and_how_to_play_it_again() -> None:
    done = module(
        "--seeds", "50", "--first", "1", "--requests", "60", "--processes", "1", "--broken", "Lazy"
    )
    assert done.returncode == 1, done.stderr
    found = re.search(r"--replay (\S+) --broken Lazy", done.stdout)
    assert found is not None
    assert "has room, but tasks wait" in module("--replay", found[1], "--broken", "Lazy").stderr
    assert module("--replay", found[1]).stdout == "nothing went wrong\n"
