"""Users' files and modules are imported, each once, whatever name they go by."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from helpers import ROOT, run_script

from zflow.errors import InvalidExecutor
from zflow.executors.executor import BaseExecutor
from zflow.executors.modules import import_all, import_file, import_in, import_module, path_of
from zflow.executors.uses import load


@pytest.fixture(autouse=True)
def no_traces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test imports from its own files is forgotten after it."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(f"{tmp_path}{os.sep}"):
            del sys.modules[name]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with an executor.py, which leaves no traces in this process."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    write(tmp_path / "beside.py", "ANSWER = 42")
    write(
        tmp_path / "executor.py",
        """
        from zflow.executors.executor import Executor, requests
        import beside

        class FromFile(Executor):
            def __init__(self, size=1, **kwargs):
                self.size = size

            @requests
            def foo(self, docs): return beside.ANSWER

            def bar(self, docs): ...
        """,
    )
    return tmp_path


def write(path, text):
    path.write_text(textwrap.dedent(text))
    return path


def counting(path: Path) -> Path:
    """A file that leaves a line each time it is run."""
    trace = path.with_suffix(".runs")
    return write(path, f"with open({str(trace)!r}, 'a') as file: file.write('x')")


def runs(path: Path) -> int:
    return len(path.with_suffix(".runs").read_text())


# -- through uses ----------------------------------------------------------------------------------


def test_files_are_loaded_once_however_they_are_spelled(folder, monkeypatch):
    cls = load("executor.py:FromFile", folder=str(folder)).cls
    assert cls.__name__ == "FromFile"
    assert cls().foo(docs=None) == 42
    assert load(f"{folder}/./executor.py").cls is cls
    assert load(folder / "executor.py").cls is cls
    monkeypatch.chdir(folder)
    assert load("executor.py").cls is cls
    assert load("FromFile", py_modules=["executor.py"]).cls is cls


def test_a_file_that_is_imported_already_is_not_run_again(folder, monkeypatch):
    write(
        folder / "once_only.py",
        "from zflow.executors.executor import Executor\nclass Once(Executor): ...",
    )
    monkeypatch.syspath_prepend(folder)
    import once_only

    assert load("once_only.py:Once", folder=str(folder)).cls is once_only.Once


def test_the_running_script_is_not_run_again(tmp_path):
    script = write(
        tmp_path / "script.py",
        """
        print("running")
        from zflow.executors.executor import Executor
        from zflow.executors.uses import load

        class Mine(Executor): ...

        assert load(__file__ + ":Mine").cls is Mine
        assert load("Mine").cls is Mine
        """,
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, script], env=env, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "running\n"


def test_modules_are_looked_for_beside_the_folder_too(folder):
    write(
        folder / "zflow_test_module.py",
        "from zflow.executors.executor import Executor\nclass Inner(Executor): ...",
    )
    assert load("zflow_test_module:Inner", folder=str(folder)).cls.__name__ == "Inner"
    assert load("zflow:BaseExecutor").cls is BaseExecutor


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "import no_such_package",
            "importing 'broken.py' failed: ModuleNotFoundError: No module named 'no_such_package'",
        ),
        ("def (", "importing 'broken.py' failed: SyntaxError"),
        ("raise SystemExit(3)", "importing 'broken.py' failed: SystemExit: 3"),
    ],
)
def test_a_file_that_cannot_be_imported_says_why_and_can_be_tried_again(tmp_path, code, message):
    path = write(tmp_path / "broken.py", code)
    with pytest.raises(InvalidExecutor) as caught:
        load("broken.py", folder=str(tmp_path), owner="executor 'x'")
    assert str(caught.value).startswith(message)
    assert caught.value.__cause__ is not None
    write(path, "from zflow.executors.executor import Executor\nclass Mended(Executor): ...")
    assert load("broken.py", folder=str(tmp_path)).cls.__name__ == "Mended"


# -- lone files ------------------------------------------------------------------------------------


def test_a_file_is_run_once_however_it_is_spelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = counting(tmp_path / "counted.py")
    (tmp_path / "link.py").symlink_to(path)
    module = import_file(str(path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for spelled in (
        "counted.py",
        "./counted.py",
        "~/counted.py",
        "link.py",
        f"{tmp_path}/../{tmp_path.name}/link.py",
    ):
        assert import_file(spelled) is module
    assert import_file("counted.py", str(tmp_path)) is module
    assert runs(path) == 1


def test_files_of_one_name_in_different_folders_are_different_modules(tmp_path: Path) -> None:
    found = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "same.py", f"NAME = {name!r}")
        found.append(import_file("same.py", str(tmp_path / name)))
    assert [module.NAME for module in found] == ["a", "b"]
    assert len({module.__name__ for module in found}) == 2
    assert "same" not in sys.modules


def test_a_lone_file_hides_nothing_that_is_installed(tmp_path: Path) -> None:
    write(tmp_path / "json.py", "raise AssertionError('run in place of what belongs to Python')")
    write(tmp_path / "user.py", "import json; NAME = json.dumps('x')")
    assert import_file("user.py", str(tmp_path)).NAME == '"x"'
    assert sys.path[-1] == str(tmp_path)


def test_the_folder_is_on_the_path_once(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / f"{name}.py", "")
        import_file(f"{name}.py", str(tmp_path))
    assert sys.path.count(str(tmp_path)) == 1


def test_a_module_that_is_imported_by_name_is_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = counting(tmp_path / "zflow_test_by_name.py")
    monkeypatch.syspath_prepend(tmp_path)
    module = import_module("zflow_test_by_name", None)
    assert import_file(str(path)) is module
    assert runs(path) == 1
    assert path_of(module) is None


def test_the_path_of_a_file_is_known_and_leads_to_it_again(tmp_path: Path) -> None:
    module = import_file(str(write(tmp_path / "known.py", "")))
    assert path_of(module) == os.path.realpath(tmp_path / "known.py")
    assert path_of(ModuleType("other")) is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.py", "there is no file 'nowhere.py' (looked for "),
        (".py", "there is no file '.py' (looked for "),
        (
            "no_such_module_anywhere",
            "importing 'no_such_module_anywhere' failed: ModuleNotFoundError: No module named",
        ),
        ("a module", "'a module' is neither a .py file nor the name of a module"),
        ("a/b", "'a/b' is neither a .py file nor the name of a module"),
        (".relative", "'.relative' is neither a .py file nor the name of a module"),
        ("", "'' is neither a .py file nor the name of a module"),
        ("os.", "'os.' is neither a .py file nor the name of a module"),
    ],
)
def test_what_is_not_there_is_named(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(InvalidExecutor) as caught:
        import_all([name], str(tmp_path))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("error", ["KeyError('why')", "SystemExit(3)", "ZeroDivisionError"])
def test_what_a_file_or_module_raises_is_the_cause(tmp_path: Path, error: str) -> None:
    write(tmp_path / "zflow_test_raises.py", f"raise {error}")
    for name in ("zflow_test_raises.py", "zflow_test_raises"):
        with pytest.raises(
            InvalidExecutor, match=f"^importing '{name}' failed: {error.split('(')[0]}: "
        ) as caught:
            import_all([name], str(tmp_path))
        assert type(caught.value.__cause__).__name__ == error.split("(")[0]


def test_a_keyboard_interrupt_is_no_failed_import(tmp_path: Path) -> None:
    write(tmp_path / "stopped.py", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        import_file("stopped.py", str(tmp_path))


def test_several_are_imported_in_the_order_given(tmp_path: Path) -> None:
    write(tmp_path / "first.py", "import builtins; builtins.zflow_test_order = ['first']")
    write(
        tmp_path / "zflow_test_second.py",
        "import builtins; builtins.zflow_test_order.append('second')",
    )
    found = import_all(["first.py", "zflow_test_second", "json"], str(tmp_path))
    import builtins

    assert vars(builtins).pop("zflow_test_order") == ["first", "second"]
    assert [module.__name__ for module in found[1:]] == ["zflow_test_second", "json"]


# -- an Executor's folder --------------------------------------------------------------------------


def folder_of(place: Path, **files: str) -> str:
    """A folder with these files; `pack__inner` is `inner.py` in the package `pack`."""
    for name, text in files.items():
        path = place.joinpath(*name.split("__")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.parent != place:
            (path.parent / "__init__.py").touch()
        write(path, text)
    return str(place)


def test_in_a_folder_files_go_by_their_plain_names_and_come_first(tmp_path: Path) -> None:
    place = folder_of(
        tmp_path / "one",
        zt_main="import zt_helper\nfrom zt_pack import inner",
        zt_helper="",
        zt_pack__inner="",
    )
    (module,) = import_in(place, ["zt_main.py"])
    assert module is sys.modules["zt_main"]
    assert module.zt_helper is sys.modules["zt_helper"]
    assert module.inner is sys.modules["zt_pack.inner"]
    assert sys.path[0] == place
    assert path_of(module) == os.path.realpath(tmp_path / "one" / "zt_main.py")
    assert import_in(place, ["zt_main.py", "zt_pack/inner.py", "zt_helper"]) == [
        module,
        module.inner,
        module.zt_helper,
    ]


def test_two_folders_may_have_files_of_the_same_names(tmp_path: Path) -> None:
    source = "import zt_helper\ndef name(): return zt_helper.NAME"
    folders = [
        folder_of(tmp_path / name, zt_main=source, zt_helper=f"NAME = {name!r}") for name in "ab"
    ]
    first, second = (import_in(place, ["zt_main.py"])[0] for place in folders)
    assert (first.name(), second.name()) == ("a", "b")
    assert sys.modules["zt_main"] is second
    assert import_in(folders[0], ["zt_main.py"]) == [first]
    assert sys.path[0] == folders[0]


def test_a_file_named_like_a_module_of_python_hides_nothing(tmp_path: Path) -> None:
    import json

    place = folder_of(tmp_path / "one", json="NAME = 'mine'", zt_main="import json")
    mine, main = import_in(place, ["json.py", "zt_main.py"])
    assert mine.NAME == "mine"
    assert sys.modules["json"] is main.json is json


def test_a_file_with_a_name_that_python_cannot_import_is_imported_too(tmp_path: Path) -> None:
    place = tmp_path / "one"
    place.mkdir()
    write(place / "my-file.py", "NAME = __name__")
    (module,) = import_in(str(place), ["my-file.py"])
    assert import_in(str(place), ["my-file.py"]) == [module]
    assert module.NAME == module.__name__ != "my-file"


def test_a_file_of_another_folder_is_imported_under_a_name_of_its_own(tmp_path: Path) -> None:
    place = folder_of(tmp_path / "one", zt_main="")
    write(tmp_path / "zt_outside.py", "")
    (module,) = import_in(place, ["../zt_outside.py"])
    assert "zt_outside" not in sys.modules
    assert import_file(str(tmp_path / "zt_outside.py")) is module


def test_what_is_not_in_a_folder_is_named(tmp_path: Path) -> None:
    place = folder_of(tmp_path / "one", zt_broken="import no_such_package_anywhere")
    with pytest.raises(
        InvalidExecutor, match=r"^there is no file 'other.py' \(looked for .*/one/other.py\)$"
    ):
        import_in(place, ["other.py"])
    with pytest.raises(
        InvalidExecutor, match=r"^importing '.*/one/zt_broken.py' failed: ModuleNotFoundError"
    ) as caught:
        import_in(place, ["zt_broken.py"])
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_an_executors_folder_may_be_that_of_the_running_script(tmp_path: Path) -> None:
    script = """
        import sys
        print("running")
        from zflow.executors.modules import import_file, import_in
        main = sys.modules["__main__"]
        print(import_file(__file__) is main, import_in(sys.path[0], ["script.py"]) == [main])
        """
    status, out, err = run_script(
        textwrap.dedent(script), tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert (status, out, err) == (0, "running\nTrue True\n", "")
