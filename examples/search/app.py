"""Search the docstrings of Python's standard library, with a Flow that this script starts and ends.

python examples/search/app.py "parse json from a string"
"""

from __future__ import annotations

from encoder import Encoder
from indexer import Indexer
from terminal import command_line, documents, show

from zflow import Document, Flow

arguments = command_line().parse_args()
entries = documents()
query = Document(text=" ".join(arguments.query))

with Flow().add(name="encoder", uses=Encoder, replicas=3).add(name="indexer", uses=Indexer) as flow:
    flow.index(entries)
    for answer in flow.search(query, parameters={"top_k": arguments.top}):
        show(answer)
