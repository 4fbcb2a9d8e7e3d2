"""Topology: what a Flow is to be, as plain data, from keywords or from YAML;
everything a user says is checked here.

Imports executors, network, system and yamlsource: it starts nothing and loads no user code.
"""
