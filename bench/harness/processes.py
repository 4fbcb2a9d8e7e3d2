"""What other processes use: processor time and memory, read from /proc,
and which process is the broker.
"""

from __future__ import annotations

import os

import psutil


def cpu_seconds(pid: int) -> tuple[float, float]:
    """Return the processor time that a process has used so far: its main thread alone,
    and all of its threads.
    """
    times = {
        int(thread): _thread_seconds(pid, thread) for thread in os.listdir(f"/proc/{pid}/task")
    }
    return times[pid], sum(times.values())


def _thread_seconds(pid: int, thread: str) -> float:
    """Return the seconds of one thread; nanoseconds count where the kernel tells them."""
    try:
        with open(f"/proc/{pid}/task/{thread}/schedstat") as file:
            return int(file.read().split()[0]) * 1e-9
    except FileNotFoundError:
        with open(f"/proc/{pid}/task/{thread}/stat") as file:
            user, system = file.read().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def titled(start: str) -> set[int]:
    """Return the ids of this process's descendants whose title in `ps` begins so."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        try:
            if " ".join(process.cmdline()).startswith(start):
                found.add(process.pid)
        except psutil.NoSuchProcess:
            pass
    return found


def brokers() -> set[int]:
    """Return the process ids of the brokers of all running Flows."""
    return titled("zflow: broker")


def memory_mib(pid: int) -> float:
    """Return the memory of a process in MiB; what it shares with n others counts as an n-th
    (PSS).
    """
    return float(psutil.Process(pid).memory_full_info().pss) / (1 << 20)
