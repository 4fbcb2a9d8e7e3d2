"""What the operating system offers: signals and titles of processes, logs, GPUs.
It knows nothing of Flows.

Imports nothing of zflow but errors and suggest.
"""
