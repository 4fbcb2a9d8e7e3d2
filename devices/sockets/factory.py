"""How the broker's sockets are made: what listens, what connects,
and how a silent peer is noticed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import zmq

from zflow.devices.protocol.messages import MAX_HEADER, STRANGER

BACKLOG = 1000  # connections that wait to be accepted; what is beyond them waits for seconds
# ms between two heartbeats of ZeroMQ's own threads, which go on while user code holds the GIL.
HEARTBEAT = 1000
SILENT = 4000  # ms without any, until a connection counts as cut
LINGER = 1000  # ms that what was sent last may take to get out when a socket is closed
RECONNECT = 20  # ms until a connection that is gone is tried again; doubled up to
RECONNECT_AT_MOST = 1000  # ms


def listen(
    context: zmq.Context[zmq.Socket[bytes]],
    kind: int,
    addresses: Iterable[str],
    max_bytes: int | None = None,
) -> tuple[zmq.Socket[bytes], list[str]]:
    """Make a socket that listens; return it and its addresses,
    with the port that was taken for a wildcard.

    Args:
        kind: ROUTER, XPUB or PULL. A ROUTER greets each new connection with an empty frame.
        max_bytes: the largest payload that may arrive. A frame clearly above it breaks the
            connection; honest peers check first, so the slack is for the wrong count that
            deserves an answer, not a cut.

    Raises:
        zmq.ZMQError: an address cannot be listened on (EADDRINUSE and the like); the text names it.
    """
    socket = _socket(context, kind)
    socket.set(zmq.LINGER, LINGER)
    socket.set(zmq.TCP_KEEPALIVE, 1)  # for peers that say nothing of heartbeats
    socket.set(zmq.TCP_KEEPALIVE_IDLE, SILENT // 1000)
    socket.set(zmq.TCP_KEEPALIVE_INTVL, 1)
    socket.set(zmq.TCP_KEEPALIVE_CNT, SILENT // 1000)
    if kind == zmq.ROUTER:
        socket.set(zmq.PROBE_ROUTER, 1)
        socket.set(zmq.BACKLOG, BACKLOG)
        # A peer that connects anew may be back before its old connection is gone.
        socket.set(zmq.ROUTER_HANDOVER, 1)
    if max_bytes is not None:
        socket.set(zmq.MAXMSGSIZE, max_bytes + MAX_HEADER)
    try:
        return socket, bind(socket, addresses)
    except zmq.ZMQError:
        socket.close()
        raise


def bind(socket: zmq.Socket[bytes], addresses: Iterable[str]) -> list[str]:
    """Let a socket listen; raises and returns as `listen`."""
    bound = []
    for address in addresses:
        try:
            socket.bind(address)
        except zmq.ZMQError as error:
            # Newer versions of pyzmq name the address by themselves.
            what = str(error.strerror).removesuffix(f" (addr={address!r})")
            raise zmq.ZMQError(error.errno, f"{what}: {address}") from None
        bound.append(socket.get_string(zmq.LAST_ENDPOINT))
    return bound


def dealer(context: zmq.Context[zmq.Socket[bytes]], kind: bytes = STRANGER) -> zmq.Socket[bytes]:
    """Make a DEALER that keeps its routing id, which nobody can guess, when it connects anew.

    Args:
        kind: what the routing id begins with: `STRANGER`, `MEMBER` for a client that shares the
            Flow's memory, or `FLOW` for another Flow's broker.
    """
    socket = _socket(context, zmq.DEALER)
    beat(socket)
    socket.set(zmq.ROUTING_ID, kind + os.urandom(15))
    socket.set(zmq.LINGER, 0)
    socket.set(zmq.RCVHWM, 0)
    socket.set(zmq.RECONNECT_IVL, RECONNECT)
    socket.set(zmq.RECONNECT_IVL_MAX, RECONNECT_AT_MOST)
    return socket


def _socket(context: zmq.Context[zmq.Socket[bytes]], kind: int) -> zmq.Socket[bytes]:
    socket = context.socket(kind)
    socket.set(zmq.IPV6, 1)
    # What is in flight is bounded by windows; a full pipe would drop replies.
    socket.set(zmq.SNDHWM, 0)
    return socket


def beat(socket: zmq.Socket[bytes]) -> None:
    """Make a socket, before it connects, notice within `SILENT` ms that the other end is silent,
    and be noticed so.

    The listening side has no heartbeat of its own: libzmq ends the process if one is due for a
    connection that has hung up while more messages of its than the HWM were waiting.
    """
    socket.set(zmq.HEARTBEAT_IVL, HEARTBEAT)
    socket.set(zmq.HEARTBEAT_TIMEOUT, SILENT)
    socket.set(zmq.HEARTBEAT_TTL, SILENT)
