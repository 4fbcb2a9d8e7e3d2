"""Texts to vectors: hashed TF-IDF with numpy. Knows nothing of Executors, Documents or where the
texts come from.

A word's weight is how often it stands in a text (damped) times how rare it is among all texts; the
word's hash says which elements of the vector get that weight, so no vocabulary has to be kept or
agreed on. Vectors have length 1: the dot product of two is their cosine.
"""

from __future__ import annotations

import functools
import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

SUMMARY, REST = 1.0, 0.1  # how much a word counts: in title and first paragraph, and below
PLACES = 8  # elements of a vector that one word changes

# Words, numbers and the parts of identifiers: 'JSONDecoder.raw_decode' is JSON, Decoder, raw,
# decode.
_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_RUN = re.compile(r"[A-Za-z0-9]+")
_ENDINGS = ("ings", "ing", "ers", "ors", "er", "or", "ed", "es", "s", "e")
_STOP_WORDS = frozenset(
    """a an and any are as at be been but by can do does for from has have how i if in into is it
    its may my not of on or one so such than that the their them then there these they this to used
    using was we what when where which will with you your""".split()
)
# What programmers write for one and the same thing, as stems.
_SYNONYMS = {
    "decod": "pars",
    "deserializ": "pars",
    "deserialis": "pars",
    "encod": "serializ",
    "dir": "directory",
    "fold": "directory",
    "fil": "file",
    "filenam": "file",
    "pathnam": "path",
    "remov": "delet",
    "eras": "delet",
    "dict": "dictionary",
    "int": "integ",
    "func": "function",
    "tempor": "temp",
    "retriev": "download",
    "concatenat": "join",
}


def words(text: str) -> list[str]:
    """Return the stems of a text's words, without the commonest words.

    >>> words("Parsing JSONDecoder.raw_decode from strings")
    ['pars', 'json', 'pars', 'raw', 'pars', 'str']
    """
    return [stem for run in _RUN.findall(text) for stem in _stems(run)]


@functools.lru_cache(maxsize=100_000)
def _stems(run: str) -> tuple[str, ...]:
    parts = (part.lower() for part in _PART.findall(run))
    stems = (_stem(part) for part in parts if len(part) > 1 and part not in _STOP_WORDS)
    return tuple(_SYNONYMS.get(stem, stem) for stem in stems)


def _stem(word: str) -> str:
    """Cut one common ending, so that parse, parses, parsed, parser and parsing are one word."""
    if word[-3:] in ("ies", "ied") and len(word) > 4:
        return word[:-3] + "y"
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word[: -len(ending)]
            if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "ls":
                word = word[:-1]  # 'splitting' is 'split'
            break
    return word


class TfIdf:
    """Turns texts into vectors, by how rare each word is among the texts that it was made with.

    Args:
        texts: what rarity is learnt from. Vectors can be compared only if they were made with the
            same texts.
        size: elements of a vector. What two texts without a common word have in common by chance is
            about `1 / sqrt(size)`.

    >>> model = TfIdf(["parse json", "parse xml", "open a file"])
    >>> model.vector("json").shape
    (2048,)
    """

    def __init__(self, texts: Iterable[str], size: int = 2048) -> None:
        found: Counter[str] = Counter()
        count = 0
        for text in texts:
            found.update(set(words(text)))
            count += 1
        self.size = size
        self._rarest = math.log(1 + count) + 1
        self._rarity = {word: self._rarest - math.log(1 + times) for word, times in found.items()}

    def vector(self, text: str, title: str = "") -> NDArray[np.float32]:
        """Return the vector of a text, of length 1 (or all zeros if it has no word in it).

        The words of the title and of the text's first paragraph count more than the rest.
        """
        summary, _, rest = text.partition("\n\n")
        counts: dict[str, float] = {}
        for part, weight in ((title, SUMMARY), (summary, SUMMARY), (rest, REST)):
            for word in words(part):
                counts[word] = counts.get(word, 0.0) + weight
        vector = np.zeros(self.size, dtype=np.float32)
        for word, count in counts.items():
            at, signs = _places(word, self.size)
            np.add.at(
                vector,
                at,
                signs * np.float32(math.log1p(count) * self._rarity.get(word, self._rarest)),
            )
        length = float(np.linalg.norm(vector))
        return vector / length if length else vector


@functools.lru_cache(maxsize=100_000)
def _places(word: str, size: int) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    """Return the elements of a vector that a word changes, and their signs, from a hash of the
    word.

    Several elements each, so that no two words ever meet in all of them, and signs, so that what
    meets by chance cancels as often as it adds up. Python's own hash would differ between
    processes.
    """
    codes = np.frombuffer(
        hashlib.blake2b(word.encode(), digest_size=4 * PLACES).digest(), dtype="<u4"
    )
    return codes % size, np.where(codes >> 31, np.float32(1), np.float32(-1))
