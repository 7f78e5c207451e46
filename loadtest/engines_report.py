"""The report of a comparison of engines: a Markdown table and a JSON file. Pure except for `write`."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from loadtest.report import Origin


class OtherFigures(ValueError):
    """Rounds that cannot be added to those of a report."""


@dataclass(frozen=True)
class Turn:
    """One engine's figures of one round."""

    cpu_us: float
    """Microseconds of CPU of all the server's processes, a request at the fixed rate, what they use anyway included."""
    busy_us: float
    """The same when eight connections send without a pause."""
    busy_per_s: float
    """Answers a second then."""
    idle_cpu: float
    """Share of a core that they use without requests."""
    processes: int
    """Of the server."""
    answered: int
    failed: int
    """Or dropped, at the fixed rate."""
    p50_ms: float | None
    """At the fixed rate; None if the engine was saturated there."""
    p99_ms: float | None
    highest_per_s: float
    """The highest rate that held; 0 if none did."""
    generator_cpu: float
    """Share of a core that the generator used there."""

    def __str__(self) -> str:
        p50, p99 = _number(self.p50_ms, 2), _number(self.p99_ms, 2)
        return (
            f"flat out {self.busy_us:.0f} µs of CPU a request, {self.busy_per_s:.0f}/s; at the rate {self.cpu_us:.0f} "
            f"µs, p50 {p50} ms, p99 {p99} ms; at most {self.highest_per_s:.0f}/s; "
            f"idle {self.idle_cpu:.1%} of a core in {self.processes} processes"
        )


@dataclass(frozen=True)
class Engine:
    """One engine's turns."""

    name: str
    title: str
    why: str
    """How it ran."""
    version: str
    turns: list[Turn]

    def values(self, figure: Callable[[Turn], float | None]) -> list[float]:
        """Of each round in which there is one."""
        return [value for turn in self.turns if (value := figure(turn)) is not None]

    def median(self, figure: Callable[[Turn], float]) -> float:
        """Over the rounds."""
        return statistics.median(self.values(figure))


@dataclass(frozen=True)
class Found:
    """All engines on one store; RTP is the first."""

    engines: Sequence[Engine]
    rate: float
    limit_ms: float
    candidates: int

    def after(self, before: Found | None) -> Found:
        """The rounds of both.

        Raises:
            OtherFigures: `before` is not of the same engines at the same rate.
        """
        if before is None:
            return self
        if before.what != self.what:
            raise OtherFigures("the folder has a report of other engines or another rate: name another with --output")
        return replace(
            self,
            engines=[
                replace(engine, turns=[*earlier.turns, *engine.turns])
                for earlier, engine in zip(before.engines, self.engines, strict=True)
            ],
        )

    @property
    def what(self) -> tuple[object, ...]:
        """What was measured, without the figures."""
        engines = tuple((engine.name, engine.version, engine.why) for engine in self.engines)
        return engines, self.rate, self.limit_ms, self.candidates


def write(folder: Path, found: Found, origin: Origin) -> None:
    """`report.md` and `report.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.md").write_text(markdown(found, origin), "utf-8")
    stored = {**origin.to_json(), **asdict(found)}
    (folder / "report.json").write_text(json.dumps(stored, indent=1, ensure_ascii=False) + "\n", "utf-8")


def read(folder: Path) -> Found | None:
    """What `write` wrote there before; None if there is nothing."""
    path = folder / "report.json"
    if not path.exists():
        return None
    stored = json.loads(path.read_text("utf-8"))
    engines = [Engine(**{**one, "turns": [Turn(**turn) for turn in one["turns"]]}) for one in stored["engines"]]
    return Found(engines, stored["rate"], stored["limit_ms"], stored["candidates"])


def markdown(found: Found, origin: Origin) -> str:
    """The report."""
    return "\n".join(
        [
            "# RTP and other engines",
            "",
            origin.told("servers, store and generator"),
            "",
            f"Every engine reads the user's state with one GET (a batch with one MGET), runs the same `head.onnx` on "
            f"{found.candidates} candidates and gives RTP's scores, which was checked first. RTP alone also checks the "
            "request, keeps a deadline, admits by load, counts metrics and says how fresh the state is. Medians of "
            f"{len(found.engines[0].turns)} rounds, lowest and highest in brackets.",
            "",
            *table(found),
            "",
            "CPU time is that of all the server's processes, what they use without requests (idle CPU, a share of one "
            "core) included, and without the store. Flat out: eight connections, each with its next request as soon "
            f"as it has an answer. At {found.rate:.0f}/s: Poisson arrivals, timed from when each request was due. The "
            "highest rate is the highest that was tried and answered with p99 within "
            f"{found.limit_ms:g} ms; the generator, one process, limits it near 2,000/s. "
            "`report.json` has every round.",
            "",
        ]
    )


def table(found: Found) -> list[str]:
    """One row an engine."""
    first = found.engines[0].median(lambda turn: turn.busy_us) or 1.0
    lines = [
        f"| engine | CPU µs a request, flat out | times RTP's | CPU µs at {found.rate:.0f}/s | idle CPU | processes "
        f"| answers/s, flat out | p50 ms at {found.rate:.0f}/s | p99 ms | highest rate, p99 ≤ {found.limit_ms:g} ms |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for engine in found.engines:
        cells = [
            f"{engine.title} {engine.version}".strip() + f": {engine.why}",
            _spread(engine, lambda turn: turn.busy_us, 0),
            f"{engine.median(lambda turn: turn.busy_us) / first:.1f}",
            _spread(engine, lambda turn: turn.cpu_us, 0),
            f"{engine.median(lambda turn: turn.idle_cpu):.1%}",
            f"{engine.median(lambda turn: turn.processes):.0f}",
            _spread(engine, lambda turn: turn.busy_per_s, 0),
            _spread(engine, lambda turn: turn.p50_ms, 2),
            _spread(engine, lambda turn: turn.p99_ms, 2),
            _spread(engine, lambda turn: turn.highest_per_s or None, 0, f"below {found.rate:.0f}"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _spread(engine: Engine, figure: Callable[[Turn], float | None], digits: int, none: str = "saturated") -> str:
    values = engine.values(figure)
    if not values:
        return none
    told = _number(statistics.median(values), digits)
    if len(values) > 1:
        told += f" [{min(values):,.{digits}f}, {max(values):,.{digits}f}]"
    without = len(engine.turns) - len(values)
    return told + (f", {none} in {without} of {len(engine.turns)}" if without else "")


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"
