"""YAML as plain data: what comes out, where it stood, what an expression stands for,
and where errors point.
"""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from zflow.errors import InvalidConfig, InvalidExecutor, ZflowError
from zflow.yamlsource import Place, fill, is_text, read


def data(text: str, context: dict[str, Any] | None = None) -> Any:
    """What a text says; it need not look like YAML to be read as such."""
    return read(io.StringIO(text), context).data


texts = st.text(max_size=6).filter(lambda text: "${{" not in text)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.dates()
    | st.binary(max_size=4)
    | texts,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(texts | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)

# -- what comes out --------------------------------------------------------------------------------


@given(plain, st.booleans())
def test_what_yaml_can_write_reads_back_the_same(value: Any, in_braces: bool) -> None:
    text = yaml.safe_dump(value, default_flow_style=in_braces)
    assert data(text) == value
    assert read(io.BytesIO(text.encode())).data == value


def test_characters_that_yaml_sets_apart_are_texts() -> None:
    assert data("{a: =, =: '<<', b: <<}") == {"a": "=", "=": "<<", "b": "<<"}


@pytest.mark.parametrize("text", ["", "# nothing", "---", "\n\n", "~"])
def test_an_empty_document_is_none(text: str) -> None:
    assert data(text) is None


def test_an_alias_is_the_same_object_as_its_anchor() -> None:
    found = data("a: &x {b: [1]}\nc: *x\nd: [*x, *x]")
    assert found["a"] is found["c"] is found["d"][0] is found["d"][1]


def test_aliases_of_aliases_take_no_room() -> None:
    lines = [
        "a0: &a0 [x]",
        *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)),
    ]
    found = data("\n".join(lines))["a29"]
    depth = 0
    while isinstance(found, list):
        found, depth = found[0], depth + 1
    assert (found, depth) == ("x", 30)


def test_what_a_mapping_says_itself_counts_over_what_it_merges() -> None:
    found = data(
        "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc: {x: 3, <<: *a}\nd: {<<: [*b, *a], z: 4}"
    )
    assert found["c"] == {"x": 3, "y": 1}
    assert found["d"] == {"x": 1, "y": 2, "z": 4}


# -- where it comes from ---------------------------------------------------------------------------


def test_a_path_a_text_and_an_open_file_say_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.yml").write_text("name: ü\n", "utf-8")
    here = str(tmp_path)
    with open("a.yml", encoding="utf-8") as file, open("a.yml", "rb") as raw:
        for source, label, folder in [
            ("a.yml", "a.yml", here),
            (Path("a.yml"), "a.yml", here),
            (f"{here}/a.yml", f"{here}/a.yml", here),
            (file, "a.yml", here),
            (raw, "a.yml", here),
            ("name: ü", "YAML text", None),
            (io.StringIO("name: ü"), "YAML text", None),
            (io.BytesIO("name: ü".encode()), "YAML text", None),
        ]:
            found = read(source)
            assert (found.data, found.label, found.folder) == ({"name": "ü"}, label, folder)


def test_a_relative_path_is_relative_to_a_folder(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/a.yml").write_text("x: 1")
    found = read("deep/a.yml", folder=str(tmp_path))
    assert (found.data, found.label, found.folder) == (
        {"x": 1},
        "deep/a.yml",
        str(tmp_path / "deep"),
    )
    with pytest.raises(
        InvalidConfig, match=rf"^a.yml: cannot read it: .* \(looked for {tmp_path}/a.yml\)$"
    ):
        read("a.yml", folder=str(tmp_path))


def test_a_pipe_has_no_folder() -> None:
    reading, writing = os.pipe()
    with open(writing, "w") as end:
        end.write("x: 1")
    with open(reading) as pipe:
        found = read(pipe)
    assert (found.data, found.label, found.folder) == ({"x": 1}, "YAML text", None)


def test_sources_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for source in ("none.yml", "none", tmp_path):
        with pytest.raises(InvalidConfig, match=r": cannot read it: .* \(looked for /"):
            read(source)
    (tmp_path / "latin.yml").write_bytes(b"jtype: Fl\xf6w")
    with pytest.raises(
        InvalidConfig, match=r"^latin.yml: cannot read it: 'utf-8' codec can't decode"
    ):
        read("latin.yml")
    with (
        open("latin.yml", "rb") as file,
        pytest.raises(InvalidConfig, match=r"^latin.yml: cannot read it: 'utf-8'"),
    ):
        read(file)
    with pytest.raises(InvalidConfig, match=r"^latin.yml: cannot read it: .* closed file"):
        read(file)
    with pytest.raises(InvalidConfig, match=r"a\\x00b: cannot read it: |a\x00b: cannot read it: "):
        read("a\0b")
    with pytest.raises(
        InvalidConfig, match=r"^5 is not YAML: give a path, YAML text or an open file"
    ):
        read(5)
    with pytest.raises(InvalidConfig, match="nested too deeply"):
        read("a: " + "[" * 5000)


@pytest.mark.parametrize(
    "text",
    ["a: 1", "  a: 1", "a:", "a:\n- b", "- a\n- b", "{a: 1}", " {}", "!Flow", "jtype: A", "\n"],
)
def test_what_looks_like_yaml_is_text(text: str) -> None:
    assert is_text(text)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a",
        "a.yml",
        "./a: b.yml",
        "a.py:Mine",
        "module.sub:Mine",
        "jinaai://user/Name",
        "C:a",
        "/a/b c.yml",
    ],
)
def test_what_looks_like_a_path_or_a_name_is_none(name: str) -> None:
    assert not is_text(name)


# -- where it stood --------------------------------------------------------------------------------


def test_a_part_is_found_by_its_path_and_a_missing_one_by_its_nearest_parent() -> None:
    source = read("a: 1\nb:\n  c:\n  - x\n  - d: 2\n    e: [3,\n      4]\n  f: {g: 5,\n    h: 6}\n")
    for path, line in [
        ((), 1),
        (("a",), 1),
        (("b",), 2),
        (("b", "c"), 3),
        (("b", "c", 0), 4),
        (("b", "c", 1), 5),
        (("b", "c", 1, "d"), 5),
        (("b", "c", 1, "e"), 6),
        (("b", "c", 1, "e", 1), 7),
        (("b", "f", "h"), 9),
        (("b", "c", 2), 3),
        (("b", "c", "x"), 3),
        (("b", "none", "d"), 2),
        (("a", "none"), 1),
        (("none",), 1),
    ]:
        assert source.where(*path) == f"YAML text:{line}", path


def test_a_merged_key_stood_where_it_was_merged_from_unless_it_was_said_anew() -> None:
    source = read("a: &a\n  x: 1\n  y: 2\nb:\n  x: 3\n  <<: *a\n  z: 4\n")
    assert source.data["b"] == {"x": 3, "y": 2, "z": 4}
    assert [source.where("b", key) for key in "xyz"] == [
        "YAML text:5",
        "YAML text:3",
        "YAML text:7",
    ]


def test_an_empty_document_has_one_line() -> None:
    assert read(io.StringIO("")).where("a", 0) == "YAML text:1"


names = st.from_regex(r"\A[a-z]{1,4}\Z").filter(
    lambda name: name not in ("yes", "no", "on", "off", "true", "null", "y", "n")
)
trees = st.recursive(
    st.integers(0, 9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=50)
@given(st.dictionaries(names, trees, min_size=1, max_size=3))
def test_the_line_of_every_key_is_one_where_it_is_written(tree: dict[str, Any]) -> None:
    text = "# a line before\n" + yaml.safe_dump(tree, default_flow_style=False)
    source, lines = read(text), text.split("\n")
    seen = []

    def visit(part: Any, *path: str | int) -> None:
        label, _, number = source.where(*path).rpartition(":")
        assert label == "YAML text"
        if path and isinstance(path[-1], str):
            assert f"{path[-1]}:" in lines[int(number) - 1]
            seen.append(int(number))
        for key, value in (
            part.items()
            if isinstance(part, dict)
            else enumerate(part)
            if isinstance(part, list)
            else ()
        ):
            visit(value, *path, key)

    visit(source.data)
    assert seen == sorted(set(seen)), "each key has a line of its own, one after the other"


# -- expressions -----------------------------------------------------------------------------------


def test_a_whole_value_takes_the_kind_that_yaml_would_give_it_and_a_quoted_one_is_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, text in {"N": "3", "F": "-0.5", "ON": "yes", "EMPTY": "", "TEXT": "a b"}.items():
        monkeypatch.setenv(f"ZFLOW_{name}", text)
    found = data(
        "- ${{ ENV.ZFLOW_N }}\n- ${{ENV.ZFLOW_F}}\n- ${{ ENV.ZFLOW_ON }}\n- ${{ ENV.ZFLOW_EMPTY "
        "}}\n"
        "- ${{ ENV.ZFLOW_TEXT }}\n- '${{ ENV.ZFLOW_N }}'\n- \"${{ ENV.ZFLOW_ON }}\"\n- x${{ "
        "ENV.ZFLOW_N }}"
    )
    assert found == [3, -0.5, True, None, "a b", "3", "yes", "x3"]


def test_values_of_the_context_are_kept_as_they_are() -> None:
    given = {"cls": ZflowError, "list": [1], "n": 3, "text": "0x10", "_a1": None}
    found = data(
        "{a: '${{ CONTEXT.cls }}', b: '${{CONTEXT.list}}', c: '${{ CONTEXT._a1 }}'}", given
    )
    assert found == {"a": ZflowError, "b": [1], "c": None}
    assert found["b"] is given["list"]
    assert data("a: ${{ CONTEXT.text }}\nb: ${{ CONTEXT.n }}-${{ CONTEXT.n }}", given) == {
        "a": 16,
        "b": "3-3",
    }


@given(st.text(max_size=8) | st.text("0123456789.:-+_exbn~{}[]*&!,# \n", max_size=6))
@example("a: [b] # c")
@example("2020-01-01")
@example("*x")
@example("${{ CONTEXT.other }}")
def test_what_stands_for_an_expression_is_a_single_value_and_never_more_yaml(text: str) -> None:
    context = {"x": text}
    assert data("a: '${{ CONTEXT.x }}'", context) == {"a": text}
    assert data("a: -${{ CONTEXT.x }}-", context) == {"a": f"-{text}-"}
    with contextlib.suppress(InvalidConfig):  # such as 0b_, which looks like a number and is none
        value = data("a: ${{ CONTEXT.x }}", context)["a"]
        assert value is None or isinstance(value, (bool, int, float)) or value == text


def test_keys_are_no_place_for_expressions() -> None:
    assert data("'${{ CONTEXT.x }}': 1", {"x": "a"}) == {"${{ CONTEXT.x }}": 1}


def test_an_expression_may_stand_in_braces_and_brackets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZFLOW_N", "3")
    found = data(
        "a: {b: ${{ ENV.ZFLOW_N }}}\nc: [${{ENV.ZFLOW_N}}, x${{ ENV.ZFLOW_N }}y, "
        "'${{ ENV.ZFLOW_N }}', {d: ${{ ENV.ZFLOW_N }}}]\ne: |\n  {${{ ENV.ZFLOW_N }}}"
    )
    assert found == {"a": {"b": 3}, "c": [3, "x3y", "3", {"d": 3}], "e": "{3}"}


def test_an_expression_that_does_not_end_in_its_line_is_named() -> None:
    with pytest.raises(
        InvalidConfig, match=r"^YAML text:2: not YAML: .*; a '\$\{\{' needs its '\}\}' in the same"
    ):
        read("b: 1\na: {c: ${{ ENV.A }")
    with pytest.raises(InvalidConfig) as caught:
        read("b: ${{ ENV.A }}\na: {c: {{ }")
    assert "needs its" not in str(caught.value)


def test_in_quotes_a_number_of_the_context_is_text() -> None:
    assert data("['${{ CONTEXT.n }}', \"${{ CONTEXT.yes }}\"]", {"n": 3, "yes": True}) == [
        "3",
        "True",
    ]


# -- places ----------------------------------------------------------------------------------------

ENV = Place(inner={"env": Place(texts=True), "list": Place(inner={"*": Place(texts=True)})})


def test_where_all_is_text_it_is_what_stands_there(monkeypatch: pytest.MonkeyPatch) -> None:
    odd = (
        "0123",
        "12:30",
        "no",
        "1e3",
        "0x10",
        "2020-01-01",
        "2020-13-45",
        "~",
        "1_000",
        ".5",
        "<<",
    )
    for at, text in enumerate(odd):
        monkeypatch.setenv(f"ZFLOW_{at}", text)
    lines = [
        *(f"  A{at}: {text}" for at, text in enumerate(odd)),
        *(f"  B{at}: ${{{{ ENV.ZFLOW_{at} }}}}" for at in range(len(odd))),
    ]
    found = read("\n".join(["env:", *lines]), place=ENV).data["env"]
    assert found == {
        **{f"A{at}": text for at, text in enumerate(odd)},
        **{f"B{at}": text for at, text in enumerate(odd)},
    }
    assert read(
        "env: {on: yes, 1: '2', x: , y: !!int 07, z: a${{ ENV.ZFLOW_0 }}}", place=ENV
    ).data == {"env": {"on": "yes", "1": "2", "x": "", "y": "07", "z": "a0123"}}
    assert read("env: {a: ${{ CONTEXT.n }}}", {"n": 3}, place=ENV).data == {"env": {"a": "3"}}


def test_what_is_text_in_one_place_is_none_in_another() -> None:
    text = "a: &x {n: 01, m: [no]}\nenv: *x\nlist: [*x, 01]\nelse: {env: {n: 01}}\nb: *x"
    found = read(text, place=ENV).data
    as_text = {"n": "01", "m": ["no"]}
    assert found["a"] == {"n": 1, "m": [False]}
    assert found["b"] is found["a"]
    assert (found["env"], found["list"], found["else"]) == (
        as_text,
        [as_text, "01"],
        {"env": {"n": 1}},
    )
    merged = read("c: &c {n: 01, m: 02}\nenv: {<<: *c, m: 03}", place=ENV).data
    assert merged["env"] == {"n": "01", "m": "03"}


def test_a_tag_names_the_class_where_one_may_stand() -> None:
    place = Place(tagged=True, inner={"uses": Place(tagged=True)})
    assert read("!Flow\nwith: {a: 1}\nuses: !a.Mine {b: 2}", place=place).data == {
        "jtype": "Flow",
        "with": {"a": 1},
        "uses": {"jtype": "a.Mine", "b": 2},
    }
    assert read("uses: !Mine", place=place).data == {"uses": {"jtype": "Mine"}}
    assert read("!Mine", place=place).data == {"jtype": "Mine"}
    assert read("!Mine {jtype: Mine}").data == {"jtype": "Mine"}
    for text, message in [
        ("!Mine {jtype: Other}", "1: the tag !Mine says one class, and jtype 'Other' another"),
        ("uses:\n  !Mine [1]", "2: the tag !Mine stands before a mapping, and here is none"),
        ("uses: !Mine x", "1: the tag !Mine stands before a mapping"),
        ("uses: {a: !Mine {}}", "1: the tag !Mine means nothing here; write jtype: Mine"),
        ("uses: !!python/name:os.system {}", "1: the tag "),
    ]:
        with pytest.raises(InvalidConfig) as caught:
            read(text, place=place)
        assert str(caught.value).startswith(f"YAML text:{message}")


# -- data from elsewhere ---------------------------------------------------------------------------


def test_expressions_in_plain_data_are_replaced_too() -> None:
    environ = {"N": "3", "T": "a b"}
    given = {
        "a": ["${{ ENV.N }}", "x${{ ENV.N }}", {"b": "${{ENV.T}}"}],
        "${{ ENV.N }}": 0.5,
        "c": (),
    }
    assert fill(given, environ, "uses") == {
        "a": [3, "x3", {"b": "a b"}],
        "${{ ENV.N }}": 0.5,
        "c": (),
    }
    for text, message in [
        ("${{ ENV.M }}", "ENV.M is not set; export M=..."),
        ("${{ M }}", "'${{ M }}' must be ENV.NAME or CONTEXT.NAME"),
        ("a ${{ ENV.N", "'a ${{ ENV.N' has a '${{' without its '}}'"),
    ]:
        with pytest.raises(InvalidExecutor) as caught:
            fill({"a": text}, environ, "uses", InvalidExecutor)
        assert str(caught.value).startswith(f"uses: {message}")


# -- errors ----------------------------------------------------------------------------------------

HEAD = "jtype: Flow\nexecutors:\n- name: a\n- name: b\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + "  name: c", "flow.yaml:5: duplicate key 'name', first in line 4: keep one of "
                             "them"),
        ("{1: a, 0x1: b}", "flow.yaml:1: duplicate key 1, first in line 1: keep one of them"),
        ("a: !Flow {}", "flow.yaml:1: the tag !Flow means nothing here; write jtype: Flow"),
        ("jtype: Flow\nwith: !!python/name:os.system {}", "flow.yaml:2: the tag "
                                                          "!!python/name:os.system means nothing"),
        ("jtype: Flow\nwith: {? [a] : b}", "flow.yaml:2: a key must be a single word or number"),
        ("jtype: Flow\nwith: &x {a: *x}", "flow.yaml:2: an alias cannot stand inside of what it "
                                          "stands for"),
        ("jtype: Flow\nwith: {", "flow.yaml:2: not YAML: while parsing a flow"),
        ("jtype: Flow\n\twith: 1", "flow.yaml:2: not YAML: "),
        ("jtype: Flow\nwith: {a: ${{ ENV.A }", "flow.yaml:2: not YAML: "),
        ("jtype: Flow\n---\njtype: Flow", "flow.yaml:2: not YAML: expected a single document in "
                                          "the stream"),
        ("jtype: Flow\nwith: {a: 2020-13-45}", "flow.yaml:2: '2020-13-45' cannot be read as "
                                               "timestamp: month must"),
        ("jtype: Flow\nwith: {2020-13-45: a}", "flow.yaml:2: '2020-13-45' cannot be read as "
                                               "timestamp: month must"),
        ("jtype: Flow\nwith: {a: !!int ''}", "flow.yaml:2: '' cannot be read as int: "),
        ("jtype: Flow\nwith: {a: \0}", "flow.yaml: not YAML: unacceptable character"),
        ("jtype: Flow\nwith:\n  a: *x", "flow.yaml:3: not YAML: found undefined alias 'x'"),
        ("jtype: Flow\nwith:\n  a: {<<: 5}", "flow.yaml:3: not YAML: while constructing a mapping, "
                                             "expected a mapping"),
        ("jtype: Flow\nwith:\n  a: x${{ ENV.ZFLOW_NONE }}", "flow.yaml:3: ENV.ZFLOW_NONE is not "
                                                            "set; export "
         "ZFLOW_NONE=..."),
        ("jtype: Flow\nwith:\n  a: ${{ CONTEXT.siez }}", "flow.yaml:3: CONTEXT.siez is not set; "
                                                         "did you mean "
         "'size'?; pass context={'siez': ...}"),
        ("jtype: Flow\nwith:\n  a: ${{ root.x }}", "flow.yaml:3: '${{ root.x }}' must be ENV.NAME "
                                                   "or CONTEXT.NAME"),
        ("jtype: Flow\nwith:\n  a: ${{ }}", "flow.yaml:3: '${{  }}' must be ENV.NAME or "
                                            "CONTEXT.NAME"),
        ("jtype: Flow\nwith:\n  a: ${{ ENV.X", "flow.yaml:3: '${{ ENV.X' has a '${{' without its "
                                               "'}}'"),
    ],
)  # fmt: skip
def test_errors_name_file_and_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    (tmp_path / "flow.yaml").write_text(text, "utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidConfig) as caught:
        read("flow.yaml", {"size": 1})
    assert str(caught.value).startswith(message)


MARKS = (
    "a: |\n|- |\n  |{|}|[|]|: |, |&x |*x|<<: |!!int |!!binary |!x |${{ "
    "|}}|ENV.A|CONTEXT.x|>|'|\"|? |---"
    "|!!set |!!omap |!!seq |...|%|\t|0|0b_|.|=|~|1:2|2020-1-1|#|\ufeff|\0|\u2028"
)
pieces = st.sampled_from(MARKS.split("|")) | st.text(max_size=3)


@settings(max_examples=300)
@given(st.lists(pieces, max_size=16).map("".join))
def test_every_text_is_data_or_the_error_that_was_asked_for(text: str) -> None:
    with contextlib.suppress(InvalidExecutor):
        read(io.StringIO(text), {"x": "1"}, error=InvalidExecutor).where("a", 0)


@given(st.binary(max_size=20))
def test_so_are_all_bytes(raw: bytes) -> None:
    with contextlib.suppress(InvalidExecutor):
        read(io.BytesIO(raw), error=InvalidExecutor)


@pytest.mark.parametrize("tag", ["map", "seq", "set", "omap", "pairs"])
def test_a_collections_tag_on_a_plain_value_means_nothing(tag: str) -> None:
    for text in (f"a: !!{tag} x", f"!!{tag} x: 1"):
        with pytest.raises(InvalidConfig, match=f"the tag !!{tag} means nothing here"):
            read(text)


def test_keys_that_are_no_texts_have_lines_too() -> None:
    source = read("a:\n  5: x\n  b: y\n")
    assert source.where("a", 5).endswith(":2")
