"""What waits for a replica of its shard: a queue for each,
looked at only while such a replica has room.
"""

from __future__ import annotations

from zflow.devices.balancing.levels import Levels
from zflow.devices.balancing.replica import Replica, Task
from zflow.devices.balancing.shards import ShardQueues


class Looked(Levels):
    """Counts how often a replica of a shard was looked for."""

    count = 0

    def of_shard(self, shard: int | None) -> Replica | None:
        self.count += 1
        return super().of_shard(shard)


class Case:
    """Replicas, and what waits for them."""

    def __init__(self, *replicas: Replica) -> None:
        self.levels = Looked()
        self.queues = ShardQueues(self.levels)
        for replica in replicas:
            self.levels.widen(replica)
            self.levels.place(replica)

    def append(self, *tasks: Task) -> None:
        for task in tasks:
            self.queues.append(task)

    def take(self) -> list[tuple[str, int]]:
        """Give out what can be: who gets which."""
        given = []
        for replica, task in self.queues.take():
            replica.held[task.id] = task
            self.levels.place(replica)
            given.append((replica.name, task.id))
        return given


def tasks(*ids: int, shard: int = 0, client: str = "me") -> list[Task]:
    return [Task(id, shard=shard, client=client) for id in ids]


class TestTake:
    def test_each_goes_to_a_replica_of_its_shard_in_their_order_while_there_is_room(self) -> None:
        case = Case(Replica("a", 2, shard=0), Replica("b", 1, shard=1))
        case.append(*tasks(1, 2, 3), *tasks(4, 5, shard=1))
        assert case.take() == [("a", 1), ("a", 2), ("b", 4)]
        assert {shard: len(queue) for shard, queue in case.queues.items()} == {0: 1, 1: 1}
        assert case.queues.size == 2

    def test_the_one_that_holds_fewest_gets_the_next(self) -> None:
        case = Case(Replica("a", 2), Replica("b", 2))
        case.append(*tasks(1, 2, 3))
        assert case.take() == [("a", 1), ("b", 2), ("a", 3)]
        assert not case.queues

    def test_clients_take_turns(self) -> None:
        case = Case(Replica("a", 4))
        case.append(*tasks(1, 2, 3, client="flood"), *tasks(4, client="other"))
        assert [id for _, id in case.take()] == [1, 4, 2, 3]

    def test_one_whose_shard_has_no_replica_holds_up_no_other(self) -> None:
        case = Case(Replica("a", 1, shard=0))
        case.append(*tasks(1, shard=7), *tasks(2))
        assert case.take() == [("a", 2)]
        assert list(case.queues) == [7]

    def test_how_many_wait_does_not_matter_to_how_much_is_looked_at(self) -> None:
        case = Case(Replica("a", 1, shard=0), Replica("b", 1, shard=1))
        case.append(*tasks(*range(1000)))
        assert case.take() == [("a", 0)]
        assert case.levels.count == 2
        assert case.take() == []
        assert case.levels.count == 3


def test_put_back_in_front_of_all_of_its_shard() -> None:
    case = Case(Replica("a", 4))
    case.append(*tasks(2, client="other"), *tasks(3))
    case.queues.appendleft(*tasks(1))
    assert [id for _, id in case.take()] == [1, 2, 3]


def test_it_can_be_taken_out_if_it_is_there() -> None:
    case = Case(Replica("a", 4))
    first, second = tasks(1, 2)
    case.append(first, second)
    for task in (first, first, *tasks(9), *tasks(8, shard=3)):
        case.queues.discard(task)
    assert case.queues.size == 1
    case.queues.discard(second)
    assert (case.queues.size, dict(case.queues)) == (0, {})
