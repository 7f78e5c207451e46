"""The report of a comparison: Markdown tables, plots, a JSON file and the raw histograms. Pure except for `write`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from loadtest.result import Result, Run
from loadtest.wrk import MISSING, Wrk

PAPER = (
    "Pi et al. (KDD 2019), section 3.2 and Figure 7, on their cluster: 200 ms for DIEN and 19 ms behind a UIC, both at "
    "500 requests/s and histories of 1,000 events; constant in the length."
)
_ENCODED = "HISTFAAA"
"""How an encoded HdrHistogram (V2, compressed, base64) begins."""
PAPER_LENGTH, PAPER_MS = 1_000, {"DIEN": 200.0, "MIMN": 19.0}


@dataclass(frozen=True)
class Measured:
    """One model's figures."""

    name: str
    bundle: str
    kept: int | None
    """Events of a history that the model reads at most; None where its state absorbs all of them."""
    lengths: Mapping[int, Result]
    """By events in the history: one request at a time."""
    rates: list[Run]
    """One phase each, in the order tried: the search for the knee."""
    knee_per_s: float | None
    """The highest rate that held."""
    at_rate: Run
    """At the rate that every model was measured at."""

    def to_json(self) -> dict[str, Any]:
        """Everything."""
        return {
            **vars(self),
            "lengths": {str(length): result.to_json() for length, result in self.lengths.items()},
            "rates": [run.to_json() for run in self.rates],
            "at_rate": self.at_rate.to_json(),
        }


@dataclass(frozen=True)
class Checked:
    """What wrk measured of one model at one length."""

    model: str
    length: int
    alone: Wrk
    """One connection."""
    together: Wrk
    """Eight connections: the rate that they reach."""


@dataclass(frozen=True)
class Comparison:
    """All models on one log."""

    models: list[Measured]
    events: int
    """In the log."""
    checked: Checked | None = None

    def of(self, name: str) -> Measured:
        """The model of this name.

        Raises:
            KeyError: it was not measured.
        """
        return {model.name: model for model in self.models}[name]


@dataclass(frozen=True)
class Origin:
    """Where, when and how the figures were taken."""

    machine: Mapping[str, object]
    commit: str
    command: str
    ended: datetime
    seconds: float

    def told(self, held: str) -> str:
        """In words, for a report. `held`: what else ran on the machine."""
        machine = ", ".join(f"{key} {value}" for key, value in self.machine.items())
        return (
            f"`{self.command}`, commit {self.commit}, ended {self.ended:%Y-%m-%d %H:%M} UTC after "
            f"{self.seconds:.0f} s. Machine: {machine}; it held {held} alike, so ratios count here and absolute times "
            "belong to it alone."
        )

    def to_json(self) -> dict[str, object]:
        """As it is stored."""
        return {
            **vars(self),
            "ended": self.ended.isoformat(timespec="seconds"),
            "seconds": round(self.seconds, 1),
        }


def growth(model: Measured) -> float:
    """p50 at the longest history over p50 at the shortest."""
    return p50(model, max(model.lengths)) / p50(model, min(model.lengths))


def p50(model: Measured, length: int) -> float:
    """p50 in milliseconds at a length, one request at a time."""
    return model.lengths[length].quantile_ms(0.5)


def server_cpu(model: Measured, length: int) -> float:
    """The server's CPU milliseconds a request at a length."""
    return model.lengths[length].server_cpu_ms or 0.0


def write(folder: Path, found: Comparison, origin: Origin) -> None:
    """`report.md` with its two plots, `report.json`, and the raw histograms."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.md").write_text(markdown(found, origin), "utf-8")
    histograms: dict[str, str] = {}
    stored = {
        **origin.to_json(),
        "events": found.events,
        "models": [_apart(model.to_json(), model.name, histograms) for model in found.models],
        "wrk": asdict(found.checked) if found.checked else None,
    }
    (folder / "report.json").write_text(json.dumps(stored, indent=1, ensure_ascii=False) + "\n", "utf-8")
    (folder / "histograms.json").write_text(json.dumps(histograms, indent=0) + "\n", "utf-8")
    plot_lengths(found, folder / "latency-against-length.png")
    plot_rates(found, folder / "latency-against-rate.png")


def _apart(stored: Any, name: str, histograms: dict[str, str]) -> Any:
    """What is stored, with each encoded histogram replaced by the name under which it goes to `histograms`."""
    if isinstance(stored, dict):
        return {
            key: _apart(value, name if key in ("histogram", "late") else f"{name}.{key}", histograms)
            for key, value in stored.items()
        }
    if isinstance(stored, list):
        return [_apart(value, f"{name}.{i}", histograms) for i, value in enumerate(stored)]
    if isinstance(stored, str) and stored.startswith(_ENCODED):
        histograms[name] = stored
        return name
    return stored


# --- Markdown -------------------------------------------------------------------------------------------------------


def markdown(found: Comparison, origin: Origin) -> str:
    """The report."""
    return "\n".join(
        [
            "# Latency against the length of histories, and against the rate",
            "",
            origin.told("servers, services and generator"),
            "",
            *_claims(found),
            "",
            "## Length",
            "",
            "One request of 100 candidates at a time, all lengths in turn: the service of a request, without waiting "
            "for others. Times are milliseconds, the server's CPU time (RTP alone) too.",
            "",
            "![latency against length](latency-against-length.png)",
            "",
            *_lengths_table(found),
            "",
            "## Rate",
            "",
            f"Histories of {_rate_length(found):,} events, Poisson arrivals, timed from when each request was due. "
            "A **saturated** row achieved less than 99 % of what was offered: its times would be those of a queue, and "
            "are left out. The generator's CPU is a share of one core; the server's, RTP alone, is milliseconds a "
            "request.",
            "",
            "![latency against rate](latency-against-rate.png)",
            "",
            *_rates_table(found),
            "",
            "## Another generator",
            "",
            *_check(found),
            "",
            "## Files",
            "",
            "`report.json` has every figure; `histograms.json` the latencies behind them in microseconds, each as "
            "HdrHistogram encodes it (V2, base64), which its libraries in any language decode.",
            "",
        ]
    )


def _rate_length(found: Comparison) -> int:
    return PAPER_LENGTH if PAPER_LENGTH in found.models[0].lengths else max(found.models[0].lengths)


def _claims(found: Comparison) -> list[str]:
    lines = ["## In short", "", "| | p50 from shortest to longest | knee, requests/s | at the paper's rate |"]
    lines.append("| --- | --- | --- | --- |")
    for model in found.models:
        shortest, longest = min(model.lengths), max(model.lengths)
        (at,) = model.at_rate.phases
        times = f"p50 {at.quantile_ms(0.5):.2f} ms, p99 {at.quantile_ms(0.99):.2f} ms"
        asked = f"{at.offered_per_s:.0f}/s: {f'saturated at {at.achieved_per_s:.0f}/s' if at.saturated else times}"
        kept = f", of which it reads the last {model.kept:,}" if model.kept else ""
        lines.append(
            f"| {model.name} (`{model.bundle}`) | {p50(model, shortest):.2f} → {p50(model, longest):.2f} ms "
            f"({growth(model):.2f}x) for {shortest:,} → {longest:,} events{kept} | {_number(model.knee_per_s)} | "
            f"{asked} |"
        )
    lines.append("")
    length = _rate_length(found)
    for mimn in (model for model in found.models if model.name == "MIMN"):
        for other in (model for model in found.models if model is not mimn):
            slow, quick = p50(other, length), p50(mimn, length)
            cpu = server_cpu(other, length) / server_cpu(mimn, length) if server_cpu(mimn, length) else 0.0
            lines.append(
                f"* {other.name} at {length:,} events takes {slow / quick:.1f} times MIMN's p50 and {cpu:.1f} times "
                f"its server CPU ({slow:.2f} against {quick:.2f} ms)."
            )
    return [*lines, "", f"The paper's figures, for comparison: {PAPER}"]


def _lengths_table(found: Comparison) -> list[str]:
    lines = [
        "| model | events | requests | p50 | p90 | p99 | p99.9 | server CPU a request |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for model in found.models:
        for length, result in model.lengths.items():
            read = f"{length:,}" if not model.kept or length <= model.kept else f"{length:,} (reads {model.kept:,})"
            lines.append(
                f"| {model.name} | {read} | {result.count:,} | {_times(result)} | {_number(result.server_cpu_ms)} |"
            )
    return lines


def _rates_table(found: Comparison) -> list[str]:
    lines = [
        "| model | offered/s | achieved/s | p50 | p90 | p99 | p99.9 | errors | drops | generator CPU | server CPU |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for model in found.models:
        for run in sorted((*model.rates, model.at_rate), key=lambda run: run.phases[0].offered_per_s):
            (result,) = run.phases
            times = "**saturated** | | | |" if result.saturated else f"{_times(result)} |"
            lines.append(
                f"| {model.name} | {result.offered_per_s:.1f} | {result.achieved_per_s:.1f} | {times} "
                f"{result.failed} | {result.dropped} | {run.generator_cpu:.0%} | {_number(result.server_cpu_ms)} |"
            )
    return lines


def _check(found: Comparison) -> list[str]:
    checked = found.checked
    if checked is None:
        return [MISSING + "."]
    ours = found.of(checked.model)
    return [
        f"wrk, {checked.model}, histories of {checked.length:,} events. One connection, one request at a time: p50 "
        f"{checked.alone.p50_ms:.2f} ms, p99 {checked.alone.p99_ms:.2f} ms, against {p50(ours, checked.length):.2f} ms "
        f"and {ours.lengths[checked.length].quantile_ms(0.99):.2f} ms above. Eight connections reach "
        f"{checked.together.per_s:.0f} requests/s, against a knee of {_number(ours.knee_per_s)}. "
        f"{checked.alone.failed + checked.together.failed} requests failed.",
    ]


def _times(result: Result) -> str:
    return " | ".join(f"{result.quantile_ms(q):.2f}" for q in (0.5, 0.9, 0.99, 0.999)) if result.count else "| | |"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}" if value < 100 else f"{value:.0f}"


# --- Plots ----------------------------------------------------------------------------------------------------------


def plot_lengths(found: Comparison, path: Path) -> None:
    """p50 and p99 against the length, both on logarithmic axes."""
    figure, axes = _axes("events in the history", "latency, ms (one request at a time)")
    for i, model in enumerate(found.models):
        lengths = sorted(model.lengths)
        cap = f", reads the last {model.kept:,} events" if model.kept else ""
        for q, style in ((0.5, "o-"), (0.99, "^:")):
            times = [model.lengths[length].quantile_ms(q) for length in lengths]
            label = f"{model.name} p{100 * q:g}" + (cap if q == 0.5 else "")
            axes.plot(lengths, times, style, color=f"C{i}", label=label, alpha=1 if q == 0.5 else 0.6)
        if paper_ms := PAPER_MS.get(model.name):
            label = f"paper's {paper_ms:g} ms ({'DIEN' if model.name == 'DIEN' else 'with UIC'}), its own cluster"
            axes.plot([PAPER_LENGTH], [paper_ms], "x", color=f"C{i}", markersize=9, label=label)
    for cut in {model.kept for model in found.models if model.kept}:
        axes.axvline(cut, color="gray", linewidth=0.8, linestyle="--")
        where = {"xycoords": axes.get_xaxis_transform(), "fontsize": 8, "color": "gray"}
        axes.annotate(f" lists are cut at T = {cut:,}", (cut, 0.02), **where)
    _save(figure, path)


def plot_rates(found: Comparison, path: Path) -> None:
    """p50 and p99 against the offered rate; rates that saturate are marked on the upper edge, without a time."""
    figure, axes = _axes("offered requests/s (Poisson)", "latency from when a request was due, ms")
    for i, model in enumerate(found.models):
        results = _by_rate(model)
        kept = [result for result in results if not result.saturated and result.count]
        for q, style in ((0.5, "o-"), (0.99, "^:")):
            times = [result.quantile_ms(q) for result in kept]
            line = {"color": f"C{i}", "label": f"{model.name} p{100 * q:g}", "alpha": 1 if q == 0.5 else 0.6}
            axes.plot([result.offered_per_s for result in kept], times, style, **line)
        saturated = [result.offered_per_s for result in results if result.saturated]
        axes.plot(
            saturated, [0.98 - 0.04 * i] * len(saturated), "x", color=f"C{i}", transform=axes.get_xaxis_transform(),
            label=f"{model.name} saturated",
        )  # fmt: skip
    _save(figure, path)


def _by_rate(model: Measured) -> list[Result]:
    results = [run.phases[0] for run in (*model.rates, model.at_rate)]
    return sorted(results, key=lambda result: result.offered_per_s)


def _axes(x: str, y: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # slow to import, and only needed for plots
    from matplotlib.ticker import LogFormatter

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    axes.set(xscale="log", yscale="log", xlabel=x, ylabel=y)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.5)))
    axes.grid(visible=True, which="both", alpha=0.2)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    figure.savefig(path, dpi=120)
