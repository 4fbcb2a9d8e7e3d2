"""`start_method='spawn'`: the same Flow from a fresh interpreter, and the same promises."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers import (
    ORPHANS_END,
    PATIENCE,
    TESTS,
    Script,
    Upper,
    alive,
    children,
    kill,
    launched,
    pid_of,
    replicas,
    run_script,
    socket_folders,
    texts,
    title,
    titled,
    wait_for,
)

from zflow import Document, Executor, Flow, requests
from zflow.errors import InvalidExecutor, InvalidFlow, NotSupported, StartupFailed
from zflow.processes import spawn
from zflow.system import cuda, forking

pytestmark = pytest.mark.slow

# A library that uses GPUs, as far as zflow looks at it.
TORCH = """
class cuda:
    initialised = False

    @classmethod
    def init(cls):
        cls.initialised = True

    @classmethod
    def is_initialized(cls):
        return cls.initialised
"""
# Prints what the process that starts the Flow sees, then what two replicas see.
GUARDED = """
import json, logging, sys
import torch
from zflow import Document, Executor, Flow, requests


class Sees(Executor):
    @requests
    def see(self, docs, **kwargs):
        for doc in docs:
            by, cuda = self.runtime_args.name, torch.cuda.is_initialized()
            doc.tags = {"by": by, "main": __name__, "cuda": cuda}


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    if "cuda" in sys.argv:
        torch.cuda.init()
    options = json.loads(sys.argv[1])
    with Flow(**options).add(uses=Sees, replicas=2) as flow:
        docs = flow.post("/", [Document() for _ in range(40)], request_size=1)
        print(json.dumps(sorted({json.dumps(doc.tags) for doc in docs})))
"""
# Starts a Flow, says so, and waits.
WAITS = """
import sys
from zflow import Executor, Flow


class E(Executor):
    pass


if __name__ == "__main__":
    with Flow(start_method="spawn").add(uses=E, replicas=2) as flow:
        try:
            print("up", flush=True)
            flow.block()
        except KeyboardInterrupt:  # it came before block() was there to take it
            pass
    print("closed", flush=True)
"""
# The same, but what is imported again never ends.
SLOW = """
import sys, time
from pathlib import Path
from zflow import Flow

if __name__ != "__main__":
    Path(sys.argv[1]).touch()
    time.sleep(60)

if __name__ == "__main__":
    Flow(start_method="spawn").add().start()
"""


@pytest.fixture
def torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts in `tmp_path` can import a stand-in of torch."""
    (tmp_path / "torch.py").write_text(TORCH)


def sees(script_output: str) -> list[dict[str, Any]]:
    return [json.loads(seen) for seen in json.loads(script_output)]


# -- it serves -------------------------------------------------------------------------------------


def test_a_flow_is_spawned_and_serves() -> None:
    with Flow(start_method="spawn").add(name="up", uses=Upper, replicas=2) as flow:
        assert sorted(flow.post("/", texts(50), request_size=1).texts) == sorted(
            map(str, range(50))
        )
        assert sorted(replicas("up")) == ["up/rep-0", "up/rep-1"]
        [watchdog] = [
            child for child in psutil.Process().children() if title(child.pid) == "zflow: watchdog"
        ]
        [manager] = watchdog.children()
        assert title(manager.pid) == "zflow: manager"
        assert sorted(title(child.pid) for child in manager.children()) == [
            "zflow: broker",
            "zflow: up/rep-0",
            "zflow: up/rep-1",
        ]
        assert len(children()) == 5


def test_classes_of_a_guarded_script_are_found_again(torch: None, tmp_path: Path) -> None:
    status, out, err = run_script(GUARDED, tmp_path, '{"start_method": "spawn"}')
    assert status == 0, err
    assert sees(out) == [
        {"by": f"executor0/rep-{replica}", "main": "__mp_main__", "cuda": False}
        for replica in (0, 1)
    ]


def test_zflow_run_can_spawn(tmp_path: Path) -> None:
    (tmp_path / "device.py").write_text(
        "from zflow import Executor\nclass E(Executor):\n    pass\n"
    )
    (tmp_path / "flow.yaml").write_text(
        "jtype: Flow\nwith:\n  start_method: spawn\nexecutors:\n- name: e\n  uses: device.py:E\n  "
        "replicas: 2\n"
    )
    (tmp_path / "zflow-run").write_text(
        "import sys\nfrom zflow.cli import main\nif __name__ == '__main__':\n    sys.exit(main())\n"
    )
    for command in (["-m", "zflow"], ["zflow-run"]):
        with launched(
            [sys.executable, *command, "flow.yaml"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
        ) as served:
            assert served.stdout is not None
            assert served.stdout.readline() == "e: 2 replicas\n"
            assert sorted(replicas("e")) == ["e/rep-0", "e/rep-1"]
            served.send_signal(signal.SIGINT)
            assert served.wait(PATIENCE) == 0


def test_a_killed_replica_comes_back() -> None:
    with Flow(start_method="spawn").add(name="up", uses=Upper) as flow:
        before = pid_of("up/rep-0")
        kill(before)
        wait_for(lambda: titled("up/rep-0").get("up/rep-0", before) != before)
        assert flow.post("/", Document(text="a")).texts == ["A"]


def test_the_user_s_own_start_method_stays_open(tmp_path: Path) -> None:
    source = """
import multiprocessing
from helpers import Upper
from zflow import Flow

if __name__ == "__main__":
    with Flow(start_method="spawn").add(uses=Upper):
        print(multiprocessing.get_start_method(allow_none=True))
    multiprocessing.set_start_method("forkserver")
"""
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    assert run_script(source, tmp_path, env={**os.environ, "PYTHONPATH": path}) == (0, "None\n", "")


# -- by itself -------------------------------------------------------------------------------------


def test_where_cuda_is_in_use_replicas_are_spawned_and_the_log_says_why(
    torch: None, tmp_path: Path
) -> None:
    status, out, err = run_script(GUARDED, tmp_path, "{}", "cuda")
    assert status == 0, err
    assert {(seen["main"], seen["cuda"]) for seen in sees(out)} == {("__mp_main__", False)}
    assert (
        "start_method is 'spawn': torch has initialised CUDA in this process, so it could not be "
        "forked" in err
    )


def test_where_it_is_only_imported_they_are_forked(torch: None, tmp_path: Path) -> None:
    status, out, err = run_script(GUARDED, tmp_path, "{}")
    assert status == 0, err
    assert {seen["main"] for seen in sees(out)} == {"__main__"}
    assert "start_method" not in err


def test_fork_is_done_where_it_is_asked_for_with_a_warning(torch: None, tmp_path: Path) -> None:
    status, out, err = run_script(GUARDED, tmp_path, '{"start_method": "fork"}', "cuda")
    assert status == 0, err
    assert {(seen["main"], seen["cuda"]) for seen in sees(out)} == {("__main__", True)}
    assert (
        "torch has initialised CUDA in this process: it will fail in the replicas forked from it"
        in err
    )


# -- it ends ---------------------------------------------------------------------------------------


def test_everything_ends_with_a_killed_script(tmp_path: Path) -> None:
    with Script(WAITS, tmp_path) as script:
        assert script.line() == "up"
        family = script.family()
        assert len(family) == 5
        kill(script.pid)
        wait_for(lambda: not any(map(alive, family)), ORPHANS_END + 1)
        wait_for(lambda: not socket_folders(), ORPHANS_END + 1)


def test_everything_ends_with_a_killed_manager(tmp_path: Path) -> None:
    with Script(WAITS, tmp_path) as script:
        assert script.line() == "up"
        family = script.family()
        kill(titled("manager")["manager"])
        wait_for(lambda: not any(map(alive, family)), ORPHANS_END + 1)
        status, _, err = script.end()
        assert status == 1
        assert "process manager died" in err


def test_ctrl_c_at_a_terminal_ends_it_quietly(tmp_path: Path) -> None:
    with Script(WAITS, tmp_path, start_new_session=True) as script:
        assert script.line() == "up"
        os.killpg(script.pid, signal.SIGINT)
        assert script.end() == (0, "closed\n", "")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_nothing_is_left_if_it_ends_while_the_script_is_imported_again(
    how: signal.Signals, tmp_path: Path
) -> None:
    with Script(SLOW, tmp_path, tmp_path / "importing", start_new_session=True) as script:
        wait_for((tmp_path / "importing").exists)
        family = script.family()
        assert len(family) == 2
        os.killpg(script.pid, how) if how == signal.SIGINT else kill(script.pid)
        wait_for(lambda: not any(map(alive, family)), ORPHANS_END)
        wait_for(lambda: not socket_folders(), ORPHANS_END)
        status, _, err = script.end()
        assert status == -how
        assert err.count("Traceback") == (1 if how == signal.SIGINT else 0)  # the script's own


# -- it cannot -------------------------------------------------------------------------------------


def nothing_started() -> bool:
    return not children() and not socket_folders()


def test_a_class_local_to_a_function_is_an_error_with_the_way_out() -> None:
    class Local(Executor):
        pass

    with pytest.raises(InvalidExecutor) as raised:
        Flow(start_method="spawn").add(name="encoder", uses=Local).start()
    assert nothing_started()
    assert "Local" in raised.value.message
    assert "is local to a function" in raised.value.message
    assert (
        "define it at the top level of a module, or start the Flow by fork, before"
        in raised.value.message
    )
    assert raised.value.message.endswith("(executor 'encoder')")
    with Flow().add(uses=Local):
        pass


def test_an_argument_that_cannot_be_pickled_is_an_error() -> None:
    with pytest.raises(
        InvalidExecutor, match=r"uses_with=.*<lambda>.* cannot be pickled .*executor 'b'"
    ):
        Flow(start_method="spawn").add(uses=Upper).add(
            name="b", uses=Breaks, uses_with={"call": lambda: 1}
        ).start()
    assert nothing_started()


def test_a_main_program_that_is_no_file_is_an_error() -> None:
    source = (
        "from zflow import *\nclass E(Executor): pass\n"
        "try: Flow(start_method='spawn').add(uses=E).start()\nexcept ZflowError as error: "
        "print(error)"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert "is defined in a main program that is no file" in done.stdout, done


@pytest.mark.parametrize(
    ("source", "message"),
    [
        pytest.param(
            "from zflow import Flow\nFlow(start_method='spawn').add().start()\n",
            "StartupFailed: the script starts a Flow while it is imported in the fresh interpreter "
            "that the Flow's"
            " processes come from (start_method 'spawn'): put what the script does under `if "
            "__name__ == '__main__':`",
            id="unguarded",
        ),
        pytest.param(
            "from zflow import Flow\nassert __name__ == '__main__', "
            "'oh'\nFlow(start_method='spawn').add().start()\n",
            "AssertionError: oh",
            id="raises",
        ),
        pytest.param(
            "import os\nfrom zflow import Flow\nif __name__ != '__main__': os._exit(3)\n"
            "Flow(start_method='spawn').add().start()\n",
            "StartupFailed: the process manager died in the fresh interpreter",
            id="ends",
        ),
        pytest.param(
            "import torch\nfrom zflow import Flow\ntorch.cuda.init()\n"
            "if __name__ == '__main__': Flow(start_method='spawn').add().start()\n",
            "StartupFailed: torch initialises CUDA while the script is imported",
            id="cuda",
        ),
        pytest.param(
            "from zflow import *\nif __name__ == '__main__':\n    class E(Executor): pass\n"
            "    Flow(start_method='spawn').add(uses=E).start()\n",
            "Can't get attribute 'E'",
            id="guarded too far",
        ),
    ],
)
def test_a_script_that_cannot_be_imported_again_is_told_why(
    source: str, message: str, torch: None, tmp_path: Path
) -> None:
    status, _, err = run_script(source, tmp_path)
    assert status == 1
    assert message in err
    assert nothing_started()


@pytest.mark.parametrize("method", ["forkserver", "", 1, True])
def test_a_start_method_that_is_none(method: Any) -> None:
    with pytest.raises(InvalidFlow, match="start_method must be 'fork' or 'spawn', not "):
        Flow(start_method=method)


def test_an_error_of_an_executor_comes_from_there_too() -> None:
    with pytest.raises(StartupFailed, match="FileNotFoundError"):
        Flow(start_method="spawn").add(uses=Breaks).start()
    assert nothing_started()


class Breaks(Executor):
    """Does not get ready."""

    def __init__(self, call: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        raise FileNotFoundError("model.bin")

    @requests
    def never(self, **kwargs: Any) -> None:
        """Nobody comes here."""


def test_choosing_looks_at_the_machine_only_where_it_matters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cuda, "initialised_by", lambda: None)
    assert (spawn.choose(None), spawn.choose("fork"), spawn.choose("spawn")) == (
        "fork",
        "fork",
        "spawn",
    )
    monkeypatch.setattr(cuda, "initialised_by", lambda: "cupy")
    assert (spawn.choose(None), spawn.choose("fork"), spawn.choose("spawn")) == (
        "spawn",
        "fork",
        "spawn",
    )


def test_what_keeps_threads_for_openmp_cannot_be_forked_and_an_error_names_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(forking, "keeps_openmp", lambda: "/lib/libgomp.so.1")
    assert (spawn.choose(None), spawn.choose("fork"), spawn.choose("spawn")) == (
        "spawn",
        "fork",
        "spawn",
    )

    class Local(Executor):
        """Cannot be had elsewhere."""

    with pytest.raises(
        InvalidExecutor,
        match=r"top level of a module.*/lib/libgomp\.so\.1 \(OpenMP\) keeps threads",
    ):
        Flow().add(uses=Local).start()
    assert nothing_started()


def test_where_greenlets_have_taken_the_place_of_threads_no_flow_is_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(forking, "patched_by", lambda: "gevent.monkey")
    with pytest.raises(
        NotSupported, match=r"gevent\.monkey has patched the standard library.*zflow-run"
    ):
        Flow().add().start()
    assert nothing_started()
