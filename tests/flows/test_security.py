"""Who may connect: real sockets and keys. What each part decides is tested in test_keys.py and
devices/test_zap.py.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import shutil
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import zmq
from helpers import (
    PATIENCE,
    Gate,
    Upper,
    awaited,
    begun,
    in_background,
    kill,
    let_go,
    texts,
    wait_for,
)
from peers import said

from zflow import AsyncClient, Client, Document, Flow, cli, remote
from zflow.devices.protocol.messages import Ready
from zflow.devices.sockets import factory
from zflow.errors import (
    AccessDenied,
    ChangeRefused,
    FlowUnreachable,
    InvalidFlow,
    InvalidKeys,
    Overloaded,
    StartupFailed,
)
from zflow.network import keys


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("security") / "keys"
    assert cli.main(["keys", "new", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def flow(folder: Path) -> Iterator[Flow]:
    with Flow(curve=str(folder), replica_port=0).add(
        name="upper", uses=Upper, replicas=2
    ) as running:
        yield running


def test_the_right_keys_work_for_clients_replicas_and_other_flows(flow: Flow, folder: Path) -> None:
    assert flow.post("/", Document(text="own")).texts == ["OWN"]
    with Client(port=flow.port, curve=folder) as client:
        assert client.post("/", Document(text="a")).texts == ["A"]
        assert pickle.loads(pickle.dumps(client)).post("/", Document(text="b")).texts == ["B"]
        assert client.is_flow_ready()
        stop = threading.Event()
        joined = in_background(
            remote.join,
            f"localhost:{flow.replica_port}",
            "upper",
            Upper,
            curve=str(folder),
            stop_event=stop,
        )
        wait_for(
            lambda: len(client.info()["executors"]["upper"]["replicas"]) == 3,
            what="the replica has joined",
        )
        stop.set()
        joined.result(30)

    async def post() -> Any:
        async with AsyncClient(port=flow.port, curve=folder) as client:
            return await client.post("/", Document(text="async"))

    assert asyncio.run(post()).texts == ["ASYNC"]
    with Flow().add(external=True, port=flow.port, curve=str(folder)) as over:
        assert over.post("/", Document(text="over")).texts == ["OVER"]


def test_a_clients_machine_needs_two_files_only(flow: Flow, folder: Path, tmp_path: Path) -> None:
    for name in ("server.key", "client.key_secret"):
        shutil.copy(folder / name, tmp_path)
    with Client(port=flow.port, curve=tmp_path) as client:
        assert client.post("/", Document(text="a")).texts == ["A"]


def test_without_the_right_keys_nobody_gets_anything(
    flow: Flow, folder: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    keys.new(other)
    stranger = (
        tmp_path / "stranger"
    )  # knows the server's public key, and has a pair that is on no list
    stranger.mkdir()
    shutil.copy(folder / "server.key", stranger)
    shutil.copy(other / "client.key_secret", stranger)
    for curve, timeout in ((None, 60_000), (other, 500), (stranger, 60_000)):
        with pytest.raises(FlowUnreachable, match="keys") as raised:
            Client(port=flow.port, curve=curve).info(timeout)
        assert (type(raised.value) is AccessDenied) is (curve != other), "who is told does not wait"
        assert not Client(port=flow.port, curve=curve).is_flow_ready(timeout=300)
    with pytest.raises(StartupFailed, match="nobody answers"):
        Flow().add(external=True, port=flow.port, timeout_ready=500).start()
    assert flow.post("/", Document(text="still")).texts == ["STILL"]


def test_a_clients_key_lets_no_replica_in(flow: Flow, folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "server.key", tmp_path)
    shutil.copy(folder / "client.key_secret", tmp_path / "replica.key_secret")
    with pytest.raises(FlowUnreachable, match="are the keys"):
        remote.join(f"localhost:{flow.replica_port}", "upper", Upper, curve=str(tmp_path))
    assert len(Client(port=flow.port, curve=folder).info()["executors"]["upper"]["replicas"]) == 2


def test_a_client_cannot_say_that_it_is_a_replica() -> None:
    with Flow().add(name="upper", uses=Upper) as flow, zmq.Context() as context:
        socket = factory.dealer(context)
        socket.connect(f"tcp://127.0.0.1:{flow.port}")
        socket.send_multipart(said(Ready("upper", ["/default"], 1, 0, 0, {})))
        with Client(port=flow.port) as client:
            wait_for(
                lambda: client.info()["malformed"] == {"unknown kind of message": 1},
                what="it is counted",
            )
            assert client.info()["executors"]["upper"]["replicas"] == ["upper/rep-0"]
        socket.close()


def test_key_folders_that_are_none_are_refused_before_anything_starts(tmp_path: Path) -> None:
    for wrong in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InvalidKeys, match=str(wrong)):
            Flow(curve=str(wrong)).add(uses=Upper).start()
        with pytest.raises(InvalidKeys, match=str(wrong)):
            Client(port=5555, curve=wrong)
        with pytest.raises(InvalidKeys, match=str(wrong)):
            Flow().add(external=True, port=5555, curve=str(wrong)).start()


def test_who_listens_to_strangers_without_keys_is_warned_and_cannot_be_changed_by_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with Flow(host="0.0.0.0").add(name="upper", uses=Upper) as flow:
        assert (
            "listening on 0.0.0.0 without keys (curve=): whoever reaches it may use the Flow"
            in caplog.text
        )
        with (
            Client(port=flow.port) as client,
            pytest.raises(ChangeRefused, match="allow_control=True lets whoever"),
        ):
            client.scale("upper", 2)
        assert flow.scale("upper", 2)["replicas"] == 2


def test_who_may_change_a_flow_without_keys_is_said_by_allow_control(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with Flow(host="0.0.0.0", allow_control=True).add(name="upper", uses=Upper) as flow:
        assert "whoever reaches it may use and change the Flow" in caplog.text
        with Client(port=flow.port) as client:
            assert client.undrain("upper/rep-0") is not None
    with (
        Flow(allow_control=False).add(name="upper", uses=Upper) as flow,
        Client(port=flow.port) as client,
    ):
        with pytest.raises(ChangeRefused, match="only its own process may change this Flow"):
            client.undrain("upper/rep-0")
        assert flow.undrain("upper/rep-0") is not None


def test_an_admin_may_change_the_flow_and_post_and_a_client_may_post_only(
    flow: Flow, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machines = {}
    for name in ("client", "admin"):
        machines[name] = tmp_path / name
        machines[name].mkdir()
        shutil.copy(folder / "server.key", machines[name])
        shutil.copy(folder / f"{name}.key_secret", machines[name])
    with Client(port=flow.port, curve=machines["client"]) as client:
        for change in (lambda: client.scale("upper", 3), lambda: client.drain("upper/rep-0")):
            with pytest.raises(
                ChangeRefused, match=r"this key may not change the Flow: .*zflow-run keys add"
            ):
                change()
        assert client.post("/", Document(text="a")).texts == ["A"]
    for curve in (machines["admin"], folder):  # on the Flow's own machine it is found by itself
        with Client(port=flow.port, curve=curve) as client:
            assert client.post("/", Document(text="a")).texts == ["A"]
            assert client.scale("upper", 3)["replicas"] == 3
        assert cli.main(["scale", f"127.0.0.1:{flow.port}", "upper=2", "--curve", str(curve)]) == 0
        assert capsys.readouterr().out == "upper: 2 replicas instead of 3\n"
    assert (
        cli.main(["scale", f"127.0.0.1:{flow.port}", "upper=3", "--curve", str(machines["client"])])
        == 1
    )
    assert "this key may not change the Flow" in capsys.readouterr().err


def test_so_it_is_from_asyncio(flow: Flow, folder: Path, tmp_path: Path) -> None:
    for name in ("server.key", "client.key_secret"):
        shutil.copy(folder / name, tmp_path)

    async def main() -> None:
        async with AsyncClient(port=flow.port, curve=tmp_path) as client:
            with pytest.raises(ChangeRefused, match="this key may not change the Flow"):
                await client.scale("upper", 3)
        async with AsyncClient(port=flow.port, curve=folder) as client:
            assert (await client.scale("upper", 3))["replicas"] == 3
            assert (await client.scale("upper", 2))["before"] == 3
            assert (await client.post("/", Document(text="a"))).texts == ["A"]

    asyncio.run(main())


def test_who_is_taken_off_the_list_of_admins_commands_no_more_over_the_connection_that_it_has(
    tmp_path: Path,
) -> None:
    keys.new(tmp_path / "keys")
    with Flow(curve=str(tmp_path / "keys")).add(name="upper", uses=Upper) as flow:
        (tmp_path / "keys/client.key_secret").unlink()  # so that one connection is for everything
        with Client(port=flow.port, curve=tmp_path / "keys") as client:
            assert client.undrain("upper/rep-0") is not None
            (tmp_path / "keys/admins/admin.key").rename(tmp_path / "keys/clients/admin.key")
            wait_for(lambda: _refused(client), what="it is no admin any more")
            assert client.post("/", Document(text="a")).texts == ["A"]


def _refused(client: Client) -> bool:
    try:
        client.undrain("upper/rep-0")
    except ChangeRefused as error:
        return "this key may not change the Flow" in str(error)
    return False


def test_a_client_whose_key_goes_while_it_posts_is_told_so_and_holds_up_no_event_loop(
    tmp_path: Path,
) -> None:
    """When its connection breaks, here by the broker's death; with the key back on the list the
    same client works.
    """
    folder = tmp_path / "keys"
    keys.new(folder)
    listed, away = folder / "clients/client.key", tmp_path / "away"

    async def posts(flow: Flow, client: AsyncClient) -> None:
        holds = [
            asyncio.ensure_future(awaited(client.post("/hold", Document(text="async"))))
            for _ in range(2)
        ]
        await asyncio.to_thread(begun, tmp_path, "sync", "async")
        broker = (await client.info())["pid"]
        listed.rename(away)
        await asyncio.to_thread(kill, broker)

        async def goes_on() -> AsyncIterator[Document]:
            while not all(hold.done() for hold in holds):
                await asyncio.sleep(0.01)
                yield Document(text="more")

        more = asyncio.ensure_future(
            awaited(client.post("/", goes_on(), request_size=1, on_error=lambda _: None))
        )
        for hold in (*holds, more):
            with pytest.raises(AccessDenied, match="are the keys"):
                await asyncio.wait_for(hold, PATIENCE)
        with pytest.raises(AccessDenied, match="are the keys"):
            await client.post("/", Document())
        let_go(tmp_path, "sync", "async")

    async def works(client: AsyncClient) -> bool:
        try:
            return bool((await client.post("/", Document(text="a"))).texts == ["a"])
        except AccessDenied:
            return False

    async def main(flow: Flow) -> None:
        async with AsyncClient(port=flow.port, curve=folder) as client:
            await posts(flow, client)
            away.rename(listed)
            while not await works(client):
                await asyncio.sleep(0.01)

    options = {"folder": str(tmp_path)}
    with (
        Flow(curve=str(folder)).add(uses=Gate, uses_with=options, replicas=3) as flow,
        Client(port=flow.port, curve=folder) as client,
    ):
        held = in_background(client.post, "/hold", Document(text="sync"))
        asyncio.run(main(flow))
        with pytest.raises(
            AccessDenied, match=f"127.0.0.1:{flow.port} refuses the connection: are the keys"
        ):
            held.result(PATIENCE)
        assert client.post("/", Document(text="a")).texts == ["a"]


# -- limits ----------------------------------------------------------------------------------------


def test_too_many_connections_are_refused_until_others_end() -> None:
    with Flow(max_connections=3).add(uses=Upper) as flow:
        clients = [Client(port=flow.port) for _ in range(3)]
        assert [client.is_flow_ready() for client in clients] == [
            True
        ] * 3  # on connections of their own, ended by now
        for client in clients:
            wait_for(lambda client=client: _answers(client), what="there is room for three")  # type: ignore[misc]
        with pytest.raises(FlowUnreachable):
            Client(port=flow.port).info(timeout=500)
        clients[0].close()
        wait_for(lambda: _answers(Client(port=flow.port)), what="there is room for another one")
        assert flow.post("/", Document(text="own")).texts == ["OWN"]
        for client in clients:
            client.close()


def _answers(client: Client) -> bool:
    try:
        client.info(timeout=300)
    except FlowUnreachable:
        return False
    return True


def test_too_many_requests_over_one_connection_are_refused_at_once(tmp_path: Path) -> None:
    with Flow(max_requests_per_client=4).add(
        uses=Gate, uses_with={"folder": str(tmp_path)}
    ) as flow:
        with Client(port=flow.port) as client:
            held = in_background(client.post, "/hold", Document(text="held"))
            begun(tmp_path, "held")
            refused: list[Any] = []
            client_two = Client(port=flow.port)
            posted = in_background(
                client_two.post,
                "/",
                texts(6),
                request_size=1,
                on_error=refused.append,
                on_done=lambda response: None,
            )
            wait_for(
                lambda: flow.post is not None and client.info()["requests"] >= 5,
                what="four of them wait",
            )
            let_go(tmp_path, "held")
            held.result(30)
            posted.result(30)
            client_two.close()
        assert len(refused) == 2
        assert all(isinstance(response.error, Overloaded) for response in refused)
        assert "a client may have 4 requests in flight" in str(refused[0].error)
        assert (
            len(flow.post("/", texts(10), request_size=1)) == 10
        )  # the Flow's own process is not limited


@pytest.mark.parametrize(
    "said",
    [
        {"max_connections": 0},
        {"max_requests_per_client": True},
        {"replica_port": -1},
        {"allow_control": "yes"},
    ],
)
def test_limits_that_cannot_be(said: dict[str, Any]) -> None:
    with pytest.raises(InvalidFlow, match=next(iter(said))):
        Flow(**said)


def test_a_flood_of_rubbish_takes_no_memory_and_others_are_served() -> None:
    with Flow(max_message_bytes=100_000).add(uses=Upper) as flow, zmq.Context() as context:
        broker = psutil.Process(Client(port=flow.port).info()["pid"])
        rubbish = [
            [b"rubbish"],
            [b""],
            [os.urandom(50)],
            [os.urandom(20_000), b"x"],
            [b"a", b"b", b"c"],
        ]
        over = threading.Event()

        def flood() -> None:
            socket = factory.dealer(context)
            socket.set(zmq.SNDHWM, 100)
            socket.set(zmq.SNDTIMEO, 100)
            socket.connect(f"tcp://127.0.0.1:{flow.port}")
            sent = 0
            while not over.is_set():
                try:
                    socket.send_multipart(rubbish[sent % len(rubbish)])
                    sent += 1
                except zmq.Again:
                    pass
            socket.close()

        thread = threading.Thread(target=flood)
        thread.start()
        with Client(port=flow.port) as client:
            wait_for(
                lambda: sum(client.info()["malformed"].values()) > 2_000,
                what="the flood has arrived",
            )
            before = broker.memory_info().rss
            wait_for(
                lambda: sum(client.info()["malformed"].values()) > 20_000,
                what="there is more of it",
            )
            assert client.post("/", texts(50), request_size=1).texts == [
                str(number) for number in range(50)
            ]
            assert broker.memory_info().rss - before < 8 << 20
        over.set()
        thread.join()
