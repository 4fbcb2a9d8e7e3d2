"""DocumentArrays made of columns: they behave like those made of Documents,
whoever looks at them and when.
"""

from __future__ import annotations

import copy
import os
import pickle
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zflow.clients.inputs import batches
from zflow.documents.codec import INLINE, pack, unpack
from zflow.documents.document import Document, DocumentArray

WIDTH = 3


def arrived(docs: DocumentArray) -> DocumentArray:
    """The Documents as they are after their way through a socket."""
    frames = pack(docs)
    return unpack([bytes(frames[0]), *(memoryview(bytearray(frame)) for frame in frames[1:])])[0]


def held(count: int = 3, **fields: Any) -> DocumentArray:
    return arrived(
        DocumentArray(
            Document(
                id=f"{n}", text=f"t{n}", embedding=np.full(WIDTH, n, "f4"), tags={"n": n}, **fields
            )
            for n in range(count)
        )
    )


def run(*functions: Any) -> None:
    threads = [threading.Thread(target=function) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Threads that take turns all the time."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class TestColumns:
    def test_lists(self) -> None:
        da = DocumentArray([Document(id="a", text="x"), Document(id="b", blob=b"y")])
        assert (da.ids, da.texts, da.blobs, da.contents) == (
            ["a", "b"],
            ["x", ""],
            [b"", b"y"],
            ["x", b"y"],
        )
        da.blobs = [b"1", b"2"]
        da.contents = ["t", np.zeros(2)]
        da.ids = ["c", "d"]
        assert (da.ids, da.texts, da.blobs) == (["c", "d"], ["t", ""], [b"", b""])

    def test_embeddings_stack_when_alike(self) -> None:
        da = DocumentArray.empty(3)
        assert da.embeddings is None
        da.embeddings = np.arange(6, dtype="f4").reshape(3, 2)
        assert da.embeddings.dtype == np.float32
        assert da.embeddings.shape == da[:, "embedding"].shape == (3, 2)
        assert da[1].embedding.tolist() == [2.0, 3.0]

    @pytest.mark.parametrize("other", [None, np.zeros(3), np.zeros(2, "f4"), [[1], [2, 3]]])
    def test_otherwise_they_are_a_list(self, other: object) -> None:
        da = DocumentArray([Document(tensor=np.zeros(2)), Document(tensor=other)])
        assert isinstance(da.tensors, list)
        assert da.tensors[1] is other

    def test_lists_of_numbers_stack_too(self) -> None:
        da = DocumentArray([Document(tensor=[1, 2]), Document(tensor=(3, 4))])
        assert da.tensors.tolist() == [[1, 2], [3, 4]]
        da.tensors = None
        assert da.tensors is None


class TestArraysOfColumns:
    def test_they_are_equal_to_those_of_documents(self) -> None:
        docs = DocumentArray(
            Document(id=f"{n}", text=f"t{n}", embedding=np.full(WIDTH, n, "f4"), tags={"n": n})
            for n in range(3)
        )
        assert held() == docs
        for again in (copy.copy(held()), copy.deepcopy(held()), pickle.loads(pickle.dumps(held()))):
            assert again == docs
        assert [doc.id for doc in reversed(held())] == ["2", "1", "0"]
        assert held()["1"].text == held()[1].text == "t1"
        assert Document(id="2") in held()
        assert repr(held()) == "<DocumentArray of 3 Documents: id, text, embedding, tags>"
        assert (held() + docs).ids == ["0", "1", "2"] * 2
        with pytest.raises(AttributeError, match="'DocumentArray' object has no attribute 'txets'"):
            print(held().txets)  # type: ignore[attr-defined]

    def test_a_document_is_the_same_each_time(self) -> None:
        docs = held()
        first = docs[0]
        first.text = "changed"
        assert docs[0] is first is next(iter(docs)) is docs["0"]
        assert docs.texts == ["changed", "t1", "t2"]
        assert arrived(docs).texts == ["changed", "t1", "t2"]

    def test_columns_can_be_set_before_and_after(self) -> None:
        docs = held()
        docs.texts = ["x", "y", "z"]
        docs.embeddings = np.ones((3, 2))
        docs.ids = ["a", "b", "c"]
        assert "0" not in docs
        assert arrived(docs)[:, ["id", "text"]] == [["a", "b", "c"], ["x", "y", "z"]]
        assert docs["b"].embedding.tolist() == [1.0, 1.0]
        docs.texts = ["1", "2", "3"]
        docs.embeddings = None
        assert arrived(docs).texts == [doc.text for doc in docs] == ["1", "2", "3"]
        assert docs.embeddings is None

    def test_setting_one_wrongly_changes_nothing(self) -> None:
        docs = held()
        for wrong in (["x"], "xyz", 3, [3, "y", "z"]):
            with pytest.raises((TypeError, ValueError), match=r"'text' of 3|Document\.text"):
                docs[:, "text"] = wrong
        with pytest.raises(
            ValueError, match="'embedding' of 3 Documents: give one value each, not 2"
        ):
            docs.embeddings = np.zeros((2, 2))
        assert docs[:2] == held()[:2]

    @pytest.mark.parametrize("touched", [False, True])
    def test_embeddings_are_read_as_a_copy(self, touched: bool) -> None:
        docs = held()
        if touched:
            docs[0].text = "x"
        docs.embeddings[:] = 9
        assert docs[1].embedding.tolist() == [1] * WIDTH
        assert arrived(docs).embeddings.tolist() == [[n] * WIDTH for n in range(3)]

    @pytest.mark.parametrize("touched", [False, True])
    def test_an_array_that_was_set_is_shared(self, touched: bool) -> None:
        docs, matrix = held(), np.zeros((3, 2, 2))
        if touched:
            docs[0].text = "x"
        docs.tensors = matrix
        matrix[1] = 5
        matrix.shape = (3, 4)
        assert arrived(docs).tensors.tolist() == [[[n * 5] * 2] * 2 for n in (0, 1, 0)]
        assert docs[1].tensor.tolist() == [[5, 5], [5, 5]]
        docs[1].tensor[:] = 6
        assert matrix[1].tolist() == [6] * 4

    def test_rows_are_views_of_what_arrived(self) -> None:
        frames = pack(DocumentArray(Document(embedding=np.zeros(INLINE, "f4")) for _ in range(2)))
        memory = bytearray(frames[1])
        docs, _ = unpack([frames[0], memoryview(memory)])
        again = pack(docs)
        docs[1].embedding[0] = 5
        assert np.frombuffer(memory, "f4")[INLINE] == 5
        assert bytes(again[1]) == memory  # the same memory, which was not copied
        docs[1].embedding = np.ones(INLINE, "f4")
        assert np.frombuffer(pack(docs)[1], "f4")[INLINE:].all()

    @pytest.mark.parametrize("size", [1, 2, 3])
    def test_cut_into_requests_they_stay_columns(self, size: int) -> None:
        docs = held(7, matches=DocumentArray(Document(text="match")))
        cut = list(batches(docs, size))
        assert docs._columns is not None
        assert [doc.id for part in cut for doc in part] == list("0123456")
        assert [doc.matches[0].text for part in cut for doc in part] == ["match"] * 7
        assert [part.embeddings.shape for part in cut[:-1]] == [(size, WIDTH)] * (len(cut) - 1)
        assert [pack(part) for part in cut] == [
            pack(part) for part in batches(arrived(docs)[:], size)
        ]

    def test_looking_at_documents_copies_nothing(self) -> None:
        frames = pack(DocumentArray(Document(embedding=np.zeros(INLINE, "f4")) for _ in range(3)))
        memory = bytearray(frames[1])
        docs, _ = unpack([frames[0], memoryview(memory)])
        for doc in docs:
            doc.tags["seen"] = True
        memory[:4] = np.array([5], "f4").tobytes()
        assert np.shares_memory(np.frombuffer(pack(docs)[1], "f4"), np.frombuffer(memory, "f4"))
        assert arrived(docs)[0].embedding[0] == 5
        matrix = np.zeros((3, INLINE))
        docs.tensors = matrix
        assert [np.shares_memory(np.frombuffer(frame), matrix) for frame in pack(docs)[1:]] == [
            False,
            True,
        ]
        docs[1].tensor = matrix[1].copy()
        assert [np.shares_memory(np.frombuffer(frame), matrix) for frame in pack(docs)[1:]] == [
            False,
            False,
        ]

    # Newer numpy has other names for some of these.
    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    @pytest.mark.parametrize(
        ("name", "value"),
        [("shape", (2, 2)), ("shape", (4, 1)), ("dtype", np.dtype("i4")), ("strides", (0,))],
    )
    @pytest.mark.parametrize("which", [slice(None), slice(1)])
    def test_rows_whose_form_was_changed_in_place(
        self, name: str, value: Any, which: slice
    ) -> None:
        docs = arrived(DocumentArray(Document(embedding=np.full(4, n, "f4")) for n in range(3)))
        docs.tensors = np.arange(12, dtype="f4").reshape(3, 4)
        for doc in docs[which]:
            setattr(doc.embedding, name, value)
            setattr(doc.tensor, name, value)
        assert arrived(docs) == docs
        assert arrived(docs)[0].tensor.tolist() == docs[0].tensor.tolist()

    @pytest.mark.parametrize("shape", [(), (2,), (2, 3), (0, 3), (3, 0)])
    @pytest.mark.parametrize("order", ["C", "F"])
    @pytest.mark.parametrize("dtype", [">f8", "<U2", "M8[s]"])
    @pytest.mark.parametrize("count", [1, 2, 5])
    def test_arrays_pass_through_again_and_again(
        self, shape: Any, order: Any, dtype: str, count: int
    ) -> None:
        docs = DocumentArray(
            Document(id=f"{n}", tensor=np.full(shape, n, dtype, order)) for n in range(count)
        )
        once = arrived(docs)
        twice = arrived(once)
        assert arrived(twice) == docs
        assert [doc.tensor.shape for doc in twice] == [shape] * count
        assert arrived(twice) == docs
        for before, doc, stacked in zip(docs, twice, once.tensors, strict=True):
            assert (
                doc.tensor.dtype.str
                == before.tensor.dtype.str
                == once.tensors.dtype.str
                == docs.tensors.dtype.str
            )
            assert doc.tensor.flags.fnc == before.tensor.flags.fnc
            assert np.array_equal(stacked, before.tensor)

    def test_matches_are_the_part_of_each(self) -> None:
        docs = DocumentArray(
            Document(
                id=f"{n}", matches=[Document(id=f"{n}{m}", tensor=np.full((), m)) for m in range(n)]
            )
            for n in range(4)
        )
        again = arrived(docs)
        assert [doc.matches.ids for doc in again] == [[], ["10"], ["20", "21"], ["30", "31", "32"]]
        again[3].matches[1].text = "changed"
        again[3].matches.append(Document(id="33"))
        assert arrived(again)[3].matches[:, ["id", "text"]] == [
            ["30", "31", "32", "33"],
            ["", "changed", "", ""],
        ]
        assert arrived(arrived(docs)) == docs

    def test_all_threads_get_the_same_documents(self, hasty_threads: None) -> None:
        for _ in range(20):
            docs, start = held(200), threading.Barrier(4)
            found: list[tuple[int, ...]] = []

            def touch(docs: DocumentArray = docs, start: Any = start, found: Any = found) -> None:
                start.wait()
                found.append(tuple(map(id, docs)))

            run(*[touch] * 4)
            assert len(set(found)) == 1

    def test_what_one_thread_sets_is_not_lost_when_another_looks(self, hasty_threads: None) -> None:
        for _ in range(20):
            docs, start = held(200), threading.Barrier(2)

            def change(docs: DocumentArray = docs, start: Any = start) -> None:
                start.wait()
                docs.texts = ["changed"] * 200

            def touch(docs: DocumentArray = docs, start: Any = start) -> None:
                start.wait()
                assert docs[0].id == "0"

            run(change, touch)
            assert set(docs.texts) == {"changed"}

    def test_empty_ones_are_new_documents(self) -> None:
        docs = DocumentArray.empty(3)
        docs.embeddings = np.eye(3)
        assert len(set(docs.ids)) == 3
        assert arrived(docs) == docs
        assert (
            len(DocumentArray.empty()),
            arrived(DocumentArray.empty()),
            DocumentArray.empty().embeddings,
        ) == (
            0,
            DocumentArray(),
            None,
        )


class TestById:
    def test_ids_are_looked_up_without_making_any_document(self) -> None:
        docs = held()
        assert ("1" in docs, "7" in docs) == (True, False)
        assert docs._index() == {"0": 0, "1": 1, "2": 2}
        assert docs._columns is not None
        assert docs["1"].text == "t1"

    def test_of_equal_ids_the_first_is_found(self) -> None:
        docs = held()
        docs.ids = ["a", "b", "a"]
        assert docs["a"].text == "t0"

    def test_new_ids_are_found_whether_all_are_set_or_one(self) -> None:
        docs = held()
        assert "0" in docs
        docs.ids = ["a", "b", "c"]
        assert docs["c"].text == "t2"
        docs[2].id = "d"
        assert ("c" in docs, docs["d"].text) == (False, "t2")

    def test_a_document_in_two_arrays_is_found_in_both_by_its_new_id(self) -> None:
        docs = held()
        other = DocumentArray(docs[1:])
        assert ("1" in docs, "1" in other) == (True, True)
        docs[1].id = "a"
        assert docs[["a", "2"]] == other[["a", "2"]] == other
        assert "1" not in other


class TestLookingAtColumns:
    def test_what_can_be_changed_in_place_belongs_to_the_documents(self) -> None:
        docs = held()
        docs[:, "tags"][1]["n"] = "changed"
        assert [doc.tags["n"] for doc in docs] == [0, "changed", 2]
        assert arrived(docs)[:, "tags"] == [{"n": 0}, {"n": "changed"}, {"n": 2}]

    def test_a_field_that_nobody_has_set_is_read_as_its_empty_value(self) -> None:
        for docs in (held(2), DocumentArray([Document(), Document()])):
            assert docs[:, ["uri", "blob", "weight", "granularity"]] == [
                ["", ""],
                [b"", b""],
                [None, None],
                [0, 0],
            ]
            assert docs.tensors is None

    def test_a_column_that_was_read_is_the_readers_own(self) -> None:
        docs = held()
        docs.texts.append("more")
        docs.ids.clear()
        assert (docs.ids, docs.texts) == (["0", "1", "2"], ["t0", "t1", "t2"])

    def test_a_list_that_was_set_is_the_setters_own(self) -> None:
        docs, texts = held(), ["x", "y", "z"]
        docs.texts = texts
        texts[0] = "changed"
        assert docs.texts == docs[:].texts == ["x", "y", "z"]

    def test_each_has_a_description(self) -> None:
        assert DocumentArray.texts.__doc__ == "The texts, to read or to set."
        assert "one dtype and shape" in str(DocumentArray.embeddings.__doc__)

    @pytest.mark.parametrize("count", [0, 1, 2, 5])
    def test_any_number_has_a_length_and_an_order(self, count: int) -> None:
        docs = held(count)
        assert len(docs) == len(docs.ids) == count
        assert (
            [doc.id for doc in reversed(docs)] == [doc.id for doc in docs][::-1] == docs.ids[::-1]
        )
        assert bool(docs) is (count > 0)


class Model:
    """A DocumentArray, and beside it what it has to look like: a list of dicts."""

    def __init__(self, docs: DocumentArray) -> None:
        self.docs = docs
        self.rows = [
            {"id": doc.id, "text": doc.text, "embedding": doc.embedding.tolist()}
            for doc in arrived(docs)
        ]

    def check(self) -> None:
        """Compare without asking for a Document."""
        assert len(self.docs) == len(self.rows)
        assert self.docs.ids == [row["id"] for row in self.rows]
        assert self.docs.texts == [row["text"] for row in self.rows]
        embeddings = self.docs.embeddings
        assert ([] if embeddings is None else embeddings.tolist()) == [
            row["embedding"] for row in self.rows
        ]

    def apply(self, step: str, number: int) -> None:
        size, name = len(self.rows), f"n{number}"
        values: list[Any] = [f"{name} {at}" for at in range(size)]
        new: dict[str, Any] = {"id": name, "text": "new", "embedding": [float(number)] * WIDTH}
        if step == "send":
            self.docs = arrived(self.docs)
            self.rows = [copy.deepcopy(row) for row in self.rows]  # what was shared is so no more
        elif step in ("id", "text"):
            setattr(self.docs, f"{step}s", values)
            self.set(step, values)
        elif step == "embedding":
            matrix = np.arange(number, number + size * WIDTH, dtype="f4").reshape(size, WIDTH)
            self.docs.embeddings = matrix
            self.set(step, matrix.tolist())
        elif step == "append":
            self.docs.append(made(new))
            self.rows.append(new)
        elif step == "reverse":
            self.docs.reverse()
            self.rows.reverse()
        elif step == "share":
            self.docs.extend(self.docs[:2])
            self.rows.extend(self.rows[:2])
        elif size:
            self.change(step, number % size, new)

    def set(self, name: str, values: list[Any]) -> None:
        for row, value in zip(self.rows, values, strict=True):
            row[name] = value

    def change(self, step: str, at: int, new: dict[str, Any]) -> None:
        if step == "delete":
            del self.docs[at]
            del self.rows[at]
        elif step == "replace":
            self.docs[at] = made(new)
            self.rows[at] = new
        elif step == "insert":
            self.docs.insert(at, made(new))
            self.rows.insert(at, new)
        elif step == "change":
            self.docs[at].text = self.rows[at]["text"] = new["id"]
        elif step == "write":
            self.docs[at].embedding[1] = self.rows[at]["embedding"][1] = 77
        elif step == "borrow":
            self.docs[at].embedding = self.docs[0].embedding
            self.rows[at]["embedding"] = self.rows[0]["embedding"]
        elif step == "swap":
            mine, other = self.docs[at], self.docs[0]
            mine.embedding, other.embedding = other.embedding, mine.embedding
            here, there = self.rows[at], self.rows[0]
            here["embedding"], there["embedding"] = there["embedding"], here["embedding"]


def made(row: dict[str, Any]) -> Document:
    return Document(**{**row, "embedding": np.array(row["embedding"], "f4")})


STEPS = (
    "send id text embedding append reverse share delete replace insert change write borrow swap"
).split()


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, 4),
    st.lists(
        st.tuples(st.sampled_from([*STEPS, "send"]), st.integers(0, 9), st.booleans()), max_size=12
    ),
)
def test_arrays_of_columns_are_lists_whatever_happens(
    count: int, steps: list[tuple[str, int, bool]]
) -> None:
    model = Model(held(count))
    for step, number, look in steps:
        model.apply(step, number)
        if look:
            model.check()
    before = arrived(model.docs)
    model.check()
    rows = [
        {"id": doc.id, "text": doc.text, "embedding": doc.embedding.tolist()} for doc in model.docs
    ]
    assert rows == model.rows
    assert before == model.docs


def test_a_fork_waits_for_no_thread_that_its_parent_has() -> None:
    """A thread may be making Documents when another one forks."""
    from zflow.documents import storage

    held_by_parent, done = threading.Event(), threading.Event()

    def hold() -> None:
        with storage._changing_form:
            held_by_parent.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held_by_parent.wait()
    try:
        _fork_and_touch(held())
    finally:
        done.set()
        thread.join()


def _fork_and_touch(docs: DocumentArray) -> None:
    process = os.fork()
    if not process:
        signal.alarm(30)  # ends this process should it wait forever
        try:
            os._exit(0 if len(list(docs)) == 3 else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
