"""Clicks whose own events lie hours away: times of events and of impressions that are of different zones.

A click is most often an event, too, within moments. If one table's times are of another zone, the event lies a
constant time away: hours before its impression, where a model reads the answer in the history, or hours after it,
where the latest history is missing. That is told from users who come back to an item, from what is shown again after a
fixed time, and from events of timers by three marks: the distance is nearly the same for many clicks, these have no
event near them, and impressions without a click have no such distance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mimn.state.sketch import mix

Ids = NDArray[np.uint64]
Ints = NDArray[np.int64]
SAMPLED_ROWS = 1 << 19
"""Rows that are kept of each table: those of a share of the users."""
HOUR_MS = 3_600_000
"""Dates and times that are rounded to hours are at constant distances by themselves, so whole hours are left out."""
STEP_MS = 900_000
"""Time zones differ by quarters of an hour."""
EARLY_MS = 60_000
"""So much earlier than its distance an event may be: two clocks differ, and times are rounded down."""
LEAST, MOST, AROUND = 4, 56, 4
"""Zones are 1 to 14 hours apart. A step is compared with those up to an hour away."""
MANY_CLICKS = 20
OFTEN = 0.1
"""So large a share of the clicks has an event at one distance,"""
PEAK = 4.0
"""so many times as many as at the distances around it,"""
FOR_CLICKS_ALONE = 4.0
"""and so many times the share of the impressions without a click."""


@dataclass(frozen=True, slots=True)
class Distance:
    """How far the events of many clicks are from them."""

    minutes: int
    """Below 0: before. Some clicks take up to a quarter of an hour longer."""
    clicked: tuple[int, int]
    """Impressions with such an event and none near them, and all that were looked at."""
    others: tuple[int, int]
    """Impressions without a click: those with such an event, and all that were looked at."""


class OwnEvents:
    """Keeps a sample of users: first their events, then their impressions."""

    def __init__(self) -> None:
        self._events = _Sample()
        self._shown = _Sample()

    def add_events(self, users: Ids, items: Ids, times_ms: Ints) -> None:
        """Note events. [n] each"""
        self._events.add(users, items, times_ms, np.zeros(len(users), np.bool_))

    def add_impressions(self, users: Ids, items: Ids, times_ms: Ints, clicked: NDArray[np.bool_]) -> None:
        """Note impressions, once all events are known. [n] each

        Args:
            users: of the impressions.
            items: their candidates.
            times_ms: when each was shown.
            clicked: whether it was.
        """
        self._shown.limit = min(self._shown.limit, self._events.limit)
        self._shown.add(users, items, times_ms, clicked)

    @property
    def distance(self) -> Distance | None:
        """Of the events of many clicks, if it is that of two zones."""
        keys, times, _ = self._events.rows
        of_shown, shown_at, clicked = self._shown.rows
        n_clicked, n_others = int(np.count_nonzero(clicked)), int(np.count_nonzero(~clicked))
        if not len(keys) or not n_clicked or not n_others:
            return None
        steps = np.arange(-MOST - AROUND, MOST + AROUND + 1)
        reach = (MOST + AROUND + 1) * STEP_MS + EARLY_MS
        first, last = int(times.min()), int(times.max())
        between = last - first + 4 * reach  # so that no distance reaches from one user and item to the next
        known, place = np.unique(keys, return_inverse=True)
        at = np.sort(place * between + times - first)
        there = known.take(known.searchsorted(of_shown), mode="clip") == of_shown
        asked = known.searchsorted(of_shown[there]) * between
        asked += np.clip(shown_at[there], first - 2 * reach, last + 2 * reach) - first
        order = np.argsort(asked)
        asked, clicked = asked[order], clicked[there][order]
        of_asked = of_shown[there][order]
        near = [at.searchsorted(asked + step * STEP_MS - EARLY_MS) for step in (-1, 2)]
        far = clicked & (near[0] == near[1])
        # What is shown twice, and clicked once, has the event of the click both times.
        never = ~np.isin(of_asked, of_asked[clicked])
        hits = np.zeros((3, len(steps)), np.int64)
        before = at.searchsorted(asked + steps[0] * STEP_MS - EARLY_MS)
        for column, step in enumerate(steps.tolist()):
            behind = at.searchsorted(asked + (step + 1) * STEP_MS - EARLY_MS)
            has = behind > before
            hits[:, column] = [np.count_nonzero(has & rows) for rows in (far, ~clicked, never)]
            before = behind
        for column in np.argsort(-hits[0], kind="stable").tolist():
            n, m, of_never = hits[:, column].tolist()
            if n < max(MANY_CLICKS, OFTEN * n_clicked):
                break
            if not LEAST <= abs(steps[column]) <= MOST:
                continue
            # A click may take its time, so the next step may have as many.
            around = np.r_[column - AROUND : column - 1, column + 2 : column + AROUND + 1]
            if of_never >= MANY_CLICKS and of_never >= PEAK * hits[2, around].mean():
                continue
            if n >= PEAK * hits[0, around].mean() and n * n_others >= FOR_CLICKS_ALONE * m * n_clicked:
                return Distance(int(steps[column]) * STEP_MS // 60_000, (n, n_clicked), (m, n_others))
        return None


class _Sample:
    """Rows of the users whose hash is at most a limit, which falls as rows come."""

    def __init__(self) -> None:
        self.limit = np.uint64((1 << 64) - 1)
        self._parts: list[tuple[Ids, Ids, Ints, NDArray[np.bool_]]] = []
        self._n = 0

    def add(self, users: Ids, items: Ids, times_ms: Ints, clicked: NDArray[np.bool_]) -> None:
        """Keep rows, and fewer users if they are too many. [n] each"""
        timed = times_ms % HOUR_MS != 0
        hashed = mix(users[timed])
        self._keep(hashed, hashed + items[timed], times_ms[timed], clicked[timed])
        while self._n > SAMPLED_ROWS and self.limit:
            self.limit //= np.uint64(2)
            parts, self._parts, self._n = self._parts, [], 0
            for part in parts:
                self._keep(*part)

    def _keep(self, hashed: Ids, keys: Ids, times_ms: Ints, clicked: NDArray[np.bool_]) -> None:
        kept = hashed <= self.limit
        self._parts.append((hashed[kept], keys[kept], times_ms[kept], clicked[kept]))
        self._n += int(np.count_nonzero(kept))

    @property
    def rows(self) -> tuple[Ids, Ints, NDArray[np.bool_]]:
        """Keys of user and item, times, and whether it was clicked. [n] each"""
        none = np.empty(0, np.uint64), np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, np.bool_)
        _, keys, times, clicked = (np.concatenate(column) for column in zip(none, *self._parts, strict=True))
        return keys, times, clicked
