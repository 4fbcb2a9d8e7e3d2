"""Handlers: which method serves which endpoint, what it is called with,
and which methods cannot serve.
"""

from __future__ import annotations

import asyncio
import functools
from typing import Any

import pytest

from zflow.errors import InvalidExecutor
from zflow.executors.batching import Batching, dynamic_batching
from zflow.executors.executor import BaseExecutor, Executor, find_class, instantiate, requests
from zflow.executors.handlers import ARGUMENTS, DEFAULT, handlers

CALL = {name: f"<{name}>" for name in ARGUMENTS}


def serve(executor, endpoint, uses_requests=None):
    return handlers(executor, uses_requests)[endpoint].bind(executor)(**CALL)


def table(cls, uses_requests=None):
    return {endpoint: handler.method for endpoint, handler in handlers(cls, uses_requests).items()}


class Echo(Executor):
    @requests
    def rest(self, docs, **kwargs):
        return docs, kwargs

    @requests(on="/one")
    def one(self, docs):
        return docs

    @requests(on=["/two", "/three"])
    async def two(self, parameters, docs_map=None):
        return parameters, docs_map


# -- which method ----------------------------------------------------------------------------------


def test_decorated_methods_are_bound_to_their_endpoints():
    assert table(Echo) == {DEFAULT: "rest", "/one": "one", "/two": "two", "/three": "two"}
    assert [handlers(Echo)[endpoint].is_async for endpoint in (DEFAULT, "/one", "/two")] == [
        False,
        False,
        True,
    ]
    assert table(BaseExecutor) == {}


def test_a_subclass_keeps_replaces_and_drops_endpoints():
    class Child(Echo):
        def one(self, docs):  # not decorated: stays bound
            return f"child {docs}"

        @requests(on="/four")
        def two(self, **kwargs):  # decorated anew: serves /four only
            return "four"

        @requests
        def other(self, **kwargs):  # takes over the parent's endpoint
            return "other"

    class Grandchild(Child):
        one = None

    assert table(Child) == {"/one": "one", "/four": "two", DEFAULT: "other"}
    assert serve(Child(), "/one") == "child <docs>"
    assert table(Grandchild) == {"/four": "two", DEFAULT: "other"}
    assert table(Echo)["/two"] == "two"


def test_endpoints_of_a_mixin_count():
    class Mixin:
        @requests(on="/mixed")
        def mixed(self, docs):
            return docs

    class Mixed(Mixin, Executor):
        pass

    assert table(Mixed) == {"/mixed": "mixed"}


def test_two_methods_for_one_endpoint_are_an_error():
    with pytest.raises(InvalidExecutor) as caught:

        class Twice(Executor):
            @requests(on="/x")
            def foo(self, **kwargs): ...

            @requests(on=["/y", "/x"])
            def bar(self, **kwargs): ...

    assert str(caught.value) == (
        "Twice.foo and Twice.bar are both bound to endpoint '/x': give each a different `on`, or "
        "merge them"
    )
    with pytest.raises(InvalidExecutor, match="both bound to every other endpoint"):

        class TwiceBare(Executor):
            @requests
            def foo(self, **kwargs): ...

            @requests
            def bar(self, **kwargs): ...

    assert find_class("Twice") is None


def test_a_second_name_for_one_method_is_none_of_that():
    class Alias(Executor):
        @requests
        def foo(self, docs):
            return docs

        bar = foo

    assert serve(Alias(), DEFAULT) == "<docs>"


def test_the_class_nearest_wins_where_parents_bind_one_endpoint() -> None:
    class Left(Executor):
        @requests(on="/x")
        def left(self, docs: Any) -> str:
            return "left"

    class Right(Executor):
        @requests(on="/x")
        def right(self, docs: Any) -> str:
            return "right"

    class LeftFirst(Left, Right):
        pass

    class RightFirst(Right, Left):
        pass

    assert (serve(LeftFirst(), "/x"), serve(RightFirst(), "/x")) == ("left", "right")


def test_uses_requests_bind_over_the_decorators():
    class Plain(Echo):
        def extra(self, docs):
            return "extra"

    assert table(Plain, {"/one": "extra"}) == {
        DEFAULT: "rest", "/one": "extra", "/two": "two", "/three": "two"
    }  # fmt: skip
    assert serve(Plain(), "/one", {"/one": "extra"}) == "extra"
    with pytest.raises(
        InvalidExecutor, match=r"Plain has no method 'extr' to serve '/x'; did you mean 'extra'\?"
    ):
        handlers(Plain, {"/x": "extr"})


def test_uses_requests_replace_what_the_decorator_says_for_the_methods_they_name() -> None:
    moved = table(Echo, {"/new": "one", "/alias": "one"})
    assert moved == {
        DEFAULT: "rest",
        "/two": "two",
        "/three": "two",
        "/new": "one",
        "/alias": "one",
    }
    assert table(Echo, {"/three": "two"}) == {DEFAULT: "rest", "/one": "one", "/three": "two"}
    assert table(Echo, {"/x": "rest"}) == {
        "/x": "rest", "/one": "one", "/two": "two", "/three": "two"
    }  # fmt: skip


def test_what_an_instance_was_given_counts_and_what_is_said_now_goes_over_it() -> None:
    executor = instantiate(Echo, requests={"/one": "rest", "/new": "one"})
    assert table(executor) == {"/one": "rest", "/new": "one", "/two": "two", "/three": "two"}
    assert table(executor, {"/new": "two"}) == {"/one": "rest", "/new": "two"}
    assert table(Echo)["/one"] == "one"


def test_an_attribute_of_the_name_of_a_method_does_not_hide_the_handler() -> None:
    class Index(Executor):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.index = {"a": 1}
            self.size = self.find = None

        @requests(on="/index")
        def index(self, docs: Any) -> Any:
            return docs, self.index

        @requests(on="/size")
        async def size(self, docs: Any) -> Any:
            return docs

        @classmethod
        @requests(on="/find")
        def find(cls, docs: Any) -> Any:
            return cls, docs

    executor = instantiate(Index)
    assert serve(executor, "/index") == ("<docs>", {"a": 1})
    assert asyncio.run(serve(executor, "/size")) == "<docs>"
    assert serve(executor, "/find") == (Index, "<docs>")
    assert executor.requests["/index"](docs="mine") == ("mine", {"a": 1})


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("__init__", "Echo.__init__ requires"),
        ("nothing", "Echo has no method 'nothing' to serve '/x'"),
        ("attribute", "Echo has no method 'attribute' to serve '/x'"),
        (
            "close",
            "Echo.close cannot serve '/x': Executors use that name themselves; choose another one",
        ),
        (5, "Echo has no method 5 to serve '/x'"),
    ],
)
def test_what_cannot_serve_is_named(method: Any, message: str) -> None:
    class Other(Echo):
        attribute = 5

        def __init__(self, model: str) -> None: ...

    with pytest.raises(InvalidExecutor) as caught:
        handlers(Other, {"/x": method})
    assert str(caught.value).startswith(message.replace("Echo", "Other"))


# -- how it is called ------------------------------------------------------------------------------


def test_a_handler_gets_the_keywords_it_names():
    assert serve(Echo(), "/one") == "<docs>"
    docs, rest = serve(Echo(), DEFAULT)
    assert docs == "<docs>"
    assert rest == {name: f"<{name}>" for name in ("parameters", "docs_matrix", "docs_map")}
    assert asyncio.run(serve(Echo(), "/two")) == ("<parameters>", "<docs_map>")


def test_a_handler_may_take_nothing_or_have_parameters_of_its_own_with_defaults():
    class Quiet(Executor):
        @requests(on="/nothing")
        def nothing(self):
            return "nothing"

        @requests(on="/own")
        def own(self, docs, *args, top_k=5):
            return docs, args, top_k

    assert serve(Quiet(), "/nothing") == "nothing"
    assert serve(Quiet(), "/own") == ("<docs>", (), 5)


def test_static_and_class_methods_serve_too():
    class Kinds(Executor):
        @staticmethod
        @requests(on="/static")
        def static(docs):
            return docs

        @classmethod
        @requests(on="/class")
        def of_class(cls, docs):
            return cls.__name__, docs

    assert serve(Kinds(), "/static") == "<docs>"
    assert serve(Kinds(), "/class") == ("Kinds", "<docs>")


def test_decorators_stack_and_go_under_others():
    def twice(method):
        @functools.wraps(method)
        def wrapper(*args, **kwargs):
            return method(*args, **kwargs)

        return wrapper

    class Stacked(Executor):
        @requests(on="/a")
        @twice
        @requests(on="/b")
        def both(self, docs):
            return docs

        @twice
        @requests(on="/async")
        async def later(self, docs):
            return docs

    assert serve(Stacked(), "/a") == serve(Stacked(), "/b") == "<docs>"
    assert handlers(Stacked)["/async"].is_async
    assert asyncio.run(serve(Stacked(), "/async")) == "<docs>"


def test_a_handler_says_which_keywords_it_takes() -> None:
    takes = {endpoint: handler.takes for endpoint, handler in handlers(Echo).items()}
    assert takes == {
        DEFAULT: ARGUMENTS,
        "/one": ("docs",),
        "/two": ("parameters", "docs_map"),
        "/three": ("parameters", "docs_map"),
    }


def test_what_wraps_an_async_method_may_return_the_result_itself() -> None:
    def cached(method: Any) -> Any:
        @functools.wraps(method)
        def wrapper(self: Any, docs: Any) -> Any:
            return method(self, docs) if docs == "new" else f"cached {docs}"

        return wrapper

    class Cached(Executor):
        @requests(on="/x")
        @cached
        async def foo(self, docs: Any) -> str:
            return f"made {docs}"

    handler = handlers(Cached)["/x"]
    assert handler.is_async
    call = handler.bind(Cached())
    assert asyncio.run(call(**{**CALL, "docs": "new"})) == "made new"
    assert asyncio.run(call(**{**CALL, "docs": "old"})) == "cached old"


def test_what_a_handler_raises_reaches_the_caller() -> None:
    class Raises(Executor):
        @requests
        def foo(self, docs: Any) -> None:
            raise KeyError(docs)

    with pytest.raises(KeyError, match="<docs>"):
        serve(Raises(), DEFAULT)


# -- batches ---------------------------------------------------------------------------------------


class Batches(Executor):
    @requests(on=["/a", "/b"], batch_size=8, batch_timeout=20)
    def both(self, docs: Any) -> None: ...

    @requests(on="/c")
    @dynamic_batching(preferred_batch_size=4)
    def third(self, docs: Any) -> None: ...

    @requests
    def rest(self, docs: Any) -> None: ...


def batches(
    cls: type[Executor], said: dict[str, Batching] | None = None
) -> dict[str, Batching | None]:
    return {endpoint: handler.batching for endpoint, handler in handlers(cls, None, said).items()}


def test_what_decorators_say_of_batches_holds_for_all_endpoints_of_the_method() -> None:
    assert batches(Batches) == {
        "/a": Batching(8, 0.02),
        "/b": Batching(8, 0.02),
        "/c": Batching(4),
        DEFAULT: None,
    }


def test_what_is_said_of_an_endpoint_goes_over_the_decorators() -> None:
    said = {"/b": Batching(2, 0.5), DEFAULT: Batching(3), "/c": Batching(1)}
    assert batches(Batches, said) == {
        "/a": Batching(8, 0.02),
        "/b": Batching(2, 0.5),
        "/c": None,
        DEFAULT: Batching(3),
    }


def test_a_subclass_keeps_what_its_parent_said_of_batches_until_it_decorates_anew() -> None:
    class Kept(Batches):
        def both(self, docs: Any) -> None: ...

    class Anew(Batches):
        @requests(on="/a")
        def both(self, docs: Any) -> None: ...

    assert batches(Kept)["/a"] == Batching(8, 0.02)
    assert batches(Anew)["/a"] is None


def test_batches_for_an_endpoint_that_is_not_bound_are_an_error() -> None:
    with pytest.raises(
        InvalidExecutor,
        match=r"^uses_dynamic_batching names '/aa', which Batches does not bind; did",
    ):
        batches(Batches, {"/aa": Batching(2)})
    with pytest.raises(
        InvalidExecutor,
        match=r"which Batches does not bind; it binds '/a', '/b', '/c', '/default'$",
    ):
        batches(Batches, {"/encode": Batching(2)})


# -- what cannot serve -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("on", "message"),
    [
        ("x", "an endpoint must be a text that starts with '/', not 'x'; write '/x' (@requests)"),
        ("", "an endpoint must be a text that starts with '/', not '' (@requests)"),
        (["/a", 5], "an endpoint must be a text that starts with '/', not 5 (@requests)"),
        (7, "an endpoint must be a text that starts with '/', not 7 (@requests)"),
        ([], "@requests(on=[]) binds nothing"),
    ],
)
def test_wrong_endpoints_are_errors(on, message):
    with pytest.raises(InvalidExecutor) as caught:
        requests(on=on)
    assert str(caught.value).startswith(message)


def method_of(source):
    namespace = {}
    exec(f"def foo{source}: pass", namespace)
    return namespace["foo"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("(self, doc)", "Bad.foo requires 'doc', but handlers are called with the keywords docs, "
                        "parameters, "
         "docs_matrix, docs_map; did you mean 'docs'?; give it a default, or take **kwargs "
         "instead"),
        ("(self, docs, *, top_k)", "Bad.foo requires 'top_k', but handlers are called with"),
        ("(self, docs, /)", "Bad.foo takes 'docs' by position only, but handlers are called with"),
        ("(self, docs=None, /, **kwargs)", "Bad.foo takes 'docs' by position only"),
        ("(docs, **kwargs)", "Bad.foo lacks self: write def foo(self, docs, **kwargs)"),
        ("()", "Bad.foo lacks self"),
        ("(**kwargs)", "Bad.foo lacks self"),
    ],
)  # fmt: skip
def test_a_signature_that_cannot_be_called_is_an_error(source, message):
    with pytest.raises(InvalidExecutor) as caught:
        type("Bad", (Executor,), {"foo": requests(method_of(source))})
    assert str(caught.value).startswith(message)


def test_generators_and_reserved_names_are_errors():
    with pytest.raises(InvalidExecutor, match=r"Stream.foo is a generator"):

        class Stream(Executor):
            @requests
            def foo(self, docs):
                yield docs

    with pytest.raises(InvalidExecutor, match=r"Stream2.foo is a generator"):

        class Stream2(Executor):
            @requests
            async def foo(self, docs):
                yield docs

    with pytest.raises(
        InvalidExecutor, match=r"Closing.close cannot serve '/default': Executors use that name"
    ):

        class Closing(Executor):
            @requests
            def close(self, **kwargs): ...
