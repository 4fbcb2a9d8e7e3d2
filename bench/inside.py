"""What benchmarks use of zflow that is not public, in one place:
parts whose cost is measured by themselves.
"""

from __future__ import annotations

from zflow.devices.balancing.actions import Send, SendBatch
from zflow.devices.balancing.balancer import Balancer
from zflow.devices.balancing.replica import BatchKey, Replica, Task
from zflow.devices.broker.broker import Broker
from zflow.devices.broker.front import Front
from zflow.devices.broker.outbox import Outbox
from zflow.devices.protocol.bundles import message
from zflow.devices.protocol.headers import written
from zflow.devices.protocol.messages import Done, Request, encoder
from zflow.devices.routing.fanout import Publish
from zflow.devices.routing.pool import Limits, Pool
from zflow.devices.routing.walk import Node, Walk
from zflow.documents.codec import pack, unpack

__all__ = [
    "Balancer",
    "BatchKey",
    "Broker",
    "Done",
    "Front",
    "Limits",
    "Node",
    "Outbox",
    "Pool",
    "Publish",
    "Replica",
    "Request",
    "Send",
    "SendBatch",
    "Task",
    "Walk",
    "encoder",
    "message",
    "pack",
    "unpack",
    "written",
]
