"""Documents: the data, and what it looks like on its way.
Nothing received is unpickled or evaluated.

Imports nothing of zflow but errors and suggest: it knows no sockets, messages, Executors or Flows.
"""
