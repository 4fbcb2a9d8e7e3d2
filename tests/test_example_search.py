"""The search example: its texts, its vectors, its two Executors alone, and the programs as a user runs them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "search"
QUERY = "parse json from a string"


@pytest.fixture(autouse=True)
def example_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE))


def test_corpus_reads_public_docstrings_without_importing(tmp_path: Path) -> None:
    import corpus

    (tmp_path / "package").mkdir()
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "test_all.py").write_text('"""a test"""')
    (tmp_path / "_private.py").write_text('"""private"""')
    (tmp_path / "broken.py").write_text("def (")
    (tmp_path / "package" / "__init__.py").write_text('"""The package."""\nraise SystemExit("imported")')
    (tmp_path / "package" / "module.py").write_text(
        'class Outer:\n    """Outer."""\n    def method(self):\n        """Method."""\n'
        '    def _hidden(self):\n        """Hidden."""\n'
        'try:\n    import x\nexcept ImportError:\n    def fallback():\n        """Fallback."""\n'
        'if True:\n    async def conditional():\n        """Conditional."""\ndef bare(): pass\n'
    )
    assert corpus.load(str(tmp_path)) == {
        "package": "The package.",
        "package.module.Outer": "Outer.",
        "package.module.Outer.method": "Method.",
        "package.module.fallback": "Fallback.",
        "package.module.conditional": "Conditional.",
    }


def test_corpus_holds_thousands_of_texts() -> None:
    import corpus

    texts = corpus.load()
    assert len(texts) > 3000
    assert "json.loads" in texts
    assert texts["json.loads"].startswith("Deserialize")
    assert not any(part.startswith("_") for name in texts for part in name.split("."))


@pytest.mark.parametrize(
    "group",
    ["parse parses parsed parser parsing decode", "split splitting splits", "copy copies copied", "file files"],
)
def test_forms_of_a_word_are_one_word(group: str) -> None:
    import tfidf

    assert len(set(tfidf.words(group))) == 1


def test_identifiers_are_split_into_words() -> None:
    import tfidf

    assert tfidf.words("json.JSONDecoder") == tfidf.words("json Json decoder")
    assert tfidf.words("HTTPServer2 py_scanstring") == ["http", "serv", "py", "scanstr"]


def test_vectors_have_length_one_and_do_not_depend_on_the_process() -> None:
    import tfidf

    texts = ["parse json", "open a file", "parse xml"]
    vector = tfidf.TfIdf(texts, size=64).vector("parse json files")
    assert (vector.dtype, vector.shape) == (np.dtype("float32"), (64,))
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)
    assert not tfidf.TfIdf(texts, size=64).vector("of the").any()
    code = f"import tfidf; print(tfidf.TfIdf({texts!r}, size=64).vector('parse json files').tolist())"
    other = subprocess.run(
        [sys.executable, "-c", code],
        cwd=EXAMPLE,
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert other.stdout.strip() == str(vector.tolist())


def test_rare_words_and_summaries_weigh_more() -> None:
    import tfidf

    model = tfidf.TfIdf(["a common word"] * 50 + ["something rare"])
    query = model.vector("common rare")
    assert query @ model.vector("rare") > 2 * (query @ model.vector("common"))
    assert query @ model.vector("rare thing\n\nand more") > query @ model.vector("a thing\n\nrare and more")


def test_executors_find_what_was_indexed() -> None:
    from encoder import Encoder
    from indexer import Indexer

    from zflow import Document, DocumentArray

    encoder, indexer = Encoder(size=256), Indexer()
    docs = DocumentArray(
        [
            Document(id="json.loads", text="Deserialize a str to a Python object."),
            Document(id="os.walk", text="Walk a tree."),
        ]
    )
    encoder.encode_entries(docs)
    assert len(indexer.index(docs)) == 0
    queries = DocumentArray([Document(text=QUERY), Document(text="walk")])
    encoder.encode_queries(queries)
    indexer.search(queries, parameters={"top_k": 1})
    assert [query.matches[0].id for query in queries] == ["json.loads", "os.walk"]
    assert 0.3 < queries[0].matches[0].scores["cosine"].value <= 1
    assert all(query.embedding is None for query in queries)

    encoder.encode_entries(again := DocumentArray(Document(id="os.walk", text="Parse a JSON string.")))
    indexer.index(again)
    encoder.encode_queries(queries)
    indexer.search(queries, parameters={})
    assert {match.id for match in queries[0].matches} == {"json.loads", "os.walk"}


def test_searching_an_empty_index_finds_nothing_and_a_wrong_top_k_is_refused() -> None:
    from indexer import Indexer

    from zflow import Document, DocumentArray

    docs = DocumentArray(Document(embedding=np.ones(8, dtype=np.float32)))
    Indexer().search(docs, parameters={})
    assert len(docs[0].matches) == 0
    for wrong in (0, -1, 1.5, "3", True):
        with pytest.raises(ValueError, match="top_k must be a whole number"):
            Indexer().search(docs, parameters={"top_k": wrong})


def run(*arguments: str) -> list[str]:
    """Run a script of the example and return the lines it printed."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


def check_answer(lines: list[str], top: int) -> None:
    assert len(lines) == top
    names = [line.split()[1] for line in lines]
    assert names[0].startswith("json.decoder")
    assert "json.loads" in names
    scores = [float(line.split()[0]) for line in lines]
    assert scores == sorted(scores, reverse=True)
    assert 0.5 < scores[0] <= 1


def test_app_prints_the_best_matches() -> None:
    check_answer(run(str(EXAMPLE / "app.py"), *QUERY.split(), "--top", "8"), 8)


def test_app_says_when_nothing_was_found() -> None:
    assert run(str(EXAMPLE / "app.py"), "???") == ["nothing found for '???'"]


def test_the_flow_from_yaml_answers_a_client(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    text = (EXAMPLE / "flow.yaml").read_text().replace("54321", port)
    text = text.replace("uses: ", f"uses: {EXAMPLE}/")
    (tmp_path / "flow.yaml").write_text(text)
    command = [sys.executable, "-m", "zflow", str(tmp_path / "flow.yaml")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        try:
            assert server.stdout is not None
            assert any(port in line for line in server.stdout), "the Flow did not come up"
            check_answer(run(str(EXAMPLE / "client.py"), QUERY, "--port", port), 8)
        finally:
            server.terminate()
    assert server.returncode == 0
