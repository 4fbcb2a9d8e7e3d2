"""The balancer under all that can happen, in any order: nothing lost, nothing twice,
nobody idle for nothing.

A hypothesis state machine drives it with replicas that get their messages late, begin tasks in
order, answer, crash, leave and come back, while tasks are submitted and cancelled and their
deadlines pass. What the balancer should hold is kept a second time here, from its actions alone,
and compared after each step. Two broken balancers show that the machine would notice.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from zflow.devices.balancing import replica as replicas
from zflow.devices.balancing.actions import Action, Fail, Kill, Recall, Send, SendAhead, SendBatch
from zflow.devices.balancing.balancer import Balancer
from zflow.devices.balancing.holdings import Holdings
from zflow.devices.balancing.levels import Levels
from zflow.devices.balancing.replica import SAMPLES, BatchKey, Replica, Task
from zflow.devices.balancing.taskqueue import TaskQueue
from zflow.devices.balancing.waiting import Waiting

pytestmark = pytest.mark.slow

MOMENT = 10e-6  # seconds that pass with every step
KINDS = (None, BatchKey("/three", 3), BatchKey("/five", 5, timeout=0.002))
SETTINGS = settings(deadline=None, max_examples=100, stateful_step_count=60, derandomize=True)


class Process:
    """A replica's process, with the line to it and the line back."""

    def __init__(self, name: str, slots: int) -> None:
        self.name = name
        self.slots = slots
        self.line: deque[Send | SendAhead | SendBatch | Recall] = deque()  # on their way to it
        self.tickets: deque[int] = deque()  # of tasks that were sent ahead, in the order sent
        self.ahead: set[int] = set()  # of what has arrived, and not begun
        self.sent_ahead: set[int] = set()  # of those that it holds
        self.backlog: dict[int, Task] = {}
        self.running: dict[int, float] = {}  # since when
        self.batch: set[int] = set()  # of those two, what it was given in one go
        # On their way back; a list is to be tried alone.
        self.answers: deque[tuple[int, float] | list[int]] = deque()
        # As the broker must see it: sent, not recalled, not answered.
        self.held: dict[int, None] = {}
        self.given_up: set[int] = set()  # of these: ended otherwise, but may have been begun
        self.together: set[int] = set()  # of these, what it was given in one go
        self.suspect = False
        # It is dead, and the broker is about to find out whether it has said something before.
        self.lost = False

    @property
    def working(self) -> int:
        """How many of those that it holds it may have begun."""
        return self.slots + max(0, len(self.together) - 1)

    def receive(self) -> None:
        action = self.line.popleft()
        if isinstance(action, Recall):
            self.backlog.pop(action.task.id, None)
            self.ahead.discard(action.task.id)
        elif isinstance(action, Send | SendAhead):
            self.backlog[action.task.id] = action.task
            if isinstance(action, SendAhead):
                self.ahead.add(action.task.id)
        else:
            assert not self.batch, "a batch upon a batch"
            self.batch = {task.id for task in action.tasks}
            self.backlog.update((task.id, task) for task in action.tasks)

    def begin(self, now: float) -> list[int]:
        begun = []
        while self.backlog and self.busy < self.slots:
            first = next(iter(self.backlog))
            if first in self.ahead:
                self.ahead.discard(first)
                if first not in self.tickets:
                    del self.backlog[first]
                    continue
                self.tickets.remove(first)
            for id in (
                [id for id in self.backlog if id in self.batch] if first in self.batch else [first]
            ):
                del self.backlog[id]
                begun.append(id)
                self.running[id] = now
        return begun

    def give(self, task: int) -> int:
        """The broker makes a ticket."""
        self.tickets.append(task)
        return 1

    def reclaim(self) -> int | None:
        """The broker takes one."""
        return self.tickets.popleft() if self.tickets else None

    @property
    def busy(self) -> int:
        """Of its slots, how many are taken."""
        others = self.running.keys() - self.batch
        return len(others) + (len(others) < len(self.running))

    def release(self, id: int) -> None:
        """The broker has heard of it."""
        self.held.pop(id, None)
        self.sent_ahead.discard(id)
        self.given_up.discard(id)
        self.together.discard(id)
        self.suspect = self.suspect and bool(self.held)


class Machine(RuleBasedStateMachine):
    """The broker's side of the lines, and all that is known without asking the balancer."""

    make: Callable[[int], Balancer] = Balancer
    # What of `begin` is not drawn, where it takes luck to find what is wrong.
    given: Mapping[str, int] = {}

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.open: dict[int, Task] = {}
        self.ended: dict[int, str] = {}
        self.processes: dict[str, Process] = {}
        self.begun: dict[int, int] = {}  # how often each task was begun
        self.killed: dict[int, int] = {}  # how many replicas died of each task's being worked on
        self.names = 0
        self.ticked = 0.0  # when time was last let bring something about

    @initialize(
        retries=st.integers(0, 3),
        slots=st.sampled_from([1, 1, 1, 3]),
        replicas=st.integers(0, 3),
        batches=st.booleans(),
        long=st.booleans(),
    )
    def begin(self, **drawn: int) -> None:
        chosen = drawn | self.given
        self.retries = chosen["retries"]
        self.batches = chosen["batches"]
        self.slots = chosen["slots"]
        self.long = chosen["long"]  # work takes longer than the way
        self.balancer = type(self).make(self.retries)
        for _ in range(chosen["replicas"]):
            self.join(quick=True)

    # -- what the balancer says --------------------------------------------------------------------

    def do(self, actions: Iterable[Action]) -> None:
        actions = list(actions)
        # What is taken back may be sent there once more, and has its new ticket already.
        again = {
            (action.replica.name, action.task.id)
            for action in actions
            if isinstance(action, SendAhead)
        }
        for action in actions:
            if isinstance(action, Send | SendAhead):
                self.send(action, [action.task])
                process = self.processes[action.replica.name]
                process.suspect = action.task.suspect
                if isinstance(action, SendAhead):
                    assert len(process.held) > process.slots, "it need not wait"
                    process.sent_ahead.add(action.task.id)
                assert len(process.held) <= action.replica.window, "more than its window"
            elif isinstance(action, SendBatch):
                self.send_batch(action)
            elif isinstance(action, Recall):
                process = self.processes[action.replica.name]
                id = action.task.id
                ahead = id in process.sent_ahead
                assert (
                    ahead or id not in self.open or list(process.held).index(id) >= process.working
                )
                assert id not in process.tickets or (process.name, id) in again, (
                    "it may be begun after all"
                )
                process.release(id)
                if not process.lost:
                    process.line.append(action)
            elif isinstance(action, Kill):
                process = self.processes[action.replica.name]
                # Which is tried again, each task alone.
                assert process.given_up or len(process.together) > 1
            else:
                self.fail(action)

    def send(self, send: Send | SendAhead | SendBatch, tasks: list[Task]) -> None:
        process = self.processes[send.replica.name]
        assert not process.lost
        assert not process.together, "it is at a batch"
        assert not process.suspect, "a suspect has company"
        assert not process.held or not (
            self.retries == 0 or tasks[0].suspect or tasks[0].batching
        ), "it is not empty"
        for task in tasks:
            assert self.open.get(task.id) is task, "sent, but it has ended"
            assert not any(task.id in other.held for other in self.processes.values()), "held twice"
            process.held[task.id] = None
        if tasks[0].batching is not None and not tasks[0].suspect:
            process.together = {task.id for task in tasks}
        process.line.append(send)

    def send_batch(self, send: SendBatch) -> None:
        tasks = send.tasks
        kind = tasks[0].batching
        assert len(tasks) > 1
        assert kind is not None
        assert all(task.batching == kind and not task.suspect for task in tasks), (
            "they do not go together"
        )
        assert sum(task.docs for task in tasks) <= kind.size, "larger than it may be"
        self.send(send, tasks)

    def fail(self, fail: Fail) -> None:
        id = fail.task.id
        holder = self.holder(id)
        self.end(id, fail.reason)
        if fail.reason == "crashed":
            assert fail.task.crashes == self.retries + 1
            assert holder is None
        else:
            assert fail.task.deadline <= self.now or fail.reason == "overran"
            assert fail.held_by == (holder and holder.name)
            assert fail.reason == "expired" or (holder and holder.name)

    def holder(self, id: int) -> Process | None:
        return next(
            (
                each
                for each in self.processes.values()
                if id in each.held and id not in each.given_up
            ),
            None,
        )

    def end(self, id: int, how: str) -> None:
        assert id in self.open, f"{how}, but it has ended: {self.ended.get(id)}"
        del self.open[id]
        self.ended[id] = how
        holder = self.holder(id)
        if holder is not None:
            begun = id in holder.sent_ahead and id not in holder.tickets
            if begun or list(holder.held).index(id) < holder.working:
                holder.given_up.add(id)

    # -- what happens ------------------------------------------------------------------------------

    @rule(
        seconds=st.sampled_from([None, None, None, 0.0005, 0.01]),
        client=st.sampled_from("aab"),
        kind=st.sampled_from(KINDS),
        docs=st.integers(1, 6),
    )
    def submit(self, seconds: float | None, client: str, kind: BatchKey | None, docs: int) -> None:
        self.take(seconds, client, kind, docs)
        self.end_turn()

    @rule(count=st.integers(2, 12), kind=st.sampled_from(KINDS))
    def submit_many(self, count: int, kind: BatchKey | None) -> None:
        for number in range(count):
            self.take(None, "a", kind, 1 + number % 2)
        self.end_turn()

    def take(self, seconds: float | None, client: str, kind: BatchKey | None, docs: int) -> None:
        deadline = math.inf if seconds is None else self.now + seconds
        kind = kind if self.batches else None
        task = Task(
            len(self.open) + len(self.ended),
            None,
            deadline,
            client=client,
            docs=docs,
            batching=kind,
        )
        self.open[task.id] = task
        self.do(self.balancer.submit(task, self.now))

    def end_turn(self) -> None:
        """Whatever has come in a turn of the broker's loop, batches are made of it at the end."""
        self.ticked = self.now
        if self.batches and self.balancer.timed:
            self.do(self.balancer.tick(self.now))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(sorted(self.open)))
        self.end(id, "cancelled")
        self.do(self.balancer.cancel(id, self.now))

    @precondition(lambda self: self.ended)
    @rule(data=st.data())
    def cancel_what_has_ended(self, data: st.DataObject) -> None:
        assert self.balancer.cancel(data.draw(st.sampled_from(sorted(self.ended))), self.now) == []

    @precondition(lambda self: len(self.processes) < 5)
    @rule(quick=st.booleans())
    def join(self, quick: bool) -> None:
        self.names += 1
        self.join_as(f"r{self.names}", quick)

    def join_as(self, name: str, quick: bool) -> None:
        process = self.processes[name] = Process(name, self.slots)
        replica = Replica(name, self.slots, tickets=process if self.slots == 1 else None)
        service = 0.0006 if self.long else 0.0001
        # Then it starts with an open window, or is sent tasks ahead.
        for _ in range(SAMPLES if quick else 0):
            replica.measure(service, self.now - service - 0.0003, self.now)
        self.do(self.balancer.join(replica, self.now))

    def any_process(self, data: st.DataObject) -> Process:
        return self.processes[data.draw(st.sampled_from(sorted(self.processes)))]

    @precondition(lambda self: self.processes)
    @rule(data=st.data(), quick=st.booleans())
    def join_again(self, data: st.DataObject, quick: bool) -> None:
        """The same process, which has forgotten all it had."""
        name = self.any_process(data).name
        self.remove(name)
        self.join_as(name, quick)

    @precondition(lambda self: self.processes)
    @rule(data=st.data(), late=st.booleans())
    def crash(self, data: st.DataObject, late: bool) -> None:
        process = self.any_process(data)
        # The broker reads what was on its way before it is told.
        while process.answers and not late:
            self.answered(process)
        answers = list(process.answers)
        for id in process.running:
            self.killed[id] = self.killed.get(id, 0) + 1
        alone = process.suspect and len(process.held) == 1
        blamed = {id: task.crashes for id, task in self.open.items() if id in process.held}
        self.remove(process.name)
        self.do(self.balancer.crash(process.name, self.now))
        for id in blamed:
            task = self.open.get(id)
            if task is not None:
                assert task.suspect
                working = id in process.running and not answers
                assert task.crashes >= blamed[id] + (working or alone)
        for answer in answers:
            if isinstance(answer, list):
                assert self.balancer.apart(process.name, answer, self.now) == []
            else:
                assert self.balancer.finish(process.name, *answer, self.now) == (None, [])

    @precondition(lambda self: self.processes)
    @rule(data=st.data(), unsent=st.booleans())
    def lose(self, data: st.DataObject, unsent: bool) -> None:
        """It is dead: the broker is told so, or a task could not be sent to it.
        A crash will follow.
        """
        process = self.any_process(data)
        process.lost = True
        process.backlog.clear()
        process.ahead.clear()
        id = None
        if unsent and process.line and isinstance(process.line[-1], Send):
            id = process.line[-1].task.id
            process.release(id)
        process.line.clear()
        crashes = {id: task.crashes for id, task in self.open.items()}
        self.do(self.balancer.lose(process.name, self.now, unsent=id))
        assert crashes == {id: task.crashes for id, task in self.open.items()}

    @precondition(lambda self: self.processes)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """It ends what it has begun, and the broker reads that before it is told."""
        process = self.any_process(data)
        if process.lost and process.running:
            return  # it died of something else
        while process.running:
            self.work(process, next(iter(process.running)))
        while process.answers:
            self.answered(process)
        crashes = {id: task.crashes for id, task in self.open.items()}
        self.remove(process.name)
        self.do(self.balancer.leave(process.name, self.now))
        assert crashes == {id: task.crashes for id, task in self.open.items()}

    def remove(self, name: str) -> None:
        self.processes.pop(name).line.clear()

    @precondition(lambda self: any(each.line for each in self.processes.values()))
    @rule(data=st.data(), all_of_it=st.booleans())
    def deliver(self, data: st.DataObject, all_of_it: bool) -> None:
        names = sorted(name for name, each in self.processes.items() if each.line)
        process = self.processes[data.draw(st.sampled_from(names))]
        process.receive()
        while all_of_it and process.line:
            process.receive()
        self.begin_at(process)

    def begin_at(self, process: Process) -> None:
        for id in process.begin(self.now):
            self.begun[id] = self.begun.get(id, 0) + 1

    @precondition(
        lambda self: any(each.running and not each.lost for each in self.processes.values())
    )
    @rule(data=st.data(), seconds=st.sampled_from([0.0, 0.0001, 0.001, 0.003]), fails=st.booleans())
    def end_work(self, data: st.DataObject, seconds: float, fails: bool) -> None:
        names = sorted(
            name for name, each in self.processes.items() if each.running and not each.lost
        )
        process = self.processes[data.draw(st.sampled_from(names))]
        self.now += seconds
        self.work(process, data.draw(st.sampled_from(sorted(process.running))), fails)
        self.begin_at(process)

    def work(self, process: Process, id: int, fails: bool = False) -> None:
        """It is done with that, or with the whole batch that this is one of;
        or it cannot do that in one go.
        """
        together = sorted(process.batch) if id in process.batch else [id]
        process.batch.difference_update(together)
        times = [(id, (self.now - process.running.pop(id)) / len(together)) for id in together]
        if fails and len(together) > 1 and self.retries:
            process.answers.append(together)
        else:
            process.answers.extend(times)

    @precondition(lambda self: any(each.answers for each in self.processes.values()))
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        names = sorted(name for name, each in self.processes.items() if each.answers)
        self.answered(self.processes[data.draw(st.sampled_from(names))])

    def answered(self, process: Process) -> None:
        answer = process.answers.popleft()
        if isinstance(answer, list):
            again = [id for id in answer if id in process.held and id not in process.given_up]
            for id in answer:
                process.release(id)
            self.do(self.balancer.apart(process.name, answer, self.now))
            assert all(self.open[id].batching is None for id in again)
            return
        id, service = answer
        process.release(id)
        first = id in self.open
        task, actions = self.balancer.finish(process.name, id, service, self.now)
        assert (task is not None) == first
        if task is not None:
            assert task is self.open[id]
            self.end(id, "finished")
        self.do(actions)

    @rule(rounds=st.integers(5, 15))
    def run_smoothly(self, rounds: int) -> None:
        """The lines are quick for a while: this is what opens windows, or has tasks sent ahead."""
        for _ in range(rounds):
            for process in list(self.processes.values()):
                while process.line:
                    process.receive()
                self.begin_at(process)
                if process.running and not process.lost:
                    self.now += (60 if self.long else 3) * MOMENT
                    self.work(process, next(iter(process.running)))
                    self.begin_at(process)
            self.now += 10 * MOMENT
            for process in list(self.processes.values()):
                if process.answers:
                    self.answered(process)

    @rule(seconds=st.sampled_from([0.0, 0.0003, 0.0021, 0.3, 10.0]))
    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.ticked = self.now
        late = {id for id, task in self.open.items() if task.deadline <= self.now}
        self.do(self.balancer.tick(self.now))
        assert all(self.ended.get(id) == "expired" for id in late)

    @rule(limit=st.sampled_from([0.0001, 0.005, 0.4]))
    def overrun(self, limit: float) -> None:
        """Whoever is at a request for longer than that is to be killed;
        what becomes of that is another rule's.
        """
        self.do(self.balancer.overrun(limit, self.now))

    # -- what must hold ----------------------------------------------------------------------------

    @invariant()
    def time_passes(self) -> None:
        self.now += MOMENT

    @invariant()
    def every_task_is_known_once(self) -> None:
        assert self.balancer.tasks == self.open
        held = [
            id for each in self.processes.values() for id in each.held if id not in each.given_up
        ]
        assert len(held) == len(set(held))
        assert set(held) <= self.open.keys()
        assert self.balancer.queued == len(self.open) - len(held)

    @invariant()
    def nobody_is_idle_while_a_task_waits(self) -> None:
        if not self.balancer.queued:
            return
        waiting = self.waiting()
        if any(task.suspect for task in waiting) or any(self.due(kind) for kind in KINDS):
            assert all(each.held or each.lost for each in self.processes.values()), "idle"
        if any(task.batching is not None for task in waiting):
            return  # it may be its turn, and then others wait for it to find an empty replica
        replicas = [
            each for each in self.balancer.replicas.values() if not each.alone and not each.lost
        ]
        # What is sent ahead is so when it is worth it.
        must = {each: each.slots if each.ahead else each.window for each in replicas}
        room = [each for each in replicas if len(each.held) < (1 if each.batch else must[each])]
        assert not room or not any(not task.suspect for task in waiting), "has room"

    @invariant()
    def nobody_is_idle_while_a_task_can_be_reclaimed(self) -> None:
        idle = [name for name, each in self.processes.items() if not each.held and not each.lost]
        if idle:
            assert not any(
                set(each.tickets) & set(list(each.held)[each.slots :])
                for each in self.processes.values()
            ), "idle"

    def due(self, kind: BatchKey | None) -> bool:
        """Whether there are tasks of that kind that need not wait for others."""
        waiting = [task for task in self.waiting() if task.batching == kind and not task.suspect]
        if kind is None or not waiting:
            return bool(waiting)
        oldest = min(task.assigned for task in waiting)
        return (
            sum(task.docs for task in waiting) >= kind.size or oldest + kind.timeout <= self.ticked
        )

    def waiting(self) -> list[Task]:
        held = {id for each in self.processes.values() for id in each.held}
        return [task for id, task in self.open.items() if id not in held]

    @invariant()
    def the_balancer_has_counted_right(self) -> None:
        balancer = self.balancer
        assert balancer.replicas.keys() == self.processes.keys()
        for name, replica in balancer.replicas.items():
            process = self.processes[name]
            assert list(replica.held) == list(process.held)
            assert {id for id, task in replica.held.items() if task is None} == process.given_up
            assert replica.batch == process.together
            assert replica.parked == max(0, len(process.held) - process.working)
            assert replica.lost == process.lost
            room = not replica.lost and len(process.held) < (
                1 if replica.alone or replica.batch else replica.window
            )
            assert replica.level == (len(process.held) if room else -1)
            assert [replica in level for level in balancer._levels.by_load].count(True) == int(room)
            assert not room or replica in balancer._levels.by_load[replica.level]
            assert replica.alone == (
                process.suspect or replica is balancer._waiting.suspects.reserved
            )
        for number, task in balancer._ahead.items():
            assert task is self.open[number]
            assert task.holder is not None
            assert number in self.processes[task.holder.name].held
        assert balancer.given_up.keys() <= {
            id for each in self.processes.values() for id in each.given_up
        }
        assert balancer._levels.parked == sum(
            replica.parked for replica in balancer.replicas.values()
        )
        assert not any(balancer._levels.by_load[: balancer._levels.lowest])
        assert balancer._levels.room == sum(map(len, balancer._levels.by_load))
        waiting = balancer._waiting.queue
        tasks = {
            each: [task for lane in each._lanes.values() for task in lane]
            for each in waiting._queues
        }
        assert all(tasks[each] for each in waiting.batches.values())
        assert all(
            each._docs == sum(task.docs for task in tasks[each])
            for each in waiting.batches.values()
        )
        queue = [task for some in tasks.values() for task in some]
        assert len(queue) == len(waiting)
        assert waiting._turns.keys() == (
            {task.client for task in queue} if waiting.batches else set()
        )
        assert {id(task) for task in (*queue, *balancer._waiting.suspects)} == {
            id(task) for task in self.waiting()
        }
        assert not any(task.suspect for task in queue)
        assert all(task.suspect for task in balancer._waiting.suspects)
        assert balancer._waiting.suspects.reserved is None or balancer._waiting.suspects
        assert len(balancer.tasks.deadlines) <= 2 * len(self.ended) + 2 * len(self.open) + 65

    @invariant()
    def crashes_are_counted_and_have_an_end(self) -> None:
        assert all(task.crashes <= self.retries for task in self.open.values())
        for id, count in self.begun.items():
            assert self.retries > 0 or count <= 1, (
                f"task {id} was begun {count} times in spite of at most once"
            )

    def teardown(self) -> None:
        """Whatever happened: with one replica that works, everything comes to its end."""
        if not hasattr(self, "balancer"):
            return
        for name in list(self.processes):
            self.remove(name)
            self.do(self.balancer.leave(name, self.now))
        self.join(quick=False)
        for _ in range(3 * len(self.open) + 3):
            self.run_smoothly(1)
            self.tick(0.0021 if self.batches else 0.0)
            self.the_balancer_has_counted_right()
        assert not self.open, "lost"
        assert not self.balancer.tasks
        assert not self.balancer.queued
        self.tick(1e6)
        assert not self.balancer.timed


@pytest.fixture(autouse=True)
def short_is_long() -> Iterator[None]:
    """Have tasks sent ahead also where work takes less than a millisecond."""
    with mock.patch.object(replicas, "LONG", 0.0):
        yield


TestMachine = Machine.TestCase
TestMachine.settings = SETTINGS


# -- balancers that are wrong ----------------------------------------------------------------------


class Forgetful(Balancer):
    """Forgets what a lost replica held but had not begun."""

    def __init__(self, retries: int) -> None:
        super().__init__(retries)
        self._waiting = self._holdings._waiting = Leaky(self.tasks, self._levels)


class Leaky(Waiting):
    def put_back(self, tasks: Sequence[Task]) -> None:
        super().put_back(tasks[:1])


class Greedy(Balancer):
    """Fills a replica beyond its window."""

    def __init__(self, retries: int) -> None:
        super().__init__(retries)
        self._levels = self._holdings._levels = Wide()
        self._waiting = self._holdings._waiting = Waiting(self.tasks, self._levels)


class Wide(Levels):
    def place(self, replica: Replica) -> None:
        window = replica.window
        replica.window = min(window + 1, replica.widest)
        super().place(replica)
        replica.window = window


class Lazy(Balancer):
    """Leaves tasks in the queue when an answer has made room."""

    def finish(self, *arguments: Any) -> tuple[Task | None, list[Action]]:
        waiting, self._waiting.queue = self._waiting.queue, TaskQueue(self.tasks, self._levels)
        try:
            return super().finish(*arguments)
        finally:
            self._waiting.queue = waiting


class Generous(Balancer):
    """Tries a task that kills replicas once more than it may."""

    def crash(self, name: Any, now: float) -> list[Action]:
        self.retries += 1
        actions = super().crash(name, now)
        self.retries -= 1
        return actions


class Careless(Balancer):
    """Sends tasks that are under suspicion like all others."""

    def __init__(self, retries: int) -> None:
        super().__init__(retries)
        self._waiting = self._holdings._waiting = Trusting(self.tasks, self._levels)


class Trusting(Waiting):
    def put_back(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            task.suspect = False
        super().put_back(tasks)


class Doubling(Balancer):
    """Takes a late answer for a first one."""

    def finish(self, name: Any, id: int, *arguments: Any) -> tuple[Task | None, list[Action]]:
        task, actions = super().finish(name, id, *arguments)
        return task or Task(id), actions


class Grasping(Balancer):
    """Gives what was sent ahead to others without asking whether it is begun."""

    def __init__(self, retries: int) -> None:
        super().__init__(retries)
        held = self._holdings = Snatching(self.tasks, self._levels, self._waiting)
        self.replicas, self.given_up, self._ahead = held.replicas, held.given_up, held.ahead


class Snatching(Holdings):
    def reclaim(self, replica: Replica, last: Task | None = None) -> list[Task]:
        task = next(task for task in self.ahead.values() if task.holder is replica)
        del self.ahead[task.id], replica.held[task.id]
        self._levels.place(replica)
        return [task]


class Hoarding(Balancer):
    """Leaves what was sent ahead where it is."""

    def _dispatch_ahead(self, now: float) -> list[Action]:
        return []


class Cramming(Balancer):
    """Gives batches to replicas that are at something else."""

    def __init__(self, retries: int) -> None:
        super().__init__(retries)
        self._waiting.queue = Crammed(self.tasks, self._levels)


class Crammed(TaskQueue):
    def take(self, replica: Replica, now: float) -> list[Task]:
        held, replica.held = replica.held, {}
        try:
            return super().take(replica, now)
        finally:
            replica.held = held


BROKEN = [Forgetful, Greedy, Lazy, Generous, Careless, Doubling, Grasping, Hoarding, Cramming]
#: What is wrong only with tasks sent ahead needs replicas that are sent some.
AHEAD = {"retries": 1, "slots": 1, "replicas": 3, "batches": False, "long": True}


@pytest.mark.parametrize("broken", BROKEN)
def test_the_machine_notices_a_broken_balancer(broken: type[Balancer]) -> None:
    class Broken(Machine):
        make = broken
        given = AHEAD if broken in (Grasping, Hoarding) else {}

    quick = settings(SETTINGS, max_examples=1000, phases=[Phase.generate], database=None)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(Broken, settings=quick)
