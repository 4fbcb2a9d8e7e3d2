"""Bulks: tasks that are one as long as the same becomes of all, and are cut and taken apart where it does not."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zflow.devices.balancing.actions import Fail, Recall, Send
from zflow.devices.balancing.balancer import Balancer
from zflow.devices.balancing.queue import FairQueue
from zflow.devices.balancing.replica import MAX_WINDOW, SAMPLES, BatchKey, Replica, Task
from zflow.devices.balancing.stealing import PATIENCE
from zflow.devices.protocol import bundles, messages
from zflow.devices.protocol.messages import (
    DONE,
    DONES,
    FROM_CLIENT,
    FROM_REPLICA,
    REPLIES,
    REPLY,
    REQUEST,
    REQUESTS,
    TASK,
    TASKS,
    TO_CLIENT,
    TO_REPLICA,
    VERSION,
    Malformed,
)
from zflow.devices.routing.walk import Walk

LONG = 10.0  # seconds of work, after which a window is as small as can be
SHORT = 10e-6  # and as wide as can be


def cut(payload: list[int], count: int) -> tuple[list[int], list[int]]:
    return payload[:count], payload[count:]


def pool(*names: str, work: float = SHORT, slots: int = 1) -> Balancer:
    """A balancer whose replicas are known to work for so long, with a way of a millisecond."""
    balancer = Balancer(3, cut)
    for name in names:
        replica = Replica(name, slots)
        for _ in range(SAMPLES):
            replica.measure(work, -work - 0.001, 0.0)
        balancer.join(replica, 0.0)
    return balancer


def bulk(first: int, count: int, **options: Any) -> Task:
    return Task(first, list(range(first, first + count)), count=count, **options)


def given_out(actions: Any) -> list[tuple[str, list[int]]]:
    """Which replica is sent which tasks, by their payloads."""
    return [(action.replica.name, list(action.task.payload)) for action in actions if isinstance(action, Send)]


def held(balancer: Balancer, name: str) -> list[list[int]]:
    return [list(task.payload) for task in balancer.replicas[name].held.values() if task is not None]


class TestGivenOut:
    def test_it_goes_to_one_replica_as_one_if_it_is_soon_done(self) -> None:
        balancer = pool("a", "b")
        assert given_out(balancer.submit(bulk(0, 20), 0.0)) == [("a", list(range(20)))]
        assert given_out(balancer.submit(bulk(20, 20), 0.0)) == [("b", list(range(20, 40)))]
        assert balancer.replicas["a"].load == 20

    def test_it_does_so_also_if_the_work_takes_no_time_that_can_be_measured(self) -> None:
        balancer = pool("a", "b")
        for _ in range(5000):
            balancer.replicas["a"].measure(0.0, None, 0.0)
        assert given_out(balancer.submit(bulk(0, 20), 0.0)) == [("a", list(range(20)))]

    def test_it_is_divided_where_the_work_is_worth_it(self) -> None:
        balancer = pool("a", "b", work=200e-6)  # windows of 7
        assert given_out(balancer.submit(bulk(0, 8), 0.0)) == [("a", [0, 1, 2, 3]), ("b", [4, 5, 6, 7])]

    def test_where_nothing_is_parked_each_replica_gets_one_at_a_time(self) -> None:
        balancer = pool("a", "b", work=LONG)
        assert given_out(balancer.submit(bulk(0, 4), 0.0)) == [("a", [0]), ("b", [1])]
        assert balancer.queued == 2
        task, actions = balancer.finish("b", 1, LONG, LONG)
        assert task is not None
        assert task.payload == [1]
        assert given_out(actions) == [("b", [2])]
        assert given_out(balancer.finish("a", 0, LONG, LONG)[1]) == [("a", [3])]
        assert balancer.queued == 0

    def test_all_slots_are_used(self) -> None:
        balancer = pool("a", work=LONG, slots=100)
        assert given_out(balancer.submit(bulk(0, 60), 0.0)) == [("a", list(range(60)))]
        assert given_out(balancer.submit(bulk(60, 64), 0.0)) == [("a", list(range(60, 100)))]

    def test_it_waits_for_room_rather_than_being_cut_where_there_is_enough_to_do(self) -> None:
        balancer = pool("a")
        half = MAX_WINDOW // 2
        balancer.submit(bulk(0, half), 0.0)
        assert balancer.submit(bulk(100, half + 1), 0.0) == []
        task, actions = balancer.finish("a", 0, SHORT, 0.001, half)
        assert task is not None
        assert task.count == half
        assert given_out(actions) == [("a", list(range(100, 100 + half + 1)))]

    def test_clients_take_turns(self) -> None:
        balancer = pool("a", work=LONG)
        balancer.submit(bulk(0, 3, client="flood"), 0.0)
        balancer.submit(bulk(10, 2, client="other"), 0.0)
        order = [0]
        for at in range(4):
            (send,) = balancer.finish("a", order[-1], LONG, LONG * (at + 1))[1]
            assert isinstance(send, Send)
            order.append(send.task.id)
        assert order == [0, 1, 10, 2, 11]


class TestAnswered:
    @pytest.mark.parametrize("counts", [[8], [1] * 8, [3, 5], [1, 6, 1]])
    def test_a_part_from_the_front_on_is_a_bulk_of_its_own(self, counts: list[int]) -> None:
        balancer = pool("a")
        balancer.submit(bulk(0, 8), 0.0)
        first = 0
        for count in counts:
            assert balancer.fit("a", first, 8 - first if count == 8 - first else count) == count
            task, actions = balancer.finish("a", first, SHORT, 0.001, count)
            assert task is not None
            assert (task.payload, actions) == (list(range(first, first + count)), [])
            first += count
        assert balancer.replicas["a"].load == 0
        assert not balancer.tasks

    def test_one_in_the_middle_takes_the_others_apart(self) -> None:
        balancer = pool("a", slots=4)
        balancer.submit(bulk(0, 4), 0.0)
        task, _ = balancer.finish("a", 2, SHORT, 0.001)
        assert task is not None
        assert task.payload == [2]
        assert held(balancer, "a") == [[0], [1], [3]]
        assert [balancer.fit("a", 0, 2), balancer.fit("a", 3, 1)] == [1, 1]

    def test_an_answer_for_several_is_of_no_use_where_they_have_ended(self) -> None:
        balancer = pool("a")
        balancer.submit(bulk(0, 4), 0.0)
        balancer.single(0)
        for id in range(4):
            balancer.cancel(id, 0.0)
        assert balancer.fit("a", 0, 4) == 1
        assert balancer.finish("a", 0, SHORT, 0.001) == (None, [])
        assert balancer.replicas["a"].load == 0


class TestSomethingBecomesOfOne:
    def test_only_the_first_is_suspected_of_a_crash_and_all_travel_alone(self) -> None:
        balancer = pool("a")
        balancer.submit(bulk(0, 5), 0.0)
        assert balancer.finish("a", 0, SHORT, 0.001)[0] is not None
        assert balancer.crash("a", 0.002) == []
        assert [(task.payload, task.crashes) for task in balancer.tasks.values()] == [
            ([1], 1),
            ([2], 0),
            ([3], 0),
            ([4], 0),
        ]
        balancer.join(Replica("b"), 0.003)
        assert held(balancer, "b") == [[1]]

    def test_a_replica_that_leaves_gives_the_whole_back(self) -> None:
        balancer = pool("a", "b")
        balancer.submit(bulk(0, 5), 0.0)
        assert given_out(balancer.leave("a", 0.001)) == [("b", [0, 1, 2, 3, 4])]

    def test_what_could_not_be_sent_goes_to_another_one_as_a_whole(self) -> None:
        balancer = pool("a", "b")
        balancer.submit(bulk(0, 5), 0.0)
        assert given_out(balancer.lose("a", 0.001, unsent=0)) == [("b", [0, 1, 2, 3, 4])]

    @pytest.mark.parametrize("queued", [True, False])
    def test_one_is_cancelled(self, queued: bool) -> None:
        balancer = pool("a", work=LONG) if queued else pool("a")
        if queued:
            balancer.submit(Task(99, [99]), 0.0)
        balancer.submit(bulk(0, 4), 0.0)
        balancer.single(0)
        actions = balancer.cancel(2, 0.001)
        assert [action.task.id for action in actions if isinstance(action, Recall)] == ([] if queued else [2])
        assert sorted(id for id in balancer.tasks if id != 99) == [0, 1, 3]
        assert balancer.queued == (3 if queued else 0)

    def test_all_are_cancelled(self) -> None:
        balancer = pool("a", work=LONG)
        balancer.submit(bulk(0, 4), 0.0)
        assert balancer.cancel(1, 0.0) == []
        assert list(balancer.tasks) == [0]

    def test_each_expires(self) -> None:
        balancer = pool("a", work=LONG)
        balancer.submit(bulk(0, 3, deadline=20.0), 0.0)
        fails = [action for action in balancer.tick(20.0) if isinstance(action, Fail)]
        assert [(fail.task.payload, fail.held_by) for fail in fails] == [([0], "a"), ([1], None), ([2], None)]
        assert not balancer.tasks

    def test_what_is_parked_with_a_stuck_replica_is_taken_back_one_by_one(self) -> None:
        balancer = pool("a", "b")
        balancer.submit(bulk(0, 4), 0.0)
        actions = balancer.tick(PATIENCE * 10)
        assert [action.task.id for action in actions if isinstance(action, Recall)] == [1, 2, 3]
        assert held(balancer, "a") == [[0]]
        assert [ids for _, ids in given_out(actions)] == [[1], [2], [3]]

    def test_what_waits_is_taken_apart_when_there_are_batches(self) -> None:
        balancer = pool("a", work=LONG)
        balancer.submit(bulk(0, 4), 0.0)
        balancer.submit(Task(9, [9], batching=BatchKey("/", 2)), 0.0)
        assert balancer.queued == 4
        assert not balancer.takes_bulks
        assert all(task.count == 1 for task in balancer.tasks.values())
        assert given_out(balancer.finish("a", 0, LONG, LONG)[1]) == [("a", [1])]

    def test_the_youngest_goes_first_where_the_oldest_cannot_be_in_time(self) -> None:
        balancer = pool("a", work=LONG)
        balancer.submit(Task(99, [99]), 0.0)
        balancer.submit(bulk(0, 3, deadline=LONG + 1), 0.0)
        assert given_out(balancer.finish("a", 99, LONG, LONG)[1]) == [("a", [2])]


class TestQueue:
    def test_it_counts_what_its_items_stand_for(self) -> None:
        queue: FairQueue[Task] = FairQueue()
        tasks = [bulk(0, 3), bulk(3, 1), bulk(4, 6)]
        for task in tasks:
            queue.append(task)
        assert len(queue) == 10
        queue.replace(tasks[2], [bulk(4 + at, 2) for at in (0, 2, 4)])
        assert len(queue) == 10
        assert queue.popleft() is tasks[0]
        queue.put_back(tasks[0])
        queue.remove(tasks[1])
        assert [queue.popleft().id for _ in range(4)] == [0, 4, 6, 8]
        assert len(queue) == 0


class TestWalk:
    def test_it_is_cut(self) -> None:
        walk = Walk(("port", b"me", 5), "/", None, 1.0, 4)
        walk.docs, walk.size, walk.open, walk.client = [1, 2, 3, 4], 40, {(0, 70)}, b"me"
        head = walk.cut(3)
        assert head.origins == [("port", b"me", id) for id in (5, 6, 7)]
        assert walk.origins == [("port", b"me", 8)]
        assert (head.docs, head.size, head.open, head.timeout) == ([1, 2, 3], 30, {(0, 70)}, 1.0)
        assert (walk.docs, walk.size, walk.open, walk.count) == (4, 10, {(0, 73)}, 1)


def request(id: int, docs: int = 1, endpoint: str = "/", parts: Any = None) -> tuple[Any, ...]:
    return VERSION, REQUEST, id, endpoint, ["encoder"], parts, 500, docs


ALIKE = [
    (FROM_CLIENT, request, (VERSION, REQUESTS, 7, "/", ["encoder"], 500, [1, 1, 1])),
    (TO_REPLICA, lambda id: (VERSION, TASK, id, "/", None), (VERSION, TASKS, 7, "/")),
    (FROM_REPLICA, lambda id: (VERSION, DONE, id, 10 * id, 1), (VERSION, DONES, 7, 80, [1, 1, 1])),
    (TO_CLIENT, lambda id: (VERSION, REPLY, id, None, None, 3), (VERSION, REPLIES, 7, 3)),
]
PAYLOADS = [b"x", b"yy", b"zzz"]


class TestMessages:
    @pytest.mark.parametrize(("shapes", "header", "folded"), ALIKE)
    def test_messages_that_are_alike_are_one(self, shapes: Any, header: Any, folded: Any) -> None:
        said = [(header(7 + at), [payload]) for at, payload in enumerate(PAYLOADS)]
        assert bundles.fold(said) == [((*folded, PAYLOADS), ())]
        (frames,) = bundles.frames_of(said, messages.encoder())
        heard = bundles.read(frames, 0, shapes)
        if folded[1] in (REQUESTS, DONES):
            assert heard == [([*folded, PAYLOADS], ())]
        else:
            assert [(tuple(one), payload) for one, payload in heard] == said

    @pytest.mark.parametrize(
        "other",
        [
            (request(9), [b"."]),
            (request(8, endpoint="/other"), [b"."]),
            (request(8), [b".", b"."]),
            (request(8), [bytes(messages.SMALL + 1)]),
            (request(8), [memoryview(b".")]),
            (request(8), [b""]),
            ((VERSION, messages.AGAIN, *request(8)[2:]), [b"."]),
            ((VERSION, messages.CANCEL, 8), ()),
        ],
    )
    def test_messages_that_are_not(self, other: Any) -> None:
        said = [(request(7), [b"."]), other]
        assert bundles.fold(said) == said

    def test_neither_are_those_with_parts_or_notes(self) -> None:
        for header in (
            lambda id: request(id, parts=[["a", [1]]]),
            lambda id: (VERSION, REPLY, id, None, {"a": {}}, 3),
            lambda id: (VERSION, TASK, id, "/", [["a", [1]]]),
        ):
            said = [(header(id), [b"."]) for id in (7, 8)]
            assert bundles.fold(said) == said

    def test_a_bulk_is_not_longer_than_a_train(self) -> None:
        said = [(request(id), [b"."]) for id in range(2 * bundles.MAX_ENTRIES + 1)]
        assert [len(header[-1]) if not frames else 1 for header, frames in bundles.fold(said)] == [64, 64, 1]
        said = [(request(id), [bytes(4096)]) for id in range(20)]
        assert [len(header[-1]) for header, _ in bundles.fold(said)] == [8, 8, 4]

    @pytest.mark.parametrize(
        "header",
        [
            [VERSION, REQUESTS, 7, "/", None, 0, [1], [b"."]],
            [VERSION, REQUESTS, 7, "/", None, 0, [1, 1], [b".", "."]],
            [VERSION, REQUESTS, 7, "/", None, 0, [1, 1], [b".", b""]],
            [VERSION, REQUESTS, 7, "/", None, 0, [1], [b".", b"."]],
            [VERSION, REQUESTS, 7, "/", None, 0, [1, None], [b".", b"."]],
            [VERSION, REQUESTS, 7, "/", None, 0, [1] * 65, [b"."] * 65],
            [VERSION, REQUESTS, 7, "/", None, 0, [1, 1], [bytes(20_000)] * 2],
            [VERSION, REQUESTS, 7, "/", None, 0, [], []],
            [VERSION, REQUESTS, 2**64 - 1, "/", None, 0, [1, 1], [b".", b"."]],
            [VERSION, REQUESTS, -1, "/", None, 0, [1, 1], [b".", b"."]],
        ],
    )
    def test_what_is_no_bulk(self, header: list[Any]) -> None:
        for frames in ([msgpack.packb(header)], [msgpack.packb([VERSION, bundles.BUNDLE, [[header]]])]):
            with pytest.raises(Malformed):
                bundles.read(frames, 0, FROM_CLIENT)

    def test_nothing_comes_behind_it(self) -> None:
        header = [VERSION, REQUESTS, 7, "/", None, 0, [1, 1], [b".", b"."]]
        assert bundles.read([msgpack.packb(header)], 0, FROM_CLIENT) == [(header, ())]
        with pytest.raises(Malformed):
            bundles.read([msgpack.packb(header), b"more"], 0, FROM_CLIENT)

    @given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2), st.sampled_from("ab")), max_size=30))
    def test_whatever_is_folded_says_the_same(self, drawn: list[tuple[int, int, str]]) -> None:
        said: list[Any] = []
        id = 0
        for skip, frames, endpoint in drawn:
            id += 1 + (skip == 0)
            said.append((request(id, skip, endpoint), [b"%d" % id] * frames))
        heard: list[Any] = []
        for header, payload in bundles.fold(said):
            if header[1] != REQUESTS:
                heard.append((header, payload))
                continue
            _, _, first, endpoint, _, _, docs, payloads = header
            assert len(payloads) > 1
            heard += [(request(first + at, docs[at], endpoint), [one]) for at, one in enumerate(payloads)]
        assert heard == said
