"""The broker: the loop, its sockets towards clients, replicas and other Flows,
and what is kept for each request.

Imports all other devices; only the process that it runs in imports it.
"""
