"""How often and how recently each user touched the members of each candidate, as of every impression.

The numbers depend on the history alone and on no weight. They are those of `mimn.bundle.members`, which reads a user's
items at the time of a request; here the same is computed for many impressions at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mimn.bundle.members import as_read, read_width
from mimn.data.labelled import Labelled
from mimn.data.members import NO_MEMBERS, Members, spans
from mimn.state.sketch import DAY_MS

Ints = NDArray[np.int64]
IMPRESSIONS_AT_ONCE = 1 << 16


class MemberReads:
    """The reads of a data set's impressions. Keeps one entry for each event and candidate that the event touches."""

    def __init__(self, labelled: Labelled, members: Members | None, half_lives: Sequence[int]) -> None:
        """`half_lives`: in days, above 0."""
        self._labelled, self._half_lives = labelled, tuple(half_lives)
        shown, events = labelled.impressions, labelled.events
        candidates, self._candidate = np.unique(shown.item_id, return_inverse=True)
        place, item = (NO_MEMBERS if members is None else members).of(candidates)
        by_item = np.argsort(item, kind="stable")
        place, item = place[by_item], item[by_item]
        first, stop = (np.searchsorted(item, events.item_id, side) for side in ("left", "right"))
        event, at = spans(first, stop)
        self._width = max(len(candidates), 1)
        chain = events.user_index[event] * self._width + place[at]
        # Within a chain (one user, one candidate) by item, and an item's events by time, as they are.
        order = np.lexsort((event, item[at], chain))
        self._chain, self._event, self._item = chain[order], event[order], item[at][order]

    def of(self, impressions: Ints, length: int) -> NDArray[np.float32]:
        """The reads of some impressions over the latest `length` events before each. [n] → [n, R]"""
        out = np.empty((len(impressions), read_width(self._half_lives)), np.float32)
        for at in range(0, len(impressions), IMPRESSIONS_AT_ONCE):
            some = impressions[at : at + IMPRESSIONS_AT_ONCE]
            out[at : at + IMPRESSIONS_AT_ONCE] = self._of(some, length)
        return out

    def _of(self, impressions: Ints, length: int) -> NDArray[np.float32]:
        data, n = self._labelled, len(impressions)
        events, now = data.events, data.impressions.time_ms[impressions]
        end = data.end[impressions]
        begin = np.maximum(data.begin[impressions], end - length)
        user = events.user_index[np.minimum(data.begin[impressions], len(events) - 1)]
        chain = user * self._width + self._candidate[impressions]
        first, stop = np.searchsorted(self._chain, chain), np.searchsorted(self._chain, chain, "right")
        none = begin == end  # a user without events has no rows of their own
        row, at = spans(first, np.where(none, first, stop))
        event = self._event[at]
        there = (event >= begin[row]) & (event < end[row])
        row, at, event = row[there], at[there], event[there]
        new = np.ones(len(row), np.bool_)
        new[1:] = (row[1:] != row[:-1]) | (self._item[at][1:] != self._item[at][:-1])
        start = np.flatnonzero(new)
        times = np.diff(np.append(start, len(row)))
        of = row[start]
        last = events.timestamp[event[start + times - 1]] * events.unit_ms
        age = (now[of] - last) / DAY_MS
        sums = [np.bincount(of, times, n), np.bincount(of, minlength=n)]
        sums += [np.bincount(of, times * np.exp2(-age / days), n) for days in self._half_lives]
        return as_read(np.stack(sums, -1))
