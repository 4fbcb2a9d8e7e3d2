"""How many replicas there are to be: the rule under loads in virtual time,
and a Flow that follows its load.
"""

from __future__ import annotations

import csv
import math
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from helpers import TESTS, in_background, kill, pid_of, run_script, texts, wait_for
from hypothesis import given, settings
from hypothesis import strategies as st
from queueing import Report, Request, Simulation, enough, poisson

from zflow import Client, Document, DocumentArray, Executor, Flow, remote, requests
from zflow.devices.balancing.replica import Replica
from zflow.devices.routing.pool import NO_GROUP, Load, Pool
from zflow.devices.routing.pool import Limits as PoolLimits
from zflow.devices.routing.walk import Node, Walk
from zflow.errors import ChangeRefused, InvalidFlow
from zflow.processes.autoscaler import AGAIN, GAP, STEP, Autoscaler
from zflow.topology.scaling import ReplicaRange

pytestmark = pytest.mark.slow

DATA = TESTS / "data"
LIMITS = ReplicaRange(min=1, max=16)
TAIL = 300.0  # seconds without load at the end of a simulation: time to get small again
Rate = Callable[[float], float]

# Loads, in replicas that they keep busy, by seconds.
CONSTANT: Rate = lambda now: 3.6  # noqa: E731
STEP_UP: Rate = lambda now: 0.3 if now < 60 else 4.0  # noqa: E731
RAMP: Rate = lambda now: 8.0 * now / 1000  # noqa: E731
DAY: Rate = lambda now: 4.0 - 3.8 * math.cos(now / 1800 * 2 * math.pi)  # noqa: E731
ON_OFF: Rate = lambda now: 4.0 if now % 120 < 60 else 0.0  # noqa: E731
BURSTS: Rate = lambda now: 20.0 if now % 100 < 1 else 0.5  # noqa: E731
LOADS = {
    "constant": CONSTANT,
    "step": STEP_UP,
    "ramp": RAMP,
    "day": DAY,
    "on and off": ON_OFF,
    "bursts": BURSTS,
}
# Those that don't change so quickly that nobody could follow.
EVEN = ["constant", "step", "ramp", "day"]


def play(
    load: Rate,
    work: float,
    startup: float = 0.3,
    seed: int = 1,
    limits: ReplicaRange = LIMITS,
    seconds: float = 1000.0,
) -> Report:
    chance = random.Random(seed)
    highest = max(load(now / 2) for now in range(int(2 * seconds)))
    coming = poisson(
        chance,
        lambda now: load(now) / work,
        highest / work,
        seconds,
        lambda: chance.expovariate(1 / work),
    )
    return Simulation(limits, startup).run(coming, seconds + TAIL)


def known(load: Rate, work: float, limits: ReplicaRange = LIMITS, seconds: float = 1000.0) -> float:
    """The replica-seconds of somebody who knows the load in advance,
    and changes the number every second.
    """
    wait = limits.wait / 1000
    wanted = (enough(load(now), work, wait) if load(now) else 0 for now in range(int(seconds)))
    return TAIL * limits.min + sum(max(limits.min, replicas) for replicas in wanted)


def starting(report: Report, startup: float) -> list[tuple[float, float]]:
    """The times around growths: while it was noticed,
    until the new replicas were ready and the queue drained.
    """
    return [
        (at - 1.0, at + 2 * startup + 2.0) for at, before, after in report.changes if after > before
    ]


# -- under loads, in virtual time ------------------------------------------------------------------


@pytest.mark.parametrize("startup", [0.3, 5.0])
@pytest.mark.parametrize("work", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("name", LOADS)
def test_only_while_replicas_start_do_requests_wait_longer_than_they_may(name, work, startup):
    report = play(LOADS[name], work, startup)
    assert len(report.waits) > 200
    assert report.late(LIMITS.wait / 1000, starting(report, startup)) < 0.01
    if name in EVEN:
        assert report.late(LIMITS.wait / 1000) < (0.015 if startup < 1 else 0.06)


@pytest.mark.parametrize("startup", [0.3, 5.0])
@pytest.mark.parametrize("work", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("name", EVEN)
def test_it_takes_little_more_than_somebody_who_knew_the_load(name, work, startup):
    assert play(LOADS[name], work, startup).replica_seconds < 1.8 * known(LOADS[name], work)


@pytest.mark.parametrize("work", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("name", LOADS)
def test_there_are_few_changes_and_in_the_end_it_is_as_small_as_may_be(name, work):
    report = play(LOADS[name], work)
    assert len(report.changes) < 35
    assert report.replicas == LIMITS.min


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("load", [0.1, 0.3])
def test_a_load_that_one_replica_carries_easily_changes_nothing(load, seed):
    assert play(lambda now: load, 0.02, seed=seed).changes == []


def test_without_a_load_nothing_changes():
    assert Simulation(LIMITS).run([], 1000.0).changes == []


def test_a_load_that_comes_and_goes_does_not_make_replicas_come_and_go():
    report = play(ON_OFF, 0.1, seconds=6000.0)
    late = [change for change in report.changes if change[0] > 600 and change[0] < 6000]
    # In 45 periods, in each of which it might grow four times and shrink as often.
    assert len(late) < 45


def test_a_queue_that_is_gone_before_new_replicas_would_be_ready_is_sat_out():
    def wanted(*queued: int) -> int:
        scaler = Autoscaler(ReplicaRange(min=4, max=16))
        for at, waiting in enumerate(queued[:-1]):
            scaler.observe(at / 2, waiting, 4, 4, 0.1, hold=True)
        return scaler.observe(len(queued) / 2, queued[-1], 4, 4, 0.1)

    # Nothing comes any more: four replicas do 20 requests in 0.5 s.
    assert wanted(120, 100, 80, 60, 40) == 4
    assert wanted(120, 120, 120, 120, 120) == 8  # as much comes as they do


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_heavy_tailed_work_is_served_in_time_too(seed):
    chance = random.Random(seed)
    coming = poisson(
        chance, lambda now: 6.0, 6.0, 1000.0, lambda: min(30.0, chance.paretovariate(1.5) / 6)
    )
    report = Simulation(LIMITS, 1.0).run(coming, 1000.0 + TAIL)
    assert report.late(0.5, starting(report, 1.0)) < 0.01
    assert report.replica_seconds < 3.5 * known(lambda now: 3.0, 0.5)
    assert report.replicas == 1


def recorded() -> list[Request]:
    """40 minutes of an afternoon: sessions of users, some more at noon, a crowd for a minute,
    then hardly anybody.

    Made once, by chance, after what such loads look like;
    the work is lognormal with a mean of 0.38 s.
    """
    with open(DATA / "load.csv", encoding="utf-8") as file:
        return [
            (int(row["arrival_ms"]) / 1000, int(row["work_ms"]) / 1000)
            for row in csv.DictReader(file)
        ]


@pytest.mark.parametrize("startup", [0.3, 5.0])
def test_a_load_from_a_file_is_followed(startup):
    load = recorded()
    report = Simulation(ReplicaRange(1, 8), startup).run(load, 2400.0 + TAIL)
    assert len(report.waits) == len(load)
    assert report.late(0.5) < 0.005
    assert report.replicas == 1
    assert len(report.changes) < 25
    minutes = [0.0] * 40
    for at, work in load:
        minutes[int(at // 60)] += work
    mean = sum(minutes) / len(load)
    wanted = sum(60 * max(1, enough(work / 60, mean, 0.5)) for work in minutes) + TAIL
    assert report.replica_seconds < 1.8 * wanted


def test_the_first_requests_may_take_longer_than_anything_seen_before():
    """Nothing has been answered yet: that they wait is known by the time that
    the first one has taken already.
    """
    report = Simulation(LIMITS).run([(1.0 + number / 10, 60.0) for number in range(8)], 200.0)
    assert max(wait for _, wait in report.waits) < 10.0


# -- what must not confuse it ----------------------------------------------------------------------


def test_crashes_that_are_over_soon_change_nothing():
    def run(crashes: int) -> Report:
        chance = random.Random(5)
        simulation = Simulation(ReplicaRange(min=1, max=8), startup=0.3)
        for number in range(crashes):
            simulation.at(300.0 + 10 * number, lambda: simulation.crash(0.3))
        coming = poisson(chance, lambda now: 30.0, 30.0, 1000.0, lambda: chance.expovariate(10.0))
        return simulation.run(coming, 1000.0 + TAIL)

    calm, crashing = run(0), run(60)
    assert len(crashing.changes) <= len(calm.changes) + 4
    assert crashing.late(0.5) < 0.01
    assert crashing.replica_seconds < 1.3 * calm.replica_seconds


def test_while_nothing_can_be_changed_nothing_is_asked_for_and_nothing_is_forgotten():
    scaler = Autoscaler(ReplicaRange(min=1, max=8, idle=10_000))
    wanted = [scaler.observe(at / 2, 0, 3, 4, 0.1) for at in range(8)]
    # 16 s of a rolling restart.
    wanted += [scaler.observe(at / 2, 100, 4, 4, 0.1, hold=True) for at in range(8, 40)]
    assert set(wanted) == {4}
    assert scaler.observe(20.0, 0, 0, 4, 0.1) == 4  # the load was there a moment ago
    assert scaler.observe(20.5, 0, 0, 4, 0.1) == 4


def test_after_a_gap_it_is_looked_for_as_long_as_ever_before_there_are_fewer():
    scaler = Autoscaler(ReplicaRange(min=1, max=8, idle=10_000))
    for at in range(100):
        scaler.observe(at / 2, 0, 0 if at > 95 else 4, 5, 0.1)
    back = 50.0 + 2 * GAP  # the broker was started anew, say
    looks = [scaler.observe(back + at / 2, 0, 0, 5, 0.1) for at in range(20)]
    assert set(looks) == {5}
    assert scaler.observe(back + 10.0, 0, 0, 5, 0.1) == 3


def test_replicas_that_do_not_get_ready_are_asked_for_less_and_less_often():
    failing = Simulation(LIMITS, startup=0.3, fails=lambda now: now < 200.0)
    chance = random.Random(1)
    report = failing.run(poisson(chance, lambda now: 15.0, 15.0, 400.0, lambda: 0.1), 400.0)
    asked = [at for at, _, _ in report.changes if at < 200.0]
    assert 3 <= len(asked) <= 7
    gaps = [after - before for before, after in pairwise(asked)]
    assert gaps[0] >= AGAIN
    assert gaps == sorted(gaps)
    assert report.replicas > 1  # in the end


def test_a_number_out_of_range_is_put_right():
    scaler = Autoscaler(ReplicaRange(min=2, max=4))
    assert scaler.observe(0.0, 0, 0, 7, 0.1) == 4
    assert scaler.observe(0.5, 0, 0, 1, 0.1) == 2
    assert scaler.why == "there are to be from 2 to 4"


def test_it_says_why():
    scaler = Autoscaler(ReplicaRange(min=1, max=8, idle=2000))
    assert scaler.observe(0.0, 26, 2, 2, 0.1) == 4
    assert scaler.why == "requests would wait 1.3 s"
    looks = [scaler.observe(1.0 + at / 2, 0, 0, 4, 0.1) for at in range(8)]
    assert looks[-1] < 4
    assert scaler.why == "in 2 s no more than 0.2 were busy at a time"


looks = st.lists(
    st.tuples(
        st.floats(0.01, 20.0),  # seconds since the last one
        st.one_of(st.just(0), st.integers(0, 5), st.integers(0, 100_000)),  # queued
        st.floats(0.0, 1.0),  # busy, of the replicas there are
        st.one_of(st.just(0.0), st.floats(0.0, 100.0)),  # work
        st.integers(0, 5),  # looks that a change takes
        st.booleans(),  # whether it succeeds
    ),
    min_size=1,
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 5), st.integers(0, 20), st.integers(1, 5000), st.integers(1, 60_000), looks)
def test_whatever_is_seen_size_and_speed_are_limited(least, more, wait, idle, seen):
    limits = ReplicaRange(least, least + more, wait, idle)
    scaler = Autoscaler(limits)
    now, replicas = 0.0, limits.min
    coming, held = replicas, 0
    asked = grown = -math.inf  # when more were asked for; when they were, or came
    for passed, queued, busy, work, takes, succeeds in seen:
        now += passed
        if coming != replicas and held == 0:
            replicas, grown = (coming, now) if succeeds else (replicas, grown)
            coming = replicas
        hold = held > 0
        held = max(0, held - 1)
        wanted = scaler.observe(now, queued, busy * replicas, replicas, work, hold)
        assert limits.min <= wanted <= limits.max
        if hold:
            assert wanted == replicas
        elif wanted > replicas:
            assert queued
            assert wanted <= 2 * replicas
            assert now >= asked + STEP
            coming, held, asked, grown = wanted, takes, now, now
        elif wanted < replicas:
            assert not queued
            assert wanted >= math.ceil(replicas / 2)
            assert now - grown >= limits.idle / 1000
            coming = replicas = wanted


# -- what the broker tells -------------------------------------------------------------------------


def pool_of(*replicas: Replica, shards: int = 1, group: int = 0, **node: Any) -> Pool:
    pool = Pool(0, Node("e", shards=shards, **node), 3, PoolLimits())
    for replica in replicas:
        pool.join(replica, group, 0.0)
    return pool


def ask(pool: Pool, id: int, now: float = 0.0) -> None:
    pool.submit(Walk(id, "/x"), [], id, now)


def test_an_idle_pool_has_no_load():
    assert pool_of().load(1.0) == Load(0, 0, 0)
    assert pool_of(Replica("a"), Replica("b")).load(1.0) == Load(0, 0, 0)


def test_load_is_what_waits_what_is_busy_and_how_long_it_takes():
    pool = pool_of(Replica("a"), Replica("b"))
    for id in range(1, 6):
        ask(pool, id)
    assert pool.load(0.0) == Load(3, 2, 0)
    pool.answered("a", 1, 0.5, [], False, 0.5)
    assert pool.load(0.5) == Load(2, 2, 0.5)


def test_a_request_that_takes_long_counts_before_it_is_answered():
    pool = pool_of(Replica("a"))
    ask(pool, 1, now=1.0)
    assert pool.load(4.0) == Load(0, 1, 3.0)


def test_a_replica_that_works_on_many_requests_at_once_is_busy_in_part():
    pool = pool_of(Replica("a", slots=4))
    for id in range(1, 3):
        ask(pool, id)
    # Two of four, each of which takes a quarter of it for 2 s.
    assert pool.load(2.0) == Load(0, 0.5, 0.5)


def test_the_shard_with_most_to_do_speaks_for_all():
    pool = pool_of(Replica("a", shard=0), Replica("b", shard=1), shards=2, polling={"*": "ALL"})
    pool.submit(Walk(1, "/x"), [], 10, 0.0)
    pool.answered("a", 10, 0.1, [], False, 0.1)
    assert pool.load(2.0).busy == 1
    assert pool.load(2.0).work == 2.0


def test_what_replicas_on_other_machines_do_is_not_left_to_do():
    pool = pool_of(Replica("far"), group=NO_GROUP)
    pool.join(Replica("near"), 0, 0.0)
    for id in range(1, 3):
        ask(pool, id)
    assert pool.load(0.0).busy == 1
    pool.leave("far", 0.0)
    assert pool.load(0.0) == Load(1, 1, 0)


# -- a Flow ----------------------------------------------------------------------------------------

QUICK = {"min": 1, "max": 4, "wait": 100, "idle": 200}


class Works(Executor):
    """Takes 50 ms, and tells who it was."""

    @requests
    def work(self, docs: DocumentArray, **kwargs: Any) -> None:
        time.sleep(0.05)
        for doc in docs:
            doc.tags["by"] = self.runtime_args.name
            doc.tags["device"] = os.environ.get("CUDA_VISIBLE_DEVICES", "")


class OnlyFirst(Works):
    """Only its first replica can start; the others leave a trace."""

    def __init__(self, trace: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self.runtime_args.replica_id:
            Path(trace).touch()
            raise RuntimeError("no more memory")


def serving(flow: Flow, executor: str = "works") -> list[str]:
    """The replicas that are there, by the broker's word."""
    return list(Client(port=flow.port).info()["executors"][executor]["replicas"])


def refusal(flow: Flow, executor: str, replicas: int) -> str:
    """Why it cannot have so many."""
    with pytest.raises(ChangeRefused) as caught:
        flow.scale(executor, replicas)
    return str(caught.value)


class Pressure:
    """16 requests in flight, as long as the block runs; then all must have come back, each once."""

    def __init__(self, flow: Flow, on: str = "/") -> None:
        self._enough = threading.Event()
        self.posted = 0
        client = Client(port=flow.port)
        self._results = in_background(
            client.post, on, self._documents(), request_size=1, prefetch=16
        )

    def _documents(self) -> Iterator[Document]:
        while not self._enough.is_set():
            self.posted += 1
            yield Document(text=str(self.posted))

    def __enter__(self) -> Pressure:
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        texts = self._results.result(timeout=60).texts
        assert texts == [str(number) for number in range(1, self.posted + 1)]


def test_a_flow_grows_under_load_loses_nothing_and_shrinks_when_it_is_idle():
    with Flow().add(name="works", uses=Works, replicas=QUICK) as flow:
        assert serving(flow) == ["works/rep-0"]
        with Pressure(flow):
            wait_for(lambda: len(serving(flow)) == 4, what="it has grown")
        wait_for(lambda: len(serving(flow)) == 1, what="it has shrunk")
        assert flow.post("/", Document(text="x")).texts == ["x"]


def test_a_shrunk_flow_grows_again_also_after_a_crash_and_a_restart():
    with Flow().add(name="works", uses=Works, replicas=QUICK) as flow:
        kill(pid_of("works/rep-0"))
        with Pressure(flow):
            wait_for(lambda: len(serving(flow)) == 4, what="it has grown")
            kill(pid_of("works/rep-2"))
        flow.restart("works")
        wait_for(lambda: len(serving(flow)) == 1, what="it has shrunk")
        with Pressure(flow):
            wait_for(lambda: len(serving(flow)) > 1, what="it grows again")


def test_each_shard_gets_as_many():
    replicas = {**QUICK, "max": 2}
    with Flow().add(name="works", uses=Works, shards=2, polling="ALL", replicas=replicas) as flow:
        with Pressure(flow, "/all"):
            wait_for(lambda: len(serving(flow)) == 4, what="it has grown")
        wait_for(
            lambda: serving(flow) == ["works/shard-0/rep-0", "works/shard-1/rep-0"],
            what="it has shrunk",
        )


def test_it_may_be_told_a_number_in_its_range_and_goes_on_from_there():
    with Flow().add(name="works", uses=Works, replicas=QUICK) as flow:
        with pytest.raises(
            ChangeRefused,
            match=r"'works' has from 1 to 4 replicas, by its load, and 5 is not in that",
        ):
            flow.scale("works", 5)
        assert flow.scale("works", 3)["replicas"] == 3
        wait_for(lambda: len(serving(flow)) == 1, what="it has shrunk")


def test_a_replica_that_cannot_start_leaves_those_that_are_there_alone(tmp_path):
    trace = tmp_path / "trace"
    replicas = {**QUICK, "max": 2}
    with Flow().add(
        name="works", uses=OnlyFirst, uses_with={"trace": str(trace)}, replicas=replicas
    ) as flow:
        with Pressure(flow):
            wait_for(trace.exists, what="it was tried")
        assert serving(flow) == ["works/rep-0"]
        why = wait_for(
            lambda: "under way" not in (refused := refusal(flow, "works", 2)) and refused
        )
        assert re.match("'works' stays at 1 replicas: .*no more memory", why)


SCRIPT = """
import logging, time
from zflow import Client, Document, Executor, Flow, requests

logging.basicConfig(level=logging.INFO)


class Works(Executor):
    @requests
    def work(self, docs, **kwargs):
        time.sleep(0.05)


with Flow().add(name='works', uses=Works, replicas={'min': 1, 'max': 2, 'wait': 100}) as flow:
    client = Client(port=flow.port)
    while len(client.info()['executors']['works']['replicas']) < 2:
        flow.post('/', [Document() for _ in range(20)], request_size=1)
"""


def test_the_log_says_what_was_done_and_why(tmp_path):
    status, _, err = run_script(SCRIPT, tmp_path)
    assert status == 0
    assert re.search(r"works: 1 -> 2 replicas, requests would wait 0\.\d s\n", err)
    assert "works has 2 replicas instead of 1\n" in err


def test_an_executor_with_a_fixed_number_keeps_it():
    with Flow().add(name="fixed").add(name="works", uses=Works, replicas=QUICK) as flow:
        with Pressure(flow):
            wait_for(lambda: len(serving(flow)) > 1, what="the other one has grown")
        assert serving(flow, "fixed") == ["fixed/rep-0"]


def test_a_new_replica_gets_a_device_of_its_own(tmp_path, monkeypatch):
    lines = "".join(f"echo 'GPU {number}: A (UUID: GPU-{number})'\n" for number in range(2))
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{lines}")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    env = {"CUDA_VISIBLE_DEVICES": "RR"}
    with Flow().add(
        name="works", uses=Works, env=env, replicas={**QUICK, "max": 2, "idle": 600_000}
    ) as flow:
        flow.scale("works", 2)
        seen = {
            doc.tags["by"]: doc.tags["device"] for doc in flow.post("/", texts(20), request_size=1)
        }
    assert seen == {"works/rep-0": "0", "works/rep-1": "1"}


def test_replicas_on_another_machine_are_as_many_as_are_started_there():
    with pytest.raises(
        InvalidFlow,
        match="replicas must be how many to run here: only the Flow's own go by its load",
    ):
        remote.join("127.0.0.1:1", "works", Works, replicas={"min": 1, "max": 2})
