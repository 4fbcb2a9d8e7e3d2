"""What the two programs of the search example share: command line, what is indexed,
how it is shown.
"""

from __future__ import annotations

import argparse

import corpus

from zflow import Document, DocumentArray


def command_line() -> argparse.ArgumentParser:
    """Return the arguments that both programs take."""
    parser = argparse.ArgumentParser(
        description="Search the docstrings of Python's standard library."
    )
    parser.add_argument(
        "query", nargs="+", help="what to look for, such as: parse json from a string"
    )
    parser.add_argument(
        "--top", type=int, default=8, help="how many matches to print (default: %(default)s)"
    )
    return parser


def documents() -> DocumentArray:
    """Return what can be found: the qualified name as id, the docstring as text."""
    return DocumentArray(Document(id=name, text=text) for name, text in corpus.load().items())


def show(query: Document) -> None:
    """Print the matches of a query, one a line: score, name, and how the docstring begins."""
    if not query.matches:
        print(f"nothing found for {query.text!r}")
    for match in query.matches:
        begins = match.text.splitlines()[0]
        print(f"{match.scores['cosine'].value:.2f}  {match.id:40}  {begins[:70]}")
