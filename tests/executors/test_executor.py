"""Executors and @requests, as a user writes them and as a replica calls them."""

import abc
import asyncio
import copy
import logging
import os
import pickle
from dataclasses import dataclass
from pathlib import Path

import pytest

from zflow import Document, DocumentArray
from zflow.errors import InvalidExecutor
from zflow.executors.executor import Executor, find_class, instantiate, requests
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


def test_decorated_methods_stay_ordinary_ones():
    assert Echo().one(docs=1) == 1
    assert Echo().one(2) == 2
    assert Echo.one.__name__ == "one"
    assert asyncio.run(Echo().two({"a": 1})) == ({"a": 1}, None)


def test_requests_says_how_it_is_written():
    with pytest.raises(InvalidExecutor, match=r"write @requests\(on='/x'\), not @requests\('/x'\)"):
        requests("/x")
    with pytest.raises(InvalidExecutor, match="decorates methods of an Executor"):
        requests(Echo)


def test_runtime_attributes_are_there_before_the_constructor_whether_or_not_it_calls_the_base():
    class Early(Executor):
        def __init__(self, greeting, **kwargs):
            self.seen = (
                self.runtime_args.name,
                self.metas.description,
                self.workspace,
                self.logger.name,
            )
            self.bound = sorted(self.requests)
            self.greeting = greeting

        @requests
        def foo(self, docs): ...

    executor = instantiate(
        Early,
        uses_with={"greeting": "hi"},
        metas={"description": "greets"},
        requests={"/x": "foo"},
        runtime_args={
            "name": "early/rep-1",
            "shard_id": 0,
            "shards": 1,
            "replicas": 2,
            "replica_id": 1,
        },
    )
    assert executor.seen == ("early/rep-1", "greets", None, "zflow.early/rep-1")
    assert executor.bound == ["/x"]
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
        "name": "Direct",
        "shard_id": 0,
        "shards": 1,
        "replica_id": 0,
        "replicas": 1,
        "workspace": str(tmp_path),
        "seed": None,
        "cuda_visible_devices": "1",
    }
    assert executor.metas.name == "mine"
    assert executor.logger is logging.getLogger("zflow.Direct")
    executor.close()
    assert copy.copy(executor).a == 1


def test_methods_are_called_by_hand_as_in_a_flow(tmp_path) -> None:
    class ByHand(Executor):
        def __init__(self, metas=None, requests=None, runtime_args=None, top_k=3, **kwargs):
            super().__init__(metas=metas, requests=requests, runtime_args=runtime_args, **kwargs)
            self.top_k = top_k
            self.foo = "an attribute"

        @requests(on="foo")
        def bar(self, docs, parameters=None, **kwargs):
            docs.texts = [text * (parameters or {}).get("top_k", self.top_k) for text in docs.texts]

        @requests
        async def wait(self, docs, **kwargs):
            await asyncio.sleep(0)
            return docs[:1]

        @requests(on="/many", batch_size=8)
        def many(self, docs, **kwargs):
            return {"size": len(docs)}

    docs = DocumentArray([Document(text="a"), Document(text="b")])
    executor = ByHand()
    assert executor.bar(docs=docs) is None
    assert docs.texts == ["aaa", "bbb"]
    executor.bar(docs, {"top_k": 0}, anything="else")
    assert docs.texts == ["", ""]
    assert len(asyncio.run(executor.wait(docs=docs))) == 1
    assert executor.many(docs=docs) == {"size": 2}
    assert executor.requests["/many"](docs=docs) == {"size": 2}
    made = ByHand(
        top_k=1, metas={"name": "mine"}, runtime_args={"shard_id": 2}, workspace=str(tmp_path)
    )
    assert (made.top_k, made.metas.name, made.runtime_args.name) == (1, "mine", "ByHand")
    assert made.workspace == str(tmp_path / "ByHand" / "2")


def test_an_executor_closes_at_the_end_of_a_with_statement() -> None:
    class Closes(Executor):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.closed = 0

        def close(self):
            self.closed += 1

    with Closes() as executor:
        assert (type(executor), executor.closed) == (Closes, 0)
    assert executor.closed == 1
    with Closes() as executor:
        executor.close = "an attribute"
    assert executor.closed == 1
    with pytest.raises(LookupError, match="no such thing"), Closes():
        raise LookupError("no such thing")

    class ClosesLater(Executor):
        async def close(self):
            await asyncio.sleep(0)
            self.closed = True

    with ClosesLater() as executor:
        pass
    assert executor.closed

    async def main():
        async with ClosesLater() as executor:
            pass
        assert executor.closed
        async with Closes() as executor:
            pass
        assert executor.closed == 1

    asyncio.run(main())


@pytest.mark.parametrize(
    "given",
    [
        {"workspace": "kept"},
        {"workspace": Path("kept")},
        {"runtime_args": {"workspace": "kept"}},
        {"metas": {"workspace": "kept"}},
        {"metas": {"workspace": Path("kept")}},
    ],
)
def test_a_relative_workspace_is_where_the_executor_was_made(tmp_path, monkeypatch, given):
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(tmp_path)
    executor = Echo(**given)
    os.chdir("away")
    assert executor.workspace == str(tmp_path / "kept" / "Echo" / "0")


def test_the_workspace_is_made_when_asked_for(tmp_path):
    args = {"name": "indexer/shard-1/rep-0", "shard_id": 1}
    executor = instantiate(Echo, workspace=str(tmp_path), runtime_args=args)
    assert os.listdir(tmp_path) == []
    assert executor.workspace == str(tmp_path / "indexer" / "1")
    assert os.path.isdir(executor.workspace)
    assert instantiate(Echo, metas={"workspace": str(tmp_path)}).workspace == str(
        tmp_path / "Echo" / "0"
    )
    assert Echo().workspace is None


def test_metas_have_a_name_and_what_is_said() -> None:
    assert (Echo().metas.name, Echo().metas.description, Echo().metas.workspace) == (
        "Echo",
        "",
        None,
    )
    metas = instantiate(Echo, metas={"name": "mine", "colour": "red"}).metas
    assert (metas.name, metas.colour) == ("mine", "red")
    assert vars(metas) == {"name": "mine", "colour": "red"}
    assert vars(Echo().metas) == {}
    assert not hasattr(metas, "nothing")
    for one in (metas, Echo().metas):
        copied = pickle.loads(pickle.dumps(one))
        assert (copied, copied.name) == (one, one.name)


def test_attributes_that_hide_those_of_executors_break_nothing(tmp_path) -> None:
    class Hides(Executor):
        def __init__(self, **kwargs):
            self.metas = self.runtime_args = self.requests = "mine"

        @requests
        def foo(self, docs):
            return self.requests, docs

    executor = instantiate(
        Hides,
        requests={"/x": "foo"},
        metas={"workspace": str(tmp_path)},
        runtime_args={"name": "hides/rep-0"},
    )
    assert serve(executor, "/x") == ("mine", "<docs>")
    assert executor.logger.name == "zflow.hides/rep-0"
    assert executor.workspace == str(tmp_path / "hides" / "0")
    assert (executor.metas, executor.runtime_args) == ("mine", "mine")


@pytest.mark.parametrize("names", ["metas", "requests", "runtime_args"])
def test_a_constructor_gets_what_it_names(names):
    class Names(Executor):
        def __init__(self, metas, requests, runtime_args):
            super().__init__(metas=metas, requests=requests, runtime_args=runtime_args)
            self.given = {"metas": metas, "requests": requests, "runtime_args": runtime_args}

        @requests
        def foo(self, docs): ...

    class OneOfThem(Executor):
        if names == "metas":

            def __init__(self, *, metas=None, **kwargs):
                self.given = {"metas": metas}
        elif names == "requests":

            def __init__(self, requests=None):
                self.given = {"requests": requests}
        else:

            def __init__(self, runtime_args):
                self.given = {"runtime_args": runtime_args}

    class Child(Names):
        def __init__(self, size, **kwargs):
            super().__init__(**kwargs)
            self.size = size

    told = {
        "metas": {"name": "mine", "more": 1},
        "requests": {"/x": "foo"},
        "runtime_args": {"name": "names/rep-1", "shard_id": 2},
    }
    for cls, uses_with in ((Names, {}), (OneOfThem, {}), (Child, {"size": 3})):
        told["requests"] = {} if cls is OneOfThem else {"/x": "foo"}
        executor = instantiate(cls, uses_with=uses_with, **told)
        given = executor.given[names]
        assert given == {**given, **told[names]}
        assert isinstance(given, dict)
        assert executor.runtime_args.name == "names/rep-1"
        assert executor.metas.more == 1
    given = instantiate(OneOfThem, uses_with={names: "mine"}, **told).given
    assert given == {names: "mine"}  # what is said in so many words


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
