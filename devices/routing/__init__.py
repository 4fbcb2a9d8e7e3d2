"""Routing: where requests go next in the graph of Executors, and what is under way to each. Pure:
no sockets, no clock.

Imports balancing and protocol.
"""
