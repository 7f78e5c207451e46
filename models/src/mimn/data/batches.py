"""An epoch's batches, made one by one, whose number is known before the first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

B = TypeVar("B")


@dataclass(frozen=True)
class Batches(Generic[B]):
    """`number` batches, to be iterated over once."""

    number: int
    made: Iterator[B]

    def __len__(self) -> int:
        return self.number

    def __iter__(self) -> Iterator[B]:
        return self.made
