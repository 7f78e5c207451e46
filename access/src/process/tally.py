"""Counters and histograms that cost next to nothing. prometheus_client takes a lock for each count, and for a
histogram's value walks over the bounds, because it may be used from any thread; these count in one thread alone: the
event loop's, or the fold's.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector


class Count:
    """One series of a counter."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def inc(self, by: int = 1) -> None:
        """Count `by` more."""
        self.value += by


class Counts(Collector):
    """A counter of one name, with a series for each combination of label values."""

    def __init__(self, name: str, about: str, labels: Sequence[str] = (), *, registry: CollectorRegistry) -> None:
        """`name` without `_total`."""
        self._name, self._about, self._labels = name, about, tuple(labels)
        self._of: dict[tuple[str, ...], Count] = {}
        registry.register(self)

    def labels(self, *values: str) -> Count:
        """The series with these label values; keep it if you count often.

        Raises:
            ValueError: there are other labels.
        """
        if len(values) != len(self._labels):
            raise ValueError(f"{self._name} has the labels {self._labels}, not {values}")
        return self._of.setdefault(values, Count())

    def remove(self, *first: str) -> None:
        """Remove each series whose label values begin with these."""
        _remove(self._of, first)

    def collect(self) -> Iterator[CounterMetricFamily]:
        """For the registry."""
        family = CounterMetricFamily(self._name, self._about, labels=self._labels)
        for values, count in list(self._of.items()):
            family.add_metric(values, count.value)
        yield family


class Tally:
    """Observed values of one series: how many lie between two bounds, and their sum."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a value in."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value


class Tallies(Collector):
    """A histogram of one name, with a series for each combination of label values."""

    def __init__(
        self,
        name: str,
        about: str,
        labels: Sequence[str] = (),
        *,
        buckets: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        """`buckets`: upper bounds, rising, without infinity."""
        self._name, self._about, self._labels, self._buckets = name, about, tuple(labels), tuple(buckets)
        self._of: dict[tuple[str, ...], Tally] = {}
        registry.register(self)

    def labels(self, *values: str) -> Tally:
        """The series with these label values; keep it if you observe often.

        Raises:
            ValueError: there are other labels.
        """
        if len(values) != len(self._labels):
            raise ValueError(f"{self._name} has the labels {self._labels}, not {values}")
        found = self._of.get(values)
        return self._of.setdefault(values, Tally(self._buckets)) if found is None else found

    def remove(self, *first: str) -> None:
        """Remove each series whose label values begin with these."""
        _remove(self._of, first)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """For the registry."""
        family = HistogramMetricFamily(self._name, self._about, labels=self._labels)
        bounds = [*map(str, self._buckets), "+Inf"]
        for values, tally in list(self._of.items()):
            family.add_metric(values, list(zip(bounds, accumulate(tally.counts), strict=True)), tally.total)
        yield family


class CountedElsewhere(Collector):
    """A counter whose value another part keeps."""

    def __init__(self, name: str, about: str, value: Callable[[], int], *, registry: CollectorRegistry) -> None:
        """`name` without `_total`."""
        self._name, self._about, self._value = name, about, value
        registry.register(self)

    def collect(self) -> Iterator[CounterMetricFamily]:
        """For the registry."""
        yield CounterMetricFamily(self._name, self._about, value=self._value())


def _remove(series: dict[tuple[str, ...], Any], first: tuple[str, ...]) -> None:
    for values in [one for one in series if one[: len(first)] == first]:
        del series[values]
