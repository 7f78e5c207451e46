"""The page of a full run of the torture."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence

import psutil

from torture.stage import Tally

PLAYED = "played, s"
"""The figure that every part has: how long it took."""
LOAD = "load average, at its end"


def page(about: str, rows: Mapping[str, Tally], failed: Sequence[str]) -> str:
    """The rows in Markdown; `about` is the run, and `failed` are its tests that did."""
    lines = [
        "# The full torture",
        "",
        about,
        "[failure-table.md](failure-table.md) says what each scenario shows; `full-run.json` has the same figures.",
        "",
        "| scenario | trials | faults | lost | doubled | wrong answers | failed requests | minutes | verdict |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for name, t in rows.items():
        took = sum(t.figures.get(PLAYED, ())) / 60
        cells = t.trials, t.faults, t.lost, t.doubled, t.wrong_answers, t.failed_requests
        lines.append(f"| `{name}` | {' | '.join(map(str, cells))} | {took:.1f} | {verdict(t)} |")
    lines += ["", "## Measurements", ""]
    for name, t in rows.items():
        some = [f"{what}: {spread(values)}" for what, values in t.figures.items() if what != PLAYED]
        lines += [f"* `{name}`: {'; '.join(some)}."] if some else []
        lines += [f"  * did not hold: {what}" for what in t.wrong[:10]]
    if failed:
        lines += ["", "## Failed tests", ""]
        lines += [f"* `{test}`" for test in failed]
    return "\n".join(lines) + "\n"


def verdict(tally: Tally) -> str:
    """In words."""
    return "held" if tally.held else "**did not hold**"


def spread(values: Sequence[float]) -> str:
    """One value, or least, median and most of several."""
    some = sorted(values)
    return f"{some[0]:g}" if len(some) == 1 else f"{some[0]:g} to {some[-1]:g}, median {some[len(some) // 2]:g}"


def machine() -> str:
    """What it ran on."""
    memory = psutil.virtual_memory().total / 2**30
    python = platform.python_version()
    return f"{os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.machine()}, Python {python}"
