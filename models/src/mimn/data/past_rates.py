"""Past rates: of the earlier impressions that share a key, how many were clicked, by what was known at the time.

The counts are those that a counter in production would show at that time. If the log says when a click was seen, an
impression counts from its time on and a click from when it was seen. Otherwise both count from the end of the
impression's window on. An impression counts neither for itself nor for others of its time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimn.data.description import SOURCES, Description, Field, Source, TimeSplit, instant_ms
from mimn.data.prepared import WITHHELD, Impressions, Prepared
from mimn.state.sketch import mix

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
FIRST_RATE, FIRST_SHOWN = 0.01, 100.0
"""The overall rate begins as if so many impressions had been clicked at this rate."""


@dataclass(frozen=True)
class Counters:
    """When each of m impressions, and its click, is counted. All arrays are [m]."""

    shown_ms: Ints
    clicked_ms: Ints
    """Read only where `label` is 1."""
    label: NDArray[np.uint8]
    weight: Floats
    """What an impression counts: an unclicked one stands for those that the files left out."""

    @classmethod
    def of(cls, shown: Impressions, description: Description) -> Counters:
        """Of a data set."""
        table = description.impressions
        live = table is not None and table.label_time is not None
        kept = 1.0 if table is None else table.negatives_kept
        # An impression whose label is withheld says nothing: it must not count as one without a click.
        weight = np.select([shown.label == 1, shown.label == WITHHELD], [1.0, 0.0], 1.0 / kept)
        return cls(shown.time_ms if live else shown.known_ms, shown.seen_ms, shown.label, weight)

    def before(self, key: Ints, asked: Ints, at_ms: Ints) -> tuple[Floats, Floats]:
        """Impressions and clicks of each asked key strictly before a time. [m], [n], [n] → [n], [n]"""
        clicked = self.label == 1
        shown = _sums_before(key, self.shown_ms, self.weight, asked, at_ms)
        return shown, _sums_before(key[clicked], self.clicked_ms[clicked], self.weight[clicked], asked, at_ms)

    def rates(self, key: Ints, prior: float, asked: Ints, at_ms: Ints) -> Floats:
        """(clicks + prior r) / (impressions + prior) of each asked key before a time; r is the same of all keys.

        [m], [n], [n] → [n], between 0 and 1
        """
        shown, clicks = self.before(key, asked, at_ms)
        all_shown, all_clicks = self.before(np.zeros_like(key), np.zeros_like(asked), at_ms)
        overall = (all_clicks + FIRST_RATE * FIRST_SHOWN) / (all_shown + FIRST_SHOWN)
        rates: Floats = (clicks + prior * overall) / (shown + prior)
        return rates


class PastRates:
    """The fields of kind `past_rate` of a data set."""

    def __init__(self, data: Prepared, shown: Impressions) -> None:
        self._data, self._shown = data, shown
        self._counters = Counters.of(shown, data.description)
        self._fields: dict[str, tuple[Source, Field]] = {
            name: (source, field)
            for source in SOURCES
            for name, field in getattr(data.description.fields, source).items()
            if field.kind == "past_rate"
        }

    def of_impressions(self, rows: Ints | None = None) -> dict[str, Floats]:
        """By field: the rates of some impressions, or of all, as of their times. [k] or [m] each"""
        rates = {}
        chosen = slice(None) if rows is None else rows
        for name, (source, field) in self._fields.items():
            key = self._keys(source, field, self._shown.user_id, self._shown.item_id, self._shown.context)
            rates[name] = self._counters.rates(key, field.prior, key[chosen], self._shown.time_ms[chosen])
        return rates

    def of_items(self, items: Ints) -> dict[str, Floats]:
        """By field of the item: rates by what training knew, which export joins to the items. [k] → [k] each"""
        rates = {}
        for name, (source, field) in self._fields.items():
            if source == "item":
                keys = (self._keys(source, field, ids, ids, {}) for ids in (self._shown.item_id, items))
                key, asked = keys
                rates[name] = self._counters.rates(key, field.prior, asked, np.full(len(items), self._cut_ms))
        return rates

    @property
    def _cut_ms(self) -> int:
        """When training begins."""
        split = self._data.description.split
        if isinstance(split, TimeSplit):
            return instant_ms(split.train_until if split.labels_until is None else split.labels_until)
        return int(self._shown.known_ms.max(initial=0)) + 1

    def _keys(self, source: Source, field: Field, users: Ints, items: Ints, context: Mapping[str, Any]) -> Ints:
        """Whose rate it is, as a number. [n], [n], [n] each → [n]"""
        if not field.of:
            return users if source == "user" else items
        key = np.zeros(len(users), np.uint64)
        for part in field.of:
            if part in context:
                codes = context[part]
            else:
                of, ids = ("item", items) if source == "item" else ("user", users)
                side = self._data.side(of)  # type: ignore[arg-type]  # one of the sides
                codes = np.append(side.fields[part], np.uint64(0))[side.rows(ids)]  # -1, no row: 0, no value
            key = mix(key * np.uint64(0x9E3779B97F4A7C15) + codes.astype(np.uint64) + np.uint64(1))
        return key.view(np.int64)


def _sums_before(key: Ints, at_ms: Ints, weight: Floats, asked: Ints, asked_ms: Ints) -> Floats:
    """The weights that were counted for each asked key strictly before a time. [e] each, [n], [n] → [n]"""
    n = len(asked)
    keys, times = np.concatenate([asked, key]), np.concatenate([asked_ms, at_ms])
    counted = np.concatenate([np.zeros(n), weight])
    order = np.lexsort((counted > 0, times, keys))  # a question before what is counted at its time
    sums = np.cumsum(counted[order])
    first = np.ones(len(order), np.bool_)
    first[1:] = keys[order][1:] != keys[order][:-1]
    start = np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))
    of_key = sums - (sums - counted[order])[start]
    out = np.empty(len(order))
    out[order] = of_key
    return np.maximum(out[:n], 0.0)
