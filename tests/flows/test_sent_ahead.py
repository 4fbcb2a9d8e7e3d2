"""Requests that are sent to busy replicas ahead of their time: begun where they wait,
or by whoever is idle first.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from helpers import (
    Gate,
    begun,
    in_background,
    kill,
    let_go,
    pid_of,
    replicas,
    socket_folders,
    wait_for,
)

from zflow import Client, Document, DocumentArray, Flow, errors, requests


class Slow(Gate):
    """A Gate that also answers requests of a steady length:
    these tell the broker how long its work is.
    """

    @requests(on="/work")
    def work(self, docs: DocumentArray, **kwargs: Any) -> None:
        time.sleep(0.03)
        self.answer(docs)


def flow_of(folder: Path, **options: Any) -> Flow:
    return Flow().add(
        name="slow", uses=Slow, uses_with={"folder": str(folder)}, replicas=2, **options
    )


def learn(flow: Flow) -> None:
    """Let the broker learn how long the work takes, and the way: all replicas are asked,
    one at a time.
    """
    for number in range(20):
        flow.post("/work", Document(text=str(number)))


def info(flow: Flow) -> dict[str, Any]:
    with Client(port=flow.port) as client:
        return client.info()


def queued(flow: Flow) -> int:
    return int(info(flow)["executors"]["slow"]["queued"])


def hold(flow: Flow, name: str) -> Any:
    return in_background(lambda: flow.post("/hold", Document(text=name)))


def hold_two_and_one_ahead(flow: Flow, folder: Path) -> tuple[dict[str, Any], int, int]:
    """Keep both replicas busy, and have a third request wait at one of them; returns who that is,
    and the other.
    """
    learn(flow)
    asked = {"first": hold(flow, "first")}
    (holder,) = begun(folder, "first")
    asked["second"] = hold(flow, "second")
    (other,) = begun(folder, "second")
    asked["third"] = hold(flow, "third")
    wait_for(
        lambda: info(flow)["requests"] == 3 and queued(flow) == 0,
        what="the third request is sent ahead",
    )
    return asked, holder, other


def let_all_go(folder: Path, asked: dict[str, Any]) -> None:
    """Let all held requests go; each is answered, and right."""
    let_go(folder, *asked)
    for name, request in asked.items():
        assert request.result().texts == [name]


def test_it_is_begun_by_whoever_is_idle_first_and_only_once(tmp_path: Path) -> None:
    with flow_of(tmp_path) as flow:
        asked, _, other = hold_two_and_one_ahead(flow, tmp_path)
        let_go(tmp_path, "second")
        assert begun(tmp_path, "third") == [other]
        let_all_go(tmp_path, asked)
        assert begun(tmp_path, "third") == [other]
    assert socket_folders() == []


def test_it_is_begun_where_it_waits_if_that_one_is_done_first(tmp_path: Path) -> None:
    with flow_of(tmp_path) as flow:
        asked, holder, _ = hold_two_and_one_ahead(flow, tmp_path)
        let_go(tmp_path, "first")
        assert begun(tmp_path, "third") == [holder]
        let_all_go(tmp_path, asked)


def test_it_is_not_lost_with_the_replica_where_it_waits(tmp_path: Path) -> None:
    with flow_of(tmp_path, retries=1) as flow:
        asked, holder, other = hold_two_and_one_ahead(flow, tmp_path)
        kill(holder)
        let_all_go(tmp_path, asked)
        assert holder not in begun(tmp_path, "third")
        assert len(begun(tmp_path, "first")) == 2
        assert other in replicas("slow").values()


def test_it_is_not_lost_with_the_broker(tmp_path: Path) -> None:
    with flow_of(tmp_path) as flow:
        asked, _, _ = hold_two_and_one_ahead(flow, tmp_path)
        kill(pid_of("broker"))
        let_all_go(tmp_path, asked)
        learn(flow)
        assert socket_folders() != []


def test_nobody_begins_it_when_its_time_is_over(tmp_path: Path) -> None:
    with flow_of(tmp_path) as flow:
        learn(flow)
        asked = {name: hold(flow, name) for name in ("first", "second")}
        begun(tmp_path, *asked)

        def was_sent_ahead() -> bool:  # how long the work seems to be decides, and that varies
            with pytest.raises(errors.DeadlineExceeded) as late:
                flow.post("/hold", Document(text="late"), timeout=50)
            return "waiting at slow/rep-" in str(late.value)

        wait_for(was_sent_ahead)
        let_all_go(tmp_path, asked)
        learn(flow)
        assert not (tmp_path / "late.begun").exists()


def test_nothing_is_sent_ahead_where_each_request_is_begun_once_at_most(tmp_path: Path) -> None:
    with flow_of(tmp_path, retries=0) as flow:
        learn(flow)
        asked = [hold(flow, name) for name in ("first", "second", "third")]
        wait_for(lambda: queued(flow) == 1, what="the third request waits in the queue")
        let_go(tmp_path, "first", "second", "third")
        for request in asked:
            request.result()


@pytest.mark.parametrize("how", ["scale", "restart"])
def test_it_is_answered_when_replicas_are_exchanged(how: str, tmp_path: Path) -> None:
    with flow_of(tmp_path) as flow:
        asked, _, _ = hold_two_and_one_ahead(flow, tmp_path)
        changing = in_background(
            lambda: flow.scale("slow", 3) if how == "scale" else flow.restart("slow")
        )
        if how == "scale":
            begun(tmp_path, "third")  # by the new one
        let_all_go(tmp_path, asked)
        changing.result()
