"""The result of a run: a histogram of latencies, and the counts that say whether they may be called latencies.

Latencies count from when a request was due, in an HdrHistogram: microseconds, three significant digits, up to a minute.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from hdrh.histogram import HdrHistogram

LEAST_ACHIEVED = 0.99
"""Below this share of the offered rate a run is saturated: its times are queueing times, not latencies."""
QUANTILES = (0.5, 0.9, 0.99, 0.999, 1.0)
HIGHEST_US = 60_000_000


def histogram() -> HdrHistogram:
    """An empty histogram of microseconds."""
    return HdrHistogram(1, HIGHEST_US, 3)


@dataclass
class Result:
    """One phase of a run, or all that was measured of one kind of request."""

    name: str
    due: int
    """Requests that the schedule asked for."""
    span_s: float
    """How long the schedule asked for them."""
    seconds: float = 0.0
    """From the beginning to the last good answer less the shortest latency, at least `span_s`: as long as the schedule,
    unless answers fell ever further behind it."""
    latencies: HdrHistogram = field(default_factory=histogram)
    """Of every request that was answered correctly, from when it was due."""
    errors: Counter[str] = field(default_factory=Counter)
    """Requests that were answered in another way, or not at all, by kind."""
    dropped: int = 0
    """Requests that no connection was free for within the generator's patience: never sent."""
    server_cpu_s: float | None = None
    """CPU time of the server's processes during the phase; None when they are not on this machine."""

    def answered(self, latency_s: float) -> None:
        """Count a request that was answered correctly."""
        self.latencies.record_value(min(max(1, round(latency_s * 1e6)), HIGHEST_US))

    @property
    def count(self) -> int:
        """Requests answered correctly."""
        return int(self.latencies.get_total_count())

    @property
    def failed(self) -> int:
        """Requests that were sent and not answered correctly."""
        return sum(self.errors.values())

    @property
    def offered_per_s(self) -> float:
        """Requests a second that the schedule asked for."""
        return self.due / self.span_s if self.span_s else 0.0

    @property
    def achieved_per_s(self) -> float:
        """Good answers a second."""
        return self.count / self.seconds if self.seconds else 0.0

    @property
    def saturated(self) -> bool:
        """Whether the server, or the generator, did not keep up; with too few good answers, there is no latency."""
        return not self.count or self.achieved_per_s < LEAST_ACHIEVED * self.offered_per_s

    @property
    def server_cpu_ms(self) -> float | None:
        """CPU milliseconds of the server for each good answer."""
        return 1000 * self.server_cpu_s / self.count if self.server_cpu_s is not None and self.count else None

    def quantile_ms(self, q: float) -> float:
        """The latency that a share `q` of the good answers did not exceed, in milliseconds."""
        return float(self.latencies.get_value_at_percentile(100 * q)) / 1000

    def to_json(self) -> dict[str, Any]:
        """Everything, and what follows from it for readers of the file; the histogram in HdrHistogram's base64."""
        return {
            "name": self.name,
            "offered_per_s": round(self.offered_per_s, 3),
            "achieved_per_s": round(self.achieved_per_s, 3),
            "saturated": self.saturated,
            "due": self.due,
            "answered": self.count,
            "errors": dict(self.errors),
            "dropped": self.dropped,
            "span_s": self.span_s,
            "seconds": self.seconds,
            "server_cpu_s": self.server_cpu_s,
            "quantiles_ms": {} if self.saturated else {f"{q:g}": self.quantile_ms(q) for q in QUANTILES},
            "histogram": self.latencies.encode().decode(),
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Result:
        """What `to_json` wrote."""
        return cls(
            name=stored["name"],
            due=stored["due"],
            span_s=stored["span_s"],
            seconds=stored["seconds"],
            latencies=HdrHistogram.decode(stored["histogram"]),
            errors=Counter(stored["errors"]),
            dropped=stored["dropped"],
            server_cpu_s=stored["server_cpu_s"],
        )

    def __str__(self) -> str:
        lines = [
            f"{self.name}: offered {self.offered_per_s:.1f}/s, achieved {self.achieved_per_s:.1f}/s"
            + (" — saturated: its times are queueing times, not latencies" if self.saturated else ""),
            f"  {self.count} answered, {self.failed} failed, {self.dropped} dropped"
            + "".join(f"; {kind}: {count}" for kind, count in self.errors.most_common(5)),
        ]
        if not self.saturated:
            lines.append("  " + ", ".join(f"p{100 * q:g} {self.quantile_ms(q):.2f} ms" for q in QUANTILES))
        if self.server_cpu_ms is not None:
            lines.append(f"  server CPU {self.server_cpu_ms:.2f} ms a request")
        return "\n".join(lines)


@dataclass
class Run:
    """A schedule's phases, and how the generator itself did."""

    phases: list[Result]
    generator_cpu: float = 0.0
    """Share of one core that the generator used."""
    late: HdrHistogram = field(default_factory=histogram)
    """How late requests were sent because CPU or a free connection was missing; part of the latencies."""
    cut: bool = False
    """Whether the schedule was ended before its time."""

    @property
    def trusted(self) -> bool:
        """Whether every phase is a latency, without an error."""
        return not any(phase.saturated or phase.failed or phase.dropped for phase in self.phases)

    def to_json(self) -> dict[str, Any]:
        """Everything."""
        return {
            "cut": self.cut,
            "generator_cpu": round(self.generator_cpu, 4),
            "late_ms": {f"{q:g}": self.late.get_value_at_percentile(100 * q) / 1000 for q in QUANTILES},
            "late": self.late.encode().decode(),
            "phases": [phase.to_json() for phase in self.phases],
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Run:
        """What `to_json` wrote."""
        phases = [Result.from_json(phase) for phase in stored["phases"]]
        return cls(phases, stored["generator_cpu"], HdrHistogram.decode(stored["late"]), stored["cut"])

    def __str__(self) -> str:
        late = ", ".join(
            f"p{100 * q:g} {self.late.get_value_at_percentile(100 * q) / 1000:.2f} ms" for q in (0.5, 0.99)
        )
        own = f"generator: {self.generator_cpu:.0%} of a core, requests sent late by {late}"
        return "\n".join([*map(str, self.phases), own, *(["cut short"] if self.cut else [])])
