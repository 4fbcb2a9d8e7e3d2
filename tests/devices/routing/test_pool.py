"""One Executor at the broker: what is let in, what answers mean to the walk,
and what clients are told.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest

from zflow.devices.balancing.actions import Fail, Kill, Recall, Send, SendBatch
from zflow.devices.balancing.replica import BatchKey, Replica, Task
from zflow.devices.protocol.messages import Done, Error, Leave, Missed
from zflow.devices.routing.fanout import Publish
from zflow.devices.routing.pool import (
    NO_GROUP,
    NOBODY,
    Broken,
    Finished,
    Gathered,
    Limits,
    Load,
    Pool,
    Taken,
    request_of,
)
from zflow.devices.routing.walk import DEFAULT, Node, Walk

INPUTS: Any = [("gateway", [[b"docs"]])]


def in_two(payload: Any, count: int) -> tuple[Any, Any]:
    walk, inputs = payload
    head = walk.cut(count)
    return (head, inputs), (walk, inputs)


def pool_of(*names: str, retries: int = 3, limits: Limits | None = None, **node: Any) -> Pool:
    """A pool with these replicas, all of shard 0 and of group 0."""
    pool = Pool(0, Node("e", **node), retries, limits or Limits(), in_two)
    for name in names:
        pool.join(Replica(name), 0, 0.0)
    return pool


def sharded(shards: int = 2, retries: int = 3, limits: Limits | None = None, **node: Any) -> Pool:
    """A pool with one replica for each shard, called by its number."""
    node.setdefault("polling", {"*": "ALL", "/any": "ANY"})
    pool = Pool(0, Node("e", shards=shards, **node), retries, limits or Limits())
    for shard in range(shards):
        pool.join(Replica(str(shard), shard=shard), 0, 0.0)
    return pool


def submit(pool: Pool, id: int, walk: Walk | None = None, now: float = 0.0) -> Any:
    return pool.submit(Walk(id, "/") if walk is None else walk, INPUTS, id, now)


def answer(
    pool: Pool,
    name: str,
    id: int,
    now: float = 1.0,
    payload: Any = (b"result",),
    failed: bool = False,
) -> Any:
    """What an answer means to the walk, and what follows in the pool."""
    return pool.answered(name, id, 0.1, payload, failed, now)


def refused(actions: Any) -> str:
    """Why the only task was not let in."""
    (fail,) = actions
    assert isinstance(fail, Fail)
    return fail.reason


def sized(size: int) -> Walk:
    walk = Walk("origin", "/")
    walk.size = size
    return walk


def bulk(count: int) -> Walk:
    walk = Walk(("port", b"me", 70), "/", count=count)
    walk.docs = [1] * count
    return walk


class TestOneShard:
    def test_a_walk_is_sent_to_a_replica_with_its_inputs_and_its_result_ends_the_visit(
        self,
    ) -> None:
        pool, walk = pool_of("a"), Walk("origin", "/")
        (send,) = submit(pool, 1, walk)
        assert isinstance(send, Send)
        assert send.replica.name == "a"
        assert request_of(send.task) == (walk, INPUTS)
        assert answer(pool, "a", 1) == (Finished(walk, 1, (b"result",)), [])

    def test_an_error_breaks_the_walk(self) -> None:
        pool, walk = pool_of("a"), Walk("origin", "/")
        submit(pool, 1, walk)
        assert answer(pool, "a", 1, payload=b"error", failed=True) == (Broken(walk, b"error"), [])

    def test_a_second_answer_means_nothing(self) -> None:
        pool = pool_of("a")
        submit(pool, 1)
        answer(pool, "a", 1)
        assert answer(pool, "a", 1) == (None, [])

    def test_what_waits_follows_the_answer(self) -> None:
        pool = pool_of("a")
        submit(pool, 1)
        assert submit(pool, 2) == []
        assert pool.waiting == 1
        _, (send,) = answer(pool, "a", 1)
        assert (send.task.id, pool.waiting) == (2, 0)

    def test_what_is_cancelled_means_nothing_any_more(self) -> None:
        pool = pool_of("a")
        submit(pool, 1)
        submit(pool, 2)
        assert pool.cancel(2, 0.5) == []
        assert pool.waiting == 0
        assert pool.cancel(1, 0.5) == []
        assert answer(pool, "a", 1) == (None, [])

    def test_what_the_balancer_gave_up_breaks_the_walk(self) -> None:
        pool, walk = pool_of("a", retries=0), Walk("origin", "/")
        submit(pool, 1, walk)
        (fail,) = pool.crash("a", 1.0)
        assert isinstance(fail, Fail)
        assert pool.failed(fail, "it crashed", 1.0) == (Broken(walk, "it crashed"), [])

    def test_a_replica_that_leaves_hands_on_what_it_has(self) -> None:
        pool = pool_of("a", "b")
        submit(pool, 1)
        (send,) = pool.leave("a", 0.5)
        assert (send.replica.name, send.task.id) == ("b", 1)

    def test_one_that_is_found_again_may_have_what_it_had(self) -> None:
        pool = pool_of("a")
        submit(pool, 1)
        pool.lose("a", 0.5)
        assert submit(pool, 2) == []
        tasks, _ = pool.find("a", 0.6)
        assert [task.id for task in tasks] == [1]

    def test_more_slots_take_more(self) -> None:
        pool = pool_of("a")
        submit(pool, 1)
        submit(pool, 2)
        (send,) = pool.resize("a", 2, 0.5)
        assert send.task.id == 2


class TestDeadlines:
    @pytest.mark.parametrize(
        ("own", "at_most", "deadline"),
        [(math.inf, None, math.inf), (7.0, None, 7.0), (7.0, 5.0, 7.0), (9.0, 5.0, 8.0)],
    )
    def test_the_walks_own_or_what_it_may_take_here_whichever_is_first(
        self, own: float, at_most: float | None, deadline: float
    ) -> None:
        pool, walk = pool_of(limits=Limits(timeout=at_most)), Walk("origin", "/")
        walk.deadline = own
        submit(pool, 1, walk, now=3.0)
        assert pool.balancer.tasks[1].deadline == deadline

    def test_time_alone_ends_what_is_late(self) -> None:
        pool = pool_of(limits=Limits(timeout=5.0))
        assert not pool.timed
        submit(pool, 1)
        assert pool.timed
        assert pool.wake_after(4.5) == 0.5
        assert pool.tick(4.9) == []
        assert refused(pool.tick(5.0)) == "expired"


class TestLimits:
    def test_no_more_wait_than_may(self) -> None:
        pool = pool_of("a", limits=Limits(queue=2))
        for id in (1, 2, 3):
            submit(pool, id)
        assert refused(submit(pool, 4)) == "overloaded"
        answer(pool, "a", 1)
        assert submit(pool, 5) == []

    def test_no_more_bytes_are_here_than_may_be_waiting_or_not(self) -> None:
        pool = pool_of("a", limits=Limits(queue_bytes=100))
        submit(pool, 1, sized(60))
        assert submit(pool, 2, sized(40)) == []
        assert refused(submit(pool, 3, sized(1))) == "overloaded"
        pool.ended(1)
        assert submit(pool, 4, sized(60)) == []
        assert refused(submit(pool, 5, sized(1))) == "overloaded"

    def test_one_alone_always_has_room(self) -> None:
        pool = pool_of("a", limits=Limits(queue_bytes=100))
        assert len(submit(pool, 1, sized(1000))) == 1
        assert refused(submit(pool, 2, sized(1))) == "overloaded"
        pool.ended(1)
        pool.ended(1)  # is of no effect
        assert submit(pool, 3, sized(1000)) == []
        assert refused(submit(pool, 4, sized(1))) == "overloaded"

    def test_what_may_have_been_begun_before_is_not_begun_where_that_may_be_once_at_most(
        self,
    ) -> None:
        walk = Walk("origin", "/")
        walk.again = True
        assert refused(submit(pool_of("a", retries=0), 1, walk)) == "again"
        assert len(submit(pool_of("a", retries=1), 1, walk)) == 1

    def test_who_is_at_a_request_for_too_long_is_killed(self) -> None:
        pool = pool_of("a", limits=Limits(run=2.0))
        assert not pool.timed
        submit(pool, 1)
        assert pool.timed
        assert 0 < pool.wake_after(0.0) < 2.0
        assert pool.tick(2.0) == []
        fail, kill = pool.tick(2.1)
        assert isinstance(fail, Fail)
        assert (fail.reason, fail.task.id) == ("overran", 1)
        assert kill == Kill(pool.balancer.replicas["a"])


class TestBulks:
    def test_one_takes_as_many_ids_as_it_is_and_is_finished_as_one(self) -> None:
        pool, walk = pool_of(), bulk(3)
        pool.join(Replica("a", slots=4), 0, 0.0)
        assert pool.takes(walk)
        assert pool.ids_for(walk) == 3
        (send,) = submit(pool, 10, walk)
        assert send.task.count == 3
        assert pool.fit("a", 10, 3) == 3
        outcome, _ = pool.answered("a", 10, 0.1, [b"1", b"2", b"3"], False, 1.0, 3)
        assert outcome == Finished(walk, 10, [b"1", b"2", b"3"])

    def test_its_requests_can_be_made_visits_of_their_own(self) -> None:
        pool, walk = pool_of(), bulk(3)
        submit(pool, 10, walk)
        pool.single(10)
        assert pool.waiting == 3
        pool.cancel(11, 0.5)
        assert sorted(pool.balancer.tasks) == [10, 12]

    @pytest.mark.parametrize(
        "limits",
        [Limits(run=1.0), Limits(queue_bytes=100), Limits(queue=2)],
        ids=["run", "bytes", "queue"],
    )
    def test_none_is_taken_where_each_request_counts(self, limits: Limits) -> None:
        assert not pool_of("a", limits=limits).takes(bulk(3))

    def test_it_is_where_there_is_room_for_all_of_it(self) -> None:
        pool = pool_of("a", limits=Limits(queue=4))
        assert pool.takes(bulk(4))
        submit(pool, 1)
        submit(pool, 2)
        assert [pool.takes(bulk(count)) for count in (3, 4)] == [True, False]

    def test_none_is_taken_by_shards_elsewhere_in_batches_or_where_they_cannot_be_tried_again(
        self,
    ) -> None:
        batching = pool_of("a")
        batching.batching["/"] = BatchKey("/", 2)
        elsewhere = pool_of("a", addresses=("tcp://there:1",))
        for pool in (sharded(), elsewhere, batching, pool_of("a", retries=0)):
            assert not pool.takes(bulk(3))


class TestBatches:
    def pool(self, **node: Any) -> Pool:
        pool = pool_of(**node)
        pool.batching = {"/four": BatchKey("/four", 4), DEFAULT: BatchKey(DEFAULT, 2)}
        return pool

    def batched(self, pool: Pool, *endpoints: str, docs: int = 1) -> list[list[int]]:
        """The ids of what is given out together, of requests for these endpoints."""
        for id, endpoint in enumerate(endpoints, 1):
            walk = Walk(id, endpoint)
            walk.docs = [docs]
            assert submit(pool, id, walk) == []
        given = []
        while pool.waiting:
            name = f"replica {len(given)}"
            (send,) = pool.join(Replica(name), 0, 0.0)[1]
            given.append(
                [task.id for task in send.tasks] if isinstance(send, SendBatch) else [send.task.id]
            )
        return given

    def test_requests_go_together_by_what_serves_their_endpoint(self) -> None:
        pool = self.pool(endpoints=frozenset({"/four", DEFAULT}))
        assert self.batched(pool, "/four", "/x", "/four", "/y", "/four", "/z") == [
            [1, 3, 5],
            [2, 4],
            [6],
        ]

    def test_what_is_bound_and_has_none_of_its_own_goes_alone(self) -> None:
        pool = self.pool(endpoints=frozenset({"/four", "/alone", DEFAULT}))
        assert self.batched(pool, "/alone", "/alone") == [[1], [2]]

    def test_their_size_counts_documents(self) -> None:
        assert self.batched(self.pool(), *["/four"] * 4, docs=2) == [[1, 2], [3, 4]]

    def test_what_cannot_be_done_in_one_go_is_tried_alone(self) -> None:
        pool = self.pool()
        for id in (1, 2):
            submit(pool, id, Walk(id, "/four"))
        pool.join(Replica("a"), 0, 0.0)
        (send,) = pool.apart("a", [1, 2], 0.5)
        assert (send.task.id, pool.waiting) == (1, 1)


class TestShards:
    def test_polling_says_which_requests_go_to_all(self) -> None:
        pool = sharded()
        assert pool.ids_for(Walk("origin", "/")) == 2
        assert pool.ids_for(Walk("origin", "/any")) == 1
        (publish,) = submit(pool, 10, Walk("origin", "/"))
        assert isinstance(publish, Publish)
        assert request_of_part(publish) == "origin"
        (send,) = submit(pool_any := sharded(), 10, Walk("origin", "/any"))
        assert isinstance(send, Send)
        assert answer(pool_any, send.replica.name, 10)[0] == Finished(
            send.task.payload[0], 10, (b"result",)
        )

    def test_a_request_ends_when_the_last_shard_has_answered(self) -> None:
        pool, walk = sharded(3), Walk("origin", "/")
        submit(pool, 10, walk)
        assert answer(pool, "2", 12, payload=["two"]) == (Taken(walk), [])
        assert answer(pool, "0", 10, payload=["zero"]) == (Taken(walk), [])
        results = {2: ["two"], 0: ["zero"], 1: ["one"]}
        assert answer(pool, "1", 11, payload=["one"]) == (Gathered(walk, 10, results, {}), [])
        assert answer(pool, "1", 11, payload=["one"]) == (None, [])

    def test_one_that_fails_breaks_it(self) -> None:
        pool, walk = sharded(), Walk("origin", "/")
        submit(pool, 10, walk)
        assert answer(pool, "1", 11, payload="error", failed=True) == (Broken(walk, "error"), [])
        pool.cancel(10, 1.0)
        assert answer(pool, "0", 10)[0] is None
        assert not pool.balancer.tasks

    def test_where_partial_results_are_wanted_it_goes_on_without_those_that_failed(self) -> None:
        pool, walk = sharded(partial=True), Walk("origin", "/")
        submit(pool, 10, walk)
        assert answer(pool, "1", 11, payload="error", failed=True) == (Taken(walk), [])
        assert answer(pool, "0", 10, payload=["zero"])[0] == Gathered(
            walk, 10, {0: ["zero"]}, {1: "error"}
        )

    def test_it_is_broken_all_the_same_if_all_of_them_failed(self) -> None:
        pool, walk = sharded(partial=True), Walk("origin", "/")
        submit(pool, 10, walk)
        assert answer(pool, "1", 11, payload="of 1", failed=True) == (Taken(walk), [])
        assert answer(pool, "0", 10, payload="of 0", failed=True)[0] == Broken(walk, "of 0")

    def test_a_part_that_the_balancer_gave_up_counts_as_failed(self) -> None:
        pool, walk = sharded(retries=0, partial=True), Walk("origin", "/")
        submit(pool, 10, walk)
        assert answer(pool, "0", 10, payload=["zero"])[0] == Taken(walk)
        (fail,) = pool.crash("1", 1.0)
        assert isinstance(fail, Fail)
        assert request_of(fail.task) == (walk, INPUTS)
        outcome, _ = pool.failed(fail, "it crashed", 1.0)
        assert outcome == Gathered(walk, 10, {0: ["zero"]}, {1: "it crashed"})

    def test_one_that_is_cancelled_is_recalled_where_it_is_not_begun(self) -> None:
        pool = sharded()
        submit(pool, 1, Walk("origin", "/any"))  # one of the two is at this
        submit(pool, 10, Walk("origin", "/"))
        (recall,) = pool.cancel(10, 0.5)
        assert isinstance(recall, Recall)
        assert list(pool.balancer.tasks) == [1]

    def test_what_a_replica_missed_is_sent_to_it(self) -> None:
        pool = sharded()
        submit(pool, 10, Walk("origin", "/"))
        (send,) = pool.missed("1", 1, 1, 0.5)
        assert (send.replica.name, send.task.id) == ("1", 11)

    def test_nothing_is_to_one_that_is_unknown_or_on_another_machine(self) -> None:
        pool = sharded()
        pool.join(Replica("far", shard=1), NO_GROUP, 0.0)
        submit(pool, 10, Walk("origin", "/"))
        assert pool.missed("far", 1, 1, 0.5) == []
        assert pool.missed("nobody", 1, 1, 0.5) == []

    def test_who_joins_is_told_the_number_of_the_last_fan_out_of_its_group(self) -> None:
        pool = sharded()
        submit(pool, 10, Walk("origin", "/"))
        assert pool.join(Replica("late", shard=1), 0, 0.5)[0] == 1
        assert pool.join(Replica("far", shard=1), NO_GROUP, 0.5)[0] == 0

    @pytest.mark.parametrize("gone", ["crash", "leave"])
    def test_who_is_gone_is_passed_by(self, gone: str) -> None:
        pool = sharded()
        getattr(pool, gone)("1", 0.5)
        (publish,) = submit(pool, 10, Walk("origin", "/"))
        assert publish.skip == [1]
        assert pool.missed("1", 1, 1, 0.6) == []
        (send,) = pool.join(Replica("new", shard=1), 0, 0.7)[1]
        assert (send.replica.name, send.task.id) == ("new", 11)

    def test_fan_outs_that_wait_count_as_waiting_and_follow_when_there_is_room(self) -> None:
        pool = sharded(limits=Limits(queue=1))
        for id in (10, 20):
            assert len(submit(pool, id)) == 1
        assert submit(pool, 30) == []
        assert pool.waiting == 1
        assert refused(submit(pool, 40)) == "overloaded"
        answer(pool, "0", 10)
        _, (publish,) = answer(pool, "1", 11)
        assert (publish.scatter.base, pool.waiting) == (30, 0)


def request_of_part(publish: Publish) -> Any:
    """The origin of what is published."""
    return publish.scatter.payload[0].origin


class TestElsewhere:
    """An external Executor: its replicas are addresses, which somebody else runs."""

    def pool(self, *names: str) -> Pool:
        pool = Pool(0, Node("e", addresses=("tcp://there:1",)), 0, Limits())
        for name in names:
            pool.join(Replica(name), NO_GROUP, 0.0)
        return pool

    @pytest.mark.parametrize("failed", [False, True])
    def test_an_address_answers_what_it_was_given_and_nothing_besides(self, failed: bool) -> None:
        pool = self.pool("a", "b")
        given = {send.replica.name: id for id in (1, 2) for send in submit(pool, id)}
        submit(pool, 3)  # waits
        for id in (given["b"], 3, 4):
            assert answer(pool, "a", id, failed=failed) == (None, [])
        assert list(pool.balancer.tasks) == [1, 2, 3]
        outcome, (send,) = answer(pool, "a", given["a"], failed=failed)
        assert (outcome.walk.origin, send.task.id) == (given["a"], 3)

    def test_an_address_that_is_gone_is_not_blamed_on_requests(self) -> None:
        pool = Pool(0, Node("e", addresses=("tcp://there:1",)), 3, Limits())
        for name in "ab":
            pool.join(Replica(name, slots=2), NO_GROUP, 0.0)
        for id in (1, 2):
            submit(pool, id)
        assert [send.task.id for send in pool.crash("a", 1.0)] == [1]  # it does not travel alone

    def test_what_may_wait_for_ever_is_given_up_if_no_address_is_there_for_long(self) -> None:
        pool = self.pool()
        submit(pool, 1)
        late = Walk("origin", "/")
        late.deadline = 1000.0
        submit(pool, 2, late)
        assert pool.timed
        assert pool.tick(5.0) == []
        assert pool.tick(5.0 + NOBODY * 0.99) == []
        assert refused(pool.tick(5.0 + NOBODY)) == "unreachable"
        assert list(pool.balancer.tasks) == [2]  # that has an end of its own

    @pytest.mark.parametrize("there", ["joined", "found"])
    def test_it_is_not_if_one_was_there_meanwhile(self, there: str) -> None:
        pool = self.pool("a")
        submit(pool, 1)
        submit(pool, 2)
        pool.lose("a", 0.0)
        assert pool.tick(5.0) == []
        if there == "found":
            pool.find("a", 6.0)
        else:
            pool.join(Replica("b"), NO_GROUP, 6.0)
        for name in list(pool.balancer.replicas):
            pool.lose(name, 7.0)
        assert pool.tick(5.0 + NOBODY) == []
        assert pool.tick(5.0 + 1.9 * NOBODY) == []
        reasons = {fail.reason for fail in pool.tick(5.0 + 2 * NOBODY) if isinstance(fail, Fail)}
        assert reasons == {"unreachable"}

    def test_nor_as_long_as_one_is(self) -> None:
        pool = self.pool("a")
        submit(pool, 1)
        assert pool.tick(5.0) == []
        assert pool.tick(5.0 + 2 * NOBODY) == []

    def test_elsewhere_or_not_what_waits_here_waits_as_long_as_it_may(self) -> None:
        pool = pool_of()
        submit(pool, 1)
        assert pool.tick(100 * NOBODY) == []
        assert pool.tick(200 * NOBODY) == []


class TestInfo:
    def test_it_says_what_clients_want_to_know(self) -> None:
        pool = pool_of(endpoints=frozenset({"/b", "/a"}), no_reduce=True)
        for name, slots in ((b"two", 2), (b"one", 1)):
            pool.join(Replica(name, slots), 0, 0.0)
            pool.names[name] = f"e/{name.decode()}"
        pool.batching["/a"] = BatchKey("/a", 4, 0.0125)
        for id in (1, 2, 3, 4, 5):
            submit(pool, id)
        assert pool.info() == {
            "replicas": ["e/one", "e/two"],
            "slots": 3,
            "shards": 1,
            "no_reduce": True,
            "addresses": [],
            "queued": 2,
            "endpoints": ["/a", "/b"],
            "batching": {"/a": [4, 12.5]},
        }

    def test_who_is_gone_is_not_named_and_who_is_lost_has_no_slots(self) -> None:
        pool = pool_of("a", "b", "c")
        for name in list(pool.balancer.replicas):
            pool.names[name] = name
        pool.crash("a", 0.0)
        pool.lose("b", 0.0)
        info = pool.info()
        assert (info["replicas"], info["slots"], info["endpoints"]) == (["b", "c"], 1, None)


class TestLoad:
    def test_what_waits_at_busy_replicas_or_before_them_is_to_be_done(self) -> None:
        pool = pool_of()
        pool.join(Replica("a", slots=2), 0, 0.0)
        for id in (1, 2, 3):
            submit(pool, id)
        assert pool.load(0.0) == Load(queued=1, busy=1, work=0)

    def test_a_fan_out_that_waits_counts_for_each_shard_and_any_other_for_one_of_them(self) -> None:
        pool = sharded()
        for id in (10, 20, 30):
            submit(pool, id)
        assert pool.load(0.0)[:2] == (2, 1)  # one is parked behind the first, one waits
        pool = sharded()
        for id in range(1, 5):
            submit(pool, id, Walk(id, "/any"))
        assert pool.load(0.0)[:2] == (1, 1)  # two that wait, for two shards


def test_a_replica_without_slots_gets_nothing_whatever_it_answers() -> None:
    pool = Pool(0, Node("e", addresses=("tcp://x:1",)), 3, Limits())
    pool.join(Replica("x"), NO_GROUP, 0.0)
    now = 0.0
    for id in range(1, 8):
        pool.submit(Walk(id, "/x"), [], id, now)
        now += 0.0007
        pool.answered("x", id, 0.0003, [b"."], False, now)
    for id in range(8, 13):
        pool.submit(Walk(id, "/x"), [], id, now)
    held = list(pool.balancer.replicas["x"].held)
    assert len(held) == 4
    pool.resize("x", 0, now)
    sent = [
        action
        for id in held
        for action in pool.answered("x", id, 0.0003, [b"."], False, now + 0.001)[1]
    ]
    assert sent == []
    assert pool.waiting == 1
    assert [type(action).__name__ for action in pool.resize("x", 1, now + 0.002)] == ["Send"]


class TestWhoHoldsWhat:
    """Parts of a fan-out cost the balancer nothing until they are answered,
    so it is told before anything else.
    """

    EVENTS: dict[str, tuple[Any, ...]] = {
        "load": (),
        "join": (Replica("new", shard=1), 1),
        "crash": ("0",),
        "lose": ("0",),
        "resize": ("0", 2),
        "leave": ("0",),
        "apart": ("0", [77]),
        "cancel": (77,),
        "missed": ("0", 2, 2),
        "tick": (),
        "find": ("1",),
    }
    OTHERS = {"submit", "answered", "failed", "wake_after"}  # what they do of it other tests say

    @pytest.mark.parametrize("event", EVENTS)
    def test_it_is_known_whatever_happens(self, event: str) -> None:
        pool = sharded()
        submit(pool, 10)
        assert not pool.balancer.tasks
        getattr(pool, event)(*self.EVENTS[event], now=1.0)
        assert sorted(pool.balancer.tasks) == [10, 11]

    def test_it_is_known_when_a_request_for_one_shard_comes(self) -> None:
        pool = sharded()
        submit(pool, 10)
        submit(pool, 12, Walk(12, "/any"))
        assert sorted(pool.balancer.tasks) == [10, 11, 12]

    def test_all_that_happens_to_a_pool_is_looked_at_here(self) -> None:
        public = {name: getattr(Pool, name) for name in vars(Pool) if not name.startswith("_")}
        timed = {
            name
            for name, each in public.items()
            if callable(each) and "now" in inspect.signature(each).parameters
        }
        assert timed == self.EVENTS.keys() | self.OTHERS


class TestGiven:
    """What of an answer counts from a replica that nobody vouches for."""

    def test_all_of_an_answer_to_what_it_has(self) -> None:
        pool = pool_of("a")
        pool.balancer.replicas["a"].held[70] = Task(70, (bulk(3), INPUTS), count=3)
        for answered in (
            Done(70, 1, [1], [b"a"]),
            Done(70, 1, [1, 1, 1], [b"a", b"b", b"c"]),
            Error([71], 1, [b"why"]),
            Error([70, 71, 72], 1, [b"why"]),
        ):
            assert pool.given("a", answered) == (answered,)

    def test_of_several_those_that_it_has(self) -> None:
        pool = pool_of("a")
        submit(pool, 7)
        assert pool.given("a", Done(6, 1, [1, 2, 3], [b"a", b"b", b"c"])) == [
            Done(7, 1, [2], [b"b"])
        ]
        several = Error([6, 7], 1, [b"why"])
        assert pool.given("a", several) == (several,), "it is tried alone, the other one is not its"

    def test_nothing_of_what_it_has_not(self) -> None:
        pool = pool_of("a", "b")
        submit(pool, 7)
        submit(pool, 8)
        (other,) = (name for name in "ab" if 8 in pool.balancer.replicas[name].held)
        for lie in (
            Done(7, 1, [1], [b"a"]),
            Done(5, 1, [1, 1], [b"a", b"b"]),
            Error([7], 1, [b"why"]),
            Error([5, 7], 1, [b"why"]),
        ):
            assert not pool.given(other, lie)
            assert not pool.given("nobody", lie)

    def test_nothing_of_a_failed_batch_where_each_is_begun_once(self) -> None:
        pool = pool_of("a", retries=0)
        submit(pool, 7)
        assert not pool.given("a", Error([6, 7], 1, [b"why"]))

    def test_anything_that_is_no_answer(self) -> None:
        pool = pool_of("a")
        for said in (Leave(), Missed(1, 2)):
            assert pool.given("a", said) == (said,)
