"""Those who come from Jina find their examples as they know them, or in a table why not.

The examples are in `from_jina.md`; the table is in docs/from-jina.md.
"""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pages
import pytest

PAGE = pages.ROOT / "docs" / "from-jina.md"
EXAMPLES = Path(__file__).with_name("from_jina.md")


@dataclass(frozen=True)
class Row:
    """A row of the table: what Jina does, what zflow does, and why."""

    jina: str
    zflow: str
    why: str


def rows(text: str) -> list[Row]:
    """The rows of the table under the heading "What differs, and why", in their order."""
    _, _, section = text.partition("\n## What differs, and why\n")
    section = section.split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]
    return [Row(*row) for row in cells]


TABLE = rows(PAGE.read_text(encoding="utf-8"))


def said(words: str) -> list[Row]:
    """The rows that say these words of Jina."""
    return [row for row in TABLE if words in row.jina]


@dataclass(frozen=True)
class Example:
    """An example, and the rows that say why it ends otherwise than in Jina."""

    block: pages.Block
    differs: tuple[str, ...]


def examples() -> Iterator[Example]:
    # Several comments of one name may stand before a block, of which `pages` keeps the last.
    lines = EXAMPLES.read_text(encoding="utf-8").splitlines()
    for block in pages.read(EXAMPLES):
        differs = []
        at = block.line - 2
        while lines[at].startswith("<!-- "):
            differs += re.findall(r"<!-- differs: (.*) -->", lines[at])
            at -= 1
        yield Example(block, tuple(differs))


ALL = list(examples())

# Rows that no few lines can show, and the tests that hold them.
ELSEWHERE = {
    "replicas get requests in turn": "devices/balancing/test_balancer.py",
    "a replica that dies stays dead": "flows/test_reliability.py",
    "children of a killed process": "processes/test_watchdog.py",
    "a gateway process": "clients/test_client.py",
    "a value in `env:`": "topology/test_config.py",
    "a relative `workspace`": "executors/test_executor.py",
    "two endpoints": "test_endpoints.py",
    "any key with `__`": "replicas/test_parameters.py",
    "parameters for an external": "flows/test_external.py",
    "only `**kwargs` takes": "executors/test_constructors.py",
    "loses the others'": "documents/test_merging.py",
    "the result is that of the last": "flows/test_graph.py",
    "downloads from the Hub": "executors/test_hub.py",
    "install_requirements": "executors/test_requirements.py",
    "a batch waits until it is full": "flows/test_batches.py",
    "one bad request fails all": "flows/test_batches.py",
    "a batch may be larger": "flows/test_batches.py",
    "a head process": "flows/test_shards.py",
    "`retries` counts calls": "flows/test_reliability.py",
    "RR python flow.py": "system/test_cuda.py",
    "GPUs are dealt out anew": "system/test_cuda.py",
    "`RR` without a GPU": "system/test_cuda.py",
    "external Executors share requests": "flows/test_external.py",
    "`max_backoff`": "clients/test_retrying.py",
}


def test_a_table_is_read_row_by_row() -> None:
    text = (
        "| a | b |\n\n## What differs, and why\n\nwords\n\n"
        "| in Jina | here | why |\n| - | - | - |\n"
        "| one | two `a\\|b` | three |\n| x | y | z |\n\n## Next\n\n| 1 | 2 | 3 |\n"
    )
    assert rows(text) == [Row("one", r"two `a\|b`", "three"), Row("x", "y", "z")]


def test_each_row_says_what_and_why_once() -> None:
    assert TABLE
    for row in TABLE:
        assert row.jina
        assert row.zflow
        assert row.why
    told = [row.jina for row in TABLE]
    assert len(set(told)) == len(told)


def test_each_row_is_shown_by_an_example_or_held_by_a_test() -> None:
    shown = [words for example in ALL for words in example.differs]
    open_rows = [row for row in TABLE if not any(w in row.jina for w in (*shown, *ELSEWHERE))]
    assert open_rows == [], "give each an example in from_jina.md, or name its test in ELSEWHERE"
    missing = {name for name in ELSEWHERE.values() if not (pages.ROOT / "tests" / name).exists()}
    assert missing == set()


@pytest.mark.parametrize("example", ALL, ids=lambda example: f"line-{example.block.line}")
def test_an_example_runs_with_only_the_import_changed(
    example: Example,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    run(example.block, tmp_path, monkeypatch, capfd)
    for words in example.differs:
        assert len(said(words)) == 1, f"one row of the table says {words!r}"


def run(
    block: pages.Block,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Run a block with another import, and compare what is printed with what is promised."""
    code = re.sub(r"^from jina import", "from zflow import", block.code, flags=re.MULTILINE)
    monkeypatch.chdir(folder)
    module = types.ModuleType(f"from_jina_{block.line}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(code, str(block), "exec"), module.__dict__)
    printed = capfd.readouterr().out
    if not pages.matches(block.output or "", printed):
        raise pages.BlockFailed(f"{block} should print\n{block.output}\nbut printed\n{printed}")
