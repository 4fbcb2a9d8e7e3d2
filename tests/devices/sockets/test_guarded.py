"""A port that strangers reach; how it counts them is tested in test_meter.py."""

from __future__ import annotations

from unittest.mock import Mock

import pytest
import zmq

from zflow.devices.sockets.guarded import GuardedPort
from zflow.devices.sockets.meter import Meter
from zflow.devices.sockets.port import LARGE


def test_messages_go_both_ways_and_who_is_gone_is_told_of() -> None:
    with (
        zmq.Context() as context,
        context.socket(zmq.ROUTER) as router,
        context.socket(zmq.DEALER) as dealer,
    ):
        meter = Mock(Meter, most_frames=100, curious=False, taken=0)
        port = GuardedPort(router, 3, meter, 10)
        number = router.bind_to_random_port("tcp://127.0.0.1")
        dealer.set(zmq.ROUTING_ID, b"dealer")
        dealer.set(zmq.LINGER, 0)
        dealer.connect(f"tcp://127.0.0.1:{number}")
        dealer.send_multipart([b"a", b"b" * 5000, b"c" * 5000])
        assert router.poll(30_000)
        ((name, first, second, third),) = port.receive_some(64)
        assert (name, first, len(second), third.bytes) == (b"dealer", b"a", 5000, b"c" * 5000)
        assert meter.taken == 1
        assert not meter.heard.called
        sent = [b"small", b"x" * 2000, b"y" * LARGE, memoryview(b"z" * 3000)]
        port.send([name, *sent])
        assert dealer.recv_multipart() == [bytes(frame) for frame in sent]
        assert [call.args for call in meter.owe.call_args_list] == [
            (name, 2000),
            (name, LARGE),
            (name, 3000),
        ]
        with pytest.raises(zmq.ZMQError, match="unreachable"):
            port.send([b"nobody", b"x"])
        assert not meter.clogged.called
