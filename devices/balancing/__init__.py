"""Balancing: which replica of one Executor gets which request. Pure: no sockets, no clock,
nothing else of zflow.

Events come in with the time at which they happened, and what is to be done comes out.
"""
