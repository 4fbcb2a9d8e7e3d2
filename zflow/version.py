"""The version of zflow. It imports nothing, so that a build can read it without having pyzmq."""

from __future__ import annotations

__version__ = "0.1.0"
