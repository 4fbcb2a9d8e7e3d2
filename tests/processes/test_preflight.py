"""What is done about Executors before any process is started: checked without their code,
requirements installed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import Upper, few_descriptors

from zflow import Executor, Flow, errors, requests
from zflow.processes import preflight
from zflow.topology.topology import ExecutorSpec, Topology


class TakesAPath(Executor):
    """Takes one argument."""

    def __init__(self, path: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    @requests
    def work(self, **kwargs: Any) -> None:
        pass


def spec(name: str, uses: Any, **options: Any) -> ExecutorSpec:
    return ExecutorSpec(name=name, needs=("gateway",), uses=uses, **options)


def folder(path: Path, requirements: str | None = None) -> str:
    """The folder of an Executor that cannot be imported."""
    path.mkdir(parents=True)
    (path / "executor.py").write_text("raise SystemExit('this must not be imported')\n")
    if requirements is not None:
        (path / "requirements.txt").write_text(requirements)
    return str(path)


def test_without_descriptors_nothing_is_started_and_the_error_says_what_helps() -> None:
    with (
        few_descriptors(left=3),
        pytest.raises(errors.StartupFailed, match=r"^nothing can be started: Too many .*ulimit -n"),
    ):
        Flow().add(name="one").start()


# -- checked ---------------------------------------------------------------------------------------


def test_what_can_be_loaded_passes_and_nothing_of_it_is_imported(tmp_path: Path) -> None:
    place = folder(tmp_path / "place")
    file = Path(place) / "executor.py"
    before = set(sys.modules)
    uses = [
        TakesAPath,
        "TakesAPath",
        place,
        str(file),
        f"{file}:Encoder",
        "somewhere.unknown:Encoder",
    ]
    preflight.check(
        spec(f"e{number}", one, uses_with={"path": "/"}) for number, one in enumerate(uses)
    )
    assert set(sys.modules) == before


@pytest.mark.parametrize(
    ("uses", "options", "words"),
    [
        (TakesAPath, {}, ["requires 'path'", "uses_with="]),
        (Upper, {"uses_requests": {"/index": "uper"}}, ["uper", "upper"]),
        ("./nowhere", {}, ["./nowhere", "there is no folder"]),
        ("jinaai://user/Name", {}, ["jinaai://user/Name", "ZFLOW_HUB"]),
        (7, {}, ["7"]),
    ],
)
def test_what_is_wrong_is_found_and_says_whose_it_is(
    monkeypatch: pytest.MonkeyPatch, uses: Any, options: dict[str, Any], words: list[str]
) -> None:
    monkeypatch.delenv("ZFLOW_HUB", raising=False)
    with pytest.raises(errors.InvalidExecutor) as caught:
        preflight.check([spec("good", Upper), spec("bad", uses, **options)])
    assert all(word in str(caught.value) for word in [*words, "executor 'bad'"]), caught.value


def test_what_has_no_process_here_is_not_looked_at() -> None:
    preflight.check(
        [spec("far", "./nowhere", external=True), spec("join", "./nowhere", pure_join=True)]
    )


def test_the_hub_is_looked_for_where_the_executor_will_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder(tmp_path / "hub" / "user" / "Name")
    monkeypatch.setenv("ZFLOW_HUB", str(tmp_path / "nowhere"))
    uses = "jinaai://user/Name"
    preflight.check([spec("good", uses, env={"ZFLOW_HUB": str(tmp_path / "hub")})])
    with pytest.raises(errors.InvalidExecutor, match="nowhere"):
        preflight.check([spec("bad", uses)])


# -- installed -------------------------------------------------------------------------------------

ABSENT = "zt_nowhere\n"


@pytest.fixture(autouse=True)
def no_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever would be installed is an error."""
    monkeypatch.setitem(sys.modules, "pip", None)


def test_nothing_is_installed_for_who_does_not_ask_or_has_nothing_to_install(
    tmp_path: Path,
) -> None:
    lacking = folder(tmp_path / "lacking", ABSENT)
    preflight.install(
        [
            spec("off", lacking),
            spec("bare", folder(tmp_path / "bare"), install_requirements=True),
            spec("class", Upper, install_requirements=True),
            spec("none", None, install_requirements=True),
            spec("far", lacking, install_requirements=True, external=True),
            spec("join", lacking, install_requirements=True, pure_join=True),
        ]
    )


def test_what_is_there_needs_no_installing(tmp_path: Path) -> None:
    preflight.install(
        [spec("good", folder(tmp_path / "good", "msgpack\n"), install_requirements=True)]
    )


def test_executors_of_one_folder_are_named_together_when_their_requirements_are_to_be_installed(
    tmp_path: Path,
) -> None:
    place = folder(tmp_path / "lacking", ABSENT)
    (tmp_path / "link").symlink_to(place)
    topology = Topology()
    for name, uses in (("one", place), ("two", f"{place}/executor.py:Encoder"), ("three", "link")):
        topology.add({}, str(tmp_path), name=name, uses=uses, install_requirements=True)
    with pytest.raises(errors.StartupFailed) as caught:
        preflight.install(topology.specs)
    owners = "executor 'one' and executor 'two' and executor 'three'"
    words = (
        f"the requirements of {owners} ({place}/requirements.txt) cannot be installed: there "
        "is no pip in "
    )
    assert str(caught.value).startswith(words)
