"""The state of a model that reads the events themselves (DIEN, DIN): the list of a user's last T events.

An event is two row numbers of the bundle's vocabularies, the item's and the category's, as whole numbers in float32.
Such a state is a flat float32 vector like any other: the same code stores, caches, commits and erases it. No graph
updates it: UIC appends to the list, and the head reads the vectors of the rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mimn.state.layout import Block, LayoutError, StateLayout

MAX_ROWS = 1 << 24
"""Row numbers below this are exact in float32."""
WIDTH = 2
"""Values of one event: item row, category row."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class EventList:
    """The rule of `state.kind: sequence`. A pure value: the lists are stored in the users' states.

    Invariant of a state: `length` is at most T, the last `length` rows of `events` are the latest events, newest last,
    and all rows before them are 0.
    """

    capacity: int
    """T: how many events are kept. A new event pushes out the oldest one."""

    @property
    def layout(self) -> StateLayout:
        """`length` [1], `events` [T, 2]."""
        return StateLayout((Block("length", (1,)), Block("events", (self.capacity, WIDTH))))

    @classmethod
    def of(cls, layout: StateLayout) -> EventList:
        """The rule whose states have this layout.

        Raises:
            LayoutError: no rule has this layout.
        """
        last = layout.blocks[-1].shape
        if not last or layout != (rule := cls(last[0])).layout:
            raise LayoutError("a sequence has the blocks `length` [1] and `events` [T, 2], both float32, and no other")
        return rule

    def append(self, events: Floats, states: Floats) -> Floats:
        """The lists with one more event each; the arguments are not modified. [B, 2], [B, F] → [B, F]

        All events move by one place, which costs no more than copying the list. Unlike a ring buffer, the list can be
        read without knowing where it begins.
        """
        after = np.empty_like(states)
        np.minimum(states[:, 0] + 1, self.capacity, out=after[:, 0])
        after[:, 1:-WIDTH] = states[:, 1 + WIDTH :]
        after[:, -WIDTH:] = events
        return after

    def forget(self, state: Floats, item_row: int) -> None:
        """Take the events of an item out of one list, in place; the others keep their order. [F]

        Items that the bundle does not know share row 0 and cannot be told apart: they stay.
        """
        known = self.read(state)
        kept = known[(known[:, 0] != item_row) | (item_row == 0)]
        state[:] = 0
        state[0] = len(kept)
        state[len(state) - kept.size :] = kept.ravel()

    def read(self, state: Floats) -> NDArray[np.intp]:
        """The events of one list, oldest first: item row, category row. [F] → [n, 2]

        Raises:
            LayoutError: not a list of this rule.
        """
        if state.shape != (1 + WIDTH * self.capacity,) or not 0 <= (length := float(state[0])) <= self.capacity:
            raise LayoutError(f"not a list of at most {self.capacity} events")
        begin = len(state) - WIDTH * int(length)
        return state[begin:].astype(np.intp).reshape(-1, WIDTH)

    def longest(self) -> Floats:
        """A list of T events, all of row 0: the most expensive list to read. [F]"""
        state = np.zeros(1 + WIDTH * self.capacity, np.float32)
        state[0] = self.capacity
        return state
