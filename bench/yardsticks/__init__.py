"""What zflow is compared with: plain ZeroMQ, and perfect knowledge. Nothing in here imports
zflow.
"""
