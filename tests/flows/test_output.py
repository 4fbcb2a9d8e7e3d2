"""What a user sees: what Executors print and log, names of processes, and plain scripts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from helpers import (
    PATIENCE,
    TESTS,
    Script,
    Upper,
    pid_of,
    run_script,
    title,
)

from zflow import Flow

pytestmark = pytest.mark.slow

HERE = str(TESTS)

# -- printing --------------------------------------------------------------------------------------

CHATTER = """
import sys
from zflow import Document, Executor, Flow, requests

class Chatter(Executor):
    @requests
    def talk(self, docs, **kwargs):
        for doc in docs:
            name = self.runtime_args.name
            print(name, doc.text, "x" * 500, sep=" ")
            sys.stderr.write(f"{name} {doc.text} ")
            sys.stderr.write("y" * 500 + "\\n")

with Flow().add(name="chatter", uses=Chatter, replicas=4, retries=0) as flow:
    flow.post("/", (Document(text=str(number)) for number in range(400)), request_size=1)
print("end")
"""


@pytest.mark.parametrize("where", ["pipe", "file", "unbuffered pipe"])
def test_replicas_print_in_whole_lines(tmp_path: Path, where: str) -> None:
    env = {**os.environ, "PYTHONUNBUFFERED": "1"} if where.startswith("unbuffered") else None
    if where == "file":
        with (tmp_path / "out").open("w") as out, (tmp_path / "err").open("w") as err:
            code = run_script(CHATTER, tmp_path, stdout=out, stderr=err)[0]
        texts = (tmp_path / "out").read_text(), (tmp_path / "err").read_text()
    else:
        code, *streams = run_script(CHATTER, tmp_path, env=env)
        texts = (streams[0], streams[1])
    assert code == 0
    assert texts[0].endswith("\nend\n")
    for text, letter in zip(texts, "xy", strict=True):
        found = re.findall(rf"^chatter/rep-([0-3]) (\d+) {letter}{{500}}$", text, re.MULTILINE)
        assert Counter(number for _, number in found) == Counter(map(str, range(400)))
        assert len(text.splitlines()) == 400 + (letter == "x")
        assert {replica for replica, _ in found} == set("0123")


LIVE = """
import sys
sys.path.insert(0, sys.argv[1])
from helpers import Gate
from zflow import Document, Executor, Flow, requests

class Loud(Gate):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        print("initialised")

    @requests(on="/hold")
    def hold(self, docs, **kwargs):
        print("begun")
        super().hold(docs)
        print("ended without a newline", end="")

    def close(self):
        print(", closed", end="")

print("not yet flushed", end=" ")
with Flow().add(uses=Loud, uses_with={"folder": sys.argv[2]}) as flow:
    flow.post("/hold", Document(text="held"))
"""


def test_what_is_printed_appears_at_once_and_once(tmp_path: Path) -> None:
    with Script(LIVE, tmp_path, HERE, tmp_path) as script:
        assert [script.line(), script.line()] == ["not yet flushed initialised", "begun"]
        (tmp_path / "held.go").touch()
        assert script.end() == (0, "ended without a newline, closed", "")


LOGS = """
import logging, sys
from zflow import Document, Executor, Flow, requests

if sys.argv[1] == "configured":
    logging.basicConfig(format="%(levelname)s|%(name)s|%(message)s", level=logging.INFO)

class Logger(Executor):
    @requests
    def log(self, docs, **kwargs):
        self.logger.info("by self.logger")
        logging.getLogger("mine").error("by its own")

with Flow().add(name="logger", uses=Logger) as flow:
    flow.post("/", Document())
    logging.getLogger("mine").error("from the user's process")
"""


@pytest.mark.parametrize(
    ("way", "expected"),
    [
        ("plain", ["logger/rep-0: ERROR by its own", "from the user's process"]),
        (
            "configured",
            [
                "logger/rep-0: INFO|zflow.logger/rep-0|by self.logger",
                "logger/rep-0: ERROR|mine|by its own",
                "ERROR|mine|from the user's process",
            ],
        ),
    ],
)
def test_log_lines_bear_the_name_of_the_replica(
    tmp_path: Path, way: str, expected: list[str]
) -> None:
    assert run_script(LOGS, tmp_path, way) == (0, "", "".join(f"{line}\n" for line in expected))


UNBOUND = """
from zflow import Document, Executor, Flow, requests

class Only(Executor):
    @requests(on="/index")
    def index(self, docs, **kwargs):
        raise ValueError("told to the caller, and not printed")

with Flow(unknown_endpoints="pass").add(uses=Only, replicas=2) as flow:
    for _ in range(3):
        print(flow.post("/indx", Document(text="as it was")).texts)
        flow.post("/index", Document(), on_error=lambda response: None)
"""


def test_an_endpoint_that_nobody_binds_is_passed_through_with_a_warning(tmp_path: Path) -> None:
    code, out, err = run_script(UNBOUND, tmp_path)
    assert (code, out) == (0, "['as it was']\n" * 3)
    assert err.count("\n") == 1
    assert "zflow: broker: WARNING" in err
    assert "'/indx'" in err


def test_a_host_for_everybody_is_warned_about(tmp_path: Path) -> None:
    code, _, err = run_script(
        "from zflow import Flow\nwith Flow(host='0.0.0.0'):\n    pass\n", tmp_path
    )
    assert code == 0
    assert "listening on 0.0.0.0" in err


# -- names -----------------------------------------------------------------------------------------


def test_processes_have_telling_names() -> None:
    with (
        Flow()
        .add(name="encoder", uses=Upper, replicas=2)
        .add(name="an-executor-with-a-long-name", uses=Upper)
    ):
        names = {
            "manager",
            "broker",
            "encoder/rep-0",
            "encoder/rep-1",
            "an-executor-with-a-long-name/rep-0",
        }
        pids = {name: pid_of(name) for name in names}
        commands = {
            name: Path(f"/proc/{pid}/comm").read_text().strip() for name, pid in pids.items()
        }
        assert commands == {
            "manager": "zflow: manager",
            "broker": "zflow: broker",
            "encoder/rep-0": "encoder/rep-0",
            "encoder/rep-1": "encoder/rep-1",
            # 15 characters are shown: those that tell most.
            "an-executor-with-a-long-name/rep-0": "long-name/rep-0",
        }
    assert not title(os.getpid()).startswith("zflow")


NAMES = """
import os, sys
sys.path.insert(0, sys.argv[1])
from helpers import Upper
from zflow import Document, Flow
with Flow().add(name="e", uses=Upper, env={"ADDED": "1"}) as flow:
    pid = flow.post("/", Document())[0].tags["pid"]
    print(open(f"/proc/{pid}/cmdline").read().rstrip("\\0"))
"""


def test_names_fit_where_there_is_hardly_room(tmp_path: Path) -> None:
    kept = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    assert run_script(NAMES, tmp_path, HERE, env=kept) == (0, "zflow: e/rep-0\n", "")


# -- plain scripts ---------------------------------------------------------------------------------

INSIDE = """
from zflow import Flow, Document, Executor, requests


class MyExec(Executor):

    @requests
    def foo(self, docs, **kwargs):
        print(f'inside: {docs.texts}')


f = (
    Flow()
    .add(uses=MyExec, replicas=2, polling='%s')
    .needs_all()
)

with f:
    r = f.post('/', Document(text='hello'))
    print(f'return: {r.texts}')
"""


@pytest.mark.parametrize("polling", ["ANY", "ALL"])
def test_the_example_of_replicas_and_polling(tmp_path: Path, polling: str) -> None:
    expected = (0, "inside: ['hello']\nreturn: ['hello']\n", "")
    assert run_script(INSIDE % polling, tmp_path) == expected


REPLICAS = """
from zflow import Flow

f = Flow().add(name='slow_encoder', replicas=3).add(name='fast_indexer')
"""
REAL = """
import time

from zflow import Document, Executor, Flow, requests


class Encoder(Executor):
    @requests
    def encode(self, docs, **kwargs):
        time.sleep(0.02)
        for doc in docs:
            doc.embedding = [float(len(doc.text))]
            doc.tags['by'] = self.runtime_args.name


class Indexer(Executor):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.found = {}

    @requests(on='/index')
    def index(self, docs, **kwargs):
        for doc in docs:
            self.found[doc.text] = doc.tags['by']

    @requests(on='/stats')
    def stats(self, **kwargs):
        return {'texts': len(self.found), 'encoders': sorted(set(self.found.values()))}


f = Flow().add(name='slow_encoder', uses=Encoder, replicas=3).add(name='fast_indexer', uses=Indexer)

with f:
    f.index((Document(text=str(number)) for number in range(60)), request_size=1)
    response = f.post('/stats', return_responses=True)[0]
    print(response.parameters['__results__']['fast_indexer/rep-0'])
"""


def test_the_example_of_replicas(tmp_path: Path) -> None:
    run = (
        "\nfrom zflow import Document\nwith f:\n    print(f.post('/', "
        "Document(text='hello')).texts)\n"
    )
    code, out, err = run_script(REPLICAS + run, tmp_path)
    assert (code, out) == (0, "['hello']\n")
    assert len(err.splitlines()) == 1, (
        "no Executor binds an endpoint here, which is worth a warning"
    )
    assert "'/'" in err
    encoders = ["slow_encoder/rep-0", "slow_encoder/rep-1", "slow_encoder/rep-2"]
    assert run_script(REAL, tmp_path) == (0, f"{ {'texts': 60, 'encoders': encoders} }\n", "")


SILENT = """
import os, sys
from zflow import Document, Executor, Flow, requests

class Writer(Executor):
    @requests
    def write(self, docs, **kwargs):
        print("goes nowhere")
        for number in range(1, 3):
            os.write(number, b"as a program does that knows nothing of Python")
        docs[0].text += "!"

with Flow().add(uses=Writer, replicas=2) as flow:
    for number in range(1, 3):
        os.write(number, b"more of that")
    found = [flow.post("/", Document(text="a")).texts for _ in range(4)]
with open(sys.argv[1], "w") as file:
    file.write(str(found))
"""


def test_a_script_without_standard_streams(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SILENT)
    command = f"exec {sys.executable} {tmp_path}/script.py {tmp_path}/found <&- >&- 2>&-"
    subprocess.run(["sh", "-c", command], check=True, timeout=PATIENCE)
    assert (tmp_path / "found").read_text() == str([["a!"]] * 4)
