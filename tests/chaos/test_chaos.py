"""Nothing is lost, wrong or answered twice whatever happens to the Flow;
and the harness that says so would notice.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT
from hypothesis import given
from hypothesis import strategies as st

from zflow import Document, DocumentArray
from zflow.clients.exchange import Exchange
from zflow.clients.response import Response
from zflow.devices.protocol.messages import Failed, Reply

from . import executors, rig, schedule
from .account import Account
from .usage import MIB, History, Sample

pytestmark = pytest.mark.slow

SECONDS = 2.0  # of load where something is broken on purpose


# -- the Flow --------------------------------------------------------------------------------------


def test_nothing_is_lost_wrong_or_answered_twice_in_a_short_run() -> None:
    """The same again: `python -m tests.chaos --quick --seed N`, with the seed that it prints."""
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    command = [sys.executable, "-m", "tests.chaos", "--quick", "--seed", str(seed)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "kill-broker" in done.stdout


def test_a_log_is_injected_again(tmp_path: Path) -> None:
    options = rig.Options(SECONDS, seed=5, rate=50.0, pace=2.0)
    first = _run(options, tmp_path / "first")
    assert first.wrong == []
    log = (tmp_path / "first" / "log").read_text()
    written, events = schedule.read(log.splitlines())
    assert rig.Options(**written) == options
    assert {event.kind for event in events} >= {"kill", "stop"}
    second = _run(options, tmp_path / "second", events=events)
    assert second.wrong == []
    _, again = schedule.read((tmp_path / "second" / "log").read_text().splitlines())
    assert [(event.kind, event.target) for event in again] == [
        (event.kind, event.target) for event in events
    ]


def _run(options: rig.Options, folder: Path, **more: Any) -> Account:
    folder.mkdir(exist_ok=True)
    return rig.run(options, folder, **more)


# -- what is broken on purpose is noticed ----------------------------------------------------------


def _sign_wrongly(monkeypatch: pytest.MonkeyPatch) -> None:
    sign = executors._Signs.sign

    def wrong(self: Any, doc: Document) -> None:
        sign(
            self,
            doc if int(doc.id) % 50 else Document(id=doc.id, text="another", chunks=doc.chunks),
        )

    monkeypatch.setattr(executors._Signs, "sign", wrong)


def _begin_secretly(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = executors._Signs.begin
    monkeypatch.setattr(
        executors._Signs, "begin", lambda self, doc: begin(self, doc) if int(doc.id) % 50 else 0.0
    )


def _begin_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    work = executors._Signs.work

    def twice(self: Any, docs: DocumentArray) -> None:
        if int(docs[0].id) % 10 == 0:
            self.begin(docs[0])
        work(self, docs)

    monkeypatch.setattr(executors._Signs, "work", twice)


def _drop_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    take = Exchange.take

    def drop(self: Exchange, answer: Reply | Failed) -> bool:
        return take(self, answer) if answer.first % 50 else False

    monkeypatch.setattr(Exchange, "take", drop)


def _answer_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    ready = Exchange.ready

    def twice(self: Exchange) -> Iterator[Response]:
        for response in ready(self):
            yield response
            if response.docs and int(response.docs[0].id) % 50 == 0:
                yield response

    monkeypatch.setattr(Exchange, "ready", twice)


@pytest.mark.parametrize(
    ("sabotage", "said"),
    [
        (_sign_wrongly, "answered wrongly"),
        (_begin_secretly, "answered and never begun"),
        (_begin_twice, "begun more than once by an Executor with retries=0"),
        (_drop_answers, "lost"),
        (_answer_twice, "answered twice"),
    ],
)
def test_what_is_broken_is_noticed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sabotage: Any, said: str
) -> None:
    sabotage(monkeypatch)
    account = _run(rig.Options(SECONDS, seed=1, rate=150.0, pace=0.0, patience=3.0), tmp_path)
    assert any(complaint.endswith(f"requests were {said}") for complaint in account.wrong), (
        account.wrong
    )
    assert account.lines()[-1] == "NOT GOOD"


def test_an_error_that_was_not_to_be_expected_is_noticed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(self: Any, doc: Document) -> None:
        raise LookupError("on purpose")

    monkeypatch.setattr(executors._Signs, "sign", fail)
    account = _run(rig.Options(SECONDS, seed=1, rate=50.0, pace=0.0), tmp_path)
    assert any("failed with ExecutorError" in complaint for complaint in account.wrong), (
        account.wrong
    )


# -- pure logic ------------------------------------------------------------------------------------


@given(st.integers(), st.floats(1, 100), st.floats(0.5, 5))
def test_a_seed_says_what_happens(seed: int, seconds: float, pace: float) -> None:
    events = schedule.draw(seed, seconds, pace)
    assert events == schedule.draw(seed, seconds, pace)
    assert [event.at for event in events] == sorted(event.at for event in events)
    assert all(0 < event.at < seconds + 0.001 and event.seconds <= 5 for event in events)
    log = ['{"options": {"seed": 1}}', *(schedule.line(event, "done") for event in events)]
    assert schedule.read(log) == ({"seed": 1}, events)


def test_what_is_left_out_does_not_change_the_rest() -> None:
    every = schedule.draw(3, 60.0)
    assert schedule.draw(3, 60.0, without=["fill"]) == [
        event for event in every if event.kind != "fill"
    ]


def test_a_log_without_options_is_none() -> None:
    with pytest.raises(ValueError, match="no log of a run"):
        schedule.read(['{"kind": "kill"}'])


@pytest.mark.parametrize(("step", "memory"), [(0.0, 0), (1.0, 20)])
def test_growth_is_that_of_the_last_quarter_over_the_second(step: float, memory: int) -> None:
    history = History("some")
    for number in range(40):
        history.at.append(number)
        history.samples.append(Sample(int((100 + number * step) * MIB), 0, 20 + (number >= 30)))
    assert history.growth() == (memory * MIB, 1)
