"""Replicas: one process, one Executor, one socket to the broker.

Imports executors, documents, system and the devices (but not their broker); topology for types.
"""
