"""YAML <-> Flow: what may be written, what comes out of it, and where errors point."""

import contextlib
import io
import textwrap

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zflow.errors import InvalidConfig, InvalidExecutor, InvalidFlow, NotSupported
from zflow.executors.executor import BaseExecutor, Executor
from zflow.topology.config import ExecutorConfig, dump, load
from zflow.topology.options import check_defaults
from zflow.topology.topology import ExecutorSpec, Topology


def yaml(text):
    return textwrap.dedent(text).lstrip("\n")


def flow_file(tmp_path, text, name="flow.yaml"):
    path = tmp_path / name
    path.write_text(yaml(text), "utf-8")
    return path


def specs_of(config):
    topology = Topology()
    defaults = check_defaults(
        {key: value for key, value in config.flow_kwargs.items() if key != "port"}
    )
    for entry in config.executors:
        getattr(topology, entry.method)(defaults, config.folder, **entry.kwargs)
    return topology.specs


FULL = """
    jtype: Flow
    version: '1'
    with:
      port: 5000
      replicas: 2
    executors:
    - name: encoder
      uses: BaseExecutor
      replicas: 3
      polling: {/custom: ALL, '*': ANY}
      env: {THREADS: 4}
      py_modules: [a.py]
      timeout_ready: -1
    - name: branch
      needs: gateway
    - method: needs_all
      name: end
    """


def test_everything_that_add_takes_can_be_written(tmp_path):
    config = load(flow_file(tmp_path, FULL))
    assert config.flow_kwargs == {"port": 5000, "replicas": 2}
    assert config.folder == str(tmp_path)
    assert [entry.method for entry in config.executors] == ["add", "add", "needs_all"]
    encoder, branch, end = specs_of(config)
    assert (encoder.replicas, encoder.env, encoder.polling) == (
        3,
        {"THREADS": "4"},
        {"/custom": "ALL", "*": "ANY"},
    )
    assert (encoder.py_modules, encoder.timeout_ready, encoder.folder) == (
        ("a.py",),
        -1,
        str(tmp_path),
    )
    assert (branch.needs, branch.replicas) == (("gateway",), 2)
    assert (end.needs, end.pure_join) == (("encoder", "branch"), True)


def test_paths_texts_and_open_files_say_the_same(tmp_path):
    path = flow_file(tmp_path, FULL)
    expected = load(path).executors
    assert load(str(path)).executors == expected
    assert load(yaml(FULL)).executors == expected
    assert load(yaml(FULL)).folder is None
    assert load(io.StringIO(yaml(FULL))).executors == expected
    for mode in ("r", "rb"):
        with open(path, mode) as file:
            config = load(file)
        assert config.executors == expected
        assert config.folder == str(tmp_path)


def test_a_flow_may_be_almost_empty():
    for text in (
        "jtype: Flow",
        "jtype: Flow\nexecutors:",
        "jtype: Flow\nwith:\nexecutors: []\nversion: 1.0",
    ):
        config = load(text)
        assert (config.flow_kwargs, config.executors) == ({}, [])
    assert load("jtype: Flow\nexecutors:\n-\n- {}").executors == [ExecutorConfig("add", {})] * 2


def test_anchors_and_merges_work():
    config = load(
        yaml("""
        jtype: Flow
        executors:
        - &base
          name: a
          env: &env {A: x}
          replicas: 2
        - <<: *base
          name: b
          env: *env
        """)
    )
    assert [entry.kwargs for entry in config.executors] == [
        {"name": "a", "env": {"A": "x"}, "replicas": 2},
        {"name": "b", "env": {"A": "x"}, "replicas": 2},
    ]


def test_expressions_are_replaced(monkeypatch):
    monkeypatch.setenv("ZFLOW_N", "3")
    monkeypatch.setenv("ZFLOW_ODD", "a: [b] # ${{ ENV.X }}")
    monkeypatch.setenv("ZFLOW_ON", "true")
    monkeypatch.setenv("ZFLOW_EMPTY", "")
    text = yaml("""
        jtype: Flow
        executors:
        - replicas: ${{ ENV.ZFLOW_N }}
          no_reduce: ${{ENV.ZFLOW_ON}}
          name: enc${{ ENV.ZFLOW_N }}${{CONTEXT.end}}
          workspace: ${{ ENV.ZFLOW_EMPTY }}
          uses: ${{ CONTEXT.cls }}
          uses_with:
            quoted: "${{ ENV.ZFLOW_N }}"
            odd: ${{ ENV.ZFLOW_ODD }}
            number: ${{ CONTEXT.number }}
            list: ${{ CONTEXT.list }}
        """)
    context = {"end": "_x", "cls": BaseExecutor, "number": 0.5, "list": [1, 2]}
    assert load(text, context).executors[0].kwargs == {
        "replicas": 3,
        "no_reduce": True,
        "name": "enc3_x",
        "workspace": None,
        "uses": BaseExecutor,
        "uses_with": {"quoted": "3", "odd": "a: [b] # ${{ ENV.X }}", "number": 0.5, "list": [1, 2]},
    }


def test_what_stands_in_env_is_text(monkeypatch):
    monkeypatch.setenv("ZFLOW_CODE", "0123")
    config = load("""
jtype: Flow
with: {env: {CODE: ${{ ENV.ZFLOW_CODE }}, TIME: 12:30}, uses_with: {env: {n: 010}}}
executors:
- env: {CODE: ${{ ENV.ZFLOW_CODE }}, on: no}
  uses_with: {code: ${{ ENV.ZFLOW_CODE }}, quoted: "${{ ENV.ZFLOW_CODE }}"}
""")
    assert config.flow_kwargs == {
        "env": {"CODE": "0123", "TIME": "12:30"},
        "uses_with": {"env": {"n": 8}},
    }
    assert config.executors[0].kwargs == {
        "env": {"CODE": "0123", "on": "no"},
        "uses_with": {"code": 83, "quoted": "0123"},
    }


def test_batching_has_two_names():
    batching = {"/x": {"preferred_batch_size": 8}}
    text = "jtype: Flow\nexecutors:\n- dynamic_batching: {/x: {preferred_batch_size: 8}}"
    assert load(text).executors[0].kwargs == {"uses_dynamic_batching": batching}
    with pytest.raises(InvalidConfig, match=r":3: executors\[0\]: dynamic_batching and uses_dyn"):
        load(text + "\n  uses_dynamic_batching: {}")


OLD = """
!Flow
version: '1'
with: {port: 5555, protocol: grpc, monitoring: true, port_monitoring: 9090, timeout_ctrl: 60000}
executors:
- {name: a, port: 1234, quiet: true, log_config: default, monitoring: true, timeout_ctrl: 60}
- {port: [1, 2], host: 0.0.0.0, timeout_ready: 60000}
- {external: true, port: 4321, protocol: GRPC}
"""


def test_what_means_nothing_here_is_left_out_and_kept_for_one_warning(caplog):
    config = load(OLD)
    assert config.flow_kwargs == {"port": 5555}
    assert [entry.kwargs for entry in config.executors] == [
        {"name": "a"},
        {"timeout_ready": 60000},
        {"external": True, "port": 4321},
    ]
    config.told.warn()
    config.told.warn()
    assert caplog.messages == [
        "options of Jina's that mean nothing here are ignored: protocol (Flow, executor2), "
        "monitoring (Flow, a), port_monitoring (Flow), timeout_ctrl (Flow, a), port (a, "
        "executor1), quiet (a), log_config (a), host (executor1)"
    ]
    with pytest.raises(NotSupported, match=r"^YAML text:3: with: protocol='http' is not supported"):
        load("jtype: Flow\nwith:\n  protocol: http")


def test_tags_say_what_jtype_does():
    config = load(
        "!Flow\nwith: {port: 1}\nexecutors:\n- uses: !Mine\n    with: {a: 1}\n- uses: !It"
    )
    assert [entry.kwargs["uses"] for entry in config.executors] == [
        {"jtype": "Mine", "with": {"a": 1}},
        {"jtype": "It"},
    ]
    with pytest.raises(InvalidConfig, match=r":1: jtype must be Flow, not 'Exec'"):
        load("!Exec\nexecutors: []")


@pytest.mark.parametrize("text", ["", " \n", "# nothing", "---\n", "~"])
def test_an_empty_yaml_is_no_flow_and_the_error_says_so(text):
    for source in (text, io.StringIO(text)):
        with pytest.raises(InvalidConfig, match=r": (the YAML is empty|cannot read it)"):
            load(source)
    with pytest.raises(InvalidConfig, match=r"^YAML text:1: the YAML is empty: a Flow begins with"):
        load(io.StringIO(text))
    with pytest.raises(InvalidConfig, match=r"^YAML text:1: the YAML is empty"):
        load("")


HEAD = "jtype: Flow\nexecutors:\n- name: a\n- name: b\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + "  replica: 2", "flow.yaml:5: executors[1]: unknown key 'replica'; did you mean "
                                "'replicas'? "
         "(executor 'b')"),
        (HEAD + "  replicas: 0", "flow.yaml:5: executors[1]: replicas must be a whole number of 1 "
                                 "or more, "
         "not 0 (executor 'b')"),
        (HEAD + "  replicas: '3'", "flow.yaml:5: executors[1]: replicas must be a whole number of "
                                   "1 or more, "
         "not '3' (a text: leave the quotes out)"),
        (HEAD + "  needs: c", "flow.yaml:5: executors[1]: needs names 'c', but there is no "
                              "Executor of that name"),
        (HEAD + "  env:\n    A: [1]", "flow.yaml:6: executors[1]: env['A'] must be a text or a "
                                      "number, not ['1']"),
        (HEAD + "- replicas: 1\n  name: a", "flow.yaml:6: executors[2]: name 'a' is taken by "
                                            "another Executor"),
        (HEAD + "- c", "flow.yaml:5: executors[2] must be a mapping of keys to values, not 'c'"),
        (HEAD + "- method: start", "flow.yaml:5: executors[2]: method must be one of 'add', "
                                   "'needs', "
         "'needs_all', not 'start'"),
        (HEAD + "- {name: c, 5: x}", "flow.yaml:5: executors[2]: a key must be a text, not 5"),
        (HEAD + "  needs: b", "flow.yaml:2: executors: needs form a cycle: 'b' needs 'b'"),
        ("jtype: Flow\nexecutors: 5", "flow.yaml:2: executors must be a list, not 5"),
        ("jtype: Flow\nexecuters: []", "flow.yaml:2: unknown key 'executers'; did you mean "
                                       "'executors'?"),
        ("jtype: Flow\nenv: {A: b}", "flow.yaml:2: unknown key 'env'; write env under 'with' for "
                                     "every Executor, or"),
        ("jtype: Flow\nport: 1", "flow.yaml:2: unknown key 'port'; write port under 'with'"),
        ("jtype: Flow\nwith: [a]", "flow.yaml:2: with must be a mapping of keys to values, not "
                                   "['a']"),
        ("jtype: Executor", "flow.yaml:1: jtype must be Flow, not 'Executor'"),
        ("executors: []", "flow.yaml:1: jtype must be Flow, and is missing"),
        ("jtype: Flow\nversion: 2", "flow.yaml:2: version must be '1', not 2"),
        ("", "flow.yaml:1: the YAML is empty: a Flow begins with 'jtype: Flow'"),
        ("- a", "flow.yaml:1: a Flow is a mapping that begins with 'jtype: Flow', not ['a']"),
    ],
)  # fmt: skip
def test_errors_name_file_line_and_key(tmp_path, monkeypatch, text, message):
    flow_file(tmp_path, text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidConfig) as caught:
        load("flow.yaml", {"size": 1})
    assert str(caught.value).startswith(message)


marks = (
    "jtype: Flow|\n|executors:|\n- |\n  |name: a|{|}|[|]|: |&x |*x|<<: |!!int |${{ "
    "|}}|ENV.A|>|'|? |---|%|\t|0|=|~|1:2"
)
pieces = st.sampled_from(marks.split("|")) | st.text(max_size=3)


@settings(deadline=None, max_examples=200)
@given(st.lists(pieces, max_size=20).map("".join))
def test_no_text_gets_another_kind_of_error(text):
    with contextlib.suppress(InvalidConfig, InvalidExecutor, NotSupported):
        load(io.StringIO(text))


def test_other_errors_get_their_line_too():
    with pytest.raises(NotSupported) as refused:
        load(HEAD + "  gpus: 1")
    assert str(refused.value).startswith(
        "YAML text:5: executors[1]: gpus is not supported by this version"
    )
    with pytest.raises(InvalidConfig) as nowhere:
        load(HEAD + "  external: true")
    assert str(nowhere.value).startswith(
        "YAML text:5: executors[1]: external=True needs to know where: host="
    )
    with pytest.raises(InvalidExecutor) as wrong:
        load(HEAD + "  uses: 5")
    assert str(wrong.value).startswith("YAML text:5: executors[1]: uses must be a class, ")


@pytest.mark.parametrize(
    ("said", "line", "key"),
    [
        ("replicas: {min: 1,\n    max: 0}", 6, ("replicas", "max")),
        ("polling:\n    /x: ALL\n    /y: SOME", 7, ("polling", "/y")),
        ("uses_requests:\n    /x: foo\n    /y: 5", 7, ("uses_requests", "/y")),
        ("uses_dynamic_batching:\n    /x:\n      preferred_batch_size: 2\n      timeout: -1", 8,
         ("uses_dynamic_batching", "/x", "timeout")),
        ("uses_dynamic_batching:\n    /x: {preferred_batch_size: 2,\n      tmeout: 1}", 7,
         ("uses_dynamic_batching", "/x", "tmeout")),
        ("uses_dynamic_batching:\n    /x: {preferred_batch_size: 2}\n  no_reduce: true", 6,
         ("uses_dynamic_batching", "/x")),
        ("uses_metas: {}\n  host: elsewhere:1", 6, ("host",)),
        ("external: true\n  port: 1\n  shards: 2", 7, ("shards",)),
        ("external: true\n  port: 1\n  host: a:2", 7, ("host",)),
        ("external: true\n  port: 1\n  host: '?'", 7, ("host",)),
        ("env: {}\n  needs: a\n  method: needs_all", 6, ("needs",)),
        ("env: {}\n  uses: 5", 6, ("uses",)),
        ("env: {}\n  gpus: 1", 6, ("gpus",)),
    ],
)  # fmt: skip
def test_an_error_carries_its_key_which_has_a_line(said, line, key):
    with pytest.raises((InvalidConfig, InvalidExecutor, NotSupported)) as caught:
        load(HEAD + "  " + said)
    assert caught.value.key == ("executors", 1, *key)
    assert str(caught.value).startswith(f"YAML text:{line}: executors[1]: ")


def test_what_with_says_is_located_by_whoever_checks_it():
    config = load("jtype: Flow\nwith:\n  port: 1\n  replicas: 0")
    with pytest.raises(InvalidConfig) as caught, config.located("with"):
        check_defaults({"replicas": 0})
    assert str(caught.value).startswith("YAML text:4: with: replicas must be a whole number")
    with (
        pytest.raises(InvalidFlow, match=r"^YAML text:2: with: something else$"),
        config.located("with"),
    ):
        raise InvalidFlow("something else")


# ---- writing


class Importable(Executor):
    pass


def test_only_what_differs_is_written():
    specs = [
        ExecutorSpec("executor0", ("gateway",)),
        ExecutorSpec("mine", ("executor0",), replicas=3, uses_with={"a": [1, None]}),
        ExecutorSpec("third", ("gateway",)),
        ExecutorSpec("executor3", ("mine", "third"), pure_join=True),
    ]
    assert dump({"port": 5000}, specs) == yaml("""
        jtype: Flow
        version: '1'
        with:
          port: 5000
        executors:
        - {}
        - name: mine
          replicas: 3
          uses_with:
            a:
            - 1
            - null
        - name: third
          needs: gateway
        - method: needs
          needs:
          - mine
          - third
        """)
    assert dump({}, []) == "jtype: Flow\nversion: '1'\n"


def test_a_value_that_differs_from_the_flows_default_is_written():
    defaults = {"replicas": 2, "env": {"A": 1}}
    topology = Topology()
    for kwargs in ({}, {"replicas": 1}, {"env": {"A": 2}}):
        topology.add(check_defaults(defaults), **kwargs)
    text = dump(defaults, topology.specs)
    assert [entry.kwargs for entry in load(text).executors] == [
        {},
        {"replicas": 1},
        {"env": {"A": "2"}},
    ]
    assert specs_of(load(text)) == topology.specs


def test_classes_are_written_so_that_they_are_found_again():
    class Local(Executor):
        pass

    def uses(cls):
        return (
            load(dump({}, [ExecutorSpec("a", ("gateway",), uses=cls)])).executors[0].kwargs["uses"]
        )

    assert uses(Importable) == f"{__name__}:Importable"
    assert uses(Local) == "Local"
    assert load(dump({"uses": Importable}, [])).flow_kwargs == {"uses": f"{__name__}:Importable"}


def test_relative_paths_are_written_in_full_when_the_yaml_goes_elsewhere(tmp_path):
    here, there = str(tmp_path / "here"), str(tmp_path / "there")
    described = {"jtype": "x.py:Mine", "py_modules": ["y.py", "module"], "with": {"path": "z.py"}}
    specs = [
        ExecutorSpec(
            "a", ("gateway",), uses="x.py:Mine", py_modules=("y.py", "module"), folder=here
        ),
        ExecutorSpec("b", ("a",), uses="Mine", folder=here),
        ExecutorSpec("c", ("b",), uses=described, folder=here),
    ]

    def written(folder):
        return [entry.kwargs for entry in load(dump({}, specs, folder)).executors]

    assert written(here)[0] == {"name": "a", "uses": "x.py:Mine", "py_modules": ["y.py", "module"]}
    assert written(there) == [
        {"name": "a", "uses": f"{here}/x.py:Mine", "py_modules": [f"{here}/y.py", "module"]},
        {"name": "b", "uses": "Mine"},
        {
            "name": "c",
            "uses": {
                **described,
                "jtype": f"{here}/x.py:Mine",
                "py_modules": [f"{here}/y.py", "module"],
            },
        },
    ]


@pytest.mark.parametrize("value", [object(), {1, 2, object()}, lambda: None, "a${{ ENV.X }}"])
def test_what_has_no_form_in_yaml_is_named(value):
    spec = ExecutorSpec("a", ("gateway",), uses_with={"model": value})
    with pytest.raises(
        InvalidConfig, match=r"^uses_with cannot be written as YAML: .* \(executor 'a'\)"
    ):
        dump({}, [spec])


def test_an_expression_in_uses_is_replaced_anyway_so_it_can_be_written(monkeypatch):
    monkeypatch.setenv("ZFLOW_N", "3")
    uses = {"jtype": "Mine", "with": {"n": "${{ ENV.ZFLOW_N }}", "t": "x: ${{ ENV.ZFLOW_N }}"}}
    text = dump({}, [ExecutorSpec("a", ("gateway",), uses=uses)])
    assert load(text).executors[0].kwargs["uses"]["with"] == {"n": 3, "t": "x: 3"}


texts = st.text(max_size=8).filter(lambda text: "${{" not in text)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
variables = st.dictionaries(
    st.from_regex(r"\A[A-Z]{1,4}\Z"), texts.filter(lambda text: "\0" not in text), max_size=2
)
added = st.fixed_dictionaries(
    {},
    optional={
        "replicas": st.integers(1, 9),
        "polling": st.sampled_from(["ANY", "ALL", {"/x": "ALL", "*": "ANY"}]),
        "needs": st.just("gateway"),
        "uses": st.sampled_from(["Mine", "a.py", {"jtype": "Mine", "with": {"a": 1}}]),
        "uses_with": st.dictionaries(texts, plain, max_size=3),
        "uses_metas": st.dictionaries(texts, plain, max_size=2),
        "uses_requests": st.just({"/x": "foo"}),
        "py_modules": st.just(("a.py", "b")),
        "env": variables,
        "workspace": st.just("work"),
        "timeout_send": st.sampled_from([-1, 1, 1000]),
        "timeout_ready": st.sampled_from([-1, 1, 600_000]),
        "retries": st.integers(-1, 3),
        "no_reduce": st.booleans(),
    },
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(added, max_size=4),
    st.sampled_from([{}, {"replicas": 2, "no_reduce": True}]),
    st.booleans(),
)
def test_what_is_written_reads_back_the_same(entries, defaults, joined):
    topology = Topology()
    for kwargs in entries:
        topology.add(check_defaults(defaults), **kwargs)
    if joined and entries:
        topology.needs_all(check_defaults(defaults), name="end")
    text = dump(defaults, topology.specs)
    config = load(text)
    assert config.flow_kwargs == defaults
    assert specs_of(config) == topology.specs
    assert dump(config.flow_kwargs, specs_of(config)) == text
