"""Search the docstrings of Python's standard library, with a Flow that this script starts and ends.

python examples/search/app.py "parse json from a string" [--shards 3]
"""

from __future__ import annotations

from encoder import Encoder
from indexer import Indexer
from ranker import Ranker
from terminal import command_line, documents, show

from zflow import Document, Flow

parser = command_line()
parser.add_argument(
    "--shards",
    type=int,
    default=1,
    help="how many parts to keep the index in (default: %(default)s)",
)
arguments = parser.parse_args()
entries = documents()
query = Document(text=" ".join(arguments.query))

flow = Flow().add(name="encoder", uses=Encoder, replicas=3)
# /index goes to one shard, /search to all.
flow.add(name="indexer", uses=Indexer, shards=arguments.shards)
if arguments.shards > 1:
    flow.add(name="ranker", uses=Ranker)

with flow:
    flow.index(entries)
    for answer in flow.search(query, parameters={"top_k": arguments.top}):
        show(answer)
