"""The same jobs on other systems that a user might pick, each in a virtual environment of its own.

`setup` installs them, `contest` runs them in turns with zflow. `jobs` says what each system has to
do, and runs in the peers' own interpreters, as `httpload` and `adapters` do: these import nothing
but the standard library and the peer.

To add one: an adapter, a name in `ALL`, and what is to be installed in `setup.REQUIREMENTS`.
"""

NAME = "peers"
ALL = ("jina", "ray", "mosec", "litserve")
