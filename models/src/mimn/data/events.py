"""The common form of a behavior data set: one row per behavior, grouped by user, each user's rows in time order.

Every reader returns `Events`, and the code after the readers (split, instances, windows) works on nothing else. A row's
history is what was known before its basket began; `history_end` is the one definition of where that is.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mimn.data.rounding import certain_ms

COLUMNS = ("user_id", "item_id", "category_id", "timestamp", "basket_id")


class DataError(Exception):
    """A data set that cannot be used; the message names the file or column and the fix."""


@dataclass(frozen=True)
class Events:
    """n behaviors, sorted by user and then by time, or by `certain_ms` where times may be rounded. The order among rows
    with one timestamp means nothing.

    All columns are [n] int64; `timestamp` counts units of `unit_ms` milliseconds since 1970-01-01 UTC.

    Raises:
        DataError: the columns differ in length or are not sorted.
    """

    user_id: NDArray[np.int64]
    item_id: NDArray[np.int64]
    category_id: NDArray[np.int64]
    timestamp: NDArray[np.int64]
    basket_id: NDArray[np.int64]
    unit_ms: int = 1000
    action: NDArray[np.uint8] | None = None
    """[n]: number on the wire (`mimn.state.actions.NAMES`); None: the data set does not say."""
    rounded_ms: tuple[int, ...] = ()
    """Units, in ms, that times may be rounded down to, where impressions have times of their own: `WholeTimes.units` of
    `mimn.data.rounding`."""

    def __post_init__(self) -> None:
        if not len(self.user_id):
            raise DataError("no events: the data set is empty")
        for name in COLUMNS:
            if len(getattr(self, name)) != len(self.user_id):
                raise DataError(f"column {name} has {len(getattr(self, name))} rows, user_id has {len(self.user_id)}")
        if self.action is not None and len(self.action) != len(self.user_id):
            raise DataError(f"column action has {len(self.action)} rows, user_id has {len(self.user_id)}")
        same_user = self.user_id[1:] == self.user_id[:-1]
        time = self.certain_ms(self.timestamp) if self.rounded_ms else self.timestamp
        in_order = np.where(same_user, time[1:] >= time[:-1], self.user_id[1:] > self.user_id[:-1])
        if not bool(in_order.all()):
            row = int(np.argmin(in_order)) + 1
            raise DataError(f"row {row} is out of order: sort events by user_id, then timestamp")

    def __len__(self) -> int:
        return len(self.user_id)

    def certain_ms(self, timestamp: NDArray[np.int64]) -> NDArray[np.int64]:
        """From when on events with these timestamps are certain to have happened. [n] → [n] ms"""
        return certain_ms(timestamp * self.unit_ms, self.rounded_ms)

    @cached_property
    def users(self) -> NDArray[np.int64]:
        """[U]: the distinct user ids, rising."""
        return self.user_id[self.bounds[:-1]]

    @cached_property
    def bounds(self) -> NDArray[np.int64]:
        """[U + 1]: user u's rows are `bounds[u]:bounds[u + 1]`."""
        changes = np.flatnonzero(self.user_id[1:] != self.user_id[:-1]) + 1
        return np.concatenate([[0], changes, [len(self)]]).astype(np.int64)

    @cached_property
    def user_index(self) -> NDArray[np.int64]:
        """[n]: each row's place in `users`."""
        return np.repeat(np.arange(len(self.users)), np.diff(self.bounds))

    @cached_property
    def occasion(self) -> NDArray[np.int64]:
        """[n]: a number for each distinct (user, timestamp), rising by 1 along the rows."""
        new = np.ones(len(self), bool)
        new[1:] = (self.user_id[1:] != self.user_id[:-1]) | (self.timestamp[1:] != self.timestamp[:-1])
        return np.cumsum(new) - 1

    @cached_property
    def alone(self) -> bool:
        """Whether every row is a basket of its own."""
        baskets = np.sort(self.basket_id)
        return bool((baskets[1:] != baskets[:-1]).all())

    @cached_property
    def history_end(self) -> NDArray[np.int64]:
        """[n]: the first row that is *not* in this row's history.

        The history of a row is `bounds[u]:history_end[row]`: the user's rows strictly before the first timestamp of
        the row's own basket. A basket normally has one timestamp; where a shop's clock advanced while a basket was
        being entered, the basket's earlier rows are not in the history of its later rows either.
        """
        occasion_start = np.concatenate([[0], np.flatnonzero(np.diff(self.occasion)) + 1])
        if self.alone:
            return occasion_start[self.occasion]
        _, basket = np.unique(self.basket_id, return_inverse=True)
        # The pair keeps baskets of two users apart where the data gives both the same number.
        _, first_row, key = np.unique(
            basket * len(self.users) + self.user_index, return_index=True, return_inverse=True
        )
        return occasion_start[self.occasion[first_row]][key]

    def select(self, rows: NDArray[np.bool_]) -> Events:
        """The rows where the mask is true."""
        user_id, item_id, category_id, timestamp, basket_id = (getattr(self, name)[rows] for name in COLUMNS)
        action = None if self.action is None else self.action[rows]
        return Events(user_id, item_id, category_id, timestamp, basket_id, self.unit_ms, action, self.rounded_ms)

    @cached_property
    def sha256(self) -> str:
        """sha256 over the columns' little-endian int64 bytes, then the actions': the data hash that every record
        states."""
        digest = hashlib.sha256()
        for name in COLUMNS:
            digest.update(np.ascontiguousarray(getattr(self, name), "<i8").data)
        if self.action is not None:
            digest.update(np.ascontiguousarray(self.action).data)
        return digest.hexdigest()
