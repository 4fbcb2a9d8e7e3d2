"""The table of a request's states: the simulator sees what stands in it,
all of that and nothing else.
"""

from __future__ import annotations

import pytest
from helpers import ROOT

from zflow.devices.balancing.replica import SAMPLES, Replica
from zflow.devices.balancing.states import TRANSITIONS, State
from zflow.devices.routing.pool import Limits
from zflow.devices.routing.walk import Node, Walk

from . import watch
from .cluster import Account, Cluster
from .ledger import Ledger, Violation, payload
from .process import Pipe
from .scenario import draw
from .watch import WatchedPool

IN_TABLE = {(*pair, by) for pair, words in TRANSITIONS.items() for by in words}
SEEDS = [1, 8, 97, 107, 108, 173, 194]  # together they see most of it


def pool_of(*replicas: Replica, requests: int, node: Node) -> WatchedPool:
    """A pool that is watched, with so many requests posted to it."""
    pool = WatchedPool(0, node, 3, Limits(), ledger=(ledger := Ledger([node])))
    for replica in replicas:
        pool.join(replica, 0, 0.0)
    for number in range(requests):
        ledger.post(0, "/", None, False)
        pool.submit(
            Walk((None, b"client", number), "/"),
            [("gateway", [[payload(number, -1, 0)]])],
            number,
            0.0,
        )
    return pool


def an_address_dies() -> WatchedPool:
    """Its request is not suspected."""
    pool = pool_of(Replica("a"), requests=1, node=Node("e", addresses=("tcp://far:1",)))
    pool.crash("a", 1.0)
    return pool


def what_is_suspected_is_answered_by_who_had_it_before() -> WatchedPool:
    """It was taken back from there, and killed the next replica; or something else did."""
    stuck = Replica("a", 2)
    for _ in range(SAMPLES):
        stuck.measure(1e-5, 0.0, 1e-3)
    pool = pool_of(stuck, requests=3, node=Node("e"))
    pool.join(Replica("b"), 0, 0.1)
    pool.tick(0.1)
    pool.crash("b", 0.2)
    pool.answered("a", 2, 1e-5, [b""], False, 0.3)
    return pool


def a_replica_begins_afresh() -> WatchedPool:
    """With a request that it was sent ahead; and another one, with a suspect."""
    busy = Replica("a", tickets=Pipe().end())
    for _ in range(SAMPLES):
        busy.measure(0.01, 0.0, 0.011)
    pool = pool_of(busy, requests=2, node=Node("e"))
    pool.join(Replica("a"), 0, 1.0)
    pool.crash("a", 1.1)
    pool.join(Replica("b"), 0, 1.2)
    pool.join(Replica("b"), 0, 1.3)
    return pool


def test_what_the_simulator_sees_is_the_table() -> None:
    account = Account()
    for seed in SEEDS:
        account.add(Cluster(draw(seed, 200)).run())
    for happens in (
        an_address_dies,
        a_replica_begins_afresh,
        what_is_suspected_is_answered_by_who_had_it_before,
    ):
        account.moves.update(happens().moves)
    assert set(account.moves) == IN_TABLE


def test_what_is_not_in_the_table_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    without = {pair: by for pair, by in TRANSITIONS.items() if pair != (State.GIVEN, State.SUSPECT)}
    monkeypatch.setattr(watch, "TRANSITIONS", without)
    with pytest.raises(Violation, match=r"from GIVEN to SUSPECT by (crash|lose|leave)"):
        Cluster(draw(8, 200)).run()


def test_something_follows_all_but_the_last_four() -> None:
    assert set(State) - {before for before, _ in TRANSITIONS} == set(list(State)[-4:])


def test_the_page_shows_the_table() -> None:
    rows = ["| state | what it is | what follows, and by what |", "| --- | --- | --- |"]
    for state in State:
        follows = {
            after: ", ".join(f"`{word}`" for word in words)
            for (before, after), words in TRANSITIONS.items()
            if before is state
        }
        said = "; ".join(f"{after.name.lower()}: {words}" for after, words in follows.items())
        rows.append(f"| {state.name.lower()} | {state.value} | {said or 'nothing'} |")
    assert "\n".join(rows) in (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"), (
        "\n".join(rows)
    )
