"""What can be said about batching, where, and what cannot."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest

from zflow import Executor, Flow, dynamic_batching, errors, requests
from zflow.executors.batching import Batching, mark
from zflow.executors.handlers import handlers
from zflow.executors.uses import load


class Said(Executor):
    @requests(on="/size", batch_size=32)
    def size(self, **kwargs: Any) -> None: ...

    @requests(on=["/both", "/other"], batch_size=8, batch_timeout=500)
    def both(self, **kwargs: Any) -> None: ...

    @requests(on="/jina")
    @dynamic_batching(preferred_batch_size=10, timeout=200)
    def jina(self, **kwargs: Any) -> None: ...

    @dynamic_batching(preferred_batch_size=10)
    @requests(on="/above")
    def above(self, **kwargs: Any) -> None: ...

    @requests(on="/single", batch_size=1)
    def single(self, **kwargs: Any) -> None: ...

    @requests
    def rest(self, **kwargs: Any) -> None: ...


def said(executor: type[Executor], **options: Any) -> dict[str, Batching | None]:
    return {
        endpoint: handler.batching for endpoint, handler in handlers(executor, **options).items()
    }


class TestDecorators:
    def test_they_say_how_large_and_how_long(self) -> None:
        assert said(Said) == {
            "/size": Batching(32),
            "/both": Batching(8, 0.5),
            "/other": Batching(8, 0.5),
            "/jina": Batching(10, 0.2),
            "/above": Batching(10),
            "/single": None,
            "/default": None,
        }

    def test_a_subclass_inherits_what_it_does_not_decorate_anew(self) -> None:
        class Sub(Said):
            def size(self, **kwargs: Any) -> None: ...

            @requests(on="/jina")
            def jina(self, **kwargs: Any) -> None: ...

        assert said(Sub)["/size"] == Batching(32)
        assert said(Sub)["/jina"] is None

    def test_other_endpoints_of_the_same_method_share_it(self) -> None:
        assert said(Said, uses_requests={"/more": "size"})["/more"] == Batching(32)

    def test_decorators_above_keep_it(self) -> None:
        def other(function: Any) -> Any:
            return functools.wraps(function)(lambda *given, **named: function(*given, **named))

        class Wrapped(Executor):
            @other
            @requests(batch_size=4)
            def rest(self, **kwargs: Any) -> None: ...

        assert said(Wrapped) == {"/default": Batching(4)}

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"batch_size": 0}, "batch_size must be a whole number from 1 to 1000000, not 0"),
            (
                {"batch_size": 10**6 + 1},
                "batch_size must be a whole number from 1 to 1000000, not 1000001",
            ),
            (
                {"batch_size": 4, "batch_timeout": 2**64},
                "from 0 to 86400000, not 18446744073709551616",
            ),
            ({"batch_size": 2.5}, "batch_size must be a whole number from 1 to 1000000, not 2.5"),
            ({"batch_size": True}, "batch_size must be a whole number from 1 to 1000000, not True"),
            (
                {"batch_size": 4, "batch_timeout": -1},
                "batch_timeout must be milliseconds from 0 to 86400000, not -1",
            ),
            (
                {"batch_size": 4, "batch_timeout": float("inf")},
                "batch_timeout must be milliseconds from 0 to 86400000, not inf",
            ),
            (
                {"batch_size": 4, "batch_timeout": "1"},
                "batch_timeout must be milliseconds from 0 to 86400000, not '1'",
            ),
            (
                {"batch_size": 4, "batch_timeout": 0.05},
                "batch_timeout is in milliseconds: 0.05 is less than one; 50 is 0.05 seconds",
            ),
            ({"batch_timeout": 1.0}, "add batch_size="),
        ],
    )
    def test_what_requests_cannot_say(self, options: dict[str, Any], words: str) -> None:
        with pytest.raises(errors.InvalidExecutor, match=words):
            requests(on="/x", **options)

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (
                {"preferred_batch_size": 0},
                "preferred_batch_size must be a whole number from 1 to 1000000",
            ),
            (
                {"preferred_batch_size": 4, "timeout": -5},
                "timeout must be milliseconds from 0 to 86400000, not -5",
            ),
            (
                {"preferred_batch_size": 4, "timeout": 0.5},
                "timeout is in milliseconds: .*; 500 is half a second",
            ),
        ],
    )
    def test_what_dynamic_batching_cannot_say(self, options: dict[str, Any], words: str) -> None:
        with pytest.raises(errors.InvalidExecutor, match=words):
            dynamic_batching(**options)

    def test_it_is_said_once(self) -> None:
        function = mark(lambda: None, Batching(4))
        assert mark(function, Batching(4)) is function
        with pytest.raises(errors.InvalidExecutor, match="two batch sizes, 4 and 8"):
            dynamic_batching(preferred_batch_size=8)(function)


class TestFlows:
    def test_a_flow_counts_over_yaml_of_the_executor_and_that_over_decorators(self) -> None:
        described = {
            "jtype": "Said",
            "uses_dynamic_batching": {
                "/size": {"preferred_batch_size": 2},
                "/jina": {"preferred_batch_size": 3},
            },
        }
        loaded = load(described, uses_dynamic_batching={"/jina": Batching(4)})
        found = said(Said, uses_dynamic_batching=loaded.batching)
        assert (found["/size"], found["/jina"], found["/above"]) == (
            Batching(2),
            Batching(4),
            Batching(10),
        )

    def test_yaml_keeps_it(self, tmp_path: Path) -> None:
        said = {
            "/a": {"preferred_batch_size": 32, "timeout": 100},
            "/b": {"preferred_batch_size": 4, "timeout": 2.5},
        }
        more = {"/c": {"preferred_batch_size": 2}}
        flow = Flow().add(name="a", uses_dynamic_batching={**said, **more})
        flow.save_config(tmp_path / "flow.yaml")
        assert (
            "preferred_batch_size: 32\n      timeout: 100\n" in (tmp_path / "flow.yaml").read_text()
        )
        (spec,) = Flow.load_config(tmp_path / "flow.yaml")._topology.specs
        assert spec.uses_dynamic_batching == {
            "/a": Batching(32, 0.1),
            "/b": Batching(4, 0.0025),
            "/c": Batching(2),
        }

    @pytest.mark.parametrize(
        ("value", "words"),
        [
            (32, "uses_dynamic_batching must be a dict such as"),
            ({"": {"preferred_batch_size": 2}}, "which start with '/', not by ''"),
            ({"/x": 32}, r"uses_dynamic_batching\['/x'\] must be a dict with preferred_batch_size"),
            ({"/x": {"timeout": 32}}, "must be a dict with preferred_batch_size"),
            (
                {"/x": {"preferred_batch_size": 2, "time": 1}},
                "unknown key 'time'; did you mean 'timeout'",
            ),
            (
                {"/x": {"preferred_batch_size": "2"}},
                "must be a whole number from 1 to 1000000, not '2'",
            ),
            (
                {"/x": {"preferred_batch_size": 2, "timeout": None}},
                "must be milliseconds from 0 to 86400000, not None",
            ),
        ],
    )
    def test_what_a_flow_cannot_say(self, value: Any, words: str) -> None:
        with pytest.raises(errors.InvalidFlow, match=words):
            Flow().add(name="a", uses_dynamic_batching=value)
        with pytest.raises(errors.InvalidExecutor, match=words):
            load({"jtype": "Said", "uses_dynamic_batching": value})

    def test_an_endpoint_that_is_not_bound(self) -> None:
        with pytest.raises(
            errors.InvalidExecutor,
            match="names '/sise', which Said does not bind; did you mean '/size'",
        ):
            load(Said, uses_dynamic_batching={"/sise": Batching(2)})

    def test_it_belongs_to_one_executor(self) -> None:
        with pytest.raises(errors.InvalidFlow, match="belongs to one Executor"):
            Flow(uses_dynamic_batching={"/x": {"preferred_batch_size": 2}})
        with pytest.raises(
            errors.InvalidFlow, match="the business of the Flow where an external Executor runs"
        ):
            Flow().add(
                external=True, port=1, uses_dynamic_batching={"/x": {"preferred_batch_size": 2}}
            )

    def test_with_no_reduce_each_request_has_a_matrix_of_its_own(self) -> None:
        two = {"/x": {"preferred_batch_size": 2}}
        with pytest.raises(errors.InvalidFlow, match="leave one of the two out"):
            Flow().add(no_reduce=True, uses_dynamic_batching=two)
        with pytest.raises(errors.InvalidExecutor, match="say preferred_batch_size 1"):
            load(Said, no_reduce=True)
        alone = {endpoint: Batching(1) for endpoint in said(Said)}
        assert load(Said, no_reduce=True, uses_dynamic_batching=alone).cls is Said

    def test_requests_for_all_shards_are_not_put_together(self) -> None:
        search = {"/search": {"preferred_batch_size": 2}}
        with pytest.raises(errors.InvalidFlow, match=r"say polling=\{'/search': 'ANY'\}"):
            Flow().add(shards=2, uses_dynamic_batching=search)
        Flow().add(shards=2, uses_dynamic_batching=search, polling={"/search": "ANY"})
        Flow().add(shards=1, uses_dynamic_batching=search)
        Flow().add(shards=2, uses_dynamic_batching={"/search": {"preferred_batch_size": 1}})
