"""Whole clusters in virtual time: the real broker, balancer, fan-out and router,
everything around them simulated.

`scenario` draws from a seed what there is and what goes wrong, `cluster` plays it, `watch` and
`checks` say what must hold, `shrink` makes a failing scenario small.
`python -m tests.simulation --seeds 100 --requests 1000` runs it.
"""
