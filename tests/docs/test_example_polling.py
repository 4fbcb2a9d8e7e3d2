"""The polling example: its output, which is the manual's table, and whom requests reach,
counted per shard.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from typing import Any

import pytest
from helpers import ROOT

from zflow import Document, Executor, Flow, requests

pytestmark = pytest.mark.slow

EXAMPLE = ROOT / "examples" / "polling"

TABLE = """\
           | polling='ALL'     | polling='ANY'
-----------+-------------------+------------------
replicas=2 | inside: ['hello'] | inside: ['hello']
           | return: ['hello'] | return: ['hello']
-----------+-------------------+------------------
shards=2   | inside: ['hello'] | inside: ['hello']
           | inside: ['hello'] | return: ['hello']
           | return: ['hello'] |
"""

ENDPOINTS = """\
/index   1 of 3 shards
/search  1 of 3 shards
/custom  3 of 3 shards
/other   1 of 3 shards
"""


def output(script: str, *arguments: str) -> str:
    """What a script of the example prints."""
    command = [sys.executable, str(EXAMPLE / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_table_is_that_of_the_manual() -> None:
    assert output("table.py") == TABLE


@pytest.mark.parametrize(
    ("scale", "polling", "inside"),
    [("replicas", "ALL", 1), ("replicas", "ANY", 1), ("shards", "ALL", 2), ("shards", "ANY", 1)],
)
def test_each_combination_prints_once_per_replica_that_is_asked(
    scale: str, polling: str, inside: int
) -> None:
    assert (
        output("hello.py", scale, polling) == "inside: ['hello']\n" * inside + "return: ['hello']\n"
    )


def test_the_endpoints_script_prints_how_many_shards_were_asked() -> None:
    assert output("endpoints.py") == ENDPOINTS


class Asked(Executor):
    """Tells which shard was asked."""

    @requests
    def answer(self, **kwargs: Any) -> dict[str, int]:
        return {"shard": self.runtime_args.shard_id}


@pytest.mark.parametrize(
    ("polling", "all_of"),
    [
        ({"/custom": "ALL", "/search": "ANY", "*": "ANY"}, {"/custom"}),
        ("ANY", {"/search"}),
        ("all", {"/search", "/custom", "/other"}),
        ({"*": "ALL", "/other": "any"}, {"/search", "/custom"}),
    ],
)
def test_polling_decides_by_endpoint_how_many_shards_are_asked(
    polling: Any, all_of: set[str]
) -> None:
    with Flow().add(name="sharded", uses=Asked, shards=3, polling=polling) as flow:
        for endpoint in ("/index", "/search", "/custom", "/other"):
            docs = [Document() for _ in range(30)]
            responses = flow.post(endpoint, docs, request_size=1, return_responses=True)
            asked = [list(response.parameters["__results__"].values()) for response in responses]
            shards = Counter(result["shard"] for results in asked for result in results)
            assert [len(results) for results in asked] == [3 if endpoint in all_of else 1] * 30, (
                endpoint
            )
            assert sum(shards.values()) == (90 if endpoint in all_of else 30), endpoint
            if endpoint in all_of:
                assert shards == {0: 30, 1: 30, 2: 30}, endpoint
