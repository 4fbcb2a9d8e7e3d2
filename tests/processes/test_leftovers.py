"""What dead replicas have left is ended: at once, and as often as it takes."""

from __future__ import annotations

import pytest

from zflow.processes.leftovers import AGAIN, AGAIN_AT_MOST, Leftovers
from zflow.system import family


class Family:
    """In the place of the system: what is left by whom, and what was killed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left: dict[tuple[int, int], list[int]] = {}
        self.killed: list[tuple[list[int], bool]] = []
        self.alive: list[int] = []
        monkeypatch.setattr(family, "left_by", self.left_by)
        monkeypatch.setattr(
            family, "kill", lambda pids, all_of_them: self.killed.append((list(pids), all_of_them))
        )

    def left_by(self, pid: int, mark: int, but: list[int]) -> list[int]:
        return [one for one in self.left.get((pid, mark), []) if one not in but]


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> Family:
    return Family(monkeypatch)


def test_it_is_killed_at_once_and_looked_for_again_until_nothing_is_left(system: Family) -> None:
    leftovers = Leftovers(lambda: system.alive)
    assert leftovers.timers == []
    system.left = {(10, 1): [11, 12], (20, 2): [21]}
    leftovers.of(10, 1)
    assert system.killed == [([11, 12], False)]
    (first,) = leftovers.timers
    leftovers.check(first - AGAIN / 2)
    assert len(system.killed) == 1, "it is not time yet"
    system.left[10, 1] = [13]  # forked meanwhile
    leftovers.check(first)
    assert system.killed[1:] == [([13], False)]
    system.left.clear()
    leftovers.check(leftovers.timers[0])
    assert leftovers.timers == []


def test_what_cleans_up_by_itself_is_killed_when_it_takes_too_long(system: Family) -> None:
    leftovers = Leftovers(lambda: system.alive)
    system.left = {(10, 1): [11]}
    leftovers.of(10, 1)
    begun, now = leftovers.timers[0], 0.0
    while not system.killed[-1][1]:
        (now,) = leftovers.timers
        leftovers.check(now)
    assert now - begun < family.PATIENCE + AGAIN_AT_MOST
    for _ in range(10):  # it cannot be killed
        pause = leftovers.timers[0] - now
        (now,) = leftovers.timers
        leftovers.check(now)
        assert pause <= AGAIN_AT_MOST


def test_another_replica_that_has_come_to_the_same_number_lives(system: Family) -> None:
    leftovers = Leftovers(lambda: system.alive)
    system.left, system.alive = {(10, 1): [10, 11]}, [10]
    leftovers.of(10, 1)
    assert system.killed == [([11], False)]
