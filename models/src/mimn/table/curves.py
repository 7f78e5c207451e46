"""Curves from the trained folds of the table, as PNG and CSV. Trains nothing.

    python -m mimn.table.curves [--plans models/plans/{table,default}.toml] [--output models/experiments/curves]

* `length`: AUC against how many of the latest events are read, always on the same test rows: those whose users have at
  least as many events as the longest reading (the paper's Figure 1 shows this for its base model).
* `delay`: AUC when the state lacks the events of the last hours before the request (Table 5's out-of-sync row).
* `long`: AUC when the same behavior goes on for up to 10,000 events, from models trained on windows of 256,
  with a ledger of 1,024.
* `utilization`: how the writes of a user's events are distributed over the memory's slots (Figure 6).

The models are the ones that `run` left in the plans' run folders, of each row those that were trained longest. Rows
without a model are left out, and a curve uses the folds that all its rows have. AUCs are means over the folds and a
row's trainings, with 95 % intervals from 2,000 resamples of users within folds, each with one of the trainings.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mimn import metrics
from mimn.config import ConfigError
from mimn.data.events import COLUMNS, DataError, Events
from mimn.data.instances import Instances
from mimn.data_set import DataSet
from mimn.nn.checkpoint import CheckpointError
from mimn.scoring import predict
from mimn.table.compare import LONG, one_training_each
from mimn.table.plan import PLAN, Cell
from mimn.table.slots import LINE_INCHES, SlotShare, draw_shares, slot_shares
from mimn.table.trained import Trained, trained
from mimn.table.weeks import DAY_MS

LENGTHS = (10, 20, 50, 100, 200, 500, 1000)
LONG_LENGTHS = (200, 1000, 3000, 10000)
LONG_POSITIVES = 128
"""Approximate limit of positives per fold: 10,000 events each take long to read."""
DELAYS_H = (0, 1, 6, 24, 72, 168)
CURVE_ROWS = (
    "mimn",
    "mimn_bounded",
    "mimn_ledger",
    "default",
    "dien_product",
    "din_product",
    "pooling",
    "pooling_product",
    "pooling_ledger",
    "sim_product",
)
WRITING_ROWS = ("mimn", "mimn_no_utilization", "mimn_bounded", "mimn_ledger", "default")
PLANS = (PLAN, PLAN.with_name("default.toml"))
OUTPUT = Path("models/experiments/curves")
AXES = {
    "length": ("events read", True),
    "delay": ("hours that the state lacks", False),
    "long": ("events read, the same behavior repeated", True),
}
"""Each curve's x axis, and whether it is logarithmic."""
CURVES = (*AXES, "utilization")


class NothingTrained(Exception):
    """No run folder has a model for any row of the curve."""


Reading = Callable[[DataSet], tuple[Events, Instances]]
"""The events and instances of one point of a curve."""


@dataclass(frozen=True)
class Point:
    """A point of a curve, and a line of its CSV."""

    dataset: str
    row: str
    x: int
    """Number of events read, or hours that the state lacks."""
    auc: float
    low: float
    high: float
    folds: int
    trainings: int
    """On each of the folds, or on the one with the fewest."""
    positives: int
    """On all folds."""


def length_curve(models: Iterable[Trained], lengths: tuple[int, ...] = LENGTHS) -> list[Point]:
    """AUC by events read, on the instances with at least as many events as the longest reading."""

    def chosen(data: DataSet) -> Instances:
        test = data.instances.of("test")
        return test.select(test.end - test.begin >= max(lengths))

    return _points(models, {length: (lambda data: (data.events, chosen(data)), length) for length in lengths})


def delay_curve(models: Iterable[Trained], hours: tuple[int, ...] = DELAYS_H, length: int = 200) -> list[Point]:
    """AUC by hours that the state lacks; the times of the request and of reading a sketch do not change."""

    def delayed(by_h: int) -> Reading:
        def reading(data: DataSet) -> tuple[Events, Instances]:
            test = data.instances.of("test")
            return data.events, replace(test, end=ends_before(data, test, 3600 * by_h))

        return reading

    return _points(models, {by_h: (delayed(by_h), length) for by_h in hours})


def ends_before(data: DataSet, instances: Instances, seconds: int) -> NDArray[np.int64]:
    """The end of each history without the last `seconds` before its target; at least one event is kept. [n]"""
    ends, before = instances.end.copy(), 1000 * seconds // data.events.unit_ms
    for i, (begin, end, now) in enumerate(zip(instances.begin, instances.end, instances.timestamp, strict=True)):
        kept = int(np.searchsorted(data.events.timestamp[begin:end], now - before, side="right"))
        ends[i] = begin + max(kept, 1)
    return np.minimum(ends, instances.end)


def long_curve(models: Iterable[Trained], lengths: tuple[int, ...] = LONG_LENGTHS) -> list[Point]:
    """AUC for histories much longer than any in the data: the same behavior repeated up to a length.

    Beyond one whole history, repetition adds no information, so if the AUC falls, the state has lost some.
    """

    def repeated(length: int) -> Reading:
        def reading(data: DataSet) -> tuple[Events, Instances]:
            test = data.instances.of("test")
            enough = np.flatnonzero(test.end - test.begin >= LONG)
            some = enough[:: max(1, len(enough) // LONG_POSITIVES)]
            return repeat_histories(data.events, test.select(np.isin(np.arange(len(test)), some)), length)

        return reading

    return _points(models, {length: (repeated(length), length) for length in lengths})


def repeat_histories(events: Events, instances: Instances, length: int) -> tuple[Events, Instances]:
    """One user per instance, with earlier copies of the history added until it has at least `length` events. Each copy
    ends a day before the next one begins; the last one is the real history at its real time."""
    columns: dict[str, list[NDArray[np.int64]]] = {name: [] for name in COLUMNS}
    sizes = []
    for user, (begin, end) in enumerate(zip(instances.begin.tolist(), instances.end.tolist(), strict=True)):
        history = {name: getattr(events, name)[begin:end] for name in COLUMNS}
        rounds = -(-length // (end - begin))
        span = int(history["timestamp"][-1] - history["timestamp"][0]) + DAY_MS // events.unit_ms
        for name in COLUMNS:
            columns[name].append(np.tile(history[name], rounds))
        columns["timestamp"][-1] -= np.repeat(np.arange(rounds - 1, -1, -1) * span, end - begin)
        columns["user_id"][-1] = np.full(rounds * (end - begin), user)
        sizes.append(rounds * (end - begin))
    stops = np.cumsum(sizes)
    users, items, categories, times, baskets = (np.concatenate(columns[name]) for name in COLUMNS)
    actions = _tiled(events, instances, length)
    joined = Events(users, items, categories, times, baskets, events.unit_ms, actions)
    return joined, replace(instances, begin=stops - np.array(sizes), end=stops)


def _tiled(events: Events, instances: Instances, length: int) -> NDArray[np.uint8] | None:
    """The actions of `repeat_histories`."""
    if events.action is None:
        return None
    spans = zip(instances.begin.tolist(), instances.end.tolist(), strict=True)
    return np.concatenate([np.tile(events.action[begin:end], -(-length // (end - begin))) for begin, end in spans])


def _points(models: Iterable[Trained], readings: dict[int, tuple[Reading, int]]) -> list[Point]:
    """A point for each row and reading; a reading gives events and instances, and the length to read."""
    aucs: dict[tuple[str, int], dict[int, list[tuple[float, NDArray[np.float64], int]]]] = {}
    first: dict[str, Cell] = {}
    for one in models:
        for x, (reading, length) in readings.items():
            events, instances = reading(one.data)
            if not len(instances):
                continue
            found_scores = predict(
                one.model, one.ids, events, instances, samplings={"popularity": 1}, length=length, table=one.table
            )
            scores = found_scores["popularity"].astype(np.float64)
            rows = instances.candidates("popularity")
            resampled = metrics.resampled_aucs(rows.label, scores, rows.user_id, seed=one.cell.fold)
            found = (metrics.auc(rows.label, scores), resampled, len(instances))
            aucs.setdefault((one.row, x), {}).setdefault(one.cell.fold, []).append(found)
            first.setdefault(one.row, one.cell)
    points = []
    for (row, x), folds in aucs.items():
        mean = statistics.fmean(statistics.fmean(auc for auc, _, _ in trainings) for trainings in folds.values())
        drawn = [one_training_each([of for _, of, _ in trainings], seed=fold) for fold, trainings in folds.items()]
        interval = metrics.interval(mean, np.asarray(np.mean(drawn, axis=0)))
        positives = sum(trainings[0][2] for trainings in folds.values())
        least, of = min(map(len, folds.values())), first[row]
        points.append(
            Point(of.dataset, of.config.name, x, mean, interval.low, interval.high, len(folds), least, positives)
        )
    return points


def write_csv(lines: list[Point] | list[SlotShare], path: Path) -> None:
    """One line per point, with the field names as the header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(lines[0])], lineterminator="\n")
        writer.writeheader()
        for line in lines:
            writer.writerow({k: f"{v:.5f}" if isinstance(v, float) else v for k, v in asdict(line).items()})


def draw(points: list[Point], path: Path, *, x: str, log: bool) -> None:
    """The curves of one data set as a PNG, with their intervals."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    rows = len({point.row for point in points})
    figure, axes = pyplot.subplots(figsize=(8, 5 + LINE_INCHES * rows), layout="constrained")
    for row in dict.fromkeys(point.row for point in points):
        of = sorted((point for point in points if point.row == row), key=lambda point: point.x)
        xs = [point.x for point in of]
        (line,) = axes.plot(
            xs,
            [point.auc for point in of],
            marker=".",
            label=f"{row} ({of[0].folds} folds{f', {of[0].trainings} trainings' if of[0].trainings > 1 else ''})",
        )
        axes.fill_between(xs, [p.low for p in of], [p.high for p in of], color=line.get_color(), alpha=0.1)
    axes.set(xlabel=x, ylabel=f"test AUC, {points[0].positives:,} positives")
    if log:
        axes.set_xscale("log")
    figure.legend(fontsize="small", loc="outside lower center")
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def main(arguments: list[str] | None = None) -> int:
    """Draw the curves; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m mimn.table.curves", description="Curves from the table's models.")
    plans = " ".join(map(str, PLANS))
    parser.add_argument("--plans", type=Path, nargs="+", default=PLANS, help=f"TOML files (default {plans})")
    parser.add_argument("--runs", type=Path, help="folder of the run folders (default: the plan's)")
    parser.add_argument("--output", type=Path, default=OUTPUT, help=f"folder of CSV and PNG (default {OUTPUT})")
    parser.add_argument("--dataset", default="complete_journey", help="default complete_journey")
    parser.add_argument("--only", nargs="+", choices=CURVES, help="default: all")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    chosen = options.only or CURVES
    drawn: dict[str, Callable[[Iterable[Trained]], list[Point]]] = {
        "length": length_curve,
        "delay": delay_curve,
        "long": long_curve,
    }
    try:
        for curve, (x, log) in AXES.items():
            if curve in chosen:
                points = drawn[curve](trained(options.plans, options.dataset, CURVE_ROWS, options.runs))
                if not points:
                    raise NothingTrained
                target = options.output / f"{options.dataset}_{curve}.csv"
                write_csv(points, target)
                draw(points, target.with_suffix(".png"), x=x, log=log)
                print(f"wrote {target} and .png")
        if "utilization" in chosen:
            shares = slot_shares(trained(options.plans, options.dataset, WRITING_ROWS, options.runs))
            if not shares:
                raise NothingTrained
            target = options.output / f"{options.dataset}_utilization.csv"
            write_csv(shares, target)
            draw_shares(shares, target.with_suffix(".png"))
            print(f"wrote {target} and .png")
    except NothingTrained:
        print(f"error: no trained row of {options.dataset}: run `python -m mimn.table` first", file=sys.stderr)
        return 1
    except (ConfigError, DataError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
