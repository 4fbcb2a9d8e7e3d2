"""Addresses: every way to write one is read, and everything else is refused with the way out."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zflow.errors import BadRequest, InvalidFlow, ZflowError
from zflow.network import address

NAMES = st.from_regex(r"[a-z][a-z0-9_-]{0,10}(\.[a-z][a-z0-9-]{0,10}){0,3}", fullmatch=True)
HOSTS = st.one_of(NAMES, st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(str))
PORTS = st.integers(1, 65535)


@given(HOSTS, PORTS)
def test_what_is_spelled_is_read(host: str, port: int) -> None:
    spelled = address.spell(host, port)
    assert address.parse(spelled) == (host, port)
    assert address.parse(f"tcp://{spelled}", 1) == (host, port), "the port that it names counts"
    assert address.parse(host, port) == (host, port)
    assert address.parse(str(port), default_host=host) == (host, port)
    assert address.parse(f":{port}", default_host=host) == (host, port)


@given(HOSTS, PORTS)
def test_an_endpoint_is_read_as_the_host_that_it_was_made_of(host: str, port: int) -> None:
    assert address.parse(address.endpoint(host, port)) == (host, port)


@given(
    st.one_of(st.text(), st.text("0123456789.:[]/tcpx-", max_size=20)),
    st.none() | PORTS,
    st.none() | NAMES,
)
def test_any_text_is_an_address_or_an_error(
    text: str, default_port: int | None, default_host: str | None
) -> None:
    try:
        host, port = address.parse(text, default_port, default_host=default_host, error=InvalidFlow)
    except InvalidFlow:
        return
    assert host
    assert 0 < port < 65536
    assert not re.search(r"[\s/\[\]]", host)
    assert address.parse(address.spell(host, port)) == (host, port)


@given(
    st.one_of(
        PORTS,
        PORTS.map(str),
        st.integers(),
        st.none(),
        st.booleans(),
        st.floats(),
        st.text(),
        st.binary(),
    )
)
def test_a_port_is_a_number_from_1_to_65535(value: Any) -> None:
    if type(value) in (int, str) and re.fullmatch("[0-9]+", str(value)) and 0 < int(value) < 65536:
        assert address.port_of(value) == int(value)
    else:
        with pytest.raises(BadRequest, match=r"^port must be a number from 1 to 65535, not "):
            address.port_of(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("localhost", "address 'localhost' names no port: write 'HOST:PORT'"),
        ("localhost:", "port must be a number from 1 to 65535, not '' (address 'localhost:' (me))"),
        ("localhost:99999", "port must be a number from 1 to 65535, not '99999'"),
        ("localhost:http", "not 'http'"),
        (":5555", "names no host"),
        ("::1:5555", "names no port, or its IPv6 host is not in brackets"),
        ("[::1]", "names no port"),
        ("[localhost]:5555", "'[localhost]' cannot be a host"),
        ("grpc://localhost:12345", "only tcp:// is spoken"),
        ("127.0.0:5555", "'127.0.0' is no IPv4 address"),
        ("1:2:3", "'1:2:3' is no IPv6 address"),
        ("me@there:5555", "'me@there' cannot be a host"),
        ("a b:5555", "cannot be a host"),
        ("tcp://h:1/path", "not '1/path'"),
        (12345, "must be a text such as 'localhost:12345', not 12345"),
    ],
)
def test_what_is_no_address_is_refused_with_the_way_out(text: Any, message: str) -> None:
    for error in (BadRequest, InvalidFlow):
        with pytest.raises(error, match=re.escape(message)) as raised:
            address.parse(text, error=error, owner="me")
        assert "(me)" in raised.value.message
        assert isinstance(raised.value, ZflowError)


def test_an_ipv6_host_needs_no_brackets_where_the_port_is_said_elsewhere() -> None:
    assert address.parse("::1", 5555) == ("::1", 5555)
    assert address.parse("fe80::1%eth0", 5555) == ("fe80::1%eth0", 5555)


def test_localhost_is_127_0_0_1_which_zflow_listens_on() -> None:
    assert address.endpoint("localhost", "*") == "tcp://127.0.0.1:*"


@pytest.mark.parametrize(
    ("host", "port", "found"),
    [
        ("grpc://localhost:12345", None, "tcp://127.0.0.1:12345"),
        ("grpc://example", 12345, "tcp://example:12345"),
        ("http://127.0.0.1:12345/", None, "tcp://127.0.0.1:12345"),
        ("ws://[::1]:12345", None, "tcp://[::1]:12345"),
        ("tcp://example", 12345, "tcp://example:12345"),
        ("example:12345", 12345, "tcp://example:12345"),
        ("::1", 12345, "tcp://[::1]:12345"),
    ],
)
def test_a_client_takes_the_addresses_of_other_protocols_with_a_note_once(
    host: str,
    port: int | None,
    found: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(address, "_noted", set())
    for _ in range(2):
        assert address.address_of(host, port) == found
    strange = host.partition("://")[0] in ("grpc", "http", "ws")
    assert caplog.text.count("zflow speaks ZeroMQ") == strange


@pytest.mark.parametrize(
    ("host", "port", "words"),
    [
        ("grpcs://h:1", None, "no TLS.*curve="),
        ("https://h", 1, "no TLS.*curve="),
        ("ftp://h:1", None, "only tcp:// is spoken"),
        ("h:1", 2, "names port 1, and port= is 2"),
        ("http://h:1/path", None, "not '1/path'"),
        ("http://h", None, "names no port"),
        ("h", None, "needs the port"),
    ],
)
def test_what_is_no_address_of_a_flow(host: str, port: int | None, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        address.address_of(host, port)


def test_a_protocol_is_taken_with_a_note_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(address, "_noted", set())
    for protocol in ("grpc", "GRPC", "http", "websocket", None):
        address.check_protocol(protocol)
    assert caplog.text.count("protocol='grpc': zflow speaks ZeroMQ") == 1
    for wrong in ("gprc", 7):
        with pytest.raises(BadRequest, match="protocol must be"):
            address.check_protocol(wrong)
