"""Executors: what users write, and how `uses` becomes a class.

Only `modules` imports users' files, and only in replicas. Imports nothing of zflow but yamlsource,
errors and suggest: an Executor can be made and called without a Flow.
"""
