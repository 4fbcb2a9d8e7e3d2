"""Replicas of one Executor that bind different endpoints,
while those with new code take the place of others.

Pure logic. As long as all bind the same, any replica may have any request. Meanwhile each list of
endpoints is a *kind*, and a request that not all kinds bind goes to the newest one that does. To
the balancer a kind is a shard.

Those for one kind wait in a queue of their own, in turns between clients. Until all are alike again
three things are simpler than usual: what waits for one kind goes before what any replica may have,
is not put together in batches, and is served in order also where its deadline will be over.
"""

from __future__ import annotations

from zflow.devices.balancing.actions import Action, Fail
from zflow.devices.balancing.balancer import Balancer
from zflow.devices.balancing.redirecting import redirect
from zflow.devices.balancing.replica import Replica, Task
from zflow.devices.routing.bindings import Endpoints
from zflow.devices.routing.walk import DEFAULT


class Kinds:
    """The kinds of replicas of an Executor without shards.

    Attributes:
        mixed: whether there is more than one.
    """

    def __init__(self, balancer: Balancer) -> None:
        self._balancer = balancer
        self._of: dict[bytes, Endpoints | None] = {}  # by replica's name; None binds everything
        self._numbers: dict[Endpoints | None, int] = {}  # of the kinds that there are
        self.mixed = False

    def join(self, replica: Replica, endpoints: Endpoints | None, now: float) -> list[Action]:
        """A replica that binds these is about to join;
        returns what follows for the requests that are there.
        """
        self._of[replica.name] = endpoints
        self._forget_those_gone()
        if endpoints not in self._numbers:
            self._numbers[endpoints] = min(
                set(range(len(self._numbers) + 1)) - set(self._numbers.values())
            )
        replica.shard = self._numbers[endpoints]
        return self._sort(now)

    def leave(self, name: bytes, now: float) -> list[Action]:
        """A replica has left the balancer; returns the same."""
        self._of.pop(name, None)
        if not self.mixed:
            return []
        self._forget_those_gone()
        return self._sort(now)

    def _forget_those_gone(self) -> None:
        there = set(self._of.values())
        self._numbers = {kind: number for kind, number in self._numbers.items() if kind in there}

    def only(self, endpoint: str) -> int | None:
        """The kind that a request for this endpoint is for; None for any."""
        binding = self._binding(endpoint)
        return None if not binding or len(binding) == len(self._numbers) else binding[-1]

    def _binding(self, endpoint: str) -> list[int]:
        """The kinds that bind it, the newest at the end."""
        return [
            number
            for kind, number in self._numbers.items()
            if kind is None or endpoint in kind or DEFAULT in kind
        ]

    def _sort(self, now: float) -> list[Action]:
        """See anew which replicas each request may go to, if there were or are several kinds."""
        before, self.mixed = self.mixed, len(self._numbers) > 1
        if not (before or self.mixed):
            return []
        actions: list[Action] = []
        sorted_: dict[int | None, list[Task]] = {}
        for id in list(self._balancer.tasks):
            if id in self._balancer.tasks:
                self._balancer.single(id)
        for task in list(self._balancer.tasks.values()):
            endpoint = task.payload[0].endpoint
            if task.shard is not None and task.holder is None and not self._binding(endpoint):
                actions += [Fail(task, "unbound"), *self._balancer.cancel(task.id, now)]
                continue
            only = self.only(endpoint)
            if only != task.shard:
                sorted_.setdefault(only, []).append(task)
        for shard, tasks in sorted_.items():
            actions += redirect(self._balancer, tasks, shard, now)
        return actions
