"""Shards and polling through real processes and sockets."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import kill, replicas, wait_for

from zflow import Client, Document, DocumentArray, Executor, Flow, requests
from zflow.devices.broker import back
from zflow.devices.protocol.messages import Message
from zflow.errors import DeadlineExceeded, ExecutorError, InvalidFlow, ReplicaCrashed


class Where(Executor):
    """Says where each Document was."""

    @requests
    def note(self, docs: DocumentArray, **kwargs: Any) -> dict[str, Any]:
        place = self.runtime_args
        for doc in docs:
            doc.matches.append(
                Document(
                    text=place.name, tags={"shard": place.shard_id, "replica": place.replica_id}
                )
            )
        return {"place": [place.shard_id, place.replica_id, place.shards, place.replicas]}


class Picky(Executor):
    """Raises on the shards that it is told to."""

    @requests
    def pick(self, docs: DocumentArray, parameters: dict[str, Any], **kwargs: Any) -> None:
        if self.runtime_args.shard_id in parameters.get("fail", []):
            raise LookupError(f"nothing in shard {self.runtime_args.shard_id}")
        if self.runtime_args.shard_id in parameters.get("die", []):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.runtime_args.shard_id in parameters.get("hang", []):
            time.sleep(60)
        for doc in docs:
            doc.matches.append(Document(text=str(self.runtime_args.shard_id)))


def visited(docs: DocumentArray) -> list[str]:
    return [match.text for match in docs[0].matches]


@pytest.mark.parametrize("polling", ["ANY", "all"])
@pytest.mark.parametrize(("shards", "copies"), [(1, 2), (2, 1), (2, 2), (3, 1)])
def test_any_goes_to_one_and_all_to_one_replica_of_every_shard(
    polling: str, shards: int, copies: int
) -> None:
    with (
        Flow()
        .add(name="e", uses=Where, shards=shards, replicas=copies, polling=polling)
        .needs_all() as flow
    ):
        names = set()
        for _ in range(4):
            places = visited(flow.post("/", Document()))
            names.update(places)
            if polling == "ANY" or shards == 1:
                assert len(places) == 1
            else:
                assert [place.split("/")[1] for place in places] == [
                    f"shard-{n}" for n in range(shards)
                ]
                assert len({place.split("/")[2] for place in places}) == 1, "one group"
        assert len(names) > 1 or shards * copies == 1
        if shards > 1:
            assert names <= {
                f"e/shard-{shard}/rep-{copy}" for shard in range(shards) for copy in range(copies)
            }


def test_the_polling_example_of_the_document() -> None:
    polling = {"/custom": "ALL", "/search": "ANY", "*": "ANY"}
    with Flow().add(name="ExecutorWithShards", uses=Where, shards=3, polling=polling) as flow:
        for endpoint, shards in (("/index", 1), ("/search", 1), ("/custom", 3), ("/other", 1)):
            assert [len(visited(flow.post(endpoint, Document()))) for _ in range(3)] == [
                shards
            ] * 3, endpoint


def test_defaults_are_index_to_one_and_search_to_all() -> None:
    with Flow().add(uses=Where, shards=2) as flow:
        assert len(visited(flow.index(Document()))) == 1
        assert len(visited(flow.search(Document()))) == 2
        assert len(visited(flow.post("/whatever", Document()))) == 1


def test_results_say_where_they_come_from() -> None:
    with Flow().add(name="e", uses=Where, shards=2, replicas=2, polling="ALL") as flow:
        [response] = flow.post("/", Document(), return_responses=True)
        results = response.parameters["__results__"]
        assert sorted(value["place"][0] for value in results.values()) == [0, 1]
        assert all(value["place"][2:] == [2, 2] for value in results.values())
        assert Client(port=flow.port).info()["executors"]["e"]["replicas"] == [
            "e/shard-0/rep-0",
            "e/shard-0/rep-1",
            "e/shard-1/rep-0",
            "e/shard-1/rep-1",
        ]


class SetsDifferentFields(Executor):
    """Each shard adds a match and a chunk, sets a field of its own and one that all set."""

    @requests
    def set(self, docs: DocumentArray, **kwargs: Any) -> None:
        shard = self.runtime_args.shard_id
        for doc in docs:
            doc.matches.append(Document(id=f"match-{shard}"))
            doc.chunks.append(Document(id=f"chunk-{shard}"))
            doc.text = f"shard {shard}"
            setattr(doc, ("uri", "modality", "mime_type")[shard], f"by {shard}")
            if shard == 1:
                doc.embedding = np.full(3, shard)


def test_results_are_reduced_and_the_lower_shard_wins() -> None:
    with Flow().add(uses=SetsDifferentFields, shards=3, polling="ALL") as flow:
        docs = flow.post("/", [Document(id=str(n)) for n in range(5)])
    assert docs.ids == list("01234")
    for doc in docs:
        assert doc.matches.ids == ["match-0", "match-1", "match-2"]
        assert doc.chunks.ids == ["chunk-0", "chunk-1", "chunk-2"]
        assert (doc.text, doc.uri, doc.modality, doc.mime_type) == (
            "shard 0",
            "by 0",
            "by 1",
            "by 2",
        )
        assert (doc.embedding == 1).all()


class Matrix(Executor):
    @requests
    def look(
        self, docs_matrix: list[DocumentArray], docs_map: dict[str, DocumentArray], **kwargs: Any
    ) -> dict[str, Any]:
        return {
            "matrix": [len(docs) for docs in docs_matrix],
            "map": {k: v[0].text for k, v in docs_map.items()},
        }


def test_the_next_executor_may_have_the_shards_apart() -> None:
    flow = (
        Flow()
        .add(name="e", uses=SetsDifferentFields, shards=3, polling="ALL")
        .add(uses=Matrix, no_reduce=True)
    )
    with flow:
        [response] = flow.post("/", Document(), return_responses=True)
    [result] = response.parameters["__results__"].values()
    assert result == {
        "matrix": [1, 1, 1],
        "map": {"e/shard-0": "shard 0", "e/shard-1": "shard 1", "e/shard-2": "shard 2"},
    }


def test_a_shard_that_fails_fails_the_request_by_name() -> None:
    with Flow().add(name="e", uses=Picky, shards=3, polling="ALL") as flow:
        with pytest.raises(ExecutorError, match="nothing in shard 1") as caught:
            flow.post("/", Document(), parameters={"fail": [1]})
        assert caught.value.executor == "e/shard-1/rep-0"
        assert "raise LookupError" in caught.value.traceback
        assert sorted(visited(flow.post("/", Document()))) == ["0", "1", "2"]


def test_partial_results_say_what_is_missing() -> None:
    with Flow().add(
        name="e", uses=Picky, shards=3, polling="ALL", on_shard_failure="partial"
    ) as flow:
        [response] = flow.post("/", Document(), parameters={"fail": [1]}, return_responses=True)
        assert visited(response.docs) == ["0", "2"]
        note = response.parameters["__shards__"]["e"]
        assert (note["shards"], note["succeeded"], list(note["failed"])) == (3, 2, [1])
        assert "e/shard-1/rep-0" in note["failed"][1]
        assert "nothing in shard 1" in note["failed"][1]
        with pytest.raises(ExecutorError, match="nothing in shard 0"):
            flow.post("/", Document(), parameters={"fail": [0, 1, 2]})
        [response] = flow.post("/", Document(), return_responses=True)
        assert "__shards__" not in response.parameters


def test_a_shard_that_crashes_or_is_late_is_named() -> None:
    flow = Flow().add(name="e", uses=Picky, shards=2, polling="ALL", retries=1)
    with flow, pytest.raises(ReplicaCrashed, match="'e/shard-1'"):
        flow.post("/", Document(), parameters={"die": [1]})
    flow = Flow(timeout_close=100).add(
        name="e", uses=Picky, shards=2, polling="ALL", timeout_send=300
    )
    with (
        flow,
        pytest.raises(
            DeadlineExceeded, match=r"'e/shard-0'.*it was running in e/shard-0/rep-0 for 0\.\d+ s$"
        ),
    ):
        flow.post("/", Document(), parameters={"hang": [0]})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"shards": 0}, "shards must be a whole number of 1 or more, not 0 (executor 'e')"),
        ({"shards": 1.5}, "shards must be a whole number of 1 or more, not 1.5 (executor 'e')"),
        ({"polling": "SOME"}, "polling must be ANY or ALL, not 'SOME' (executor 'e')"),
        (
            {"polling": {"/x": "SOME"}},
            "polling must be ANY or ALL, not 'SOME' (executor 'e', endpoint '/x')",
        ),
        (
            {"polling": {"": "ANY"}},
            "polling goes by endpoints, which start with '/', or by '*', not by ''",
        ),
        (
            {"on_shard_failure": "ignore"},
            "on_shard_failure must be 'fail' or 'partial', not 'ignore' (executor 'e')",
        ),
    ],
)
def test_wrong_values_are_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidFlow) as caught:
        Flow().add(
            name="e",
            shards=given.get("shards", 2),
            **{k: v for k, v in given.items() if k != "shards"},
        )
    assert message in str(caught.value)


def test_shards_from_yaml() -> None:
    flow = Flow.load_config(
        "jtype: Flow\nexecutors:\n- name: e\n  uses: Where\n  shards: 2\n  polling: {/custom: all, "
        "'*': any}\n"
    )
    with flow:
        assert len(visited(flow.post("/custom", Document()))) == 2
        assert len(visited(flow.post("/other", Document()))) == 1


@pytest.mark.parametrize("shards", [8, 32])
def test_many_shards(shards: int) -> None:
    with Flow().add(uses=Where, shards=shards, polling="ALL") as flow:
        for _ in range(3):
            assert len(visited(flow.post("/", Document()))) == shards


def test_all_answers_from_every_shard_while_one_replica_is_gone() -> None:
    with Flow().add(name="e", uses=Where, shards=2, replicas=2, polling="ALL") as flow:
        kill(replicas("e")["e/shard-1/rep-0"])
        for _ in range(20):
            assert [place[:9] for place in visited(flow.post("/", Document()))] == [
                "e/shard-0",
                "e/shard-1",
            ]
        wait_for(lambda: "e/shard-1/rep-0" in replicas("e"), what="it comes back")


class Killer(threading.Thread):
    """Kills a random replica every so often, so many times:
    one that dies all the time comes back ever later.
    """

    def __init__(self, executor: str, every: float, seed: int, times: int) -> None:
        super().__init__(daemon=True)
        self._executor, self._every, self._random = executor, every, random.Random(seed)
        self._ended = threading.Event()
        self._times = times
        self.killed = 0

    def run(self) -> None:
        while self.killed < self._times and not self._ended.wait(self._every):
            found = replicas(self._executor)
            if found:
                os.kill(self._random.choice(sorted(found.values())), signal.SIGKILL)
                self.killed += 1

    def __enter__(self) -> Killer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()


def check_answers(flow: Flow, count: int, shards: int, endpoint: str = "/") -> None:
    """Post and check that each request was answered once, in order, by all shards."""
    docs = flow.post(endpoint, [Document(id=str(n)) for n in range(count)], request_size=1)
    assert docs.ids == [str(n) for n in range(count)]
    for doc in docs:
        assert [match.tags["shard"] for match in doc.matches] == list(range(shards))


def test_nothing_is_lost_while_replicas_of_random_shards_are_killed() -> None:
    flow = Flow().add(name="e", uses=Where, shards=3, replicas=2, polling="ALL", retries=20)
    with flow, Killer("e", every=0.2, seed=3, times=8) as killer:
        posted = 0
        while posted < 5000 or killer.killed < 8:
            check_answers(flow, 500, shards=3)
            posted += 500


class Faults:
    """Stands in for the broker's publishing: loses, repeats and delays messages, beacons too,
    in its process.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self._random = random.Random(seed)
        self._folder = folder
        self._late: list[tuple[bytes, Message]] = []
        self._publish = back.Back.publish

    def __call__(self, serving: back.Back, topic: bytes, message: Message) -> None:
        dice = self._random.random()
        if dice < 0.05:
            self._count("lost")
        elif dice < 0.10:
            self._late.append((topic, message))
            self._count("late")
        else:
            self._publish(serving, topic, message)
            if dice < 0.15:
                self._publish(serving, topic, message)
                self._count("repeated")
            if self._late and dice < 0.5:
                self._publish(serving, *self._late.pop())

    def _count(self, what: str) -> None:
        with open(self._folder / what, "a") as file:
            file.write(".")


def test_what_pub_loses_repeats_or_delays_is_repaired(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    faults = Faults(tmp_path, seed=11)
    monkeypatch.setattr(back.Back, "publish", lambda *said: faults(*said))
    with Flow().add(
        name="e", uses=Where, shards=3, replicas=2, polling={"*": "ALL", "/one": "ANY"}
    ) as flow:
        check_answers(flow, 1500, shards=3)
        assert Counter(len(doc.matches) for doc in flow.post("/one", DocumentArray.empty(200))) == {
            1: 200
        }
    for what in ("lost", "late", "repeated"):
        assert len((tmp_path / what).read_text()) > 20, what


class Slow(Executor):
    @requests
    def wait(self, docs: DocumentArray, **kwargs: Any) -> None:
        time.sleep(0.002)
        for doc in docs:
            doc.matches.append(Document(tags={"shard": self.runtime_args.shard_id}))

    @requests(on="/one")
    async def one(self, docs: DocumentArray, **kwargs: Any) -> None:
        for doc in docs:
            doc.matches.append(Document(tags={"shard": self.runtime_args.shard_id}))


def test_both_kinds_at_once_also_on_an_event_loop() -> None:
    with Flow().add(
        name="e", uses=Slow, shards=2, replicas=2, polling={"*": "ALL", "/one": "ANY"}
    ) as flow:
        results: list[DocumentArray] = []
        threads = [
            threading.Thread(
                target=lambda: results.append(
                    flow.post("/one", DocumentArray.empty(300), request_size=1)
                )
            )
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        check_answers(flow, 300, shards=2)
        for thread in threads:
            thread.join()
        assert [len(doc.matches) for docs in results for doc in docs] == [1] * 900


def test_large_payloads_reach_every_shard() -> None:
    class Sum(Executor):
        @requests
        def sum(self, docs: DocumentArray, **kwargs: Any) -> None:
            for doc in docs:
                doc.matches.append(Document(tags={"sum": float(doc.tensor.sum())}))
                doc.tensor = None

    with Flow().add(uses=Sum, shards=4, polling="ALL") as flow:
        [doc] = flow.post("/", Document(tensor=np.ones((1024, 1024))))
    assert [match.tags["sum"] for match in doc.matches] == [1024.0**2] * 4
