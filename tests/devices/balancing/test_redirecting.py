"""Tasks that only some replicas may have from now on."""

from __future__ import annotations

import pytest
from tickets import Tickets

from zflow.devices.balancing.actions import Recall, Send
from zflow.devices.balancing.balancer import Balancer
from zflow.devices.balancing.redirecting import redirect
from zflow.devices.balancing.replica import Replica, Task


@pytest.fixture
def balancer() -> Balancer:
    balancer = Balancer()
    balancer.join(Replica("a"), 0.0)
    return balancer


def tasks(balancer: Balancer, count: int) -> list[Task]:
    made = [Task(id) for id in range(1, count + 1)]
    for task in made:
        balancer.submit(task, 0.0)
    return made


def finish(balancer: Balancer, name: str, id: int) -> list[tuple[str, int]]:
    _, actions = balancer.finish(name, id, 0.1, 1.0)
    return [(action.replica.name, action.task.id) for action in actions if isinstance(action, Send)]


def test_those_that_wait_go_to_that_shard_in_their_order_and_others_pass_them(
    balancer: Balancer,
) -> None:
    made = tasks(balancer, 4)
    assert redirect(balancer, made[1:3], 1, 0.0) == []
    assert finish(balancer, "a", 1) == [("a", 4)]
    (sent,) = balancer.join(Replica("b", shard=1), 0.0)
    assert sent == Send(balancer.replicas["b"], made[1])
    assert finish(balancer, "b", 2) == [("b", 3)]


def test_they_may_go_to_any_again(balancer: Balancer) -> None:
    made = tasks(balancer, 3)
    redirect(balancer, made, 1, 0.0)
    redirect(balancer, made, None, 0.0)
    assert finish(balancer, "a", 1) == [("a", 2)]
    assert finish(balancer, "a", 2) == [("a", 3)]


def test_what_was_sent_ahead_and_is_not_begun_is_taken_back() -> None:
    balancer = Balancer()
    replica = Replica("a", tickets=Tickets())
    balancer.join(replica, 0.0)
    replica.ahead, replica.window = True, 2
    balancer._levels.place(replica)
    made = tasks(balancer, 2)
    assert made[1].ahead
    assert redirect(balancer, [made[1]], 1, 0.0) == [Recall(replica, made[1])]
    assert (made[1].holder, balancer.queued) == (None, 1)
    (sent,) = balancer.join(Replica("b", shard=1), 0.0)
    assert isinstance(sent, Send)
    assert sent.task is made[1]
