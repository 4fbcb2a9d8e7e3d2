"""A plain script that shows zflow at work on whatever Python runs it; no test runner,
no `__main__` guard.

Two replicas over every kind of payload, an error from an Executor, YAML and the command line. Exits
non-zero, with a traceback, if anything is not as it should be.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np

import zflow
from zflow import Client, Document, DocumentArray, Executor, Flow, requests
from zflow.errors import ExecutorError


class Doubler(Executor):
    """Doubles tensors and upper-cases texts, or raises when told to."""

    @requests
    def double(self, docs: DocumentArray, parameters: dict[str, Any], **kwargs: Any) -> None:
        if parameters.get("fail"):
            raise LookupError("as told")
        for doc in docs:
            doc.text = doc.text.upper()
            doc.tags["by"] = self.runtime_args.name
            if doc.tensor is not None:
                doc.tensor = doc.tensor * 2


def check(condition: bool, what: str) -> None:
    """Fail the script if `condition` does not hold."""
    if not condition:
        raise SystemExit(f"smoke: {what} does not hold")


flow = Flow().add(name="doubler", uses=Doubler, replicas=2)
with flow:
    inputs = [
        Document(id=f"d{i}", text="text", tensor=np.full(3, i), tags={"n": i, "f": 1.5})
        for i in range(50)
    ]
    result = flow.post("/", inputs, request_size=1)
    check(
        [doc.id for doc in result] == [f"d{i}" for i in range(50)],
        "results come in the order of the inputs",
    )
    check(all(doc.text == "TEXT" for doc in result), "texts are changed")
    check(all((doc.tensor == 2 * i).all() for i, doc in enumerate(result)), "tensors are doubled")
    check(
        all(type(doc.tags["n"]) is int and type(doc.tags["f"]) is float for doc in result),
        "types are kept",
    )
    check(
        {doc.tags["by"] for doc in result} <= {"doubler/rep-0", "doubler/rep-1"},
        "replicas are named",
    )
    check(
        Client(host="localhost", port=flow.port).post("/", Document(text="a")).texts == ["A"],
        "a Client is answered",
    )
    try:
        flow.post("/", Document(text="b"), parameters={"fail": True})
        check(False, "an Executor's error is raised")
    except ExecutorError as error:
        check(
            "as told" in str(error) and "LookupError" in str(error),
            "the error has the remote traceback",
        )
    check(flow.post("/", Document(text="c")).texts == ["C"], "the Flow serves on after an error")

loaded = Flow.load_config(
    "jtype: Flow\nexecutors:\n- name: again\n  uses: Doubler\n  replicas: 2\n"
)
with loaded:
    check(loaded.post("/", Document(text="d")).texts == ["D"], "a Flow from YAML serves")

version = subprocess.run(
    [sys.executable, "-m", "zflow", "--version"], capture_output=True, text=True, check=True
)
check(zflow.__version__ in version.stdout, "the command line tells its version")
print(
    f"smoke: ok on Python {sys.version.split()[0]} with zflow {zflow.__version__}, numpy "
    f"{np.__version__}"
)
