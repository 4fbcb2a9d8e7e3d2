"""The protocol: what client, broker and replica say to each other. Pure: no sockets, no clock.

Imports nothing else of zflow.
"""
