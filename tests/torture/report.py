"""The report of a run: the table for a terminal, and the page and the JSON that are kept."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import psutil

from torture.stage import Tally

PLAYED = "played, s"
"""The figure that every part has: how long it took."""
LOAD = "load average, at its end"


def table(rows: Mapping[str, Tally]) -> str:
    """For a terminal."""
    width = max(map(len, rows))
    lines = [f"{'scenario':{width}}  trials  faults  lost  doubled  wrong  failed  verdict"]
    for name, t in rows.items():
        counts = f"{t.lost:4}  {t.doubled:7}  {t.wrong_answers:5}  {t.failed_requests:6}"
        lines.append(f"{name:{width}}  {t.trials:6}  {t.faults:6}  {counts}  {verdict(t)}")
        lines += [f"    {what}" for what in t.wrong[:10]]
        lines += [f"    {what}: {spread(values)}" for what, values in t.figures.items()]
    return "\n".join(lines)


def written(rows: Mapping[str, Tally], missing: Sequence[str], **about: object) -> dict[str, Any]:
    """For programs. `missing` are parts without a result."""
    return {
        **about,
        "machine": machine(),
        "held": all(t.held for t in rows.values()),
        "not_played": list(missing),
        "scenarios": {name: asdict(tally) | {"held": tally.held} for name, tally in rows.items()},
    }


def page(found: Mapping[str, Any], rows: Mapping[str, Tally]) -> str:
    """What `written` says, in Markdown."""
    minutes = sum(sum(t.figures.get(PLAYED, ())) for t in rows.values()) / 60
    changed = " with changes" if found["changed"] else ""
    lines = [
        "# The full torture",
        "",
        f"Written by `make torture`: commit `{found['commit']}`{changed}, {found['machine']}, {minutes:.0f} minutes.",
        "[failure-table.md](failure-table.md) says what each scenario shows; `torture.json` has the same figures.",
        "",
        "| scenario | trials | faults | lost | doubled | wrong answers | failed requests | minutes | verdict |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for name, t in rows.items():
        took = sum(t.figures.get(PLAYED, ())) / 60
        cells = t.trials, t.faults, t.lost, t.doubled, t.wrong_answers, t.failed_requests
        lines.append(f"| `{name}` | {' | '.join(map(str, cells))} | {took:.1f} | {verdict(t).lower()} |")
    if found["not_played"]:
        lines += ["", "Not completed: " + ", ".join(f"`{name}`" for name in found["not_played"]) + "."]
    lines += ["", "## What was measured", ""]
    for name, t in rows.items():
        some = [f"{what}: {spread(values)}" for what, values in t.figures.items() if what != PLAYED]
        lines += [f"* `{name}`: {'; '.join(some)}."] if some else []
        lines += [f"  * did not hold: {what}" for what in t.wrong[:10]]
    return "\n".join(lines) + "\n"


def verdict(tally: Tally) -> str:
    """In words."""
    return "held" if tally.held else "DID NOT HOLD"


def spread(values: Sequence[float]) -> str:
    """One value, or least, median and most of several."""
    some = sorted(values)
    return f"{some[0]:g}" if len(some) == 1 else f"{some[0]:g} to {some[-1]:g}, median {some[len(some) // 2]:g}"


def machine() -> str:
    """What it ran on."""
    memory = psutil.virtual_memory().total / 2**30
    python = platform.python_version()
    return f"{os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.machine()}, Python {python}"
