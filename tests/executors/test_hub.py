"""Executors in folders of their own, in the Hub's format and in ZFLOW_HUB,
and those that packages bring along.
"""

import os
import sys
import textwrap

import pytest
from helpers import ROOT, run_script

from zflow import Document, DocumentArray, Flow
from zflow.errors import InvalidExecutor, NotSupported, StartupFailed
from zflow.executors import hub
from zflow.executors.executor import Executor
from zflow.executors.uses import home, load
from zflow.system import process

SAY = """
    from zflow import Executor, requests
    {imports}

    class {name}(Executor):
        def __init__(self, size=1, **kwargs):
            super().__init__(**kwargs)
            self.size = size

        @requests
        def say(self, docs, **kwargs):
            docs.texts = [f"{{self.runtime_args.name}}: {{{said}}}" for _ in docs]
    """


@pytest.fixture(autouse=True)
def no_traces(monkeypatch):
    """Folders that a test loads are forgotten after it."""
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("ZFLOW_HUB", raising=False)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(path, text=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return path


def executor(folder, name="Encoder", said="self.size", imports="", config=None):
    """Write an Executor's folder."""
    write(
        folder / "executor.py", textwrap.dedent(SAY).format(name=name, said=said, imports=imports)
    )
    if config is not None:
        write(folder / "config.yml", config)
    return folder


# -- which folder ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uses", "names"),
    [
        ("jinaai://jina-ai/CLIPEncoder", ["jina-ai", "CLIPEncoder"]),
        ("jinahub://jina-ai/CLIPEncoder", ["jina-ai", "CLIPEncoder"]),
        ("JinaHub://a/B.c_1/", ["a", "B.c_1"]),
        ("jinaai://a/B/latest", ["a", "B"]),
        ("jinaai://a/B:latest", ["a", "B"]),
        ("jinahub://CLIPEncoder", ["CLIPEncoder"]),
        ("jinahub://CLIPEncoder/latest", ["CLIPEncoder"]),
    ],
)
def test_a_name_in_the_hub_is_a_folder_in_a_folder(uses, names):
    assert hub.names_in_hub(uses) == names


@pytest.mark.parametrize(
    ("uses", "error", "message"),
    [
        ("jinaai://", InvalidExecutor, "uses='jinaai://' names no Executor: write "
                                       "'jinaai://user/Name'"),
        ("jinaai://../x", InvalidExecutor, "uses='jinaai://../x' names no Executor"),
        ("jinaai://a/../b", InvalidExecutor, "uses='jinaai://a/../b' names no Executor"),
        ("jinaai://a/b/c/d", InvalidExecutor, "uses='jinaai://a/b/c/d' names no Executor"),
        ("jinaai://a/B:v1", NotSupported, "uses='jinaai://a/B:v1': tags are not supported, as the "
                                          "folder a/B holds one "
         "version only: say uses='jinaai://a/B'"),
        ("jinahub://a/B/v1-gpu", NotSupported, "uses='jinahub://a/B/v1-gpu': tags are not "
                                               "supported"),
        ("jinahub://B:secret/v1", NotSupported, "uses='jinahub://B:secret/v1': tags are not "
                                                "supported"),
        ("docker://image", NotSupported, "uses='docker://image': containers are not supported: "
                                         "name the folder of the "
         "Executor's source, such as uses='./MyExec'"),
        ("jinahub+docker://a/B", NotSupported, "uses='jinahub+docker://a/B': containers and "
                                               "sandboxes are not "
         "supported: say uses='jinahub://user/Name', with the Executor's source in the folder that "
         "ZFLOW_HUB names"),
        ("jinaai+sandbox://a/B", NotSupported, "uses='jinaai+sandbox://a/B': containers and "
                                               "sandboxes are not "
         "supported: say uses='jinaai://user/Name'"),
        ("grpc://x:1", NotSupported, "uses='grpc://x:1': grpc:// is not supported: name the "
                                     "folder"),
    ],
)  # fmt: skip
def test_what_cannot_be_looked_up_is_refused_when_it_is_said(uses, error, message):
    with pytest.raises(error) as caught:
        Flow().add(name="encoder", uses=uses)
    assert str(caught.value).startswith(message)
    assert str(caught.value).endswith(" (executor 'encoder')")


def test_the_home_of_an_executor_is_its_folder_or_that_of_its_file(tmp_path):
    here = str(executor(tmp_path / "user" / "Name").parent)
    environ = {"ZFLOW_HUB": str(tmp_path)}
    for uses in (
        "Name",
        "./Name/",
        "Name/executor.py",
        "Name/executor.py:Encoder",
        "Name/any.yaml",
    ):
        assert home(uses, here, {}) == f"{here}/Name", uses
    assert home("jinaai://user/Name", None, environ) == f"{here}/Name"
    for uses in ("Other", "module:Class", "jtype: Mine", None, Executor, {"jtype": "Mine"}):
        assert home(uses, here, environ) is None, uses


def test_what_is_not_in_the_hub_says_how_to_put_it_there(tmp_path, monkeypatch):
    with pytest.raises(InvalidExecutor) as unset:
        load("jinaai://user/Name")
    assert (
        "looked up in the folder that ZFLOW_HUB names, which is not set. Nothing is downloaded"
        in str(unset.value)
    )
    assert "into a folder such as ~/hub/user/Name and export ZFLOW_HUB=~/hub" in str(unset.value)
    monkeypatch.setenv("ZFLOW_HUB", str(tmp_path))
    with pytest.raises(InvalidExecutor) as missing:
        load("jinaai://user/Name")
    assert (
        f"there is no folder {tmp_path}/user/Name. Nothing is downloaded: put the Executor's"
        in str(missing.value)
    )
    (tmp_path / "user" / "Name").mkdir(parents=True)
    with pytest.raises(
        InvalidExecutor, match=r"/user/Name holds neither config.yml nor executor.py"
    ):
        load("jinaai://user/Name")
    executor(tmp_path / "user" / "Name")
    with pytest.raises(
        InvalidExecutor, match=r"there is no folder .*/user/Nmae; did you mean 'Name'\?"
    ):
        load("jinaai://user/Nmae")


# -- loading a folder ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        "jtype: Encoder\nwith: {size: 2}\nmetas: {name: x, py_modules: [executor.py]}\nrequests: "
        "{/x: say}",
        "jtype: Encoder\nwith: {size: 2}\nmetas: {name: x}\nrequests: {/x: say}\npy_modules:\n- "
        "executor.py",
        "jtype: Encoder\nwith: {size: 2}\nmetas: {name: x}\nrequests: {/x: say}",
        "jtype: executor.py:Encoder\nwith: {size: 2}\nmetas: {name: x}\nrequests: {/x: say}",
        "jtype: executor:Encoder\nwith: {size: 2}\nmetas: {name: x}\nrequests: {/x: "
        "say}\npy_modules: executor",
    ],
)
def test_a_folder_is_described_by_its_config(tmp_path, config):
    folder = executor(tmp_path / "encoder", config=config)
    loaded = load("encoder", folder=str(tmp_path), uses_with={"workspace": "w"})
    assert loaded.cls.__name__ == "Encoder"
    assert (loaded.uses_with, loaded.metas) == ({"size": 2, "workspace": "w"}, {"name": "x"})
    assert loaded.requests == {"/x": "say"}
    assert load(folder).cls is loaded.cls
    assert load(f"{folder}/config.yml") == load(f"{folder}/") == load(folder)


def test_without_a_config_the_only_executor_of_a_folder_is_meant(tmp_path):
    folder = executor(tmp_path)
    assert load(folder).cls.__name__ == "Encoder"
    write(
        folder / "executor.py",
        "from zflow import Executor\nclass A(Executor): ...\nclass B(Executor): ...",
    )
    other = tmp_path / "other"
    (folder / "executor.py").rename(write(other / "executor.py"))
    with pytest.raises(
        InvalidExecutor,
        match=r"other/executor.py' holds several Executors \('A', 'B'\): choose one",
    ):
        load(other)


def test_a_package_may_be_the_module(tmp_path):
    write(
        tmp_path / "config.yml", "jtype: Encoder\nmetas:\n  py_modules:\n  - executor/__init__.py"
    )
    write(tmp_path / "executor" / "__init__.py", "from .encoder import Encoder")
    executor(tmp_path / "made", said="size()", imports="from .sizes import size")
    (tmp_path / "made" / "executor.py").rename(tmp_path / "executor" / "encoder.py")
    write(tmp_path / "executor" / "sizes.py", "def size(): return 3")
    cls = load(tmp_path).cls
    assert cls.__module__ == "executor.encoder"
    assert load(tmp_path).cls is cls


def test_folders_with_the_same_names_inside_do_not_collide(tmp_path):
    for which in ("a", "b"):
        write(tmp_path / which / "helper.py", f"WHICH = {which!r}")
        executor(
            tmp_path / which, said="helper.WHICH", imports="import helper", config="jtype: Encoder"
        )
    first, second = load(tmp_path / "a").cls, load(tmp_path / "b").cls
    assert first is not second
    for cls, which in ((first, "a"), (second, "b"), (load(tmp_path / "a").cls, "a")):
        docs = DocumentArray([Document()])
        cls().say(docs)
        assert docs.texts == [f"Encoder: {which}"]


def test_a_folder_comes_before_the_programs_own_modules(tmp_path):
    executor(
        tmp_path / "encoder",
        said="__import__('helper').WHICH",
        imports="import helper; assert helper.WHICH",
    )
    write(tmp_path / "encoder" / "helper.py", "WHICH = 'of the folder'")
    write(tmp_path / "helper.py", "WHICH = 'of the program'")
    script = """
        import helper
        from zflow import Document, Flow
        with Flow().add(uses='encoder') as flow:
            print(flow.post('/', Document())[0].text)
        print(helper.WHICH)
        """
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    status, out, err = run_script(textwrap.dedent(script), tmp_path, cwd=tmp_path, env=env)
    assert (status, out) == (0, "executor0/rep-0: of the folder\nof the program\n"), err


def test_modules_of_python_itself_stay(tmp_path):
    import queue

    config = "jtype: Encoder\npy_modules: [executor.py, queue.py]"
    executor(tmp_path, imports="import queue; assert queue.Queue", config=config)
    write(tmp_path / "queue.py", "OWN = True")
    load(tmp_path)
    assert sys.modules["queue"] is queue


@pytest.mark.parametrize(
    ("config", "code", "message"),
    [
        ("jtype: Encodr", "", "config.yml: jtype names 'Encodr', which is in none of its "
                              "py_modules ('executor.py'); "
         "did you mean 'Encoder'?"),
        ("jtype: BaseExecutor", "", "config.yml: jtype names 'BaseExecutor', which is in none of "
                                    "its py_modules"),
        ("jtype: Other", "class Other: ...", "is <class 'executor.Other'>, not an Executor: derive "
                                             "the class from"),
        ("jtype: Encoder\npy_modules: [gone.py]", "", "there is no file 'gone.py' (looked for "),
        ("with: {}", "", "config.yml:1: jtype must name the Executor class, not None"),
        ("jtype: Encoder\nwiht: {}", "", "config.yml:2: unknown key 'wiht'; did you mean 'with'?"),
        (None, "1 / 0", "executor.py' failed: ZeroDivisionError: division by zero"),
        (None, "import docarray_", "executor.py' failed: ModuleNotFoundError: No module named "
                                   "'docarray_'; install "),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_folder_is_named(tmp_path, config, code, message):
    folder = executor(tmp_path / "broken", config=config)
    with open(folder / "executor.py", "a", encoding="utf-8") as file:
        file.write(code)
    with pytest.raises(InvalidExecutor) as caught:
        load(folder, owner="executor 'x'")
    assert message in str(caught.value)
    assert str(caught.value).endswith("(executor 'x')")


# -- installed Executors ---------------------------------------------------------------------------


def install(folder, package, entry_points):
    """Lay down what pip would have: a module, and its metadata."""
    write(
        folder / f"{package}.py",
        textwrap.dedent(SAY).format(name="Installed", said="self.size", imports=""),
    )
    info = folder / f"{package}-1.0.dist-info"
    write(info / "METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    write(info / "entry_points.txt", f"[zflow.executors]\n{entry_points}")


def test_an_installed_executor_is_found_by_its_name(tmp_path, monkeypatch):
    install(tmp_path, "zt_installed", "my-encoder = zt_installed:Installed")
    monkeypatch.syspath_prepend(tmp_path)
    loaded = load("my-encoder", uses_with={"size": 2})
    assert loaded.cls.__name__ == "Installed"
    with Flow().add(uses="my-encoder", uses_with={"size": 2}) as flow:
        assert flow.post("/", Document())[0].text == "executor0/rep-0: 2"
    with pytest.raises(
        InvalidExecutor, match=r"uses='my-encodr' names no .*; did you mean 'my-encoder'\?"
    ):
        load("my-encodr")


def test_installed_executors_that_cannot_be_meant(tmp_path, monkeypatch):
    install(
        tmp_path,
        "zt_one",
        "twice = zt_one:Installed\nno-class = zt_one:requests\ngone = zt_one_:Installed",
    )
    install(tmp_path, "zt_two", "twice = zt_two:Installed")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        InvalidExecutor,
        match=r"names Executors of several packages \('zt_one', 'zt_two'\): say uses=",
    ):
        load("twice")
    with pytest.raises(
        InvalidExecutor,
        match=r"uses='no-class' is <function .* not an Executor: .*'zflow.executors'",
    ):
        load("no-class")
    with pytest.raises(
        InvalidExecutor, match=r"importing 'zt_one_:Installed' failed: ModuleNotFoundError"
    ):
        load("gone")


# -- in a Flow -------------------------------------------------------------------------------------


def test_a_flow_finds_folders_beside_its_yaml_and_in_the_hub(tmp_path, monkeypatch):
    executor(tmp_path / "here" / "beside", said="'beside'")
    executor(
        tmp_path / "hub" / "user" / "Name",
        said="self.size",
        config="jtype: Encoder\nwith: {size: 5}",
    )
    text = (
        "jtype: Flow\nexecutors:\n- uses: beside\n- uses: jinaai://user/Name\n  replicas: 2\n  "
        "needs: gateway\n"
    )
    path = write(tmp_path / "here" / "flow.yaml", text)
    monkeypatch.setenv("ZFLOW_HUB", str(tmp_path / "hub"))
    Flow.load_config(path).save_config(tmp_path / "moved.yaml")
    for source in (path, tmp_path / "moved.yaml"):
        with Flow.load_config(source) as flow:
            assert (
                flow.post("/", Document(), target_executor="executor0")[0].text
                == "executor0/rep-0: beside"
            )
            docs = flow.post(
                "/", [Document() for _ in range(8)], request_size=1, target_executor="executor1"
            )
    assert set(docs.texts) == {"executor1/rep-0: 5", "executor1/rep-1: 5"}


def test_zflow_hub_may_stand_in_env(tmp_path):
    executor(tmp_path / "user" / "Name")
    with Flow().add(uses="jinaai://user/Name", env={"ZFLOW_HUB": tmp_path.as_posix()}) as flow:
        assert flow.post("/", Document())[0].text == "executor0/rep-0: 1"


class Strict(Executor):
    def __init__(self, model):
        pass


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (
            {"uses": Strict, "uses_with": {"modle": 1}},
            "uses_with gives 'modle', which Strict.__init__ does not take",
        ),
        (
            {"uses": "Strict", "uses_with": {"model": 1, "x": 2}},
            "uses_with gives 'x', which Strict.__init__ does not",
        ),
        (
            {"uses": "jinaai://user/Name"},
            "is looked up in the folder that ZFLOW_HUB names, which is not set",
        ),
        ({"uses": "./nowhere"}, "uses='./nowhere': there is no folder"),
    ],
)
def test_what_is_wrong_is_said_before_any_process_is_started(monkeypatch, kwargs, message):
    def fork(run):
        raise AssertionError("a process was started")

    monkeypatch.setattr(process, "fork", fork)
    with pytest.raises(InvalidExecutor) as caught:
        Flow().add(name="x", **kwargs).start()
    assert message in str(caught.value)
    assert str(caught.value).endswith("(executor 'x')")


def test_a_package_that_a_constructor_lacks_is_named_with_the_way_out(tmp_path):
    source = (
        "from zflow import Executor\nclass A(Executor):\n    def __init__(self, **kwargs):\n "
        "       import zt_lacking"
    )
    write(tmp_path / "executor.py", source)
    write(tmp_path / "requirements.txt", "zt-lacking")
    with pytest.raises(StartupFailed) as caught:
        Flow().add(name="x", uses=tmp_path).start()
    first = str(caught.value).splitlines()[0]
    assert first.startswith(
        "x/rep-0 could not start: ModuleNotFoundError: No module named 'zt_lacking'; say "
    )
    assert first.endswith(f"install_requirements=True to install {tmp_path}/requirements.txt with "
                          "pip, or install "
                          "'zt_lacking' yourself")  # fmt: skip
