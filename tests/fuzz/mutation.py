"""Bytes that are nearly right: real seeds, changed in the ways that break decoders. Seeded: runs can be repeated.

A decoder that only sees noise refuses it at the first byte. These begin with what the system really writes, are cut,
doubled, spliced and stretched to the size that the door lets in, and half of them get a checksum that fits.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from fuzz.targets import Target

EDGES = tuple(
    n.to_bytes(width, "little", signed=n < 0)
    for width in (1, 2, 4, 8)
    for n in (0, 1, -1, 2 ** (8 * width - 1) - 1, -(2 ** (8 * width - 1)))
)
"""Numbers at the ends of their types."""


class Mutator:
    """An endless source of inputs for one target."""

    def __init__(self, target: Target, seed: int) -> None:
        self._target = target
        self.numbers = random.Random(seed)
        self._seeds = (*target.seeds, *target.corpus.values())

    def __iter__(self) -> Iterator[bytes]:
        yield b""
        yield from self._seeds
        while True:
            yield self.mutated(self.numbers.choice(self._seeds))

    def mutated(self, data: bytes) -> bytes:
        """`data` with one to eight changes, and perhaps a checksum that fits."""
        numbers, target = self.numbers, self._target
        for _ in range(numbers.choice((1, 1, 1, 2, 2, 3, 5, 8))):
            data = self._changed(data)[: target.max_bytes]
        if target.seal is not None and numbers.random() < 0.5:
            data = target.seal(data)
        return data

    def _changed(self, data: bytes) -> bytes:
        numbers = self.numbers
        at, to = sorted((numbers.randint(0, len(data)), numbers.randint(0, len(data))))
        if numbers.random() < 0.7:  # small pieces, mostly
            to = min(to, at + numbers.choice((0, 1, 2, 4, 8, 30)))
        piece = data[at:to]
        match numbers.randrange(8):
            case 0:
                piece = bytes(b ^ (1 << numbers.randrange(8)) for b in piece)
            case 1:
                piece = b""
            case 2:
                piece = numbers.randbytes(numbers.choice((1, 2, 4, 9)))
            case 3:
                piece = numbers.choice(EDGES)
            case 4 if self._target.words:
                piece += numbers.choice(self._target.words)
            case 5:
                other = numbers.choice(self._seeds)
                begin = numbers.randint(0, len(other))
                piece = other[begin : begin + numbers.choice((8, 64, 1024))]
            case 6:  # the same again and again, up to what the door lets in
                piece = piece or numbers.choice(self._target.words or EDGES)
                room = max(0, self._target.max_bytes - len(data))
                piece *= numbers.choice((2, 20, max(2, room // len(piece))))
            case _:
                return data[:at] + data[to:at:-1] + data[to:]
        return data[:at] + piece + data[to:]
