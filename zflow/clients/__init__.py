"""Clients: what a program that posts to a running Flow uses, over sockets that it has to itself.

Imports documents, network and the devices for protocol, sockets and local memory: nothing of
topology or processes, for a Flow may run anywhere.
"""
