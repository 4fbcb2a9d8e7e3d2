"""Changes while a Flow runs: scaling, rolling restarts, replicas that rest; always under load,
and nothing fails.
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from faulty import Start
from helpers import (
    PATIENCE,
    Gate,
    alive,
    begun,
    children,
    in_background,
    kill,
    let_go,
    pid_of,
    replicas,
    texts,
    title,
    wait_for,
)

from zflow import Client, Document, DocumentArray, Executor, Flow, requests
from zflow.errors import BadRequest, ChangeRefused, FlowNotRunning
from zflow.processes.changes import Changes


class Work(Executor):
    """Works for a moment and says who did; cannot start where a file says so."""

    def __init__(self, broken: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if broken and os.path.exists(broken):
            raise RuntimeError("the file is there")

    @requests
    def work(self, docs: DocumentArray, **kwargs: Any) -> None:
        time.sleep(0.002)
        for doc in docs:
            doc.tags["by"] = self.runtime_args.name
            doc.tags["pid"] = os.getpid()


class Load:
    """Posts again and again from several threads, and keeps what went wrong."""

    def __init__(self, flow: Flow) -> None:
        self.rounds = 0
        self.errors: list[BaseException] = []
        self._flow = flow
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._post) for _ in range(2)]

    def _post(self) -> None:
        expected = [str(number) for number in range(40)]
        with Client(port=self._flow.port) as client:
            while not self._over.is_set():
                try:
                    assert client.post("/", texts(40), request_size=2).texts == expected
                except BaseException as error:
                    self.errors.append(error)
                self.rounds += 1

    def go_on(self) -> None:
        """Wait until there were two more rounds."""
        rounds = self.rounds
        wait_for(lambda: self.rounds > rounds + 1, what="the load goes on")

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        self.go_on()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        assert self.errors == []


@contextmanager
def loaded(flow: Flow) -> Iterator[Flow]:
    """The Flow, running and under load."""
    with flow, Load(flow):
        yield flow


def names(flow: Flow, executor: str) -> list[str]:
    """The replicas that the broker knows."""
    with Client(port=flow.port) as client:
        found: list[str] = client.info()["executors"][executor]["replicas"]
        return found


# -- scaling ---------------------------------------------------------------------------------------


def test_up_and_down_under_load() -> None:
    with loaded(Flow().add(name="work", uses=Work)) as flow:
        assert flow.scale("work", replicas=4) == {"executor": "work", "replicas": 4, "before": 1}
        assert names(flow, "work") == ["work/rep-0", "work/rep-1", "work/rep-2", "work/rep-3"]
        by = {doc.tags["by"] for doc in flow.post("/", texts(200), request_size=1)}
        assert by == set(names(flow, "work"))
        flow.scale("work", replicas=1)
        assert names(flow, "work") == ["work/rep-0"]
        assert replicas("work").keys() == {"work/rep-0"}
        assert flow.scale("work", replicas=1)["before"] == 1


def test_shards_get_more_replicas_each() -> None:
    with loaded(Flow().add(name="work", uses=Work, shards=2, polling="ALL")) as flow:
        flow.scale("work", replicas=3)
        assert len(names(flow, "work")) == 6
        flow.scale("work", replicas=2)
        assert len(names(flow, "work")) == 4


def test_what_cannot_be_changed_goes_on_as_it_was(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    flow = (
        Flow()
        .add(name="work", uses=Work, uses_with={"broken": str(broken)}, replicas=2)
        .add(name="other")
    )
    with loaded(flow):
        for change, message in (
            (lambda: flow.scale("wrok", replicas=2), "'wrok'; did you mean 'work'?"),
            (lambda: flow.scale("work", replicas=0), "a whole number from 1 to 10000, not 0"),
            (lambda: flow.scale("work", replicas="3"), "not '3'"),  # type: ignore[arg-type]
            (lambda: flow.drain("work/rep-9"), "no replica is called 'work/rep-9'"),
            (
                lambda: flow.drain("other/rep-0"),
                "other/rep-0 is the last one that serves its requests",
            ),
        ):
            with pytest.raises(ChangeRefused, match=message):
                change()
        pids = replicas("work")
        broken.touch()
        with pytest.raises(
            ChangeRefused, match=r"'work' stays at 2 replicas: work/rep-. could not start"
        ):
            flow.scale("work", replicas=4)
        with pytest.raises(
            ChangeRefused,
            match="work/rep-0 goes on as it is, its successor failed: work/rep-0 could",
        ):
            flow.restart("work")
        wait_for(lambda: replicas("work") == pids, what="only the old ones are there")
    with pytest.raises(FlowNotRunning):
        flow.scale("work", replicas=2)


def test_one_that_dies_while_it_is_scaled_down_is_just_gone(tmp_path: Path) -> None:
    with Flow().add(
        name="work", uses=Gate, uses_with={"folder": str(tmp_path)}, replicas=2
    ) as flow:
        change = threading.Thread(target=flow.scale, args=("work", 1))
        held = in_background(flow.post, "/hold", texts(2), request_size=1)
        begun(tmp_path, "0", "1")
        change.start()
        kill(pid_of("work/rep-1"))
        let_go(tmp_path, "0", "1")
        change.join()
        assert held.result(PATIENCE).texts == ["0", "1"]
        assert names(flow, "work") == ["work/rep-0"]


def test_the_broker_may_die_while_a_change_is_made() -> None:
    with loaded(Flow().add(name="work", uses=Work, replicas=2)) as flow:
        change = threading.Thread(target=flow.scale, args=("work", 4))
        broker = pid_of("broker")
        change.start()
        os.kill(broker, signal.SIGKILL)
        change.join()
        wait_for(lambda: len(names(flow, "work")) == 4, what="all four serve")


# -- restarting ------------------------------------------------------------------------------------


def test_a_rolling_restart_replaces_every_process_and_there_are_never_fewer() -> None:
    with loaded(Flow().add(name="work", uses=Work, replicas=3)) as flow:
        before = replicas("work")
        fewest = 3
        over = threading.Event()

        def watch() -> None:
            nonlocal fewest
            with Client(port=flow.port) as client:
                while not over.is_set():
                    fewest = min(fewest, client.info()["executors"]["work"]["slots"])

        watcher = threading.Thread(target=watch)
        watcher.start()
        assert flow.restart("work") == {"executor": "work", "restarted": 3}
        over.set()
        watcher.join()
        assert fewest == 3
        after = replicas("work")
        assert after.keys() == before.keys()
        assert not {*before.values()} & {*after.values()}


def test_shards_are_restarted_too() -> None:
    with loaded(Flow().add(name="work", uses=Work, shards=2, replicas=2, polling="ALL")) as flow:
        assert flow.restart("work")["restarted"] == 4


def test_changed_code_is_read_anew(tmp_path: Path) -> None:
    code = """
from zflow import Executor, requests

class Reloaded(Executor):
    @requests
    def say(self, docs, **kwargs):
        docs.texts = ["{word}"] * len(docs)
"""
    file = tmp_path / "reloaded.py"
    file.write_text(code.format(word="old"))
    with Flow().add(name="work", uses=f"{file}:Reloaded", replicas=2) as flow:
        assert flow.post("/", Document()).texts == ["old"]
        file.write_text(code.format(word="something new"))
        flow.restart("work")
        assert set(flow.post("/", texts(20), request_size=1).texts) == {"something new"}


def test_a_rolling_restart_may_change_what_is_bound_and_each_request_goes_to_one_that_binds_it(
    tmp_path: Path,
) -> None:
    """Before, what only old replicas bind went to new ones too, and came back as it went in."""
    code = """
from zflow import Executor, requests

class Reloaded(Executor):
    @requests(on={on})
    def say(self, docs, **kwargs):
        docs.texts = ["done"] * len(docs)
"""
    file = tmp_path / "reloaded.py"
    file.write_text(code.format(on=["/old", "/both"]))
    with Flow().add(name="work", uses=f"{file}:Reloaded", replicas=3) as flow:
        client = Client(port=flow.port)

        def bound() -> list[str]:
            return list(client.info()["executors"]["work"]["endpoints"])

        assert bound() == ["/both", "/old"]
        file.write_text(code.format(on=["/new", "/both"]))
        restarting = in_background(flow.restart, "work")
        mixed = 0
        while not restarting.done():
            if bound() == ["/both", "/new", "/old"]:
                mixed += 1
                for endpoint in ("/old", "/new", "/both"):
                    failed: list[Any] = []
                    docs = client.post(endpoint, texts(5), request_size=1, on_error=failed.append)
                    assert set(docs.texts) <= {"done"} or bound() == ["/both", "/new"]
                    assert all(
                        "has ended before it had this request" in str(each.error) for each in failed
                    )
        assert restarting.result(PATIENCE)
        assert mixed
        assert bound() == ["/both", "/new"]
        assert set(client.post("/new", texts(20), request_size=1).texts) == {"done"}


# -- resting ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["begin", "_change", "_scale", "_seat"])
def test_a_change_that_fails_by_a_fault_of_ours_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    def wrong(*arguments: Any) -> Any:
        raise KeyError("planted")

    monkeypatch.setattr(Changes, method, wrong)
    with Flow().add(name="work", uses=Work) as flow, Client(port=flow.port) as client:
        for _ in range(2):
            with pytest.raises(ChangeRefused, match=r"failed.*\(KeyError\).* log says more"):
                client.scale("work", 2)
        assert client.post("/", Document()).texts == [""]


def test_a_replica_that_rests_gets_nothing_until_it_competes_again() -> None:
    with loaded(Flow().add(name="work", uses=Work, replicas=2)) as flow:
        assert flow.drain("work/rep-0") == {"replica": "work/rep-0"}
        assert {doc.tags["by"] for doc in flow.post("/", texts(50), request_size=1)} == {
            "work/rep-1"
        }
        assert replicas("work").keys() == {"work/rep-0", "work/rep-1"}
        flow.undrain("work/rep-0")
        wait_for(
            lambda: (
                "work/rep-0"
                in {doc.tags["by"] for doc in flow.post("/", texts(50), request_size=1)}
            )
        )


def test_a_replica_that_dies_while_it_rests_is_started_again_and_competes() -> None:
    with Flow().add(name="work", uses=Work, replicas=2) as flow:
        flow.drain("work/rep-0")
        kill(pid_of("work/rep-0"))
        wait_for(
            lambda: (
                "work/rep-0"
                in {doc.tags["by"] for doc in flow.post("/", texts(20), request_size=1)}
            )
        )


# -- what takes too long ---------------------------------------------------------------------------

SOON = 300  # ms: long enough for what need not wait


def test_who_does_not_end_in_time_goes_on_and_the_next_change_is_made(tmp_path: Path) -> None:
    with Flow().add(
        name="gate", uses=Gate, uses_with={"folder": str(tmp_path)}, replicas=2
    ) as flow:
        held = [in_background(flow.post, "/hold", Document(text=text)) for text in ("a", "b")]
        begun(tmp_path, "a", "b")
        with pytest.raises(
            ChangeRefused,
            match=rf"'gate/rep-1' was told to end and did not end within timeout={SOON}",
        ):
            flow.scale("gate", replicas=1, timeout=SOON)
        with pytest.raises(
            ChangeRefused,
            match=rf"'gate/rep-0' was told to end and did not end within timeout={SOON}",
        ):
            flow.restart("gate", timeout=SOON)
        assert flow.scale("gate", replicas=3)["before"] == 1
        let_go(tmp_path, "a", "b")
        assert [each.result(PATIENCE).texts for each in held] == [["a"], ["b"]]
        assert len(begun(tmp_path, "a", "b")) == 2, "each was begun once"
        wait_for(lambda: len(of_gate()) == 3, what="who was told to end has ended")
        assert flow.scale("gate", replicas=1)["before"] == 3


def of_gate() -> list[str]:
    """The titles of all replicas of an Executor `gate`, two of which may have the same."""
    return [
        title(process.pid)
        for process in children()
        if title(process.pid).startswith("zflow: gate/")
    ]


def test_a_replica_whose_rest_takes_too_long_competes_again(tmp_path: Path) -> None:
    with Flow().add(
        name="gate", uses=Gate, uses_with={"folder": str(tmp_path)}, replicas=2
    ) as flow:
        held = in_background(flow.post, "/hold", Document(text="a"))
        (pid,) = begun(tmp_path, "a")
        (name,) = (name for name, each in replicas("gate").items() if each == pid)
        for _ in range(2):
            with pytest.raises(
                ChangeRefused,
                match=f"{name} was not done with what it had within timeout={SOON} ms",
            ):
                flow.drain(name, timeout=SOON)
        let_go(tmp_path, "a")
        assert held.result(PATIENCE).texts == ["a"]
        wait_for(
            lambda: name in {doc.tags["by"] for doc in flow.post("/", texts(50), request_size=1)}
        )


def test_with_force_who_does_not_end_is_killed_and_its_request_goes_to_another(
    tmp_path: Path,
) -> None:
    flow = Flow(timeout_close=SOON).add(
        name="gate", uses=Gate, uses_with={"folder": str(tmp_path)}, replicas=2
    )
    with flow:
        held = in_background(flow.post, "/hold", texts(2), request_size=1)
        pids = begun(tmp_path, "0", "1")
        stuck = in_background(flow.scale, "gate", 1)
        wait_for(lambda: "another change of 'gate' is under way" in refusal(flow))
        assert flow.restart("gate", force=True) == {"executor": "gate", "restarted": 1}
        with pytest.raises(
            ChangeRefused,
            match="'gate/rep-1' was told to end and did not end when another change was",
        ):
            stuck.result(PATIENCE)
        wait_for(lambda: not any(map(alive, pids)), what="both are killed")
        let_go(tmp_path, "0", "1")
        assert held.result(PATIENCE).texts == ["0", "1"]
        assert len(begun(tmp_path, "0", "1")) == 4, "each was begun again"
        assert of_gate() == ["zflow: gate/rep-0"]


def test_with_force_in_too_little_time_the_way_out_is_more_time(tmp_path: Path) -> None:
    flow = Flow(timeout_close=10 * SOON).add(
        name="gate", uses=Gate, uses_with={"folder": str(tmp_path)}, replicas=2
    )
    with flow:
        held = in_background(flow.post, "/hold", texts(2), request_size=1)
        begun(tmp_path, "0", "1")
        with pytest.raises(ChangeRefused) as refused:
            flow.scale("gate", 1, timeout=SOON, force=True)
        assert refused.value.message.endswith(
            f"did not end within timeout={SOON} ms; with force=True each is killed 3 s after it "
            "was told to: give it"
            " a longer timeout="
        )
        let_go(tmp_path, "0", "1")
        assert held.result(PATIENCE).texts == ["0", "1"]


def refusal(flow: Flow) -> str:
    """What is said to a change that cannot be."""
    with pytest.raises(ChangeRefused) as refused:
        flow.scale("gate", replicas=0)
    return refused.value.message


def test_a_new_one_that_is_not_ready_in_time_does_not_stay_also_if_it_ignores_what_it_is_told(
    tmp_path: Path,
) -> None:
    with Flow(timeout_close=SOON).add(
        name="start", uses=Start, uses_with={"way": "busy", "only": 1}
    ) as flow:
        with pytest.raises(
            ChangeRefused, match=r"'start' stays at 1 replicas: 'start/rep-1' was not ready within"
        ):
            flow.scale("start", replicas=2, timeout=SOON)
        wait_for(lambda: replicas("start").keys() == {"start/rep-0"}, what="it is killed")
        assert flow.scale("start", replicas=1)["before"] == 1


def test_what_a_change_takes_is_checked() -> None:
    with Flow().add(name="work", uses=Work) as flow, Client(port=flow.port) as client:
        for arguments, message in (
            (
                {"timeout": 0},
                "timeout must be a whole number of ms from 1 to 9007199254740992, not 0",
            ),
            ({"timeout": True}, "not True"),
            ({"force": 1}, "force must be True or False, not 1"),
            ({"forse": True}, "scale takes no 'forse'; did you mean 'force'?"),
        ):
            with client._connection() as connection:
                told = connection.command("scale", {"executor": "work", "replicas": 2, **arguments})
            assert message in told["error"]
        with pytest.raises(BadRequest, match="timeout must be a number of ms above 0, not -1"):
            flow.restart("work", timeout=-1)


# -- a crash loop ----------------------------------------------------------------------------------


def test_a_crash_loop_is_shown_and_over_when_it_is(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    with Flow().add(name="work", uses=Work, uses_with={"broken": str(broken)}, replicas=2) as flow:
        broken.touch()
        kill(pid_of("work/rep-1"))

        def crashing() -> Any:
            return Client(port=flow.port).info()["executors"]["work"]["crashing"]

        wait_for(lambda: crashing() == ["work/rep-1"], what="it is shown")
        broken.unlink()
        wait_for(lambda: crashing() == [], what="it is over")


# -- limits of the system --------------------------------------------------------------------------


@contextmanager
def no_descriptors_left(pid: int) -> Iterator[None]:
    """Within this, the process cannot open any more files."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (1, before[1]))
    yield
    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def test_where_no_process_can_be_started_a_change_is_refused_and_what_died_comes_back_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = logging.FileHandler(tmp_path / "log")
    monkeypatch.setattr(logging.getLogger("zflow.manager"), "handlers", [handler])

    def told(*words: str) -> bool:
        return all(word in (tmp_path / "log").read_text() for word in words)

    with loaded(Flow().add(name="work", uses=Work, replicas=2)) as flow:
        with no_descriptors_left(pid_of("manager")):
            with pytest.raises(
                ChangeRefused,
                match=r"'work' stays at 2 replicas: work/rep-2 could not be started: Too.*\(ulimit "
                r"-n\)",
            ):
                flow.scale("work", replicas=3)
            with pytest.raises(
                ChangeRefused, match=r"work/rep-0 goes on as it is, its successor failed: .*ulimit"
            ):
                flow.restart("work")
            assert flow.scale("work", replicas=1)["before"] == 2
            kill(pid_of("work/rep-0"))
            kill(pid_of("broker"))
            wait_for(
                lambda: told(
                    "the broker could not be started: Too", "work/rep-0 could not be started: Too"
                )
            )
        wait_for(lambda: replicas("work").keys() == {"work/rep-0"}, what="it is back")
        assert flow.scale("work", replicas=2)["before"] == 1
    handler.close()


def test_the_manager_takes_the_descriptors_that_it_may_and_replicas_as_many_as_the_user_has() -> (
    None
):
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1] - 1, before[1]))
    try:
        with Flow().add(name="work", uses=Work):
            assert resource.prlimit(pid_of("manager"), resource.RLIMIT_NOFILE) == (
                before[1],
                before[1],
            )
            assert resource.prlimit(pid_of("work/rep-0"), resource.RLIMIT_NOFILE) == (
                before[1] - 1,
                before[1],
            )
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
