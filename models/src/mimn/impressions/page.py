"""The Markdown page of a table of models (`mimn.impressions.table`): means over the seeds, with users' intervals."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from mimn.impressions.table import CORRECTED, PROGRESSIVE, Compared, Done, Plan, corrected

PROBABILITY = ("ne", "pcoc", "ece")
"""What the page says of probabilities, by name in the figures."""
COLUMNS: tuple[str, ...] = ("model", "reads", "seeds", "AUC", "GAUC", "NE", "ΣP/Σy", "ECE")
COLUMNS += ("NE, progressive", "ΣP/Σy, progressive", "ECE, progressive")


def rendered(plan: Plan, done: Sequence[Done]) -> str:
    """The page. A row without any seed stands in it as not run."""
    parts = [f"# {plan.title}", "", _said(plan, done), ""]
    for group in ("all", *plan.groups):
        parts += [f"## {_group_title(group, done)}", "", *_figures(plan, done, group), ""]
    if plan.compared is not None:
        title = f"## Difference to {plan.compared.to}, on the same impressions"
        parts += [title, "", *_over_floor(plan, plan.compared, done), ""]
    parts += [f"## ΣP/Σy by {plan.each}, progressive", "", *_each(plan, done), ""]
    return "\n".join(parts)


def _said(plan: Plan, done: Sequence[Done]) -> str:
    commits = sorted({one.commit for one in done})
    text = (
        f"Made by `python -m mimn.impressions table` from `{plan.base}` and the plan's rows. Test impressions, opened "
        f"once a trained model. Means over the seeds that were run ({len(plan.seeds)} are planned), ± the standard "
        "deviation over them; in brackets a 95 % interval over resampled users, the mean of the seeds' intervals. NE, "
        "ΣP/Σy and ECE are of the probabilities that are corrected for the negatives that training left out; "
        f"progressive ones by `{plan.calibration}`. Commits: {', '.join(commits) or 'none'}."
    )
    return _wrapped(text)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def _group_title(group: str, done: Sequence[Done]) -> str:
    found = next((one.groups[group] for one in done), None)
    if found is None:
        return group
    return f"{group}: {found['rows']:,} impressions, {found['clicks']} clicks, {found['users']:,} users"


def _figures(plan: Plan, done: Sequence[Done], group: str) -> list[str]:
    lines = [
        f"| {' | '.join(COLUMNS)} |",
        f"|{' --- |' * len(COLUMNS)}",
    ]
    for row in plan.rows:
        of_row = [one for one in done if one.row == row.name]
        cells = [row.name, row.reads, str(len(of_row))]
        if of_row:
            figures = [one.groups[group] for one in of_row]
            cells += [_cell(figures, lambda f, name=name: f[name]) for name in ("auc", "gauc")]  # type: ignore[misc]
            for kind in (CORRECTED, PROGRESSIVE):
                cells += [_cell(figures, lambda f, k=kind, n=name: _of_kind(f, k)[n]) for name in PROBABILITY]  # type: ignore[misc]
        else:
            cells += ["not run"] + [""] * 7
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _of_kind(figures: dict[str, Any], kind: str) -> dict[str, Any]:
    if kind == CORRECTED:
        kind = corrected(figures)
    found: dict[str, Any] = figures.get(kind, {name: {} for name in PROBABILITY})
    return found


def _cell(
    figures: list[dict[str, Any]], pick: Callable[[dict[str, Any]], dict[str, Any]], sign: Literal["", "+"] = ""
) -> str:
    picked = [pick(one) for one in figures]
    known = [one for one in picked if "value" in one]
    if not known:
        return "–"
    values = [one["value"] for one in known]
    places = 3 if sign or max(values) > 0.01 else 5  # calibration errors of rare clicks
    text = f"{np.mean(values):{sign}.{places}f}"
    if len(values) > 1:
        text += f" ± {np.std(values, ddof=1):.{places}f}"
    bounds = [(one["low"], one["high"]) for one in known if "low" in one]
    if bounds:
        low, high = np.mean(bounds, axis=0)
        text += f" [{low:{sign}.{places}f}, {high:{sign}.{places}f}]"
    return text


def _over_floor(plan: Plan, compared: Compared, done: Sequence[Done]) -> list[str]:
    chosen = [f"{one.row}: {one.chosen}" for one in done if one.chosen]
    said = (
        "The model's figure minus the floor's: above 0 the model is better by AUC and GAUC, below 0 by NE. In brackets "
        "a 95 % interval over resampled users, the same ones for both, the mean of the seeds' intervals. A floor is "
        f"fitted once, without a seed; validation chose its size ({'; '.join(chosen) or 'not yet'})."
    )
    columns = ("model", "impressions", "seeds", "AUC", "GAUC", "NE", "NE, progressive")
    lines = [_wrapped(said), "", f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    for name in compared.rows:
        of_row = [one.over_floor for one in done if one.row == name and one.over_floor]
        for group in ("all", *plan.groups) if of_row else ():
            figures = [one[group] for one in of_row]
            cells = [name, group, str(len(of_row))]
            for figure in ("auc", "gauc", f"{CORRECTED}.ne", f"{PROGRESSIVE}.ne"):
                cells.append(_cell(figures, lambda f, name=figure: f.get(name, {}), sign="+"))  # type: ignore[misc]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _each(plan: Plan, done: Sequence[Done]) -> list[str]:
    if not done:
        return ["Nothing was run."]
    columns = sorted(done[0].each, key=lambda text: (not text.isdecimal(), int(text) if text.isdecimal() else 0, text))
    clicks = [f"{text}: {done[0].each[text]['clicks']:.0f} of {done[0].each[text]['rows']:.0f}" for text in columns]
    lines = [f"| model | {' | '.join(clicks)} |", f"| --- |{' --- |' * len(columns)}"]
    for row in plan.rows:
        of_row = [one for one in done if one.row == row.name and "progressive" in next(iter(one.each.values()))]
        if not of_row:
            continue
        cells = []
        for text in columns:
            clicked = of_row[0].each[text]["clicks"]
            p = float(np.mean([one.each[text]["progressive"] for one in of_row]))
            cells.append(f"{p / clicked:.2f}" if clicked else f"{p:.1f} / 0")
        lines.append(f"| {row.name} | {' | '.join(cells)} |")
    return lines
