"""Memory of idle processes: replicas, broker and process manager,
against the C proxy and its workers.

What a process shares with n others counts as an n-th (PSS), so the sum is what the machine has to
give. A Flow is started by a fresh interpreter that has imported nothing else, or numpy,
which replicas then share.
"""

from __future__ import annotations

import statistics

from bench.harness.fresh import fresh
from bench.harness.processes import memory_mib
from bench.harness.result import Cell, Result, Table, ratio
from bench.yardsticks.proxy import ProxyEcho


def measure(quick: bool) -> Result:
    """Return MiB by kind of process and number of replicas."""
    counts, rounds = ((4,), 1) if quick else ((1, 4, 16), 3)
    rows: list[list[Cell]] = []
    ratios = {}
    for count in counts:
        plain = [proxy_mib(count) for _ in range(rounds)]
        for numpy, script in enumerate(("plain script", "script with numpy")):
            found = [fresh("bench.starts", "idle_flow", count, numpy) for _ in range(rounds)]
            figures = {role: [statistics.fmean(each[role]) for each in found] for role in found[0]}
            rows.append(
                [f"zflow, {script}", count, *(statistics.median(mib) for mib in figures.values())]
            )
            if count == 4:
                name = (
                    f"memory of an idle replica, {count} of them, {script}, zflow / worker of "
                    "the C proxy"
                )
                ratios[name] = ratio(figures["replica"], [worker for _, worker in plain])
        broker, worker = (statistics.median(mib) for mib in zip(*plain, strict=True))
        rows.append(["C proxy", count, worker, broker, ""])
    header = ["", "replicas", "each replica", "broker", "process manager"]
    return Result(ratios, [Table("Memory of idle processes, MiB (PSS)", header, rows)])


def proxy_mib(workers: int) -> tuple[float, float]:
    """Return the memory of the proxy, and of each of its workers."""
    with ProxyEcho(workers) as echo:
        broker, *others = map(memory_mib, echo.pids)
        return broker, statistics.fmean(others)
