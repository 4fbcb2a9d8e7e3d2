"""The broker's process: how it begins, what it says where it cannot, and how it ends."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection, Pipe
from typing import Any

import msgpack
import pytest
from helpers import PATIENCE, alive, kill, title, wait_for

from zflow.clients.connection import ask
from zflow.devices.sockets import descriptors
from zflow.processes import broker_process, plan
from zflow.processes.plan import Plan
from zflow.system import process
from zflow.topology.options import DEFAULTS
from zflow.topology.topology import Topology


@pytest.fixture
def planned() -> Iterator[Plan]:
    """What a Flow of one Executor runs; nothing of it is started."""
    topology = Topology()
    topology.add({}, name="one")
    made = plan.make(topology, {**DEFAULTS, "shared_memory": 0}, "1.2.3")
    yield made
    shutil.rmtree(made.folder, ignore_errors=True)


class Broker:
    """A broker in a process of its own, and the manager's end of the line to it."""

    def __init__(self, planned: Plan, **changes: Any) -> None:
        assert planned.settings is not None
        settings = replace(planned.settings, **changes)
        self.line, theirs = Pipe()
        manager = os.getpid()

        def run() -> int:
            self.line.close()
            return broker_process.run(settings, planned, theirs, manager)

        self.pid = process.fork(run)
        theirs.close()

    def hear(self) -> list[Any]:
        return hear(self.line)

    def end(self) -> str:
        """Wait for its end: how it was."""
        status: list[int] = []

        def ended() -> bool:
            pid, how = os.waitpid(self.pid, os.WNOHANG)
            status.append(how)
            return bool(pid)

        wait_for(ended, what="the broker ends")
        return process.ended(status[-1])


def hear(line: Connection) -> list[Any]:
    """The next word of a broker."""
    assert line.poll(PATIENCE)
    return list(msgpack.unpackb(line.recv_bytes()))


@pytest.fixture
def start(planned: Plan) -> Iterator[Callable[..., Broker]]:
    """Start a broker with changed settings; hang up at the end, which ends it."""
    started: list[Broker] = []

    def start(**changes: Any) -> Broker:
        started.append(Broker(planned, **changes))
        return started[-1]

    yield start
    for one in started:
        one.line.close()


# -- its beginning ---------------------------------------------------------------------------------


def test_it_tells_where_it_listens_and_answers_there(
    planned: Plan, start: Callable[..., Broker]
) -> None:
    broker = start()
    kind, fronts, backs = broker.hear()
    assert planned.settings is not None
    assert kind == "bound"
    assert (fronts[0], backs) == (planned.settings.front, [])
    for address in fronts:
        info = ask(address)
        assert (info["version"], info["instance"], info["pid"]) == (
            "1.2.3",
            planned.settings.instance,
            broker.pid,
        )
        assert list(info["executors"]) == ["one"]


def test_it_is_seen_under_its_name(start: Callable[..., Broker]) -> None:
    broker = start()
    broker.hear()
    assert title(broker.pid) == "zflow: broker"


def test_a_port_that_is_taken_is_told_and_the_end_of_it(start: Callable[..., Broker]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        broker = start(public=f"tcp://127.0.0.1:{taken.getsockname()[1]}")
        kind, error = broker.hear()
        assert (kind, error["type"]) == ("failed", "PortInUse")
        assert error["message"].startswith("cannot listen there: ")
        assert error["message"].endswith("; choose another port= or host=")
        assert broker.end() == "exit code 1"


def test_a_host_that_is_none_is_told_and_the_end_of_it(start: Callable[..., Broker]) -> None:
    broker = start(public="tcp://no-such-host.invalid:*")
    kind, error = broker.hear()
    assert (kind, error["type"]) == ("failed", "StartupFailed")
    assert error["message"].endswith("; choose another port= or host=")
    assert broker.end() == "exit code 1"


def test_too_few_descriptors_are_told_with_the_way_out(
    start: Callable[..., Broker], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(descriptors, "make_sure", none_left)
    broker = start()
    kind, error = broker.hear()
    assert (kind, error["type"]) == ("failed", "StartupFailed")
    assert error["message"].startswith("the broker cannot start: Too many open files: raise the")
    assert broker.end() == "exit code 1"


def test_a_folder_for_sockets_that_takes_none_is_told_with_the_way_out(
    planned: Plan, start: Callable[..., Broker]
) -> None:
    broker = start(back=f"ipc://{planned.folder}/gone/back")
    kind, error = broker.hear()
    assert (kind, error["type"]) == ("failed", "StartupFailed")
    assert error["message"].startswith("cannot listen there: ")
    assert error["message"].endswith("; set TMPDIR to a folder that can be written to and has room")
    assert broker.end() == "exit code 1"


# -- its end ---------------------------------------------------------------------------------------


def test_it_ends_when_it_is_told_to(planned: Plan, start: Callable[..., Broker]) -> None:
    broker = start()
    broker.hear()
    broker.line.send_bytes(msgpack.packb(("stop",)))
    assert broker.end() == "exit code 0"
    assert os.path.isdir(planned.folder), "to remove it is for the manager"


def test_it_ends_when_the_line_to_it_is_closed(start: Callable[..., Broker]) -> None:
    broker = start()
    broker.hear()
    broker.line.close()
    assert broker.end() == "exit code 0"


def test_what_is_sent_to_all_processes_at_once_is_not_for_it(
    planned: Plan, start: Callable[..., Broker]
) -> None:
    broker = start()
    broker.hear()
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
        os.kill(broker.pid, number)
    assert planned.settings is not None
    assert ask(planned.settings.front)["pid"] == broker.pid


def test_when_its_manager_was_killed_it_ends(planned: Plan) -> None:
    """Even if another process holds on to the line to it."""
    assert planned.settings is not None
    settings = planned.settings
    ours, theirs = Pipe()

    def manage() -> int:
        me = os.getpid()
        process.fork(lambda: broker_process.run(settings, planned, theirs, me))
        signal.pause()
        return 0

    manager = process.fork(manage)
    assert hear(ours)[0] == "bound"
    broker = ask(settings.front)["pid"]
    kill(manager)
    wait_for(lambda: not alive(broker), what="the broker ends")
    for end in (ours, theirs):
        end.close()
