"""How well the balancer deals out load, measured in virtual time
against the best that could be done.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from zflow.devices.balancing.balancer import Balancer
from zflow.devices.balancing.replica import MAX_WINDOW, Replica, TicketIssuer
from zflow.devices.balancing.stealing import PATIENCE, STUCK

from .pool import DEADLY, Simulation, Work, list_schedule

pytestmark = pytest.mark.slow

WAY = 400e-6  # seconds


class FixedWindow(Replica):
    """A replica that is always given as many as the largest window allows."""

    def __init__(self, name: str, slots: int = 1, tickets: TicketIssuer | None = None) -> None:
        super().__init__(name, slots)
        self.window = MAX_WINDOW

    def measure(self, service: float, sent: float | None, now: float) -> None:
        """Learn nothing."""


def constant(seconds: float) -> Work:
    return lambda request: seconds


def lognormal(count: int, mean: float, sigma: float, seed: int) -> list[float]:
    """Service times with a long tail."""
    draw = random.Random(seed)
    return [draw.lognormvariate(math.log(mean) - sigma**2 / 2, sigma) for _ in range(count)]


def poisson(count: int, rate: float, seed: int) -> list[float]:
    """Times at which requests come, `rate` of them per second."""
    draw = random.Random(seed)
    now = 0.0
    return [now := now + draw.expovariate(rate) for _ in range(count)]


class TestIdleFirst:
    @pytest.mark.parametrize("in_flight", [None, 32, 6])
    def test_one_of_three_replicas_is_ten_times_slower(self, in_flight: int | None) -> None:
        works = [constant(0.050), constant(0.005), constant(0.005)]
        report = Simulation(works).run(300, in_flight)
        assert report.makespan <= 1.05 * list_schedule(works, [0.0] * 300).makespan
        assert report.makespan <= 1.15 * list_schedule(works, [0.0] * 300, way=0.0).makespan
        assert report.served["rep-0"] <= 17
        assert report.repeated == 0

    @pytest.mark.parametrize("replicas", [2, 4, 16])
    @pytest.mark.parametrize(
        ("mean", "sigma"), [(0.050, 0.5), (0.050, 1.5), (0.020, 1.0), (0.005, 1.0), (0.002, 1.0)]
    )
    def test_requests_are_of_very_different_length(
        self, mean: float, sigma: float, replicas: int
    ) -> None:
        times = lognormal(2000, mean, sigma, seed=replicas)
        works = [times.__getitem__] * replicas
        report = Simulation(works).run(2000, in_flight=64)
        assert report.makespan <= 1.05 * list_schedule(works, [0.0] * 2000).makespan

    @pytest.mark.parametrize("replicas", [2, 4])
    @pytest.mark.parametrize("load", [0.3, 0.7, 0.9])
    def test_requests_come_when_they_like(self, load: float, replicas: int) -> None:
        """Nobody waits much longer than in one central queue."""
        times = lognormal(4000, mean=0.02, sigma=1.0, seed=replicas)
        works = [times.__getitem__] * replicas
        arrivals = poisson(4000, load * replicas / 0.0204, seed=1)
        report = Simulation(works).run_open(arrivals)
        assert report.mean <= 1.05 * list_schedule(works, arrivals).mean

    @pytest.mark.parametrize("replicas", [2, 4])
    @pytest.mark.parametrize("work", [0.001, 0.005, 0.050])
    def test_equal_requests_cost_a_tenth_more_at_most_than_without_any_way(
        self, work: float, replicas: int
    ) -> None:
        works = [constant(work)] * replicas
        report = Simulation(works).run(1000, in_flight=128)
        assert report.makespan <= 1.1 * list_schedule(works, [0.0] * 1000, way=0.0).makespan

    def test_with_long_work_every_replica_holds_one_request_and_one_ahead(self) -> None:
        report = Simulation([constant(0.1)] * 3).run(100)
        assert report.widest == 2
        assert report.repeated == 0

    def test_nobody_waits_for_the_way_but_for_the_first_request(self) -> None:
        works = [constant(0.01)] * 3
        report = Simulation(works).run(3000)
        assert report.makespan <= 1.005 * list_schedule(works, [0.0] * 3000, way=0.0).makespan

    def test_a_replica_that_joins_takes_its_share_at_once(self) -> None:
        simulation = Simulation([constant(0.01)])
        simulation.at(0.5, simulation.start, "late", constant(0.01))
        report = simulation.run(200)
        assert report.served["late"] == pytest.approx(75, abs=3)

    def test_one_request_at_a_time_goes_round(self) -> None:
        report = Simulation([constant(0.01)] * 3).run(30, in_flight=1)
        assert report.served == {"rep-0": 10, "rep-1": 10, "rep-2": 10}


class TestWindow:
    @pytest.mark.parametrize("work", [15e-6, 60e-6, 200e-6])
    @pytest.mark.parametrize("way", [100e-6, 400e-6, 1e-3, 5e-3])
    def test_short_work_is_as_quick_as_with_a_large_fixed_window(
        self, way: float, work: float
    ) -> None:
        adaptive = Simulation([constant(work)], way=way).run(10_000, in_flight=128)
        fixed = Simulation([constant(work)], way=way, replica=FixedWindow).run(
            10_000, in_flight=128
        )
        assert adaptive.throughput >= 0.9 * fixed.throughput

    def test_it_is_no_larger_than_it_must_be(self) -> None:
        report = Simulation([constant(60e-6)]).run(10_000, in_flight=128)
        assert report.widest == 2 + math.ceil(WAY / 60e-6)

    def test_it_follows_a_way_that_gets_longer(self) -> None:
        simulation = Simulation([constant(60e-6)])
        simulation.at(0.2, setattr, simulation, "way", 1600e-6)
        report = simulation.run(40_000, in_flight=128)
        assert report.throughput >= 0.85 / 60e-6
        assert report.widest == 2 + math.ceil(1600e-6 / 60e-6)

    @pytest.mark.parametrize("slots", [4, 32])
    def test_slots_are_kept_busy(self, slots: int) -> None:
        report = Simulation([constant(0.01)] * 2, slots=slots).run(4000, in_flight=256)
        assert report.throughput >= 0.9 * 2 * slots / 0.01


class TestStuck:
    """One of 2,000 quick requests takes five seconds."""

    def run(self, in_flight: int) -> list[float]:
        """The latencies of the others, the longest first."""
        works = [lambda request: 5.0 if request == 1000 else 60e-6] * 3
        report = Simulation(works).run(5000, in_flight)
        assert report.latencies.pop(1000) == pytest.approx(5.0 + WAY, abs=0.1)
        return sorted(report.latencies.values(), reverse=True)

    def test_what_is_parked_behind_it_is_taken_back_within_some_milliseconds(self) -> None:
        assert self.run(in_flight=12)[0] < 4 * PATIENCE

    def test_it_does_not_hold_up_others_even_when_nobody_is_ever_idle(self) -> None:
        """But a little longer: what is parked there is not worth a repetition
        as long as it may be a hiccup.
        """
        latencies = self.run(in_flight=128)
        assert latencies[0] < 2 * STUCK
        assert latencies[32] < 0.02

    def test_a_replica_that_never_answers_costs_what_it_had_begun_and_nothing_else(self) -> None:
        works = [lambda request: 1e6 if request == 50 else 0.001, constant(0.001)]
        report = Simulation(works).run(1000, in_flight=16, timeout=1.0)
        assert len(report.failed) <= 1
        assert set(report.failed.values()) <= {"expired"}


class TestCrashes:
    def test_many_requests_survive_hundreds_of_crashes(self) -> None:
        draw = random.Random(7)
        simulation = Simulation([constant(200e-6)] * 4, Balancer(retries=8))

        def havoc() -> None:
            simulation.crash(draw.randrange(4))
            simulation.at(simulation.now + draw.expovariate(1 / 0.006), havoc)

        simulation.at(0.0, havoc)
        report = simulation.run(20_000, in_flight=64)
        assert report.crashes > 200
        assert not report.failed
        assert len(report.latencies) == 20_000
        # A crash costs what was under way, and the replica until its successor is there; the rest
        # is still good.
        assert report.throughput >= 0.5 * 4 / 200e-6

    @pytest.mark.parametrize("work", [60e-6, 0.01])
    def test_requests_that_kill_replicas_end_alone(self, work: float) -> None:
        deadly = {100, 101, 500, 900}
        works: list[Callable[[int], float]] = [
            lambda request: DEADLY if request in deadly else work
        ] * 4
        report = Simulation(works).run(1000, in_flight=64)
        assert report.failed == dict.fromkeys(deadly, "crashed")
        assert report.crashes == len(deadly) * 4

    def test_at_most_once_begins_nothing_twice(self) -> None:
        draw = random.Random(3)
        simulation = Simulation([constant(0.001)] * 3, Balancer(retries=0))
        for _ in range(200):
            simulation.at(draw.random(), simulation.crash, draw.randrange(3))
        report = simulation.run(3000, in_flight=32)
        assert report.repeated == 0
        assert 50 < len(report.failed) <= 200

    def test_the_last_of_three_replicas_serves(self) -> None:
        simulation = Simulation([constant(0.001)] * 3, back_after=1e6)
        simulation.at(0.05, simulation.crash, 0)
        simulation.at(0.06, simulation.crash, 0)
        report = simulation.run(1000, in_flight=16)
        assert len(report.latencies) == 1000
        assert report.makespan < 1.1


class TestDeadlines:
    def test_those_who_wait_too_long_are_told_in_time(self) -> None:
        report = Simulation([constant(0.01)]).run(100, timeout=0.055)
        assert len(report.latencies) == 5
        assert list(report.failed.values()) == ["expired"] * 95
        assert report.makespan == pytest.approx(0.055)

    def test_an_overloaded_pool_still_answers_what_it_can(self) -> None:
        """Twice the load that it can bear: what ends in time is about half, and none of it late."""
        report = Simulation([constant(0.01)] * 2).run_open(poisson(4000, 400, seed=5), timeout=0.1)
        assert max(report.latencies.values()) <= 0.1
        assert len(report.latencies) == pytest.approx(4000 / 2, rel=0.15)
