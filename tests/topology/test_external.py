"""What may be said about an external Executor, and to which addresses it comes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import Upper
from hypothesis import given, settings
from hypothesis import strategies as st

from zflow import Flow
from zflow.errors import InvalidFlow
from zflow.executors.executor import Executor
from zflow.topology import external
from zflow.topology.options import FIELDS
from zflow.topology.topology import Topology

OWNER = "executor 'x'"


class Mine(Executor):
    pass


def refusal(function: Any, *arguments: Any) -> str:
    with pytest.raises(InvalidFlow) as caught:
        function(*arguments, OWNER)
    assert str(caught.value).endswith(f"({OWNER})")
    return str(caught.value).removesuffix(f" ({OWNER})")


# -- in a Flow -------------------------------------------------------------------------------------


def test_an_external_executor_is_its_addresses():
    topology = Topology()
    spec = topology.add({}, name="far", external=True, host=["a", "::1"], port=[1234, "1235"])
    assert (spec.addresses, spec.local) == (("a:1234", "[::1]:1235"), False)
    assert topology.add({}, external=True, host="localhost:12345").addresses == ("localhost:12345",)
    assert topology.add({}, external=True, host="far", port=[1, 2]).addresses == ("far:1", "far:2")
    assert topology.add({}, external=True, port=1234, needs="far").addresses == ("127.0.0.1:1234",)
    assert topology.add({}, name="near").local


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (
            {"external": True},
            "external=True needs to know where: host='localhost:12345', or host= and port=",
        ),
        ({"host": "far"}, "host says where an external Executor runs: add external=True"),
        ({"port": 1234}, "port says where an external Executor runs: add external=True"),
        ({"curve": "keys"}, "curve says where an external Executor runs: add external=True"),
        (
            {"external": True, "port": 1234, "uses": Mine},
            "uses is the business of the Flow where an external Executor",
        ),
    ],
)
def test_what_does_not_fit_an_external_executor_is_refused(kwargs, message):
    topology = Topology()
    with pytest.raises(InvalidFlow) as caught:
        topology.add({}, name="x", **kwargs)
    assert str(caught.value).startswith(message)
    assert str(caught.value).endswith("(executor 'x')")


def test_no_reduce_with_several_predecessors_is_a_value_error() -> None:
    flow = Flow().add(name="a").add(name="b", needs="gateway")
    with pytest.raises(
        ValueError, match="no_reduce=True is not for an external Executor with several predecessors"
    ):
        flow.add(needs=["a", "b"], external=True, host="localhost:12345", no_reduce=True)
    flow.add(needs="a", external=True, host="localhost:12345", no_reduce=True)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"host": ["a", "b"], "port": [1, 2, 3]}, "2 hosts and 3 ports"),
        ({"host": ["a:1", "b:2"], "port": [1, 3]}, "'b:2' names a port, and port=3 another one"),
        ({"host": ["a:1", "a:1"]}, "'a:1' is there more than once"),
        ({"host": "a"}, "names no port"),
        ({"host": "a:70000"}, "from 1 to 65535, not '70000'"),
        ({"host": "http://a:7"}, "only tcp:// is spoken"),
        ({"host": 7}, "host must be an address"),
        ({"host": []}, "host must be an address"),
        ({"port": "x"}, "from 1 to 65535, not 'x'"),
        ({"port": True}, "not True"),
        ({}, "external=True needs to know where"),
        ({"host": "a:1", "replicas": 2}, "replicas is the business of the Flow where"),
        ({"host": "a:1", "uses": Upper}, "uses is the business of the Flow where"),
        (
            {"external": False, "host": "a:1"},
            "host says where an external Executor runs: add external=True",
        ),
    ],
)
def test_what_cannot_be_is_said_at_once(said: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidFlow, match=message) as refused:
        Flow().add(**{"name": "far", "external": True, **said})
    assert "executor 'far'" in str(refused.value)


# -- the values ------------------------------------------------------------------------------------


def test_one_host_or_several() -> None:
    assert external.hosts("host", "a", OWNER) == ("a",)
    assert (
        external.hosts("host", [" a ", "b:1"], OWNER)
        == external.hosts("host", ("a", "b:1"), OWNER)
        == ("a", "b:1")
    )
    for wrong in ("", " ", [], (), ["a", ""], ["a", 5], 5, None, {"a": 1}):
        assert refusal(external.hosts, "host", wrong) == (
            f"host must be an address such as 'localhost:12345', or a list of them, not {wrong!r}"
        )


def test_one_port_or_several() -> None:
    assert external.ports("port", 1, OWNER) == external.ports("port", "1", OWNER) == (1,)
    assert external.ports("port", [1, "65535", np.int64(7)], OWNER) == (1, 65535, 7)
    assert refusal(external.ports, "port", []) == "port must be a port or a list of ports, not []"
    for wrong in (0, 65536, -1, "0", "1.0", "", 1.0, True, None, "٣"):
        for value in (wrong, [1, wrong]):
            assert (
                refusal(external.ports, "port", value)
                == f"port must be a number from 1 to 65535, not {wrong!r}"
            )


# -- addresses -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "port", "found"),
    [
        ((), (1, 2), ("127.0.0.1:1", "127.0.0.1:2")),
        (("a",), (1, 2), ("a:1", "a:2")),
        (("a", "b"), (1,), ("a:1", "b:1")),
        (("a", "b"), (1, 2), ("a:1", "b:2")),
        (("a:1", "b:2"), (), ("a:1", "b:2")),
        (("a:1", "b"), (1, 2), ("a:1", "b:2")),
        (("tcp://a:1", "tcp://[::1]:2"), (), ("a:1", "[::1]:2")),
        (("::1",), (1,), ("[::1]:1",)),
        (("a:1", "a:2"), (), ("a:1", "a:2")),
    ],
)
def test_hosts_and_ports_pair_up(
    host: tuple[str, ...], port: tuple[int, ...], found: tuple[str, ...]
) -> None:
    assert external.addresses(host, port, OWNER) == found


PORTS = st.lists(st.integers(1, 65535), min_size=1, max_size=5, unique=True).map(tuple)
HOSTS = st.lists(
    st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True), min_size=1, max_size=5, unique=True
).map(tuple)


@settings(max_examples=50)
@given(HOSTS, PORTS)
def test_whatever_pairs_up_is_read_again_as_it_is_and_nothing_else_pairs_up(
    host: tuple[str, ...], port: tuple[int, ...]
) -> None:
    if len(host) != len(port) and 1 not in (len(host), len(port)):
        assert refusal(external.addresses, host, port) == (
            f"host and port must be lists of the same length, but there are {len(host)} hosts and "
            f"{len(port)} ports"
        )
        return
    found = external.addresses(host, port, OWNER)
    assert len(found) == max(len(host), len(port))
    assert external.addresses(found, (), OWNER) == found


@pytest.mark.parametrize(
    ("host", "port", "message"),
    [
        ((), (), "host: address '127.0.0.1' names no port: write "),
        (("a", "b:1"), (), "host: address 'a' names no port: write "),
        (("a:1",), (2,), "host 'a:1' names a port, and port=2 another one: say it once"),
        (("a:1", "b"), (2,), "host 'a:1' names a port, and port=2 another one: say it once"),
        (("a:1", "tcp://a:1"), (), "address 'a:1' is there more than once: each is one replica"),
        (("a", "a"), (1,), "address 'a:1' is there more than once: each is one replica"),
        ((), (1, 1), "address '127.0.0.1:1' is there more than once: each is one replica"),
        (("a b",), (1,), "host: address 'a b' is none: 'a b' cannot be a host: write "),
        (("udp://a",), (1,), "host: address 'udp://a': only tcp:// is spoken: write "),
    ],
)
def test_what_is_no_address_or_one_twice_is_named(
    host: tuple[str, ...], port: tuple[int, ...], message: str
) -> None:
    assert refusal(external.addresses, host, port).startswith(message)


# -- what goes with it -----------------------------------------------------------------------------


@pytest.mark.parametrize("key", sorted(set(FIELDS) - set(external.TAKES)))
def test_what_is_the_business_of_the_far_flow_is_refused(key: str) -> None:
    with pytest.raises(InvalidFlow) as caught:
        external.check(["external", "host", key], True, ("gateway",), False, OWNER)
    assert str(caught.value).startswith(
        f"{key} is the business of the Flow where an external Executor runs; this one takes "
        "'name', 'needs', "
    )


def test_what_it_takes_may_be_said_all_at_once() -> None:
    assert set(external.TAKES) <= set(FIELDS)
    external.check(external.TAKES, True, ("a",), True, OWNER)
    external.check(external.TAKES, True, ("a", "b"), False, OWNER)


def test_where_it_is_can_be_said_by_host_or_port_and_must_be() -> None:
    for given_keys in (["host"], ["port"], ["host", "port", "curve"]):
        external.check(given_keys, True, ("gateway",), False, OWNER)
    for given_keys in ([], ["external", "curve", "timeout_send"]):
        with pytest.raises(
            InvalidFlow, match=r"^external=True needs to know where: host='localhost:12345', or"
        ):
            external.check(given_keys, True, ("gateway",), False, OWNER)


def test_others_may_say_anything_but_where() -> None:
    external.check(
        [key for key in FIELDS if key not in ("host", "port", "curve")],
        False,
        ("a", "b"),
        True,
        OWNER,
    )
