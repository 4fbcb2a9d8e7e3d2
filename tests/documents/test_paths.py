"""Ways into Documents that are written as text: what is nested in a field, and what is nested in
Documents.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from zflow import Document, DocumentArray
from zflow.documents import paths
from zflow.documents.codec import pack, unpack


def made() -> DocumentArray:
    return DocumentArray(
        Document(
            id=f"{n}",
            text=f"t{n}",
            tags={"x": n, "y": {"z": [n, 2 * n]}, "7": "seven"} if n else {},
            scores={"cos": n / 2} if n else {},
            chunks=[
                Document(id=f"{n}c{k}", text=f"c{n}{k}", chunks=[Document(id=f"{n}c{k}c")])
                for k in range(n)
            ],
            matches=[Document(id=f"{n}m")],
        )
        for n in range(3)
    )


@pytest.fixture(params=["Documents", "columns"])
def da(request: pytest.FixtureRequest) -> DocumentArray:
    docs = made()
    return docs if request.param == "Documents" else unpack(pack(docs))[0]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("tags__x", [None, 1, 2]),
        ("tags__y__z", [None, [1, 1 * 2], [2, 4]]),
        ("tags__y__z__1", [None, 2, 4]),
        ("tags__7", [None, "seven", "seven"]),
        ("tags__none__deeper", [None, None, None]),
        ("scores__cos__value", [None, 0.5, 1.0]),
        ("scores__cos__op_name", [None, "", ""]),
        ("chunks__0__text", [None, "c10", "c20"]),
        ("matches__0__id", ["0m", "1m", "2m"]),
    ],
)
def test_what_is_nested_in_a_field_is_read_by_its_path(
    da: DocumentArray, name: str, values: list[Any]
) -> None:
    before = made()
    assert da[:, name] == values
    assert da[1, name] == values[1]
    assert da["2", ["text", name]] == ["t2", values[2]]
    assert da[:, [name, "id"]] == [values, ["0", "1", "2"]]
    assert da == before, "reading adds nothing, no score either"


def test_tags_and_scores_are_set_and_deleted_by_their_path(da: DocumentArray) -> None:
    da[:, "tags__x"] = [5, 6, 7]
    da[:, ["text", "tags__new__deep"]] = [["a", "b", "c"], [1, 2, 3]]
    assert da[:, ["tags__x", "text", "tags__new__deep"]] == [
        [5, 6, 7],
        ["a", "b", "c"],
        [1, 2, 3],
    ]
    da[0, "scores__cos__value"] = 0.25
    assert da[0].scores["cos"].value == 0.25
    da[1, "scores__cos"] = 4
    assert da[1].scores["cos"].value == 4
    del da[1:, "tags__x"]
    assert da[:, "tags__x"] == [5, None, None]
    assert "x" not in da[1].tags
    da[:, "chunks__0__text"] = [None, "new", "new"]
    assert da[1].chunks[0].text == "new"


@pytest.mark.parametrize("name", ["tag__x", "tags__", "__x", "tags____x", "text__x", "tensor__0"])
def test_no_path_at_all_is_refused(da: DocumentArray, name: str) -> None:
    with pytest.raises(TypeError, match=r"expected da\[rows, field\]"):
        da[:, name]


def test_a_path_that_leads_nowhere_cannot_be_set(da: DocumentArray) -> None:
    with pytest.raises(TypeError, match=r"'tags__x__y'.*is int"):
        da[1:, "tags__x__y"] = [1, 2]
    with pytest.raises(IndexError, match="there is no Document 0"):
        da[:, "chunks__0__text"] = ["a", "b", "c"]


CHUNKS = ["1c0", "2c0", "2c1"]
MATCHES = ["0m", "1m", "2m"]


@pytest.mark.parametrize(
    ("path", "ids"),
    [
        ("@r", ["0", "1", "2"]),
        ("@c", CHUNKS),
        ("@m", MATCHES),
        ("@c,m", CHUNKS + MATCHES),
        ("@m, c", MATCHES + CHUNKS),
        ("@cc", [f"{name}c" for name in CHUNKS]),
        ("@rc", CHUNKS),
        ("@cm", []),
        ("@c[0]", ["1c0", "2c0"]),
        ("@c[-1]", ["1c0", "2c1"]),
        ("@c[1:]", ["2c1"]),
        ("@r[1:]c[:1]", ["1c0", "2c0"]),
        ("@r[-1],m[0]", ["2", *MATCHES]),
    ],
)
def test_nested_documents_are_found_by_their_path(
    da: DocumentArray, path: str, ids: list[str]
) -> None:
    found = da[path]
    assert type(found) is DocumentArray
    assert found.ids == ids
    assert da.traverse_flat(path[1:]).ids == ids
    assert da[path, "id"] == ids
    assert da[path, ["id", "tags__x"]][0] == ids


def test_what_is_found_are_the_documents_themselves(da: DocumentArray) -> None:
    da["@c"][0].text = "new"
    assert da[1].chunks[0].text == "new"
    da["@m"].embeddings = np.eye(3)
    da["@m", "text"] = ["a", "b", "c"]
    assert da[2].matches[0].embedding[2] == 1
    assert da[2].matches[0].text == "c"
    del da["@m", "text"]
    assert da[2].matches[0].text == ""
    da["@r"].append(Document())
    assert len(da) == 3


def test_a_document_that_has_a_path_as_its_id_is_found_by_it() -> None:
    docs = DocumentArray([Document(id="@c"), Document(id="@someone")])
    assert docs["@c"].id == "@c"
    assert docs["@someone"].id == "@someone"
    docs["@c"] = Document(id="x")
    del docs["@someone"]
    assert docs.ids == ["x"]


@pytest.mark.parametrize("path", ["", "x", "c,", "c[", "c[a]", "c[0:1:2:3]", "c[::0]", "@c", 7])
def test_what_is_no_path_is_refused(path: Any) -> None:
    with pytest.raises(ValueError, match=r"is no path.*'c,m'"):
        made().traverse_flat(path)
    assert paths.is_way(f"@{path}") is False


def test_an_unknown_path_is_an_unknown_id() -> None:
    with pytest.raises(KeyError, match="no Document with id '@x' among 3"):
        made()["@x"]
