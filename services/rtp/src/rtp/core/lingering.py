"""What is kept for a while after the last look that named it."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Lingering(Generic[T]):
    """When each thing was last named."""

    def __init__(self, kept_s: float) -> None:
        """`kept_s` is for how long it is kept from then on."""
        self._kept_s = kept_s
        self._named_s: dict[T, float] = {}

    def over(self, there: Iterable[T], named: Collection[T], now_s: float) -> list[T]:
        """Those of `there` whose time is over at `now_s`, if `named` are wanted now. What is seen for the first time
        counts as named a moment ago."""
        named_s = {one: now_s if one in named else self._named_s.get(one, now_s) for one in there}
        self._named_s = {one: at_s for one, at_s in named_s.items() if now_s - at_s <= self._kept_s}
        return [one for one in named_s if one not in self._named_s]
