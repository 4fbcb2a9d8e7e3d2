"""What `uses` may be, and what a wrong one says."""

import sys
import textwrap

import pytest

from zflow.errors import InvalidExecutor, NotSupported
from zflow.executors.executor import BaseExecutor, Executor, requests
from zflow.executors.uses import Loaded, check, check_kind, is_path, load, reference


class Known(Executor):
    def __init__(self, size=1, **kwargs):
        super().__init__(**kwargs)
        self.size = size

    @requests
    def foo(self, docs): ...


class Choosy(Executor):
    def __init__(self, model, top_k=5):
        pass


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


def test_classes_and_names_of_classes():
    assert load(None) == Loaded(BaseExecutor, {}, {}, {})
    assert load(Known).cls is Known
    assert load("Known").cls is Known
    assert load("BaseExecutor").cls is BaseExecutor

    class Local(Executor):
        pass

    assert load("Local").cls is Local


def test_a_dict_describes_an_executor_and_arguments_go_over_it():
    loaded = load(
        {
            "jtype": "Known",
            "with": {"size": 2, "workspace": "w"},
            "metas": {"name": "x"},
            "requests": {"/x": "foo"},
        },
        uses_with={"size": 3},
        uses_metas={"workspace": "w"},
        uses_requests={"/y": "foo"},
    )
    assert loaded == Loaded(
        Known,
        {"size": 3, "workspace": "w"},
        {"name": "x", "workspace": "w"},
        {"/x": "foo", "/y": "foo"},
    )


@pytest.mark.parametrize(("written", "value"), [("${{ ENV.SIZE }}", 3), ("v${{ENV.SIZE}}", "v3")])
def test_a_dict_may_hold_expressions_as_yaml_does(monkeypatch, written, value):
    monkeypatch.setenv("SIZE", "3")
    assert load({"jtype": "Known", "with": {"size": written}}).uses_with == {"size": value}
    with pytest.raises(InvalidExecutor, match=r"^uses: ENV.ZFLOW_NONE is not set"):
        load({"jtype": "Known", "with": {"size": "${{ ENV.ZFLOW_NONE }}"}})


def test_a_class_may_be_named_with_dots_alone(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "dotted_package").mkdir()
    write(tmp_path / "dotted_package/__init__.py", "")
    write(
        tmp_path / "dotted_package/parts.py",
        "from zflow import Executor\nclass One(Executor): ...\nclass Two(Executor): ...",
    )
    one = load("dotted_package.parts.One").cls
    assert one is load("dotted_package.parts:One").cls
    assert load("jtype: dotted_package.parts.Two").cls.__name__ == "Two"
    with pytest.raises(InvalidExecutor, match=r"parts has no 'Three'; Executors there: 'One'"):
        load("dotted_package.parts.Three")


@pytest.mark.parametrize("key", ["dynamic_batching", "uses_dynamic_batching"])
def test_batching_has_two_names_in_yaml(key):
    text = f"jtype: Known\n{key}: {{/x: {{preferred_batch_size: 8}}}}\nrequests: {{/x: foo}}"
    assert load(text).batching["/x"].written["preferred_batch_size"] == 8
    both = "jtype: Known\ndynamic_batching: {}\nuses_dynamic_batching: {}"
    with pytest.raises(InvalidExecutor, match=r"YAML text:2: 'uses_dynamic_batching', 'dynamic_ba"):
        load(both)


def test_yaml_describes_an_executor(folder, monkeypatch):
    text = """
        jtype: FromFile
        with:
          size: ${{ ENV.ZFLOW_TEST_SIZE }}
        metas:
          py_modules:
            - executor.py
        requests:
          /bar: bar
        """
    monkeypatch.setenv("ZFLOW_TEST_SIZE", "3")
    write(folder / "config.yml", text)
    by_file = load(f"{folder}/config.yml")
    assert (by_file.cls.__name__, by_file.uses_with, by_file.requests) == (
        "FromFile",
        {"size": 3},
        {"/bar": "bar"},
    )
    assert by_file.metas == {}
    assert load(textwrap.dedent(text), folder=str(folder)) == by_file
    assert load("jtype: executor.py:FromFile", folder=str(folder)).cls is by_file.cls
    write(folder / "top.yml", "jtype: FromFile\npy_modules: executor.py")
    assert load("top.yml", folder=str(folder)).cls is by_file.cls


@pytest.mark.parametrize(
    ("uses", "message"),
    [
        (5, "uses must be a class, its name, 'file.py:Class', 'module:Class' or 'module.Class', an "
            "Executor's folder, "
         "'jinaai://user/Name', a YAML file, YAML text or a dict, not 5"),
        ("", "uses must be a class, "),
        (dict, "uses=dict is a class but not an Executor: derive it from Executor"),
        (Known(), "uses must be the class Known, not an instance: give arguments by uses_with"),
        (print, "uses must be a class, "),
        ("Knwon", "uses='Knwon' names no Executor class defined so far, no installed one and no "
                  "folder; did you mean "
         "'Known'?; uses takes a class, "),
        ("no_such_module.b.Mine", "importing 'no_such_module.b' failed: ModuleNotFoundError: No "
                                  "module named"),
        ("zflow.BaseExecuter", "uses='zflow:BaseExecuter': zflow has no 'BaseExecuter'; "
         "did you mean 'BaseExecutor'?"),
        ("no_such.py", "there is no file 'no_such.py' (looked for /"),
        ("no_such.yml", "no_such.yml: cannot read it: No such file or directory (looked for /"),
        ("no_such_module:Mine", "importing 'no_such_module' failed: ModuleNotFoundError: No module "
                                "named"),
        ("not a module:Mine", "'not a module' is neither a .py file nor the name of a module"),
        ("zflow:Nothing", "uses='zflow:Nothing': zflow has no 'Nothing'; Executors there"),
        ("zflow:BaseExecuter", "uses='zflow:BaseExecuter': zflow has no 'BaseExecuter'; "
         "did you mean 'BaseExecutor'?"),
        ("zflow:requests", "uses='zflow:requests' is <function requests"),
    ],
)  # fmt: skip
def test_what_is_no_executor_is_named(uses, message):
    with pytest.raises(InvalidExecutor) as caught:
        load(uses, owner="executor 'x'")
    assert str(caught.value).startswith(message)
    assert str(caught.value).endswith(" (executor 'x')")


def test_other_kinds_are_not_supported():
    with pytest.raises(
        NotSupported,
        match=r"^uses='docker://x': containers are not supported: .* \(executor 'x'\)$",
    ):
        check_kind("docker://x", "executor 'x'")


@pytest.mark.parametrize(
    ("uses", "given", "message"),
    [
        (
            Choosy,
            {},
            "Choosy.__init__ requires 'model': give it by uses_with={'model': ...} (executor 'x')",
        ),
        (
            "Choosy",
            {"uses_with": {"model": 1, "topk": 2}},
            "uses_with gives 'topk', which Choosy.__init__ does not",
        ),
        (
            {"jtype": "Choosy", "with": {"model": 1, "a": 2}},
            {},
            "uses_with gives 'a', which Choosy.__init__ does not",
        ),
        (
            None,
            {"uses_with": {"a": 1}},
            "uses_with gives 'a', but BaseExecutor has no __init__ of its own",
        ),
        (
            Known,
            {"uses_requests": {"/x": "fo"}},
            "Known has no method 'fo' to serve '/x'; did you mean 'foo'?",
        ),
        ({"jtype": "Known", "wiht": {}}, {}, "uses: unknown key 'wiht'; did you mean 'with'?"),
        ("./nowhere", {}, "uses='./nowhere': there is no folder /"),
    ],
)
def test_what_can_be_told_without_importing_is_told_before(uses, given, message):
    with pytest.raises(InvalidExecutor) as caught:
        check(uses, environ={}, owner="executor 'x'", **given)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("uses", "py_modules"),
    [
        (Known, []),
        ("nobody_knows_yet:Mine", []),
        ("no_such_file.py", []),
        ("no_such_file.yml", []),
        ("jtype: [broken", []),
        ("Choosy", ["may_define_another.py"]),
        ({"jtype": "Choosy", "py_modules": "may_define_another.py"}, []),
        ("installed, may be", []),
    ],
)
def test_what_takes_importing_or_reading_is_left_to_the_replicas(uses, py_modules):
    check(uses, py_modules=py_modules, environ={})


def test_a_file_with_none_or_several_executors_needs_a_choice(tmp_path):
    write(tmp_path / "none.py", "from zflow.executors.executor import BaseExecutor, Executor")
    two = (
        "from zflow.executors.executor import Executor\nclass First(Executor): ...\nclass "
        "Second(Executor): ..."
    )
    write(tmp_path / "two.py", two)
    with pytest.raises(InvalidExecutor, match=r"uses='none.py' holds no Executor: define one"):
        load("none.py", folder=str(tmp_path))
    with pytest.raises(
        InvalidExecutor,
        match=r"several Executors \('First', 'Second'\): choose one, and say uses='two.py:Class'",
    ):
        load("two.py", folder=str(tmp_path))
    with pytest.raises(InvalidExecutor, match=r"two.py has no 'Secnd'; did you mean 'Second'\?"):
        load("two.py:Secnd", folder=str(tmp_path))


@pytest.mark.parametrize(
    ("uses", "uses_with", "message"),
    [
        (Choosy, {}, "Choosy.__init__ requires 'model': give it by uses_with={'model': ...}"),
        (Choosy, {"model": 1, "topk": 2}, "uses_with gives 'topk', which Choosy.__init__ does not "
                                          "take; did you mean "
         "'top_k'?"),
        (Choosy, {"zzz": 1}, "uses_with gives 'zzz', which Choosy.__init__ does not take; it takes "
                             "'model', 'top_k'"),
        (BaseExecutor, {"a": 1}, "uses_with gives 'a', but BaseExecutor has no __init__ of its "
                                 "own: write def "
         "__init__(self, a, **kwargs), or leave uses_with out"),
    ],
)  # fmt: skip
def test_uses_with_must_fit_the_constructor(uses, uses_with, message):
    with pytest.raises(InvalidExecutor) as caught:
        load(uses, uses_with=uses_with)
    assert str(caught.value).startswith(message)


class Keeps(Executor):
    def __init__(self, size=1, **kwargs):
        super().__init__()
        self.model = kwargs.pop("model", None)
        self.others = dict(**kwargs)


def test_a_constructor_that_keeps_everything_gets_everything():
    given = {"anything": 1, "workspace": "w"}
    assert load(Keeps, uses_with=given).uses_with == given
    assert load(Known, uses_with={"size": 1, "workspace": "w"}).uses_with["workspace"] == "w"
    assert load(Choosy, uses_with={"model": 1}).uses_with == {"model": 1}


def test_a_keyword_that_parents_do_not_take_either_is_an_error():
    with pytest.raises(InvalidExecutor) as caught:
        load(Known, uses_with={"sise": 2}, owner="executor 'x'")
    assert str(caught.value) == (
        "uses_with gives 'sise', which Known.__init__ does not take; did you mean 'size'? "
        "(executor 'x')"
    )


def test_a_keyword_that_seems_to_be_misspelt_is_named_in_a_warning_once(caplog):
    for _ in range(2):
        load(Keeps, uses_with={"sise": 2, "modle": 3, "anything": 4, "model": 5})
    assert [record.message for record in caplog.records] == [
        "uses_with gives 'sise', which Keeps.__init__ does not name; did you mean 'size'?",
        "uses_with gives 'modle', which Keeps.__init__ does not name; did you mean 'model'?",
    ]


def test_what_is_said_goes_over_a_description_however_it_is_spelt():
    described = {"jtype": "Known", "requests": {"x": "foo", "*": "foo"}}
    loaded = load(described, uses_requests={"/x": "foo", "/y": "foo"})
    assert loaded.requests == {"/x": "foo", "/default": "foo", "/y": "foo"}


def test_uses_requests_must_name_methods():
    with pytest.raises(
        InvalidExecutor,
        match=r"Known has no method 'fo' to serve '/x'; did you mean 'foo'\? \(executor 'x'\)",
    ):
        load(Known, uses_requests={"/x": "fo"}, owner="executor 'x'")


def test_a_reference_finds_the_class_again(folder):
    from_file = load("executor.py", folder=str(folder)).cls
    assert reference(from_file) == f"{folder / 'executor.py'}:FromFile"
    assert load(reference(from_file)).cls is from_file
    assert reference(BaseExecutor) == "zflow:BaseExecutor"

    class Local(Executor):
        pass

    assert reference(Local) == "Local"


def test_paths_are_told_from_names(tmp_path):
    (tmp_path / "mine").mkdir()
    write(tmp_path / "mine" / "executor.py", "")
    for path in ("a.py", "a.py:Mine", "a/b.yaml", "./folder", "user/Name"):
        assert is_path(path), path
    for name in ("Mine", "module:Mine", "jtype: a.py", "jinaai://user/Name", "mine", "~/mine"):
        assert not is_path(name), name
    assert is_path("mine", str(tmp_path))
