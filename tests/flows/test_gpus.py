"""GPUs dealt out to real processes: stand-in devices,
values read in the replicas' own environment.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, Script, kill, launched, pid_of, replicas, run_script, wait_for

from zflow import Document, DocumentArray, Executor, Flow, requests
from zflow.errors import InvalidConfig, InvalidFlow
from zflow.processes import launch
from zflow.system import cuda

UUIDS = [f"GPU-0{letter * 7}-74d2-7297-d557-12771b6a79d5" for letter in "abcd"]
MEMORY = 15 * 2**20  # bytes that a replica may have of its own

# The value, the number of devices, and the device of each of five replicas: the manual's four
# tables.
TABLES = [
    pytest.param("RR", 3, ["0", "1", "2", "0", "1"], id="all"),
    pytest.param("RR0:2", 3, ["0", "1", "0", "1", "0"], id="slice"),
    pytest.param("RR1,3", 4, ["1", "3", "1", "3", "1"], id="list"),
    pytest.param("RR" + ",".join(UUIDS), 4, [*UUIDS, UUIDS[0]], id="uuids"),
]

# Writes down what it sees when its file is imported, when it is made, and when it is called.
EXECUTOR = """
import json, os
from zflow import Executor, requests

AT_IMPORT = os.environ.get("CUDA_VISIBLE_DEVICES")


class Device(Executor):
    def __init__(self, folder, **kwargs):
        super().__init__(**kwargs)
        now = os.environ.get("CUDA_VISIBLE_DEVICES")
        seen = [AT_IMPORT, now, self.runtime_args.cuda_visible_devices]
        with open(os.path.join(folder, self.runtime_args.name.replace("/", "_")), "w") as file:
            json.dump(seen, file)
"""
SCRIPT = """
import sys
from zflow import Flow

with Flow().add(uses="device.py:Device", uses_with={"folder": sys.argv[1]}, replicas=5):
    pass
"""
YAML = """
jtype: Flow
executors:
- uses: device.py:Device
  uses_with:
    folder: {}
  replicas: 5
"""


class Device(Executor):
    """Says which device it was given."""

    @requests
    def tell(self, docs: DocumentArray, **kwargs: Any) -> None:
        for doc in docs:
            doc.text = os.environ.get("CUDA_VISIBLE_DEVICES", "unset")
            doc.tags = {
                "by": self.runtime_args.name,
                "args": self.runtime_args.cuda_visible_devices,
            }


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make a machine of some GPUs: an `nvidia-smi` on PATH that lists them, and counts how often it
    is asked.
    """

    def put(count: int) -> Path:
        folder = tmp_path / "bin"
        folder.mkdir()
        lines = [
            f"GPU {i}: NVIDIA A100-SXM4-40GB (UUID: {uuid})" for i, uuid in enumerate(UUIDS[:count])
        ]
        echo = "".join(f"echo '{line}'\n" for line in lines)
        (folder / "nvidia-smi").write_text(f"#!/bin/sh\necho asked >>'{folder}/asked'\n{echo}")
        (folder / "nvidia-smi").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        return folder / "asked"

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_TOTAL_DEVICES", raising=False)
    return put


@pytest.fixture
def no_gpus(gpus: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose `nvidia-smi` finds nothing."""
    gpus(0)


def who_has_what(flow: Flow, count: int) -> dict[str, str]:
    """Ask until every replica has answered: which device each one has."""
    found: dict[str, str] = {}

    def ask() -> bool:
        for doc in flow.post("/", [Document() for _ in range(2 * count)], request_size=1):
            assert doc.tags["args"] == (None if doc.text == "unset" else doc.text)
            found[doc.tags["by"].partition("/")[2]] = doc.text
        return len(found) == count

    wait_for(ask)
    return dict(sorted(found.items()))


def written(folder: Path) -> dict[str, list[str]]:
    return {path.name: json.loads(path.read_text()) for path in sorted(folder.iterdir())}


# -- the manual's tables ---------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "count", "devices"), TABLES)
@pytest.mark.parametrize("start", ["script", "yaml"])
def test_every_row_of_the_tables(
    start: str,
    value: str,
    count: int,
    devices: list[str],
    gpus: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpus(count)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    (tmp_path / "device.py").write_text(EXECUTOR)
    seen = tmp_path / "seen"
    seen.mkdir()
    if start == "script":
        status, _, err = run_script(SCRIPT, tmp_path, seen, cwd=tmp_path)
        assert (status, err) == (0, "")
    else:
        (tmp_path / "flow.yaml").write_text(YAML.format(seen))
        command = [sys.executable, "-m", "zflow", "flow.yaml"]
        with launched(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as served:
            assert served.stdout is not None
            assert served.stdout.readline() == "executor0: 5 replicas\n"
            assert "serving at" in served.stdout.readline()
            served.send_signal(signal.SIGINT)
            assert served.wait(30) == 0
    assert written(seen) == {
        f"executor0_rep-{replica}": [device] * 3 for replica, device in enumerate(devices)
    }


# -- where the value comes from --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "flow_env", "own_env", "devices"),
    [
        (None, None, None, ["unset", "unset"]),
        ("0,1", None, None, ["0,1", "0,1"]),
        ("rr", None, None, ["rr", "rr"]),
        ("RR", None, None, ["0", "1"]),
        ("RR", None, "2", ["2", "2"]),
        ("RR", None, "", ["", ""]),
        ("RR", "RR1:", None, ["1", "2"]),
        ("RR", "RR1:", "RR2,0", ["2", "0"]),
        ("7", "RR1:", None, ["1", "2"]),
        (None, None, "RR", ["0", "1"]),
    ],
)
def test_the_nearest_value_counts(
    environ: str | None,
    flow_env: str | None,
    own_env: str | None,
    devices: list[str],
    gpus: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpus(3)
    if environ is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", environ)

    def env(value: str | None) -> dict[str, str]:
        return {} if value is None else {"CUDA_VISIBLE_DEVICES": value}

    flow = Flow(env={"OTHER": "1", **env(flow_env)}).add(
        uses=Device, replicas=2, env={"MORE": "2", **env(own_env)}
    )
    with flow:
        assert who_has_what(flow, 2) == {"rep-0": devices[0], "rep-1": devices[1]}
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == environ


def test_every_executor_begins_at_the_first_and_nvidia_smi_is_asked_once(gpus: Any) -> None:
    asked = gpus(3)
    flow = (
        Flow(env={"CUDA_VISIBLE_DEVICES": "RR"})
        .add(name="one", uses=Device, replicas=2)
        .add(name="two", uses=Device, replicas=2)
        .add(name="three", uses=Device, env={"CUDA_VISIBLE_DEVICES": "2"})
        .needs_all()
    )
    seen = {}
    with flow:
        for name in ("one", "two", "three"):
            found = flow.post(
                "/", [Document() for _ in range(20)], request_size=1, target_executor=name
            )
            seen[name] = sorted({(doc.tags["by"], doc.text) for doc in found})
    assert seen == {
        "one": [("one/rep-0", "0"), ("one/rep-1", "1")],
        "two": [("two/rep-0", "0"), ("two/rep-1", "1")],
        "three": [("three/rep-0", "2")],
    }
    assert asked.read_text() == "asked\n"


def test_without_need_nobody_asks_nvidia_smi(gpus: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = gpus(3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "RR")
    with Flow().add(uses=Device, env={"CUDA_VISIBLE_DEVICES": "1"}).needs_all():
        pass
    assert not asked.exists()


# -- shards, restarts ------------------------------------------------------------------------------


def test_shards_and_replicas_share_all_devices(gpus: Any) -> None:
    gpus(4)
    env = {"CUDA_VISIBLE_DEVICES": "RR"}
    with Flow().add(uses=Device, shards=2, replicas=2, polling="ANY", env=env) as flow:
        assert who_has_what(flow, 4) == {
            "shard-0/rep-0": "0",
            "shard-0/rep-1": "1",
            "shard-1/rep-0": "2",
            "shard-1/rep-1": "3",
        }


def test_the_successor_of_a_killed_replica_has_its_device(gpus: Any) -> None:
    gpus(3)
    with Flow().add(name="e", uses=Device, replicas=3, env={"CUDA_VISIBLE_DEVICES": "RR"}) as flow:
        before = who_has_what(flow, 3)
        killed = pid_of("e/rep-1")
        kill(killed)
        wait_for(lambda: replicas("e").get("e/rep-1", killed) != killed)
        assert who_has_what(flow, 3) == before == {"rep-0": "0", "rep-1": "1", "rep-2": "2"}


# -- no device, or the wrong one -------------------------------------------------------------------


@pytest.mark.parametrize("value", ["RR", "RR0:2", "RR0,1:3"])
def test_without_a_gpu_it_starts_with_none_and_a_warning(
    value: str, no_gpus: None, caplog: pytest.LogCaptureFixture
) -> None:
    with Flow().add(name="e", uses=Device, replicas=2, env={"CUDA_VISIBLE_DEVICES": value}) as flow:
        assert who_has_what(flow, 2) == {"rep-0": "", "rep-1": ""}
    [record] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert record.getMessage() == (
        "CUDA_VISIBLE_DEVICES deals GPUs out, but there is no device (nvidia-smi lists none; "
        "CUDA_TOTAL_DEVICES is not"
        f" set); without one: e ({value})"
    )


def test_a_list_is_trusted_where_no_gpu_was_found(
    no_gpus: None, caplog: pytest.LogCaptureFixture
) -> None:
    with Flow().add(uses=Device, replicas=2, env={"CUDA_VISIBLE_DEVICES": "RR1,GPU-7"}) as flow:
        assert who_has_what(flow, 2) == {"rep-0": "1", "rep-1": "GPU-7"}
    assert not [record for record in caplog.records if record.levelno == logging.WARNING]


def test_the_variable_counts_devices_where_nvidia_smi_does_not(
    no_gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_TOTAL_DEVICES", "2")
    with Flow().add(uses=Device, replicas=3, env={"CUDA_VISIBLE_DEVICES": "RR"}) as flow:
        assert who_has_what(flow, 3) == {"rep-0": "0", "rep-1": "1", "rep-2": "0"}


@pytest.mark.parametrize("value", ["RR7", "RR5:", "RRGPU-0", "RRGPU-ff"])
def test_a_device_that_does_not_exist_is_an_error_before_anything_starts(
    value: str, gpus: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    monkeypatch.setattr(launch, "Launched", None)
    flow = Flow().add(name="encoder", uses=Device)
    with pytest.raises(InvalidFlow) as raised:
        flow.start()
    assert raised.value.message.startswith(f"CUDA_VISIBLE_DEVICES='{value}' ")
    assert UUIDS[1] in raised.value.message
    assert raised.value.message.endswith("(environment, for executor 'encoder')")


def test_a_malformed_value_is_an_error_when_it_is_said() -> None:
    with pytest.raises(
        InvalidFlow, match=r"env\['CUDA_VISIBLE_DEVICES'\]='RR1;2' has '1;2', .*executor 'e'"
    ):
        Flow().add(name="e", env={"CUDA_VISIBLE_DEVICES": "RR1;2"})
    with pytest.raises(InvalidFlow, match=r"env\['CUDA_VISIBLE_DEVICES'\]='RRx' .*\(Flow\)"):
        Flow(env={"CUDA_VISIBLE_DEVICES": "RRx"})
    text = "jtype: Flow\nexecutors:\n- name: e\n  env:\n    CUDA_VISIBLE_DEVICES: RR1,\n"
    with pytest.raises(
        InvalidConfig,
        match=r"YAML text:5: executors\[0\]: env\['CUDA_VISIBLE_DEVICES'\]='RR1,' has ''",
    ):
        Flow.load_config(text)


def test_yaml_keeps_what_env_says_and_says_it_again(gpus: Any, tmp_path: Path) -> None:
    gpus(3)
    flow = Flow(env={"CUDA_VISIBLE_DEVICES": "RR1:", "A": "1"}).add(
        uses=Device, replicas=2, env={"A": "2"}
    )
    flow.save_config(tmp_path / "flow.yaml")
    with Flow.load_config(str(tmp_path / "flow.yaml")) as flow:
        assert flow.executors[0].env == {"CUDA_VISIBLE_DEVICES": "RR1:", "A": "2"}
        assert who_has_what(flow, 2) == {"rep-0": "1", "rep-1": "2"}


# -- who has what ----------------------------------------------------------------------------------


def test_the_log_says_who_has_what(gpus: Any, caplog: pytest.LogCaptureFixture) -> None:
    gpus(2)
    with (
        caplog.at_level(logging.INFO),
        Flow().add(uses=Device, replicas=3, env={"CUDA_VISIBLE_DEVICES": "RR"}),
    ):
        pass
    assert "executor0: CUDA_VISIBLE_DEVICES of its replicas, in order: 0 1 0" in caplog.messages


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a terminal to show it on")
def test_the_start_shows_on_a_terminal_who_has_what(
    gpus: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "RR" + ",".join(UUIDS[:2]))
    (tmp_path / "device.py").write_text(EXECUTOR)
    (tmp_path / "seen").mkdir()
    ours, theirs = os.openpty()
    try:
        with Script(SCRIPT, tmp_path, tmp_path / "seen", cwd=tmp_path, stderr=theirs) as script:
            assert script.end()[0] == 0
        shown = os.read(ours, 10_000).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert "executor0 0/5 ready, CUDA_VISIBLE_DEVICES GPU-0aaaaaaa GPU-0bbbbbbb" in shown
    assert "executor0 5/5 ready, CUDA_VISIBLE_DEVICES GPU-0aaaaaaa GPU-0bbbbbbb" in shown
    assert all(len(line.rpartition("\x1b[2K")[2]) < 80 for line in shown.splitlines())


# -- the example -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command", [["flow.py"], ["-m", "zflow", "flow.yaml"]], ids=["flow.py", "flow.yaml"]
)
def test_the_example_shows_each_replica_s_device(
    command: list[str], gpus: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "RR")
    monkeypatch.setenv("ZFLOW_HUB", "hub")
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with launched([sys.executable, *command], cwd=ROOT / "examples" / "gpu", **options) as served:
        assert served.stdout is not None
        lines = []
        while len([line for line in lines if "CUDA_VISIBLE_DEVICES" in line]) < 5:
            lines.append(served.stdout.readline())
            assert lines[-1], "".join(lines)
        served.send_signal(signal.SIGINT)
        served.communicate(timeout=30)
    told = sorted(line.partition(",")[0] for line in lines if "CUDA_VISIBLE_DEVICES" in line)
    assert told == [
        f"executor0/rep-{replica}: CUDA_VISIBLE_DEVICES={replica % 3}" for replica in range(5)
    ]


# -- a machine that has them -----------------------------------------------------------------------


def _has_cuda() -> bool:
    """Ask another process: this one must not initialise CUDA, or its Flows would not be forked."""
    if shutil.which("nvidia-smi") is None:
        return False
    ask = "import torch; raise SystemExit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", ask], stderr=subprocess.DEVNULL).returncode == 0


class Tensor(Executor):
    """Places a tensor on the one device it sees."""

    @requests
    def place(self, docs: DocumentArray, **kwargs: Any) -> None:
        import torch

        for doc in docs:
            placed = torch.ones(3, device="cuda") * 2
            doc.text = os.environ["CUDA_VISIBLE_DEVICES"]
            doc.tags = {
                "by": self.runtime_args.name,
                "args": self.runtime_args.cuda_visible_devices,
                "uuid": str(getattr(torch.cuda.get_device_properties(0), "uuid", doc.text)),
                "sum": float(placed.sum()),
                "count": torch.cuda.device_count(),
            }


@pytest.mark.skipif(not _has_cuda(), reason="needs an NVIDIA GPU and torch")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_each_replica_places_a_tensor_on_its_own_device(method: str) -> None:
    count = cuda.discover({}).count
    with Flow(start_method=method).add(
        uses=Tensor, replicas=4, env={"CUDA_VISIBLE_DEVICES": "RR"}
    ) as flow:
        assert who_has_what(flow, 4) == {
            f"rep-{replica}": str(replica % count) for replica in range(4)
        }
        docs = flow.post("/", [Document() for _ in range(40)], request_size=1)
        assert {(doc.tags["sum"], doc.tags["count"]) for doc in docs} == {(6.0, 1)}
        uuids = {doc.text: doc.tags["uuid"] for doc in docs}
        assert len(set(uuids.values())) == len(uuids)


# -- memory ----------------------------------------------------------------------------------------

LARGE = """
import numpy as np
import psutil
from zflow import Document, Executor, Flow, requests

TABLE = np.ones(10_000_000)


class Uses(Executor):
    @requests
    def use(self, docs, **kwargs):
        for doc in docs:
            doc.tags["sum"] = float(TABLE[:1000].sum())


with Flow().add(uses=Uses, replicas=4) as flow:
    flow.post("/", [Document(tensor=np.ones(10)) for _ in range(40)], request_size=1)
    for process in psutil.Process().children(recursive=True):
        title = " ".join(process.cmdline()).strip()
        if "rep-" in title:
            print(title, process.memory_full_info().uss)
"""


def test_replicas_share_what_the_script_has_imported(tmp_path: Path) -> None:
    status, out, err = run_script(LARGE, tmp_path)
    assert status == 0, err
    own = {line.split()[1]: int(line.split()[2]) for line in out.splitlines()}
    assert sorted(own) == [f"executor0/rep-{replica}" for replica in range(4)]
    assert max(own.values()) < MEMORY, own
