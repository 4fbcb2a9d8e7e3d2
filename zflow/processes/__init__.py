"""Processes: from a topology to running ones, which are watched, restarted, scaled and ended.

Imports replicas, topology, executors, network, system and devices.
The process manager runs no user code.
"""
