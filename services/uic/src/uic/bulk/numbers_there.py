"""Which records of a source a topic has, by their numbers, and which it should have and lacks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from uic.core.topics import ranges

BLOCK: Final = 1 << 16
"""Bits that are kept together."""


class Numbers:
    """A set of numbers from 0 on. It takes a bit for each, from the lowest to the highest, in blocks; 12.5 MB for
    100,000,000 in a row."""

    def __init__(self) -> None:
        """None yet."""
        self._blocks: dict[int, bytearray] = {}

    def add(self, number: int) -> None:
        """Take one in."""
        block, at = divmod(number, BLOCK)
        bits = self._blocks.get(block)
        if bits is None:
            bits = self._blocks[block] = bytearray(BLOCK // 8)
        bits[at >> 3] |= 1 << (at & 7)

    def __contains__(self, number: int) -> bool:
        block, at = divmod(number, BLOCK)
        bits = self._blocks.get(block)
        return bits is not None and bool(bits[at >> 3] >> (at & 7) & 1)


def told(missing: Iterable[tuple[int, int, int]]) -> str:
    """Records that are missing, in words; empty if there are none.

    Args:
        missing: the partition that each belongs into, its lane and its number, in the order of the source.
    """
    counts: Counter[int] = Counter()
    first: tuple[int, int, int] | None = None
    for one in missing:
        first = first or one
        counts[one[0]] += 1
    if first is None:
        return ""
    where = f"partition {first[0]}" if len(counts) == 1 else f"partitions {ranges(counts)}"
    return f"{counts.total()} records in {where} (the first: partition {first[0]}, lane {first[1]}, number {first[2]})"
