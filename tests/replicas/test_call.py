"""Calls that are made for several requests, and what each of these ends with: pure,
with and without hypothesis.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zflow import Document, DocumentArray, Executor, requests
from zflow.executors.batching import Batching
from zflow.executors.handlers import handlers
from zflow.replicas.call import Call, Miscounted, alike, join, share


class Calls(Executor):
    @requests(on="/one")
    def one(self, **kwargs: Any) -> None: ...

    @requests(on="/many", batch_size=4)
    def many(self, **kwargs: Any) -> None: ...

    @requests(on="/more", batch_size=4)
    def more(self, **kwargs: Any) -> None: ...


HANDLERS = handlers(Calls)
SIZE = 4


def call(endpoint: str = "/many", texts: str = "a", **parameters: Any) -> Call:
    docs = DocumentArray(Document(text=text) for text in texts)
    return Call(HANDLERS[endpoint], None, docs, parameters, None, None)


def share_all(calls: list[Call], value: Any = None) -> list[tuple[DocumentArray, dict[str, Any]]]:
    return share(calls, [len(each.docs) for each in calls], join(calls), value, "me/rep-0")


def seen(call: Call) -> dict[str, Any]:
    """What the method is called with."""
    given: list[Any] = []
    call._replace(function=lambda **said: given.append(said)).start()
    return dict(given[0]["parameters"])


class TestParametersForOneExecutor:
    NAMES = ("me", "other")

    def test_nothing_is_copied_where_there_are_none(self) -> None:
        for each in (call(), call(limit=1), call(nobody__limit=1)):
            assert each.of("me", self.NAMES) is each
            assert each.carried() is each.parameters

    def test_the_method_gets_its_own_and_all_of_them_go_on(self) -> None:
        mine = call(limit=1, me__limit=2, other__limit=3).of("me", self.NAMES)
        assert seen(mine) == {"limit": 2}
        assert mine.own is not None
        mine.own["more"] = 4
        assert mine.carried() == {"limit": 1, "me__limit": 2, "other__limit": 3, "more": 4}

    def test_so_it_is_in_batches_where_results_of_executors_before_stay_those_of_each(self) -> None:
        calls = [call(me__limit=2, __results__={"a": at}).of("me", self.NAMES) for at in range(2)]
        assert alike(calls) == [[0, 1]]
        made = join(calls)
        assert seen(made) == {"limit": 2}
        assert made.own is not None
        made.own["more"] = 4
        shares = share(calls, [1, 1], made, {"answer": 5}, "me/rep-0")
        assert [parameters for _, parameters in shares] == [
            {"me__limit": 2, "more": 4, "__results__": {"a": at, "me/rep-0": {"answer": 5}}}
            for at in range(2)
        ]
        assert alike([calls[0], call(me__limit=3).of("me", self.NAMES)]) == [[0], [1]]


class TestAlike:
    def test_calls_of_one_method_with_equal_parameters_are(self) -> None:
        calls = [call(), call("/more"), call(limit=1), call(), call(limit=1.0), call(limit=1)]
        assert alike(calls) == [[0, 3], [1], [2, 5], [4]]

    def test_arrays_among_the_parameters_are_compared(self) -> None:
        calls = [call(weights=np.array(weights)) for weights in ([1, 2], [1, 2], [1, 3])]
        assert alike(calls) == [[0, 1], [2]]

    def test_results_of_executors_before_do_not_count(self) -> None:
        assert alike([call(__results__={"a": 1}), call(__results__={"a": 2}), call()]) == [
            [0, 1, 2]
        ]

    def test_parameters_that_cannot_be_sent_on_are_like_no_others(self) -> None:
        deep: list[Any] = []
        for _ in range(2000):
            deep = [deep]
        assert alike([call(), call(deep=deep), call(deep=deep), call()]) == [[0, 3], [1], [2]]

    def test_no_call_gets_more_documents_than_it_likes_unless_one_request_has_them(self) -> None:
        sizes = [3, 1, 1, 9, 2, 2]
        assert alike([call(texts="x" * size) for size in sizes]) == [[0, 1], [2], [3], [4, 5]]

    def test_a_method_that_takes_one_request_at_a_time_gets_one(self) -> None:
        assert alike([call("/one", ""), call("/one")]) == [[0], [1]]

    @given(
        st.lists(
            st.tuples(st.sampled_from(["/many", "/more"]), st.integers(0, 6), st.integers(0, 2)),
            max_size=30,
        )
    )
    def test_each_is_in_one_group_of_its_kind(self, drawn: list[tuple[str, int, int]]) -> None:
        calls = [call(endpoint, "x" * size, limit=limit) for endpoint, size, limit in drawn]
        groups = alike(calls)
        assert sorted(position for group in groups for position in group) == list(range(len(drawn)))
        for group in groups:
            assert group == sorted(group)
            assert len({(drawn[at][0], drawn[at][2]) for at in group}) == 1
            assert len(group) == 1 or sum(drawn[at][1] for at in group) <= SIZE


class TestShare:
    @given(st.lists(st.text("abc", max_size=5), min_size=1, max_size=8), st.booleans())
    def test_each_gets_its_own_documents(self, texts: list[str], anew: bool) -> None:
        calls = [call(texts=some) for some in texts]
        made = join(calls)
        counts = [len(each.docs) for each in calls]
        value = (
            DocumentArray(Document(text=doc.text.upper()) for doc in made.docs) if anew else None
        )
        for doc in made.docs:
            doc.text = doc.text.upper()
        shares = share(calls, counts, made, value, "me")
        assert ["".join(docs.texts) for docs, _ in shares] == [some.upper() for some in texts]

    @pytest.mark.parametrize("count", [0, 1, 3])
    def test_another_number_of_documents_is_nobodys(self, count: int) -> None:
        value = DocumentArray(Document() for _ in range(count))
        with pytest.raises(Miscounted, match=f"{count} Documents came back for 2 of 2 requests"):
            share_all([call(), call()], value)

    def test_a_request_alone_may_end_with_any_number(self) -> None:
        ((docs, _),) = share_all([call(texts="abc")], DocumentArray())
        assert len(docs) == 0

    def test_a_dict_is_everybodys_beside_what_each_had(self) -> None:
        calls = [call(limit=3, __results__={"before": 1}), call(limit=3)]
        found = [parameters for _, parameters in share_all(calls, {"n": 2})]
        assert found == [
            {"limit": 3, "__results__": {"before": 1, "me/rep-0": {"n": 2}}},
            {"limit": 3, "__results__": {"me/rep-0": {"n": 2}}},
        ]
        assert calls[1].parameters == {"limit": 3}

    def test_what_the_method_does_to_the_parameters_holds_for_all(self) -> None:
        calls = [call(limit=3), call(limit=3)]
        made = join(calls)
        made.parameters["limit"] = 4
        assert [parameters for _, parameters in share(calls, [1, 1], made, None, "me")] == [
            {"limit": 4}
        ] * 2

    @pytest.mark.parametrize("count", [1, 2])
    def test_a_method_that_takes_several_never_sees_results_of_executors_before(
        self, count: int
    ) -> None:
        calls = [call(__results__={"a": number}) for number in range(count)]
        assert join(calls).parameters == {}
        assert [parameters["__results__"] for _, parameters in share_all(calls)] == [
            {"a": n} for n in range(count)
        ]

    def test_a_method_that_takes_one_gets_the_call_as_it_is(self) -> None:
        one = call("/one", __results__={"a": 1})
        assert join([one]) is one


def test_what_handlers_say() -> None:
    assert HANDLERS["/many"].batching == Batching(4)
    assert HANDLERS["/one"].batching is None
