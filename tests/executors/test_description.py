"""What a `uses` says: the class or its name, and the arguments that come with it."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest

from zflow.errors import InvalidExecutor, NotSupported
from zflow.executors.batching import Batching
from zflow.executors.description import Description, describe, module_list, place_of
from zflow.executors.executor import Executor
from zflow.executors.uses import load

FULL = """
    jtype: Mine
    with: {size: 3}
    metas: {name: x}
    requests: {/x: foo}
    py_modules: [a.py, b]
    uses_dynamic_batching:
      /x: {preferred_batch_size: 8, timeout: 20}
    """


class Described(Executor):
    def foo(self, docs: Any) -> None: ...


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return path


def refusal(uses: Any, folder: str | None = None, **environ: str) -> str:
    with pytest.raises(InvalidExecutor) as caught:
        describe(uses, folder, environ)
    return str(caught.value)


# -- what it is ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "uses", [None, Described, "Described", "module:Mine", "file.py", "file.py:Mine", "Nobody"]
)
def test_a_class_or_a_text_that_names_it_says_nothing_more(uses: Any, tmp_path: Path) -> None:
    assert describe(uses, str(tmp_path), {}) == Description(uses, str(tmp_path))
    assert describe(uses, None, {}) == Description(uses, None)


def test_nothing_is_imported(tmp_path: Path) -> None:
    write(tmp_path / "mine" / "executor.py", "raise AssertionError('this was run')")
    assert describe("mine/executor.py:Mine", str(tmp_path), {}).what == "mine/executor.py:Mine"
    assert describe("mine", str(tmp_path), {}).py_modules == ()


def test_yaml_text_and_files_and_dicts_say_the_same(tmp_path: Path) -> None:
    path, folder = write(tmp_path / "mine.yml", FULL), str(tmp_path)
    said = Description(
        "Mine",
        folder,
        {"size": 3},
        {"name": "x"},
        {"/x": "foo"},
        {"/x": Batching(8, 0.02)},
        ("a.py", "b"),
    )
    uses: dict[str, Any] = {
        "jtype": "Mine",
        "with": {"size": 3},
        "metas": {"name": "x"},
        "requests": {"/x": "foo"},
        "py_modules": ["a.py", "b"],
        "uses_dynamic_batching": {"/x": {"preferred_batch_size": 8, "timeout": 20}},
    }
    assert describe(uses, folder, {}) == said
    assert describe(textwrap.dedent(FULL), folder, {}) == said
    assert describe("mine.yml", folder, {}) == said
    assert describe(str(path), "/elsewhere", {}) == said


def test_a_file_is_what_its_paths_are_relative_to(tmp_path: Path) -> None:
    write(tmp_path / "deep" / "mine.yaml", "jtype: a.py:Mine")
    assert describe("deep/mine.yaml", str(tmp_path), {}).folder == str(tmp_path / "deep")
    assert describe("jtype: a.py:Mine", str(tmp_path), {}).folder == str(tmp_path)
    assert describe({"jtype": "a.py:Mine"}, None, {}).folder is None


def test_what_is_left_out_or_said_to_be_nothing_is_empty() -> None:
    said = Description("Mine", None)
    assert describe({"jtype": "Mine"}, None, {}) == said
    empty = "jtype: Mine\nwith:\nmetas:\nrequests:\npy_modules:\nuses_dynamic_batching:\n"
    assert describe(empty, None, {}) == said


def test_metas_may_name_the_modules_too(tmp_path: Path) -> None:
    uses = {
        "jtype": "Mine",
        "py_modules": "a.py",
        "metas": {"name": "x", "py_modules": ["b.py", "c"]},
    }
    described = describe(uses, None, {})
    assert described.py_modules == ("a.py", "b.py", "c")
    assert described.metas == {"name": "x"}
    assert describe({"jtype": "Mine", "metas": {"py_modules": None}}, None, {}).py_modules == ()


def test_the_users_dict_stays_what_it_is() -> None:
    uses: dict[str, Any] = {"jtype": "Mine", "with": {"a": 1}, "metas": {"py_modules": "b.py"}}
    described = describe(uses, None, {})
    assert uses == {"jtype": "Mine", "with": {"a": 1}, "metas": {"py_modules": "b.py"}}
    uses["with"]["a"] = 2
    assert described.uses_with == {"a": 1}


# -- folders ---------------------------------------------------------------------------------------


def test_a_folder_is_its_config_or_else_its_executor(tmp_path: Path) -> None:
    place = str(tmp_path / "mine")
    write(tmp_path / "mine" / "executor.py", "")
    assert describe("mine", str(tmp_path), {}) == Description("executor.py", place, place=place)
    write(tmp_path / "mine" / "config.yml", "jtype: Mine\nwith: {size: 3}")
    said = Description("Mine", place, {"size": 3}, py_modules=("executor.py",), place=place)
    for uses, folder in (
        ("mine", str(tmp_path)),
        ("./mine/", str(tmp_path)),
        (place, None),
        ("config.yml", place),
    ):
        assert describe(uses, folder, {}) == said
    write(tmp_path / "mine" / "config.yml", "jtype: Mine\npy_modules: other.py")
    assert describe("mine", str(tmp_path), {}).py_modules == ("other.py",)
    (tmp_path / "mine" / "executor.py").unlink()
    write(tmp_path / "mine" / "config.yml", "jtype: package:Mine")
    assert describe("mine", str(tmp_path), {}).py_modules == ()


def test_names_in_the_hub_are_folders(tmp_path: Path) -> None:
    write(tmp_path / "user" / "Name" / "executor.py", "")
    place = str(tmp_path / "user" / "Name")
    assert describe("jinaai://user/Name", "/elsewhere", {"ZFLOW_HUB": str(tmp_path)}).place == place
    assert "which is not set" in refusal("jinaai://user/Name")
    assert "there is no folder" in refusal("jinaai://user/Nobody", ZFLOW_HUB=str(tmp_path))
    with pytest.raises(NotSupported):
        describe("docker://user/Name", None, {})


def test_a_folder_that_is_not_there_is_an_error_and_a_bare_name_may_be_a_class(
    tmp_path: Path,
) -> None:
    assert (
        refusal("./nowhere", str(tmp_path))
        == f"uses='./nowhere': there is no folder {tmp_path}/nowhere"
    )
    assert describe("nowhere", str(tmp_path), {}).place is None


def test_a_class_that_is_defined_goes_before_a_folder_of_its_name(tmp_path: Path) -> None:
    write(tmp_path / "Described" / "executor.py", "")
    assert place_of("Described", str(tmp_path), {}) is None
    assert describe("Described", str(tmp_path), {}) == Description("Described", str(tmp_path))
    assert place_of("./Described", str(tmp_path), {}) == str(tmp_path / "Described")


def test_without_reading_only_the_folder_is_known(tmp_path: Path) -> None:
    place, folder = str(tmp_path / "mine"), str(tmp_path)
    write(tmp_path / "mine" / "config.yml", "jtype: [broken")
    assert describe("mine", folder, {}, reading=False) == Description("mine", folder, place=place)
    for uses in ("no_such.yml", "jtype: [broken", "Described"):
        assert describe(uses, folder, {}, reading=False) == Description(uses, folder)
    with pytest.raises(InvalidExecutor, match="there is no folder"):
        describe("./nowhere", folder, {}, reading=False)
    with pytest.raises(InvalidExecutor, match="unknown key 'wiht'"):
        describe({"jtype": "Described", "wiht": {}}, folder, {}, reading=False)


# -- what is malformed -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uses", "message"),
    [
        ({"jtype": "Known", "wiht": {}}, "uses: unknown key 'wiht'; did you mean 'with'?"),
        ({"with": {}}, "uses: jtype must name the Executor class, not None"),
        ({"jtype": "Known", "with": [1]}, "uses: with must map names to values, not [1]"),
        (
            {"jtype": "Known", "py_modules": 5},
            "py_modules must be a list of .py files or module names, not 5",
        ),
        ("jtype: Known\nwihth: 1", "YAML text:2: unknown key 'wihth'; did you mean 'with'?"),
        ("jtype: Known\nwith: [", "YAML text:2: not YAML: "),
        ("!Known\nwith: !It {}", "YAML text:2: the tag !It means nothing here; write jtype: It"),
        (
            "- Known\n- x",
            "YAML text:1: an Executor is described by a mapping with jtype, not ['Known', 'x']",
        ),
    ],
)
def test_what_is_no_executor_is_named(uses, message):
    with pytest.raises(InvalidExecutor) as caught:
        load(uses, owner="executor 'x'")
    assert str(caught.value).startswith(message)
    assert str(caught.value).endswith(" (executor 'x')")


@pytest.mark.parametrize(
    ("uses", "message"),
    [
        ({}, "uses: jtype must name the Executor class, not None"),
        ({"jtype": 5}, "uses: jtype must name the Executor class, not 5"),
        ({"jtype": "jtype: Mine"}, "uses: jtype must name the Executor class, not 'jtype: Mine'"),
        (
            {"jtype": "Mine", 1: 2},
            "uses: unknown key 1; known are 'jtype', 'with', 'metas', 'requests', 'py_modules', ",
        ),
        ({"jtype": "Mine", "metas": {1: 2}}, "uses: metas must map names to values, not {1: 2}"),
        ({"jtype": "Mine", "requests": "/x"}, "uses: requests must map names to values, not '/x'"),
        (
            {"jtype": "Mine", "py_modules": ["a.py", 5]},
            "py_modules must be a list of .py files or module names, not [",
        ),
        (
            {"jtype": "Mine", "uses_dynamic_batching": {"/x": 8}},
            "uses_dynamic_batching['/x'] must be a dict with preferred_batch_size",
        ),
    ],
    ids=repr,
)
def test_a_malformed_dict_is_named(uses: dict[Any, Any], message: str) -> None:
    assert refusal(uses).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("5", "mine.yml:1: an Executor is described by a mapping with jtype, not 5"),
        ("", "mine.yml:1: an Executor is described by a mapping with jtype, not None"),
        ("with:\n  a: 1", "mine.yml:1: jtype must name the Executor class, not None"),
        ("with:\n  a: 1\njtype:", "mine.yml:3: jtype must name the Executor class, not None"),
        ("jtype: Mine\n\nwith: 5", "mine.yml:3: with must map names to values, not 5"),
        ("jtype: Mine\nrequest: {}", "mine.yml:2: unknown key 'request'; did you mean 'requests'?"),
        (
            "jtype: Mine\nuses_dynamic_batching:\n  '': {preferred_batch_size: 2}",
            "uses_dynamic_batching goes by endpoints, which start with '/', not by '' (mine.yml:2)",
        ),
    ],
)
def test_a_malformed_file_is_named_with_its_line(text: str, message: str, tmp_path: Path) -> None:
    write(tmp_path / "mine.yml", text)
    assert refusal("mine.yml", str(tmp_path)) == message


@pytest.mark.parametrize("modules", [5, None, {"a.py": 1}, ["a.py", None], [["a.py"]], b"a.py"])
def test_modules_are_texts(modules: Any) -> None:
    with pytest.raises(
        InvalidExecutor, match=r"^py_modules must be a list of \.py files or module names, not "
    ):
        module_list(modules)


def test_one_module_or_several() -> None:
    assert module_list("a.py") == module_list(["a.py"]) == module_list(("a.py",)) == ("a.py",)
    assert module_list([]) == module_list(()) == ()
