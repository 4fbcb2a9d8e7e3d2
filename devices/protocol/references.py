"""References: what stands in a payload for a frame that lies in shared memory,
and how it is said in a message.

No content of a frame is a reference, whatever it looks like. Which frames of a message are some is
said by one more field at the end of its header, a bit for each frame; such a header is known only
to sockets between processes that share the memory. There it is turned into a `Reference` once, when
the message comes in, and back when it goes out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Any, Protocol, final

WINDOW = 1 << 30  # bytes mapped at a time; no block is larger, and none lies in two of them
REGION = 1 << 40  # bytes of offsets; hardly any of them ever have memory behind them
REGIONS = (1 << 22) - 1
MOST_SLOTS = (1 << 16) - 1  # of a region

_PACKED = Struct("<IIQQQ")


class Received(Protocol):
    """A large frame as it came, not copied: a `zmq.Frame`."""

    @property
    def buffer(self) -> memoryview: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def __len__(self) -> int: ...


Frame = bytes | bytearray | memoryview | Received


@final
@dataclass(frozen=True, slots=True)
class Reference:
    """Names a block of shared memory; its length is the block's.

    Raises:
        ValueError: there can be no such block.
    """

    region: int
    slot: int
    offset: int  # in the region
    length: int
    generation: int

    def __post_init__(self) -> None:
        if not (
            0 <= self.region < REGIONS
            and 0 <= self.slot < MOST_SLOTS
            and 0 < self.length <= WINDOW - self.offset % WINDOW
            and 0 <= self.offset < REGION
            and 0 < self.generation < 1 << 64  # 0 is that of slots which no block was ever in
        ):
            raise ValueError(f"no block of shared memory: {self!r}")

    def __len__(self) -> int:
        return self.length

    def pack(self) -> bytes:
        """Return what travels in the block's place.

        >>> Reference.unpack(Reference(1, 2, 3, 4, 5).pack())
        Reference(region=1, slot=2, offset=3, length=4, generation=5)
        """
        return _PACKED.pack(self.region, self.slot, self.offset, self.length, self.generation)

    @classmethod
    def unpack(cls, packed: bytes) -> Reference:
        """Return the reference that travelled as these bytes.

        Raises:
            ValueError: they are none.
        """
        if len(packed) != _PACKED.size:
            raise ValueError(f"a reference has {_PACKED.size} bytes, not {len(packed)}")
        return cls(*_PACKED.unpack(packed))


Payload = Sequence[Frame | Reference]


def references(frames: Sequence[object]) -> list[Reference]:
    """Return the references among the frames; the first frame of a payload is none."""
    return [] if len(frames) == 1 else [frame for frame in frames if type(frame) is Reference]


def is_fixed(frames: Sequence[object]) -> bool:
    """Whether nobody can write to what is sent for these frames any more; to arrays of user code,
    it can.
    """
    return all(type(frame) is bytes or type(frame) is Reference for frame in frames)


def said(frames: Sequence[Any]) -> tuple[bytes, Sequence[Frame]]:
    """Return which frames of a payload are references, a bit for each,
    and the frames as they travel.

    >>> said([b"first", Reference(0, 0, 0, 1, 7)])[0], said([b"first", b"second"])
    (b'\\x02', (b'', [b'first', b'second']))
    """
    if Reference not in map(type, frames):
        return b"", frames
    places = int("".join("01"[type(frame) is Reference] for frame in reversed(frames)), 2)
    packed = [frame.pack() if type(frame) is Reference else frame for frame in frames]
    return places.to_bytes(len(frames) // 8 + 1, "little"), packed


def heard(places: bytes, frames: Sequence[Frame]) -> list[Frame | Reference]:
    """Return a payload with its references, the opposite of `said`.

    Raises:
        ValueError: one is none, or is the first frame, or there is no frame at its place.
    """
    bits = bin(int.from_bytes(places, "little"))[:1:-1]
    if bits[0] == "1" or len(bits) > len(frames):
        raise ValueError("no place of a reference")
    found: list[Frame | Reference] = [*frames]
    for at, bit in enumerate(bits):
        if bit == "1":
            found[at] = Reference.unpack(bytes(frames[at]))
    return found
