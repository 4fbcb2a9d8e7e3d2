"""Plays many scenarios and prints what came of them; of one that fails,
a small version and how to play it again.

python -m tests.simulation [--seeds 1000] [--first 0] [--requests 10000] [--processes N]
python -m tests.simulation --replay FILE
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from zflow.devices.balancing.balancer import Balancer

from .broken import BROKEN
from .cluster import Account, Cluster
from .scenario import Scenario, draw, from_json, to_json
from .shrink import failure, shrink


def play(
    seed: int, requests: int, balancer: Callable[[int], Any]
) -> tuple[int, Account, str | None]:
    """Play a seed's scenario. Returns the seed, the account, and what went wrong, if anything."""
    cluster = Cluster(draw(seed, requests), balancer)
    try:
        return seed, cluster.run(), None
    except Exception as error:
        return seed, cluster.account, f"{type(error).__name__}: {error}"


def played(
    seeds: range, requests: int, balancer: Callable[[int], Any], processes: int
) -> Iterator[tuple[int, Account, str | None]]:
    """Play these seeds, in any order, on so many processes."""
    job = partial(play, requests=requests, balancer=balancer)
    if processes <= 1:
        yield from map(job, seeds)
        return
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        yield from pool.imap_unordered(job, seeds)


def explain(
    scenario: Scenario, what: str, balancer: Callable[[int], Any], broken: str | None
) -> None:
    """Print what went wrong, the smallest scenario that goes wrong, and how to play both again."""
    shape = f"--seeds 1 --first {scenario.seed} --requests {scenario.requests}"
    flag = f" --broken {broken}" if broken else ""
    print(
        f"seed {scenario.seed} fails: {what}\n  python -m tests.simulation {shape}{flag}\nmaking "
        "it small ..."
    )
    small = shrink(scenario, balancer)
    path = Path(tempfile.gettempdir()) / f"simulation-{scenario.seed}.json"
    path.write_text(to_json(small), encoding="utf-8")
    print(
        f"{to_json(small)}\nfails: {failure(small, balancer)}\n  python -m tests.simulation "
        f"--replay {path}{flag}"
    )


def report(total: Account, seeds: int, spent: float) -> None:
    """Print the account."""
    outcomes = ", ".join(f"{count:,} {outcome}" for outcome, count in total.outcomes.items())
    print(f"{seeds:,} seeds, {total.requests:,} requests: {outcomes}")
    print(
        f"{total.begun:,} tasks begun, {total.repeated:,} of them again; {total.deaths:,} replicas "
        "killed;"
        f" {total.turns:,} turns of the broker; {total.seconds:,.0f} s of virtual time"
    )
    print(
        f"{total.bulks:,} came in bulks, {total.ahead:,} were sent ahead, {total.reclaimed:,} of "
        "them taken back"
    )
    print(f"{spent:.0f} s, {total.requests / spent:,.0f} requests/s")


def main() -> int:
    """Read the command line and play."""
    parser = argparse.ArgumentParser(description="Whole clusters in virtual time.")
    parser.add_argument("--seeds", type=int, default=100, help="how many scenarios")
    parser.add_argument("--first", type=int, default=0, help="the first one's seed")
    parser.add_argument("--requests", type=int, default=1000, help="in each scenario")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--broken",
        choices=sorted(BROKEN),
        help="a balancer that is wrong, to see that it is noticed",
    )
    parser.add_argument("--replay", metavar="FILE", type=Path, help="a scenario that was printed")
    arguments = parser.parse_args()
    balancer = BROKEN[arguments.broken] if arguments.broken else Balancer
    if arguments.replay:
        Cluster(from_json(arguments.replay.read_text(encoding="utf-8")), balancer).run()
        print("nothing went wrong")
        return 0
    begin = time.perf_counter()
    total = Account()
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    for number, (seed, account, what) in enumerate(
        played(seeds, arguments.requests, balancer, arguments.processes), 1
    ):
        if what is not None:
            explain(draw(seed, arguments.requests), what, balancer, arguments.broken)
            return 1
        total.add(account)
        if number % 100 == 0 and number < arguments.seeds:
            print(
                f"{number:,} of {arguments.seeds:,} seeds, {time.perf_counter() - begin:.0f} s",
                flush=True,
            )
    report(total, arguments.seeds, time.perf_counter() - begin)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
