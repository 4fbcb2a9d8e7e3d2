"""Random numbers of replicas: each has its own,
and the same ones in each run where that is asked for.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from helpers import kill, pid_of, replicas, wait_for

from zflow import Document, DocumentArray, Executor, Flow, requests
from zflow.replicas import randomness


class Draw(Executor):
    """Says what it has drawn first."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.drawn = [random.random(), float(np.random.rand())]

    @requests
    def tell(self, docs: DocumentArray, **kwargs: Any) -> None:
        docs[0].tags.update(
            name=self.runtime_args.name, seed=self.runtime_args.seed, drawn=self.drawn
        )


def drawn(flow: Flow, count: int) -> dict[str, tuple[Any, list[float]]]:
    """What each of so many replicas has drawn, and its seed."""
    found: dict[str, tuple[Any, list[float]]] = {}

    def all_of_them() -> bool:
        for doc in flow.post("/", [Document() for _ in range(20)], request_size=1):
            found[doc.tags["name"]] = doc.tags["seed"], doc.tags["drawn"]
        return len(found) == count

    wait_for(all_of_them)
    return found


def test_no_two_replicas_draw_the_same_nor_does_one_that_comes_back() -> None:
    with Flow().add(name="draw", uses=Draw, replicas=3) as flow:
        first = drawn(flow, 3)
        kill(pid_of("draw/rep-0"))
        wait_for(lambda: len(replicas("draw")) == 3, what="it is back")
        again = drawn(flow, 3)
    assert {seed for seed, _ in (*first.values(), *again.values())} == {None}
    both = [numbers for _, numbers in (*first.values(), again["draw/rep-0"])]
    assert len({numbers[0] for numbers in both}) == len({numbers[1] for numbers in both}) == 4


def test_with_a_seed_runs_are_alike_and_replicas_are_not() -> None:
    runs = []
    for _ in range(2):
        with Flow().add(name="draw", uses=Draw, shards=2, replicas=2, seed=7) as flow:
            runs.append(drawn(flow, 4))
    assert runs[0] == runs[1]
    assert len({seed for seed, _ in runs[0].values()}) == 4
    assert len({numbers[0] for _, numbers in runs[0].values()}) == 4
    seed, numbers = runs[0]["draw/shard-1/rep-0"]
    assert seed == randomness.derived(7, 1, 0)
    assert numbers == [random.Random(seed).random(), float(np.random.RandomState(seed).rand())]


def test_a_seed_of_ones_own_is_what_numpy_takes() -> None:
    seeds = {
        randomness.derived(seed, 0, replica) for seed in (0, 1, 2**64 - 1) for replica in range(100)
    }
    assert len(seeds) == 300
    assert all(0 <= seed < 2**32 for seed in (*seeds, randomness.fresh()))
