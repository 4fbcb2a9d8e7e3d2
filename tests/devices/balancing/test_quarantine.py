"""Suspects: each waits for a replica that holds nothing, and one replica is kept for them."""

from __future__ import annotations

from zflow.devices.balancing.balancer import Balancer
from zflow.devices.balancing.levels import Levels
from zflow.devices.balancing.quarantine import Quarantine
from zflow.devices.balancing.replica import Replica, Task


class Case:
    """Replicas, and suspects that wait for them."""

    def __init__(self, *replicas: Replica) -> None:
        self.levels = Levels()
        self.replicas = replicas
        self.quarantine = Quarantine(self.levels)
        for replica in replicas:
            self.levels.widen(replica)
            self.levels.place(replica)

    def wait(self, *tasks: Task) -> None:
        for task in tasks:
            task.suspect = True
            self.quarantine.append(task)

    def give(self, replica: Replica, task: Task) -> None:
        replica.held[task.id] = task
        self.levels.place(replica)

    def end(self, replica: Replica, id: int) -> None:
        """It has answered; as the balancer does, it is freed when it holds nothing."""
        del replica.held[id]
        if replica.alone and not replica.held:
            replica.alone = False
            self.quarantine.forget(replica)
        self.levels.place(replica)

    def take(self) -> list[tuple[str, int]]:
        """Give out what can be: who gets which."""
        given = []
        for replica, task in self.quarantine.take():
            self.give(replica, task)
            given.append((replica.name, task.id))
        return given


def busy(name: str, last_done: float = 0.0, shard: int = 0) -> Replica:
    """A replica that has room left and is at something, task 100."""
    replica = Replica(name, slots=4, shard=shard)
    replica.held[100] = Task(100)
    replica.last_done = last_done
    return replica


class TestTake:
    def test_each_gets_an_empty_replica_of_its_own_in_their_order(self) -> None:
        case = Case(Replica("a", 4), busy("b"), Replica("c", 4))
        case.wait(Task(1), Task(2), Task(3))
        assert case.take() == [("a", 1), ("c", 2)]
        assert [task.id for task in case.quarantine] == [3]
        # The others get nothing more.
        assert (case.levels.least(), case.levels.room) == (case.replicas[1], 1)

    def test_the_next_one_follows_when_a_replica_is_empty_again(self) -> None:
        a = Replica("a", 4)
        case = Case(a)
        case.wait(Task(1), Task(2))
        assert case.take() == [("a", 1)]
        assert case.take() == []
        case.end(a, 1)
        assert case.take() == [("a", 2)]
        case.end(a, 2)
        assert case.take() == []
        assert case.levels.least() is a

    def test_one_of_a_shard_waits_for_a_replica_of_that_and_holds_up_nobody(self) -> None:
        case = Case(Replica("a", shard=0), Replica("b", shard=1))
        case.wait(Task(1, shard=2), Task(2, shard=1), Task(3))
        assert case.take() == [("b", 2), ("a", 3)]
        assert [task.id for task in case.quarantine] == [1]


class TestReserve:
    def reserved(
        self, *replicas: Replica, shards: tuple[int | None, ...] = (None,)
    ) -> Replica | None:
        """Who is kept from new work if suspects of these shards wait."""
        case = Case(*replicas)
        case.wait(*(Task(id, shard=shard) for id, shard in enumerate(shards)))
        case.quarantine.reserve(case.replicas)
        return case.quarantine.reserved

    def test_the_one_that_answered_last_is_kept_and_gets_nothing_more(self) -> None:
        a, b, c = busy("a", 1.0), busy("b", 3.0), busy("c", 2.0)
        case = Case(a, b, c)
        case.wait(Task(1))
        case.quarantine.reserve(case.replicas)
        assert case.quarantine.reserved is b
        assert [case.levels.room, b.level, b.alone] == [2, -1, True]
        case.end(b, 100)
        assert case.take() == [("b", 1)]

    def test_it_stays_the_same_as_long_as_it_is_at_something(self) -> None:
        a, b = busy("a", 1.0), busy("b", 3.0)
        case = Case(a, b)
        case.wait(Task(1))
        case.quarantine.reserve(case.replicas)
        a.last_done = 9.0
        case.quarantine.reserve(case.replicas)
        assert case.quarantine.reserved is b
        assert case.levels.least() is a

    def test_none_is_kept_if_none_waits_any_more(self) -> None:
        a = busy("a")
        case = Case(a)
        case.wait(Task(1))
        case.quarantine.reserve(case.replicas)
        assert case.levels.least() is None
        case.quarantine.clear()
        case.quarantine.reserve(case.replicas)
        assert case.quarantine.reserved is None
        assert case.levels.least() is a

    def test_none_is_kept_where_none_waits(self) -> None:
        assert self.reserved(busy("a"), shards=()) is None

    def test_not_one_that_is_lost_or_has_a_suspect_already(self) -> None:
        lost, alone, other = busy("lost", 3.0), busy("alone", 2.0), busy("other", 1.0)
        lost.lost = alone.alone = True
        assert self.reserved(lost, alone) is None
        assert self.reserved(lost, alone, other) is other

    def test_only_one_of_the_shard_where_all_that_wait_are_of_some(self) -> None:
        a, b = busy("a", 3.0, shard=0), busy("b", 1.0, shard=1)
        assert self.reserved(a, b, shards=(1,)) is b
        assert self.reserved(busy("a"), shards=(1, 2)) is None
        assert self.reserved(busy("a", 3.0), busy("b", 1.0, shard=1), shards=(1, None)).name == "a"  # type: ignore[union-attr]


class TestForget:
    def test_one_that_is_gone_is_kept_no_longer_and_another_one_is(self) -> None:
        a, b = busy("a", 1.0), busy("b", 3.0)
        case = Case(a, b)
        case.wait(Task(1))
        case.quarantine.reserve(case.replicas)
        case.levels.drop(b)
        case.quarantine.forget(b)
        assert (case.quarantine.reserved, b.alone) == (None, False)
        case.quarantine.reserve([a])
        assert case.quarantine.reserved is a

    def test_one_that_is_not_kept_does_not_matter(self) -> None:
        a, b = busy("a", 1.0), busy("b", 3.0)
        case = Case(a, b)
        case.wait(Task(1))
        case.quarantine.reserve(case.replicas)
        case.quarantine.forget(a)
        assert case.quarantine.reserved is b


def test_a_replica_without_slots_is_not_kept_for_suspects() -> None:
    balancer = Balancer()
    for name in ("a", "b"):
        balancer.join(Replica(name), 0.0)
    balancer.resize("b", 0, 0.0)
    for id in (1, 2):
        balancer.submit(Task(id), 0.0)
    assert balancer.crash("a", 1.0) == []
    assert balancer.queued == 2
    assert [action.replica.name for action in balancer.resize("b", 1, 2.0)] == ["b"]
