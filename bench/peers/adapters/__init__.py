"""One module for each system, run as `python -m` by the interpreter that has it;
see `bench.peers.jobs`.
"""
