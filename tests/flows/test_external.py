"""External Executors: other Flows, real sockets, real signals,
and a cable that can be frozen and cut.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from cable import Cable
from helpers import (
    PATIENCE,
    Append,
    Gate,
    Script,
    begun,
    free_port,
    in_background,
    let_go,
    pid_of,
    texts,
    under_way,
    wait_for,
)

from zflow import Client, Document, DocumentArray, Executor, Flow, requests
from zflow.errors import (
    DeadlineExceeded,
    ExecutorError,
    FlowUnreachable,
    InvalidConfig,
    StartupFailed,
)


class Slow(Executor):
    """Takes its time and says which server it is of."""

    def __init__(self, label: str = "", milliseconds: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.label, self.seconds = label, milliseconds / 1000

    @requests
    def work(self, docs: DocumentArray, parameters: dict[str, Any], **kwargs: Any) -> None:
        time.sleep(self.seconds)
        for doc in docs:
            doc.tags["by"] = self.label or self.runtime_args.name
            doc.tags["parameters"] = dict(parameters)

    @requests(on="/bad")
    def bad(self, docs: DocumentArray, **kwargs: Any) -> None:
        raise KeyError("the far one")


def served(label: str, milliseconds: float = 1.0, **options: Any) -> Flow:
    """A Flow of one Executor that says `label`."""
    return Flow().add(
        name="slow", uses=Slow, uses_with={"label": label, "milliseconds": milliseconds}, **options
    )


def port_of(flow: Flow) -> int:
    """The port of a running Flow."""
    assert flow.port is not None
    return flow.port


def over(*far: Flow | Cable, **options: Any) -> Flow:
    """A Flow over Flows, or over cables to them."""
    return Flow().add(external=True, port=[one.port for one in far], **options)


def by(docs: DocumentArray) -> Counter[str]:
    """How many Documents each server has had."""
    return Counter(doc.tags["by"] for doc in docs)


SERVER = """
import sys
from zflow import Document, Executor, Flow, requests

class Served(Executor):
    @requests
    def work(self, docs, **kwargs):
        import time
        time.sleep(0.002)
        for doc in docs:
            doc.tags["by"] = sys.argv[2]

with Flow(port=int(sys.argv[1])).add(uses=Served) as flow:
    print("ready", flush=True)
    flow.block()
"""


@contextmanager
def server(folder: Path, port: int, label: str) -> Iterator[Script]:
    """An Executor served in a process of its own."""
    folder.mkdir(exist_ok=True)
    with Script(SERVER, folder, port, label) as script:
        assert script.line() == "ready"
        yield script


# -- the document ----------------------------------------------------------------------------------


def test_both_spellings_of_the_document(tmp_path: Path) -> None:
    with served("a") as a, served("b") as b:
        replica_hosts, replica_ports = ["localhost", "127.0.0.1"], [str(a.port), str(b.port)]
        with Flow().add(host=replica_hosts, port=replica_ports, external=True) as flow:
            assert by(flow.post("/", texts(100), request_size=1)).keys() == {"a", "b"}
        with Flow().add(
            host=[f"localhost:{a.port}", f"tcp://127.0.0.1:{b.port}"], external=True
        ) as flow:
            assert by(flow.post("/", texts(100), request_size=1)).keys() == {"a", "b"}
        path = tmp_path / "flow.yaml"
        flow.save_config(path)
        with Flow.load_config(path) as flow:
            assert by(flow.post("/", texts(100), request_size=1)).keys() == {"a", "b"}


def test_requests_are_spread_over_both_and_none_is_lost_when_one_is_killed_and_it_serves_again(
    tmp_path: Path,
) -> None:
    ports = [free_port(), free_port()]
    with ExitStack() as running:
        first = running.enter_context(server(tmp_path / "a", ports[0], "a"))
        running.enter_context(server(tmp_path / "b", ports[1], "b"))
        flow = running.enter_context(Flow().add(host="localhost", port=ports, external=True))
        assert by(flow.post("/", texts(200), request_size=1)).keys() == {"a", "b"}
        posted = in_background(flow.post, "/", texts(1000), request_size=1)
        under_way(flow.port, posted)
        first.process.kill()
        docs = posted.result(60)
        assert docs.texts == [str(number) for number in range(1000)]
        running.enter_context(server(tmp_path / "c", ports[0], "back"))
        wait_for(
            lambda: "back" in by(flow.post("/", texts(20), request_size=1)), what="it serves again"
        )


def test_a_wrong_address_in_yaml_gets_its_line() -> None:
    with pytest.raises(InvalidConfig, match=r"YAML text:4: executors\[0\]: .*names no port"):
        Flow.load_config("jtype: Flow\nexecutors:\n- external: true\n  host: elsewhere")


# -- everything works as locally -------------------------------------------------------------------


def test_a_flow_over_a_flow_over_a_flow_with_branches_and_joins() -> None:
    inner = (
        Flow()
        .add(name="left", uses=Append, uses_with={"letter": "l"})
        .add(name="right", uses=Slow, needs="gateway")
        .needs_all()
    )
    with inner:
        middle = (
            Flow()
            .add(name="inner", external=True, port=inner.port)
            .add(name="beside", uses=Append, uses_with={"letter": "b"}, needs="gateway")
            .add(name="after", uses=Append, uses_with={"letter": "a"}, needs=["inner", "beside"])
        )
        with middle:
            outer = (
                Flow()
                .add(name="before", uses=Append, uses_with={"letter": "o"})
                .add(name="other", uses=Slow, needs="gateway")
                .add(
                    name="middle",
                    external=True,
                    host=f"localhost:{middle.port}",
                    needs=["before", "other"],
                )
            )
            with outer:
                (doc,) = outer.post("/", Document(text="x"), parameters={"k": 1})
                assert doc.text == "xola"
                assert doc.tags["by"] == "other/rep-0"
                with pytest.raises(ExecutorError) as raised:
                    outer.post("/bad", Document())
                assert raised.value.exception == "KeyError"
                with pytest.raises(ExecutorError, match="KeyError: 'the far one'") as raised:
                    outer.post("/bad", Document(), target_executor="middle")
                assert raised.value.executor == "right/rep-0"
                assert 'raise KeyError("the far one")' in str(raised.value)


def test_endpoints_parameters_and_polling_are_those_of_the_far_side() -> None:
    class Indexed(Executor):
        @requests(on="/search")
        def search(self, docs: DocumentArray, parameters: dict[str, Any], **kwargs: Any) -> None:
            for doc in docs:
                doc.matches.append(Document(text=f"{self.runtime_args.shard_id} {parameters['k']}"))

    with (
        Flow().add(uses=Indexed, shards=3) as far,
        Flow().add(external=True, port=far.port) as flow,
    ):
        (doc,) = flow.search(Document(), parameters={"k": 5})
        assert sorted(doc.matches.texts) == ["0 5", "1 5", "2 5"]
        (passed,) = flow.post("/other", Document(text="not bound there"))
        assert passed.text == "not bound there"


def test_what_shards_far_away_failed_is_told() -> None:
    class Half(Executor):
        @requests(on="/search")
        def search(self, docs: DocumentArray, **kwargs: Any) -> None:
            if self.runtime_args.shard_id:
                raise ValueError("no")

    far = Flow().add(name="half", uses=Half, shards=2, on_shard_failure="partial")
    with far, Flow().add(name="far", external=True, port=far.port) as flow:
        (response,) = flow.search(Document(), return_responses=True)
        note = response.parameters["__shards__"]["far/half"]
        assert (note["shards"], note["succeeded"], list(note["failed"])) == (2, 1, [1])


def test_a_far_side_with_four_replicas_gets_four_at_a_time(tmp_path: Path) -> None:
    with (
        Flow().add(name="gate", uses=Gate, uses_with={"folder": str(tmp_path)}, replicas=4) as far,
        Flow().add(name="far", external=True, port=far.port) as flow,
        Client(port=flow.port) as near,
        Client(port=far.port) as beyond,
    ):
        assert near.info()["executors"]["far"]["slots"] == 4
        names = [str(number) for number in range(24)]
        posted = in_background(flow.post, "/hold", texts(24), request_size=1)
        begun(tmp_path, *names[:4])
        wait_for(
            lambda: near.info()["executors"]["far"]["queued"] == 20, what="the others wait here"
        )
        assert beyond.info()["requests"] == 4
        let_go(tmp_path, *names)
        assert posted.result(PATIENCE).texts == names


def test_the_quicker_address_gets_more() -> None:
    with served("quick", 5) as quick, served("slow", 100) as slow, over(quick, slow) as flow:
        flow.post("/", texts(20), request_size=1)
        begun = time.monotonic()
        shares = by(flow.post("/", texts(200), request_size=1))
        seconds = time.monotonic() - begun
    ideal = 200 / (1 / 0.005 + 1 / 0.1)
    # Twenty times as many as a rule, one time if they took turns; each takes some ms more on a
    # busy machine.
    assert shares["quick"] > 3 * shares["slow"]
    print(f"{seconds / ideal:.2f} of ideal")


# -- not there, gone, back -------------------------------------------------------------------------


def test_the_flow_starts_when_one_of_several_answers(capfd: pytest.CaptureFixture[str]) -> None:
    nobody = free_port()
    with served("a") as far, Flow().add(name="far", external=True, port=[nobody, far.port]) as flow:
        assert by(flow.post("/", texts(20), request_size=1)) == {"a": 20}
        with Flow(port=nobody).add(uses=Slow, uses_with={"label": "late"}):
            wait_for(
                lambda: "late" in by(flow.post("/", texts(20), request_size=1)),
                what="the other one serves too",
            )
        assert by(flow.post("/", texts(100), request_size=1))["a"] > 0


def test_nobody_at_all_is_an_error_that_names_the_addresses() -> None:
    port = free_port()
    with pytest.raises(
        StartupFailed,
        match=rf"'far': nobody answers at tcp://127.0.0.1:{port} within timeout_ready",
    ):
        Flow().add(name="far", external=True, port=port, timeout_ready=300).start()


def test_when_all_are_gone_each_request_ends_with_an_error_after_timeout_send() -> None:
    far = served("a").start()
    with Flow().add(name="far", external=True, port=far.port, timeout_send=500) as flow:
        flow.post("/", Document())
        port = far.port
        far.close()
        with pytest.raises(
            DeadlineExceeded, match=rf"timeout_send=500 ms; .*tcp://127.0.0.1:{port}"
        ):
            flow.post("/", Document())
        with Flow(port=port).add(uses=Slow, uses_with={"label": "back"}):
            wait_for(lambda: not isinstance(_try(flow), Exception), what="it serves again")
            assert by(flow.post("/", texts(1))) == {"back": 1}


def test_without_a_deadline_a_request_does_not_wait_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("zflow.devices.routing.pool.NOBODY", 0.3)
    far = served("a").start()
    with Flow().add(name="far", external=True, port=far.port) as flow:
        far.close()
        with pytest.raises(
            FlowUnreachable, match="none of the addresses of external Executor 'far' answers"
        ):
            flow.post("/", Document())


def test_a_far_flow_that_closes_answers_what_it_has_begun_and_gives_back_the_rest() -> None:
    with served("b", 1) as other:
        far = served("a", 20).start()
        with Flow().add(external=True, port=[far.port, other.port]) as flow:
            posted = in_background(flow.post, "/", texts(500), request_size=1)
            under_way(other.port, posted)
            far.close()
            assert posted.result(60).texts == [str(number) for number in range(500)]


def test_the_far_broker_may_die() -> None:
    with served("a") as far:
        broker = pid_of("broker")
        with Flow().add(external=True, port=far.port) as flow:
            posted = in_background(flow.post, "/", texts(1000), request_size=1)
            under_way(far.port, posted)
            os.kill(broker, signal.SIGKILL)
            assert posted.result(60).texts == [str(number) for number in range(1000)]


def _try(flow: Flow) -> Any:
    try:
        return flow.post("/", Document())
    except DeadlineExceeded as error:
        return error


# -- a cable that fails ----------------------------------------------------------------------------


def test_over_a_frozen_cable_requests_go_to_another_address_and_when_it_thaws_it_serves_again() -> (
    None
):
    with (
        served("near") as near,
        served("far") as far,
        Cable(port_of(far)) as cable,
        over(near, cable) as flow,
    ):
        assert by(flow.post("/", texts(100), request_size=1)).keys() == {"near", "far"}
        cable.freeze()
        assert flow.post("/", texts(300), request_size=1).texts == [
            str(number) for number in range(300)
        ]
        cable.heal()
        wait_for(
            lambda: "far" in by(flow.post("/", texts(50), request_size=1)), what="it serves again"
        )


def test_a_cable_that_is_frozen_cut_and_healed_loses_nothing_and_ends_what_is_late() -> None:
    delays = {"delay": 0.002, "jitter": 0.005}
    with (
        served("far", 5) as far,
        Cable(port_of(far), **delays) as cable,
        over(cable, timeout_send=1000) as flow,
    ):
        results: list[Any] = []

        def post(number: int) -> None:
            try:
                results.append(flow.post("/", Document(text=str(number)))[0].text == str(number))
            except (DeadlineExceeded, FlowUnreachable) as error:
                results.append(error)

        for step in (cable.freeze, cable.cut, cable.heal, cable.cut, cable.heal):
            threads = [threading.Thread(target=post, args=(number,)) for number in range(20)]
            for thread in threads:
                thread.start()
            step()
            for thread in threads:
                thread.join()
        assert len(results) == 100
        assert False not in results
        wait_for(lambda: not isinstance(_try(flow), Exception), what="it serves again")
        assert len(flow.post("/", texts(20), request_size=1)) == 20


def test_a_blink_of_the_cable_does_not_begin_a_request_twice() -> None:
    class Count(Executor):
        seen = 0

        @requests
        def count(self, docs: DocumentArray, **kwargs: Any) -> None:
            time.sleep(0.002)
            Count.seen += 1
            for doc in docs:
                doc.tags["seen"] = Count.seen

    with Flow().add(uses=Count) as far, Cable(port_of(far)) as cable:
        with Flow().add(external=True, port=cable.port) as flow:
            posted = in_background(flow.post, "/", texts(500), request_size=1)
            under_way(far.port, posted)
            before = cable.connections
            cable.cut()
            cable.heal()
            docs = posted.result(60)
            assert cable.connections > before
        assert docs.texts == [str(number) for number in range(500)]
        # Those whose answers were on their way: one as a rule, a few if the machine stands still
        # just then.
        assert far.post("/", Document())[0].tags["seen"] <= 501 + 5
