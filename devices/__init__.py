"""The data plane: the ZeroMQ broker and the logic it drives.

Everything here knows frames and headers, never Documents, and imports nothing from the rest of
zflow. `balancer` and `router` are pure logic without sockets or clocks; `broker` puts them on the
wire; `protocol` is what is said there.
"""
