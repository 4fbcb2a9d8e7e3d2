"""Errors: one base class, built-in kinds, and the same error after a pickle and after the wire."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgpack import packb, unpackb

from zflow import errors
from zflow.errors import (
    DeadlineExceeded,
    ExecutorError,
    FlowUnreachable,
    ZflowError,
    from_wire,
    keyed,
    to_wire,
)

ALL = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, ZflowError)
]

details = st.dictionaries(
    st.sampled_from(["executor", "exception", "traceback", "how", "hint"]),
    st.text(max_size=8),
    max_size=3,
)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.InvalidFlow, ValueError),
        (errors.InvalidConfig, errors.InvalidFlow),
        (errors.InvalidKeys, ValueError),
        (errors.InvalidExecutor, ValueError),
        (errors.NotSupported, NotImplementedError),
        (errors.MissingExtra, ImportError),
        (errors.FlowNotRunning, RuntimeError),
        (errors.FlowUnreachable, ConnectionError),
        (errors.AccessDenied, errors.FlowUnreachable),
        (errors.Overloaded, RuntimeError),
        (errors.OutOfDescriptors, OSError),
        (errors.ChangeRefused, RuntimeError),
        (errors.StartupFailed, RuntimeError),
        (errors.PortInUse, errors.StartupFailed),
        (errors.SerializationError, TypeError),
        (errors.RequestTooLarge, ValueError),
        (errors.BadRequest, ValueError),
        (errors.ExecutorError, RuntimeError),
        (errors.ReplicaCrashed, RuntimeError),
        (errors.DeadlineExceeded, TimeoutError),
    ],
)
def test_an_error_is_caught_as_one_of_zflow_and_as_a_built_in_kind(
    kind: type[ZflowError], builtin: type[Exception]
) -> None:
    for caught in (ZflowError, builtin):
        with pytest.raises(caught, match=r"^encoder is not there$"):
            raise kind("encoder is not there")


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_an_error_shows_its_message(kind: type[ZflowError]) -> None:
    error = kind("no 'encoder' here")
    assert str(error) == error.message == "no 'encoder' here"
    assert repr(error) == f"{kind.__name__}(\"no 'encoder' here\")"
    assert str(kind()) == kind().message == ""


@settings(max_examples=300)
@given(
    kind=st.sampled_from(ALL),
    message=st.text(max_size=8),
    said=details
    | st.just({"key": ("uses_dynamic_batching", "/encode", "timeout")})
    | st.just({"key": ("port", 0)}),
)
def test_an_error_is_the_same_after_a_pickle_and_after_the_wire(
    kind: type[ZflowError], message: str, said: dict[str, Any]
) -> None:
    error = kind(message, **said)
    for copy in (
        pickle.loads(pickle.dumps(error)),
        from_wire(to_wire(error)),
        from_wire(unpackb(packb(to_wire(error)))),
    ):
        assert type(copy) is kind
        assert (copy.message, str(copy), vars(copy)) == (message, str(error), said)


def test_an_error_says_what_it_is_about_from_the_outermost_key_on() -> None:
    assert errors.InvalidFlow("no").key == ()
    with (
        pytest.raises(errors.InvalidFlow, match=r"^no$") as caught,
        keyed("env"),
        keyed("THREADS", 0),
    ):
        raise errors.InvalidFlow("no", key=("x",))
    assert caught.value.key == ("env", "THREADS", 0, "x")
    with pytest.raises(KeyError), keyed("env"):
        raise KeyError("others pass as they are")


@pytest.mark.parametrize("key", ["port", 5, [0.5], [["port"]], {"port": 1}, [None]])
def test_a_key_that_is_no_path_is_left_out(key: Any) -> None:
    assert vars(from_wire({"type": "InvalidFlow", "message": "no", "key": key})) == {}


def test_what_goes_over_the_wire_is_plain_data() -> None:
    error = ExecutorError(
        "failed", executor="encoder/rep-0", exception="KeyError", traceback="Traceback ..."
    )
    assert to_wire(error) == {
        "type": "ExecutorError",
        "message": "failed",
        "executor": "encoder/rep-0",
        "exception": "KeyError",
        "traceback": "Traceback ...",
    }
    assert to_wire(DeadlineExceeded("too late")) == {
        "type": "DeadlineExceeded",
        "message": "too late",
    }


def test_the_error_of_an_executor_ends_with_the_remote_traceback() -> None:
    error = ExecutorError("encoder/rep-0 raised KeyError: 'x'")
    assert str(error) == "encoder/rep-0 raised KeyError: 'x'"
    assert (error.executor, error.exception, error.traceback) == ("", "", "")
    error.executor, error.traceback = (
        "encoder/rep-0",
        "Traceback (most recent call last):\n  ...\nKeyError: 'x'\n",
    )
    assert error.message == "encoder/rep-0 raised KeyError: 'x'"
    assert str(error) == (
        "encoder/rep-0 raised KeyError: 'x'\n\n"
        "Traceback in encoder/rep-0:\nTraceback (most recent call last):\n  ...\nKeyError: 'x'"
    )


@pytest.mark.parametrize(
    "name", ["Nonsense", "", None, 5, "Any", "contextlib", "from_wire", "__builtins__", "OSError"]
)
def test_a_type_that_is_no_error_of_zflow_becomes_a_plain_one(name: Any) -> None:
    error = from_wire({"type": name, "message": "what it said", "executor": "encoder/rep-0"})
    assert type(error) is ZflowError
    assert error.message == "what it said"
    assert vars(error) == {"executor": "encoder/rep-0"}


@pytest.mark.parametrize("data", [None, 5, "text", b"bytes", ["type", "message"], []])
def test_what_is_no_error_at_all_is_shown(data: Any) -> None:
    error = from_wire(data)
    assert type(error) is ZflowError
    assert error.message == f"malformed error received: {data!r}"


NESTED: Any = "x"
for _ in range(1000):
    NESTED = [NESTED]


@pytest.mark.parametrize(
    "data", [NESTED, {"type": NESTED, "message": "x"}, {"type": "BadRequest", "message": NESTED}]
)
def test_what_is_nested_deep_is_an_error_like_others(data: Any) -> None:
    assert len(str(from_wire(data))) < 100


def test_a_long_thing_that_is_no_error_is_shown_short() -> None:
    assert len(from_wire("x" * 100_000).message) < 300


names = st.sampled_from(sorted({*dir(ExecutorError), *dir(FlowUnreachable)})) | st.text(max_size=5)


@given(
    kind=st.sampled_from([kind.__name__ for kind in ALL]) | plain,
    data=st.dictionaries(names, plain, max_size=4),
)
def test_whatever_comes_an_error_comes_of_it(kind: Any, data: dict[str, Any]) -> None:
    error = from_wire({**data, "type": kind})
    assert isinstance(error, ZflowError)
    message = data.get("message", "")
    assert error.message == (message if isinstance(message, str) else "its message is no text")
    assert pickle.loads(pickle.dumps(error)).message == error.message


def test_nobody_else_sets_what_every_error_has() -> None:
    data = {
        "args": "x",
        "__class__": "x",
        "__traceback__": "x",
        "with_traceback": "x",
        "__dict__": "x",
        "__doc__": "x",
    }
    error = from_wire({"type": "DeadlineExceeded", "message": "too late", **data})
    assert vars(error) == {}
    assert (error.args, error.__doc__) == (("too late",), DeadlineExceeded.__doc__)
    assert callable(error.with_traceback)


def test_an_attribute_that_a_built_in_kind_does_not_take_is_left_out() -> None:
    error = from_wire(
        {"type": "FlowUnreachable", "message": "gone", "characters_written": "x", "hint": "wait"}
    )
    assert (error.message, vars(error)) == ("gone", {"hint": "wait"})


def test_only_texts_and_numbers_become_attributes() -> None:
    data = {
        "text": "a",
        "number": 1,
        "share": 0.5,
        "list": [1],
        "dict": {},
        "bytes": b"x",
        "nothing": None,
    }
    error = from_wire({"type": "BadRequest", "message": "no", **data, 5: "x"})
    assert vars(error) == {"text": "a", "number": 1, "share": 0.5}


@pytest.mark.parametrize(
    "data",
    [
        {"type": "ExecutorError", "message": "m", "traceback": 5},
        {"type": "FlowUnreachable", "message": "m", "errno": 5, "strerror": "x"},
        {"type": "MissingExtra", "message": "m", "msg": "y", "name": "z"},
        {"type": "ZflowError", "message": "m", "args": "x", "with_traceback": 1},
    ],
)
def test_what_comes_over_the_wire_cannot_replace_what_an_error_says(
    data: dict[str, object],
) -> None:
    error = from_wire(data)
    assert (str(error), error.message) == ("m", "m")


def test_documents_that_failed_are_told_and_what_is_none_is_dropped() -> None:
    def failed(told: object) -> object:
        error = errors.from_wire({"type": "ExecutorError", "message": "", "failed": told})
        assert isinstance(error, errors.ExecutorError)
        return error.failed

    assert failed([[3, "c"], (4, "d")]) == [(3, "c"), (4, "d")]
    for told in (7, None, ["ab"], [[1]], [[1, 2]], [["a", "b"]], {"a": 1}):
        assert failed(told) == []
    assert errors.ExecutorError("plain").failed == ()
