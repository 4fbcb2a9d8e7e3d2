"""Executors and @requests, as a user writes them and as a replica calls them."""

import abc
import asyncio
import copy
import functools
import logging
import os
from dataclasses import dataclass

import pytest

from zflow.errors import InvalidExecutor
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


def test_decorated_methods_are_bound_to_their_endpoints():
    assert table(Echo) == {DEFAULT: "rest", "/one": "one", "/two": "two", "/three": "two"}
    assert [handlers(Echo)[endpoint].is_async for endpoint in (DEFAULT, "/one", "/two")] == [False, False, True]
    assert table(BaseExecutor) == {}


def test_decorated_methods_stay_ordinary_ones():
    assert Echo().one(docs=1) == 1
    assert Echo().one(2) == 2
    assert Echo.one.__name__ == "one"
    assert asyncio.run(Echo().two({"a": 1})) == ({"a": 1}, None)


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
        "Twice.foo and Twice.bar are both bound to endpoint '/x': give each a different `on`, or merge them"
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


def test_requests_says_how_it_is_written():
    with pytest.raises(InvalidExecutor, match=r"write @requests\(on='/x'\), not @requests\('/x'\)"):
        requests("/x")
    with pytest.raises(InvalidExecutor, match="decorates methods of an Executor"):
        requests(Echo)


def method_of(source):
    namespace = {}
    exec(f"def foo{source}: pass", namespace)
    return namespace["foo"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("(self, doc)", "Bad.foo requires 'doc', but handlers are called with the keywords docs, parameters, "
         "docs_matrix, docs_map; did you mean 'docs'?; give it a default, or take **kwargs instead"),
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

    with pytest.raises(InvalidExecutor, match=r"Closing.close cannot serve '/default': Executors use that name"):

        class Closing(Executor):
            @requests
            def close(self, **kwargs): ...


def test_uses_requests_bind_over_the_decorators():
    class Plain(Echo):
        def extra(self, docs):
            return "extra"

    assert table(Plain, {"/one": "extra", "/new": "rest"}) == {
        DEFAULT: "rest", "/one": "extra", "/two": "two", "/three": "two", "/new": "rest"
    }  # fmt: skip
    assert serve(Plain(), "/one", {"/one": "extra"}) == "extra"
    with pytest.raises(InvalidExecutor, match=r"Plain has no method 'extr' to serve '/x'; did you mean 'extra'\?"):
        handlers(Plain, {"/x": "extr"})
    with pytest.raises(InvalidExecutor, match="an endpoint must be a text that starts with '/'"):
        handlers(Plain, {"x": "extra"})


def test_runtime_attributes_are_there_before_the_constructor_runs_whether_or_not_it_calls_the_base():
    class Early(Executor):
        def __init__(self, greeting, **kwargs):
            self.seen = (self.runtime_args.name, self.metas.description, self.workspace, self.logger.name)
            self.bound = sorted(self.requests)
            self.greeting = greeting

        @requests
        def foo(self, docs): ...

    executor = instantiate(
        Early,
        uses_with={"greeting": "hi"},
        metas={"description": "greets"},
        requests={"/x": "foo"},
        runtime_args={"name": "early/rep-1", "shard_id": 0, "shards": 1, "replicas": 2, "replica_id": 1},
    )
    assert executor.seen == ("early/rep-1", "greets", None, "zflow.early/rep-1")
    assert executor.bound == ["/default", "/x"]
    assert executor.greeting == "hi"
    assert executor.runtime_args.replica_id == 1


@pytest.mark.parametrize("form", ["kwargs", "bare", "none"])
def test_every_way_to_write_a_constructor_keeps_them(form):
    class Forms(Executor):
        def __init__(self, **kwargs):
            if form == "kwargs":
                super().__init__(**kwargs)
            elif form == "bare":
                super().__init__()

    executor = instantiate(Forms, runtime_args={"name": "forms/rep-0"}, uses_with={"model": "x"})
    assert executor.runtime_args.name == "forms/rep-0"


def test_an_executor_works_without_a_flow(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")

    class Direct(Executor):
        def __init__(self, a, **kwargs):
            super().__init__(**kwargs)
            self.a = a

    executor = Direct(a=1, workspace=tmp_path, metas={"name": "mine"})
    assert executor.a == 1
    assert vars(executor.runtime_args) == {
        "name": "Direct", "shard_id": 0, "shards": 1, "replica_id": 0, "replicas": 1, "workspace": str(tmp_path),
        "cuda_visible_devices": "1"
    }  # fmt: skip
    assert executor.metas.name == "mine"
    assert executor.logger is logging.getLogger("zflow.Direct")
    executor.close()
    assert copy.copy(executor).a == 1


def test_the_workspace_is_made_when_asked_for(tmp_path):
    args = {"name": "indexer/shard-1/rep-0", "shard_id": 1}
    executor = instantiate(Echo, workspace=str(tmp_path), runtime_args=args)
    assert os.listdir(tmp_path) == []
    assert executor.workspace == str(tmp_path / "indexer" / "1")
    assert os.path.isdir(executor.workspace)
    assert instantiate(Echo, metas={"workspace": str(tmp_path)}).workspace == str(tmp_path / "Echo" / "0")
    assert Echo().workspace is None


def test_users_may_set_a_logger_of_their_own():
    class Logs(Executor):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.logger = logging.getLogger("mine")

    assert instantiate(Logs, runtime_args={"name": "logs/rep-0"}).logger.name == "mine"


def test_dataclasses_and_abstract_classes_can_be_executors():
    @dataclass
    class Data(Executor):
        size: int = 3

        @requests
        def foo(self, docs):
            return self.size

    class Abstract(Executor, abc.ABC):
        @requests
        @abc.abstractmethod
        def foo(self, docs): ...

    class Concrete(Abstract):
        def foo(self, docs):
            return docs

    assert serve(instantiate(Data, uses_with={"size": 4}), DEFAULT) == 4
    assert serve(Concrete(), DEFAULT) == "<docs>"


def test_instances_know_the_requests_they_were_given():
    executor = instantiate(Echo, requests={"/new": "one"})
    assert executor.requests["/new"](docs=1) == 1
    assert table(executor)["/new"] == "one"


def test_classes_are_found_by_name_and_the_last_definition_counts():
    def define():
        class FoundByName(Executor):
            pass

        return FoundByName

    define()
    second = define()
    assert find_class("FoundByName") is second
    assert find_class("NeverDefined") is None
