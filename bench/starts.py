"""What `startup` and `memory` call in fresh interpreters.
Nothing is imported before it is measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable

SETTLE = 0.5  # seconds until what a start-up has left to do is done


def import_zflow() -> float:
    """Return the seconds of `import zflow`."""
    begin = time.perf_counter()
    import zflow  # noqa: F401

    return time.perf_counter() - begin


def import_plain() -> float:
    """Return the seconds of importing what zflow cannot do without."""
    begin = time.perf_counter()
    import msgpack  # noqa: F401
    import zmq  # noqa: F401

    return time.perf_counter() - begin


def start_flow(replicas: int) -> list[float]:
    """Return the seconds until a Flow is ready, of the first post, and of closing."""
    from bench.common import Echo, small_documents
    from zflow import Flow

    flow = Flow().add(name="echo", uses=Echo, replicas=replicas)
    docs = small_documents(1)
    actions: list[Callable[[], object]] = [flow.start, lambda: flow.post("/", docs), flow.close]
    seconds = []
    for action in actions:
        begin = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - begin)
    return seconds


def idle_flow(replicas: int, numpy: int) -> dict[str, list[float]]:
    """Return the memory in MiB (PSS) of a Flow's idle processes, by what they are.

    Args:
        replicas: how many replicas.
        numpy: whether the script has imported numpy before, as most have: 0 or 1.
    """
    if numpy:
        import numpy as np  # noqa: F401
    from bench.common import Echo, small_documents
    from bench.harness.processes import memory_mib, titled
    from zflow import Flow

    with Flow().add(name="echo", uses=Echo, replicas=replicas) as flow:
        flow.post("/", small_documents(100), request_size=1)
        time.sleep(SETTLE)
        pids = {role: titled(f"zflow: {title}") for role, title in ROLES.items()}
        return {role: [memory_mib(pid) for pid in found] for role, found in pids.items()}


ROLES = {"replica": "echo/", "broker": "broker", "process manager": "manager"}
