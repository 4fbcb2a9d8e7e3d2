"""A Flow over two Encoders that run elsewhere, written in two ways that mean the same.

python examples/external/flow.py [HOST OF THE SECOND ONE]
"""

from __future__ import annotations

import sys
from collections import Counter

from zflow import Document, Flow

far = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1"

replica_hosts, replica_ports = ["localhost", far], ["12345", "12346"]
two_lists = Flow().add(host=replica_hosts, port=replica_ports, external=True)

# alternative syntax
one_list = Flow().add(host=["localhost:12345", f"{far}:12346"], external=True)

for spelling, flow in (("two lists", two_lists), ("one list", one_list)):
    with flow:
        docs = flow.post("/", (Document(text=f"text {n}") for n in range(1000)), request_size=1)
    shares = Counter(doc.tags["pid"] for doc in docs)
    print(
        f"{spelling}: {len(docs)} requests answered by {len(shares)} processes: "
        f"{sorted(shares.values())}"
    )
