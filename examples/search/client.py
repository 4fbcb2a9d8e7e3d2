"""Index and search through a Flow that runs elsewhere, such as under
`zflow-run examples/search/flow.yaml`.

What was indexed before is not indexed again.

python examples/search/client.py "parse json from a string"
"""

from __future__ import annotations

from terminal import command_line, documents, show

from zflow import Client, Document

parser = command_line()
parser.add_argument(
    "--host", default="localhost", help="where the Flow runs (default: %(default)s)"
)
parser.add_argument("--port", type=int, default=54321, help="its port (default: %(default)s)")
arguments = parser.parse_args()

client = Client(host=arguments.host, port=arguments.port)
entries = documents()
# By replica: one of each shard.
counts = client.post("/count", return_responses=True)[0].parameters["__results__"]
if sum(count["entries"] for count in counts.values()) < len(entries):
    client.post("/index", entries)
query = Document(text=" ".join(arguments.query))
for answer in client.post("/search", query, parameters={"top_k": arguments.top}):
    show(answer)
