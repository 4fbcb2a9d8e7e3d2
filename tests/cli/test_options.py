"""Options for keywords: which there are, what their texts stand for, and what is no value."""

from __future__ import annotations

import argparse
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from zflow.cli import options
from zflow.serve import KEYWORDS


def parse(*words: str, keys: tuple[str, ...] = KEYWORDS) -> dict[str, Any]:
    """What the command line says of these keywords."""
    parser = argparse.ArgumentParser(prog="zflow-run")
    options.add(parser, keys)
    return options.read(parser, parser.parse_args(words), keys)


def shown(**more: Any) -> str:
    """The help of all options, in one line."""
    parser = argparse.ArgumentParser(prog="zflow-run")
    options.add(parser, KEYWORDS, **more)
    return " ".join(parser.format_help().split())


def objection(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as ended:
        parse(*words)
    assert ended.value.code == 2
    return capsys.readouterr().err


# -- what a text stands for ------------------------------------------------------------------------


def test_what_is_not_said_is_not_read() -> None:
    assert parse() == {}
    assert parse("--replicas", "2") == {"replicas": 2}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--uses", "5"], {"uses": "5"}),
        (["--uses", "jtype: Encoder"], {"uses": "jtype: Encoder"}),
        (["--name", "true"], {"name": "true"}),
        (["--workspace", "2020-01-01"], {"workspace": "2020-01-01"}),
        (["--host", "1"], {"host": "1"}),
        (["--port", "5555", "--replica-port", "0"], {"port": 5555, "replica_port": 0}),
        (["--replicas", "{min: 1, max: 8}"], {"replicas": {"min": 1, "max": 8}}),
        (["--polling", "ALL"], {"polling": "ALL"}),
        (["--polling", "{/a: ALL, '*': ANY}"], {"polling": {"/a": "ALL", "*": "ANY"}}),
        (["--timeout-send", "-1", "--shared-memory=0"], {"timeout_send": -1, "shared_memory": 0}),
        (["--allow-control"], {"allow_control": True}),
        (["--no-allow-control"], {"allow_control": False}),
        (["--install-requirements"], {"install_requirements": True}),
        (["--py-modules", "a.py", "--py-modules", "5"], {"py_modules": ["a.py", "5"]}),
        (
            ["--env", "A=4", "--env", "B=x=y", "--env", "C="],
            {"env": {"A": "4", "B": "x=y", "C": ""}},
        ),
        (["--uses-requests", "/a=1"], {"uses_requests": {"/a": "1"}}),
        (
            [
                "--uses-with",
                "size=4",
                "--uses-with",
                "name='4'",
                "--uses-with",
                "model=a=b",
                "--uses-with",
                "top=",
            ],
            {"uses_with": {"size": 4, "name": "4", "model": "a=b", "top": None}},
        ),
        (["--uses-metas", "tags=[a, {b: 0.5}]"], {"uses_metas": {"tags": ["a", {"b": 0.5}]}}),
        (["--uses-with", "size=1", "--uses-with", "size=2"], {"uses_with": {"size": 2}}),
    ],
)
def test_values_are_read_as_in_yaml_but_names_paths_and_variables_are_texts(
    words: list[str], said: dict[str, Any]
) -> None:
    found = parse(*words)
    assert found == said
    assert [type(value) for value in found.values()] == [type(value) for value in said.values()]


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(plain)
def test_every_value_that_yaml_can_write_can_be_said(value: Any) -> None:
    text = yaml.safe_dump(value, default_flow_style=True)
    if "${{" not in text:
        assert parse(f"--uses-with=a={text}", keys=("uses_with",)) == {"uses_with": {"a": value}}


@given(
    st.text(max_size=8)
    | st.lists(st.sampled_from([*"{}[]:,&*!|>'\"%@`#?-=~", "${{", "}}", "ENV.A", "1"])).map("".join)
)
def test_every_text_is_a_value_or_is_refused(text: str) -> None:
    try:
        said = parse(f"--uses-with=a={text}", keys=("uses_with",))
    except SystemExit:  # as argparse ends what is wrong usage
        return
    assert said["uses_with"].keys() == {"a"}


# -- what is refused -------------------------------------------------------------------------------


def test_what_is_no_value_is_refused_with_the_option(capsys: pytest.CaptureFixture[str]) -> None:
    said = objection(capsys, "--uses", "encoder.py", "--uses-with", "size=[1")
    assert "--uses-with size: '[1' is no YAML value" in said
    assert "--replicas: '{a' is no YAML value" in objection(capsys, "--replicas", "{a")
    assert "--polling: '{a: 1, a: 2}' is no YAML value" in objection(
        capsys, "--polling", "{a: 1, a: 2}"
    )
    assert "argument --port: invalid int value: 'x'" in objection(capsys, "--port", "x")


def test_what_has_a_name_is_written_name_value(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--env takes NAME=VALUE, not '=4'" in objection(
        capsys, "--uses", "encoder.py", "--env", "=4"
    )
    assert "--env takes NAME=VALUE, not 'A'" in objection(capsys, "--env", "A")
    assert "--uses-with takes NAME=VALUE, not '=1'" in objection(
        capsys, "--uses-with", "a=1", "--uses-with", "=1"
    )


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=4).filter(lambda name: "=" not in name), st.text(max_size=4)
    )
)
def test_pairs_come_apart_at_the_first_sign(said: dict[str, str]) -> None:
    parser = argparse.ArgumentParser()
    assert (
        options.pairs(parser, "--env", [f"{name}={value}" for name, value in said.items()]) == said
    )


# -- help ------------------------------------------------------------------------------------------


def test_the_help_tells_what_holds_when_an_option_is_left_out() -> None:
    text = shown()
    assert (
        "--timeout-ready VALUE ms that a replica may take to get ready; -1: any time (default: "
        "600000)" in text
    )
    assert "--polling VALUE which shards get a request, also by endpoint (default: ANY)" in text
    assert "--host VALUE the address to listen on (default: 127.0.0.1)" in text
    assert "--env NAME=VALUE environment variables of its processes; may be repeated" in text
    assert "--port PORT the TCP port to listen on (default: any free one)" in text
    assert "(default: None)" not in text


def test_a_command_may_say_in_its_own_words_what_an_option_does_and_which_it_needs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "--name VALUE what it is called" in shown(about={"name": "what it is called"})
    parser = argparse.ArgumentParser(prog="zflow-run")
    options.add(parser, ["uses", "port"], required=["uses"])
    with pytest.raises(SystemExit):
        parser.parse_args(["--port", "1"])
    assert "the following arguments are required: --uses\n" in capsys.readouterr().err


def test_batching_and_what_is_on_by_default_can_be_said() -> None:
    said = parse(
        "--uses-dynamic-batching", "/x={preferred_batch_size: 4, timeout: 10}", "--no-idempotent"
    )
    assert said == {
        "uses_dynamic_batching": {"/x": {"preferred_batch_size": 4, "timeout": 10}},
        "idempotent": False,
    }
    assert parse("--idempotent") == {"idempotent": True}
