"""The search example: its texts, its vectors, its two Executors alone,
and the programs as a user runs them.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import ROOT, kill, launched, pid_of

pytestmark = pytest.mark.slow

EXAMPLE = ROOT / "examples" / "search"
QUERY = "parse json from a string"


@pytest.fixture(autouse=True)
def example_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE))


@pytest.fixture(scope="module")
def some_modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A part of the standard library: all of it takes seconds to read, in each process."""
    folder = tmp_path_factory.mktemp("corpus")
    library = Path(sysconfig.get_paths()["stdlib"])
    packages = ["json", "email", "html", "http", "logging", "urllib", "xml"]
    modules = [
        "argparse",
        "configparser",
        "csv",
        "datetime",
        "inspect",
        "string",
        "textwrap",
        "typing",
    ]
    for name in (*packages, *modules):  # a module of one Python may be a package of the next
        if (library / name).is_dir():
            shutil.copytree(library / name, folder / name)
        else:
            shutil.copy(library / f"{name}.py", folder)
    return folder


@pytest.fixture
def small(some_modules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORPUS", str(some_modules))


def test_corpus_reads_public_docstrings_without_importing(tmp_path: Path) -> None:
    import corpus

    (tmp_path / "package").mkdir()
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "test_all.py").write_text('"""a test"""')
    (tmp_path / "_private.py").write_text('"""private"""')
    (tmp_path / "broken.py").write_text("def (")
    (tmp_path / "package" / "__init__.py").write_text(
        '"""The package."""\nraise SystemExit("imported")'
    )
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
    [
        "parse parses parsed parser parsing decode",
        "split splitting splits",
        "copy copies copied",
        "file files",
    ],
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
    code = (
        f"import tfidf; print(tfidf.TfIdf({texts!r}, size=64).vector('parse json files').tolist())"
    )
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
    assert query @ model.vector("rare thing\n\nand more") > query @ model.vector(
        "a thing\n\nrare and more"
    )


@pytest.mark.usefixtures("small")
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

    encoder.encode_entries(
        again := DocumentArray(Document(id="os.walk", text="Parse a JSON string."))
    )
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


def test_matches_are_ranked_by_score_then_id_and_cut() -> None:
    from ranker import Ranker

    from zflow import Document, DocumentArray

    query = Document()
    for name, score in (("c", 0.5), ("b", 0.25), ("d", 0.75), ("a", 0.25)):
        query.matches.append(Document(id=name, scores={"cosine": score}))
    Ranker().rank(docs := DocumentArray(query), parameters={"top_k": 3})
    assert docs[0].matches[:, "id"] == ["d", "c", "a"]
    with pytest.raises(ValueError, match="top_k must be a whole number"):
        Ranker().rank(docs, parameters={"top_k": 0})


def entries_of(*names: str) -> Any:
    from store import Entries

    vectors = np.arange(len(names) * 4, dtype=np.float32).reshape(-1, 4)
    return Entries(list(names), [f"text of {name}" for name in names], vectors)


def test_a_log_is_read_by_all_who_have_it_open(tmp_path: Path) -> None:
    from store import Log

    one, other = Log(tmp_path / "log"), Log(tmp_path / "log")
    assert one.read() == []
    assert [entries.names for entries in one.append(entries_of("a", "b"))] == [["a", "b"]]
    assert one.read() == []
    assert [entries.names for entries in other.append(entries_of("c\n"))] == [["a", "b"], ["c\n"]]
    (found,) = one.read()
    assert (found.names, found.texts, found.vectors.tolist()) == (
        ["c\n"],
        ["text of c\n"],
        [[0, 1, 2, 3]],
    )
    assert [entries.names for entries in Log(tmp_path / "log").read()] == [["a", "b"], ["c\n"]]


def test_what_a_killed_writer_left_unfinished_is_cut_off(tmp_path: Path) -> None:
    from store import Log

    path = tmp_path / "log"
    Log(path).append(entries_of("a"))
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole + whole[:size])
        log = Log(path)
        assert [entries.names for entries in log.read()] == [["a"]]
        assert [entries.names for entries in log.append(entries_of("b"))] == [["b"]]
        assert [entries.names for entries in Log(path).read()] == [["a"], ["b"]]


def test_a_damaged_log_is_an_error_and_is_left_as_it_is(tmp_path: Path) -> None:
    from store import Log

    path = tmp_path / "log"
    for name in "ab":
        Log(path).append(entries_of(name))
    damaged = path.read_bytes()[:-1] + b"x"
    path.write_bytes(damaged)
    for use in (Log.read, lambda log: log.append(entries_of("c"))):
        with pytest.raises(
            ValueError, match=f"log is damaged: the record at byte {len(damaged) // 2} is not"
        ):
            use(Log(path))
    assert path.read_bytes() == damaged


def test_an_indexer_has_what_its_shard_was_given(tmp_path: Path) -> None:
    from indexer import Indexer

    from zflow import Document, DocumentArray

    def started(replica: int) -> Indexer:
        place = {
            "name": f"indexer/shard-1/rep-{replica}",
            "shard_id": 1,
            "replica_id": replica,
            "replicas": 2,
        }
        return Indexer(runtime_args={**place, "workspace": str(tmp_path)})

    def found(indexer: Indexer) -> list[str]:
        indexer.search(
            query := DocumentArray(Document(embedding=np.ones(2, dtype=np.float32))), parameters={}
        )
        return query[0].matches[:, "text"]

    one, other = started(0), started(1)
    for indexer, name, text in ((one, "a", "old"), (other, "b", "b"), (one, "a", "new")):
        vector = np.array([1, 0] if name == "a" else [0.5, 0], dtype=np.float32)
        indexer.index(DocumentArray(Document(id=name, text=text, embedding=vector)))
    one.index(DocumentArray())
    assert found(one) == found(other) == found(started(0)) == ["new", "b"]
    assert started(1).count() == {"entries": 2}
    assert [path.name for path in (tmp_path / "indexer" / "1").iterdir()] == ["entries.log"]
    with pytest.raises(ValueError, match="need a workspace"):
        Indexer(runtime_args={"replicas": 2})


def queries(count: int) -> Any:
    """How as many docstrings begin, and a few others."""
    import corpus

    from zflow import Document, DocumentArray

    texts = list(corpus.load().values())
    begins = [text.partition("\n\n")[0] for text in texts[:: len(texts) // (count - 4)]]
    return DocumentArray(
        Document(text=text) for text in [QUERY, "json", "qwertz", "???", *begins][:count]
    )


def answers(flow: Any) -> list[list[tuple[str, str, float]]]:
    """What a Flow finds for 200 queries: id, text and score of each match."""
    found = flow.search(queries(200), parameters={"top_k": 7}, request_size=5)
    return [
        [(match.id, match.text, match.scores["cosine"].value) for match in query.matches]
        for query in found
    ]


@pytest.fixture
def sharded(tmp_path: Path, small: None) -> Iterator[Any]:
    """The Flow of index_shards.yaml, its index in a folder of the test's."""
    import terminal

    from zflow import Flow

    text = (EXAMPLE / "index_shards.yaml").read_text().replace("uses: ", f"uses: {EXAMPLE}/")
    text = text.replace("workspace: workspace", f"workspace: {tmp_path}").replace(
        "with:\n  port: 54321\n", ""
    )
    terminal.documents()  # the replicas are forked with it
    with Flow.load_config(text) as flow:
        flow.index(terminal.documents())
        yield flow


def test_three_shards_answer_as_one_does_also_when_one_was_killed(sharded: Any) -> None:
    import terminal
    from encoder import Encoder
    from indexer import Indexer

    from zflow import Flow

    with Flow().add(uses=Encoder, replicas=2).add(uses=Indexer) as flow:
        flow.index(terminal.documents())
        expected = answers(flow)
    assert [len(matches) for matches in expected[:4]] == [7, 7, 7, 0]
    assert sum(map(len, expected)) > 1200
    assert answers(sharded) == expected

    held = counts(sharded)
    assert len(held) == 3
    assert sum(held.values()) == len(terminal.documents())
    assert min(held.values()) > 0
    kill(pid_of("indexer/shard-1/rep-0"))
    assert answers(sharded) == expected  # waits for the shard, which comes back with what it held
    assert counts(sharded) == held


def counts(flow: Any) -> dict[str, int]:
    """How many entries each shard holds."""
    results = flow.post("/count", return_responses=True)[0].parameters["__results__"]
    return {name: result["entries"] for name, result in results.items()}


def run(*arguments: str) -> list[str]:
    """Run a script of the example and return the lines it printed."""
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
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
    """Of the whole library, as a user runs it first."""
    check_answer(run(str(EXAMPLE / "app.py"), *QUERY.split(), "--top", "8"), 8)


@pytest.mark.usefixtures("small")
def test_app_prints_as_many_of_three_shards() -> None:
    check_answer(run(str(EXAMPLE / "app.py"), *QUERY.split(), "--top", "8", "--shards", "3"), 8)


@pytest.mark.usefixtures("small")
def test_app_says_when_nothing_was_found() -> None:
    assert run(str(EXAMPLE / "app.py"), "???") == ["nothing found for '???'"]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("config", ["flow.yaml", "index_shards.yaml"])
def test_the_flow_from_yaml_answers_a_client(config: str, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    text = (EXAMPLE / config).read_text().replace("54321", port)
    text = text.replace("uses: ", f"uses: {EXAMPLE}/")
    (tmp_path / config).write_text(text)
    command = [sys.executable, "-m", "zflow", config]
    with launched(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as server:
        try:
            assert server.stdout is not None
            assert any(port in line for line in server.stdout), "the Flow did not come up"
            first = run(str(EXAMPLE / "client.py"), QUERY, "--port", port)
            check_answer(first, 8)
            assert run(str(EXAMPLE / "client.py"), QUERY, "--port", port) == first
        finally:
            server.terminate()
    assert server.returncode == 0
