"""Whatever hostile peers send, nobody else notices; and the harness that says so would notice."""

from __future__ import annotations

import random
from itertools import islice
from typing import Any

import pytest
from helpers import Upper

from zflow import DocumentArray, Executor, requests

from . import mutations, rig
from .hostile import CANARY

COUNT = 4000


class Leak(Executor):
    """Answers with what is another's."""

    @requests(on=mutations.OWN)
    def own(self, docs: DocumentArray, **kwargs: Any) -> DocumentArray:
        from zflow import Document

        return DocumentArray([Document(text=CANARY.decode())])


def test_nobody_notices_hostile_peers() -> None:
    """More of them: `python -m tests.fuzz --messages 10000000`."""
    account = rig.run(COUNT, random.SystemRandom().randrange(10**6), measured=20)
    assert account.wrong == []
    assert sum(account.sent[port] for port in mutations.PORTS) >= COUNT
    assert account.malformed > COUNT / 4


@pytest.mark.parametrize(
    ("what", "executor"), [("had what is another's in them", Leak), ("a wrong answer", Upper)]
)
def test_what_is_broken_on_purpose_is_noticed(
    monkeypatch: pytest.MonkeyPatch, what: str, executor: Any
) -> None:
    monkeypatch.setattr(rig, "Own" if executor is Leak else "Echo", executor)
    account = rig.run(COUNT, 1, measured=1)
    assert any(what in complaint for complaint in account.wrong)


@pytest.mark.parametrize("port", mutations.PORTS)
def test_the_same_seed_gives_the_same_messages(port: str) -> None:
    first, second, other = (list(islice(mutations.stream(seed, port), 500)) for seed in (1, 1, 2))
    assert first == second != other
    assert all(type(frame) is bytes for frames in first for frame in frames)
