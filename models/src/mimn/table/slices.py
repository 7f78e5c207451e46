"""AUC of trained rows by slice and by how negatives are drawn, and the differences between rows.

    python -m mimn.table.slices models/plans/ledger.toml [another plan ...] [--part test] [--against din_product]

For each row and fold of the plans whose run is finished, and for the row `boosting`, which is fitted here, the targets
of each slice (`slices_of`), with negatives by popularity over the whole data set and by popularity in the four weeks
before the target (`mimn.data.negatives`). Validation users by default; `--part test` opens the test users. The records,
in the first plan's `records`, are `slices-<part>.csv`, the AUC of each training by fold, and
`slices-<part>-differences.csv`: each model minus each of `--against`, on the folds that both have, with 95 % intervals
over users and trainings. Rows that differ only in their seed are trainings of one model, which is called by the first
of them. Scores are kept in the run folders, so only new runs are scored. Lines of a training, or of a difference, that
has no finished run here stay as they were recorded: trainings can be added one by one. Older lines are the mean of
several trainings (`trainings`); they give way when any of these is measured.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from msgspec import structs
from numpy.typing import NDArray

from mimn import metrics, run
from mimn.bundle.item_table import ItemTable
from mimn.config import ConfigError
from mimn.data.events import DataError, Events
from mimn.data.fields import FittedFields
from mimn.data.instances import Instances, stored_instances
from mimn.data.negatives import NegativeRule, Sampling
from mimn.data.split import Part
from mimn.data.vocabulary import EmbeddingIds
from mimn.data_set import DataSet, load_data
from mimn.evaluate import save_predictions
from mimn.event_fields import EventFields
from mimn.nn.checkpoint import CheckpointError, load_model
from mimn.scoring import predict
from mimn.table.at_the_time import read_lines
from mimn.table.boosting import BOOSTING_ROW, boosting
from mimn.table.compare import one_training_each
from mimn.table.plan import Cell, planned, read_plan
from mimn.table.records import row_of
from mimn.table.trials import write_csv

SAMPLINGS: tuple[Sampling, ...] = ("popularity", "recent")
NEGATIVES: dict[Part, int] = {"train": 1, "validation": 4, "test": 1}
"""As in training's choice of an epoch, and as in the table."""
HISTORIES = (50, 200, 1000)
SCORES = "slices-{part}-{length}.npz"
"""In a run folder: [r] by sampling, as `mimn.scoring.predict`."""
RESAMPLES = 1000

Line = dict[str, Any]
"""Of a CSV file: values are text if it was read."""
Mask = NDArray[np.bool_]
Scores = dict[Sampling, NDArray[np.float32]]


def bought_before(events: Events, instances: Instances) -> Mask:
    """Whether the user of each instance had its item before. [n]"""
    return np.array(
        [
            bool((events.item_id[begin:end] == item).any())
            for begin, end, item in zip(instances.begin, instances.end, instances.item, strict=True)
        ],
        np.bool_,
    )


def head_items(item_ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """The most frequent items, as many as it takes for half of all events. [k] → rising ids"""
    items, counts = np.unique(item_ids, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    needed = int(np.searchsorted(np.cumsum(counts[order]), counts.sum() / 2)) + 1
    return np.sort(items[order[:needed]])


def slices_of(events: Events, instances: Instances, train_users: Mask) -> dict[str, Mask]:
    """By name which instances are in a slice. [n] each

    `head items` are the most frequent ones of the train users, which have half of their events.
    """
    before, history = bought_before(events, instances), instances.end - instances.begin
    head = np.isin(instances.item, head_items(events.item_id[train_users[events.user_index]]))
    found = {"all": np.ones(len(instances), np.bool_), "bought before": before, "new": ~before}
    found |= {f"history under {most:,}": history < most for most in HISTORIES}
    return found | {"head items": head, "tail items": ~head}


@dataclass(frozen=True)
class Scored:
    """One finished run."""

    cell: Cell
    row: str
    """The row of which it is a training."""
    users: NDArray[np.int64]
    """[n]"""
    slices: dict[str, Mask]
    """[n] each"""
    scores: dict[tuple[int, Sampling], NDArray[np.float64]]
    """By length and negatives: [n, 1 + negatives], the target first."""
    _resampled: dict[tuple[str, int, Sampling], NDArray[np.float64]] = field(default_factory=dict)

    @property
    def model(self) -> str:
        """The same for all trainings and folds of a model."""
        config = self.cell.config
        whole = structs.replace(config.with_seed(0), data=structs.replace(config.data, fold=None))
        return replace(self.cell, config=whole).fingerprint

    def rows(self, slice_name: str, length: int, sampling: Sampling) -> tuple[Any, ...]:
        """Labels, scores and users of the candidates of a slice's targets. [m] each"""
        mask = self.slices[slice_name]
        scores = self.scores[length, sampling][mask]
        labels = np.zeros(scores.shape, np.int64)
        labels[:, 0] = 1
        return labels.reshape(-1), scores.reshape(-1), self.users[mask].repeat(scores.shape[1])

    def resampled(self, slice_name: str, length: int, sampling: Sampling) -> NDArray[np.float64]:
        """AUCs of a slice with users drawn again, alike for all runs of a fold. Kept: many comparisons need them."""
        key = slice_name, length, sampling
        if key not in self._resampled:
            rows = self.rows(*key)
            self._resampled[key] = metrics.resampled_aucs(*rows, seed=self.cell.fold, resamples=RESAMPLES)
        return self._resampled[key]


def score(cell: Cell, folder: Path, part: Part, row: str) -> Scored:
    """The scores of one finished run of a row, or of boosting, which needs none.

    Raises:
        ConfigError, DataError, CheckpointError: the run or its data cannot be read.
    """
    settings = cell.config.data
    data = load_data(settings)
    rule = NegativeRule(SAMPLINGS, settings.negatives_exclude)
    made = stored_instances(data.prepared.folder, data.events, settings.fold, rule, settings.min_history)
    data = replace(data, instances=made)
    instances = data.instances.of(part)
    scores: dict[tuple[int, Sampling], NDArray[np.float64]] = {}
    for length in cell.lengths:
        path = folder / SCORES.format(part=part, length=length)
        if not path.exists():
            found = (_of_boosting if cell.key == BOOSTING_ROW else _of_run)(cell, folder, data, part, length)
            folder.mkdir(parents=True, exist_ok=True)
            save_predictions(path, {str(sampling): values for sampling, values in found.items()})
        with np.load(path, allow_pickle=False) as kept:
            for sampling in SAMPLINGS:
                scores[length, sampling] = kept[sampling].reshape(len(instances), -1).astype(np.float64)
    return Scored(cell, row, instances.user_id, slices_of(data.events, instances, data.train_users), scores)


def _of_boosting(cell: Cell, folder: Path, data: DataSet, part: Part, length: int) -> Scores:
    asked = dict.fromkeys(SAMPLINGS, NEGATIVES[part])
    return boosting(cell.config.architecture, data, data.instances.of(part), asked, length)[0]


def _of_run(cell: Cell, folder: Path, data: DataSet, part: Part, length: int) -> Scores:
    model, ids = load_model(folder / run.MODEL), EmbeddingIds.load(folder)
    if cell.config.training.compile:
        torch.compiler.reset()
        model.compile_steps()
    request = None
    if model.fields is not None:
        request = EventFields.of(data.prepared, data.train_users, FittedFields.load(folder)).request
    return predict(
        model,
        ids,
        data.events,
        data.instances.of(part),
        samplings=dict.fromkeys(SAMPLINGS, NEGATIVES[part]),
        length=length,
        table=None if model.config.ledger is None else ItemTable.load(folder),
        request=request,
    )


Models = dict[tuple[str, str], list[Scored]]
"""The runs of each model, by data set and `Scored.model`."""


def by_model(runs: Iterable[Scored]) -> Models:
    """All folds and trainings of a model together."""
    models: Models = {}
    for one in runs:
        models.setdefault((one.cell.dataset, one.model), []).append(one)
    return models


def lines(one: Scored) -> Iterator[Line]:
    """The lines of one run: a slice without targets has none."""
    for (length, sampling), (name, mask) in itertools.product(one.scores, one.slices.items()):
        if mask.any():
            yield {
                "dataset": one.cell.dataset,
                "row": one.cell.key,
                "fold": one.cell.fold,
                "trainings": 1,
                "length": length,
                "negatives": sampling,
                "targets": name,
                "count": int(mask.sum()),
                "auc": round(_auc(one, name, length, sampling), 5),
            }


def _auc(one: Scored, name: str, length: int, sampling: Sampling) -> float:
    labels, scores, _ = one.rows(name, length, sampling)
    return metrics.auc(labels, scores)


def differences(models: Models, against: Collection[str]) -> Iterator[Line]:
    """Each model minus the models of the rows `against`, by slice, length and negatives: the mean over their folds.

    In each resample users are drawn with replacement, alike for both models, and on each fold one training of each.
    """
    others = {found for found, its in models.items() if its[0].row in against}
    for (dataset, ours), (of, theirs) in itertools.product(models, sorted(others)):
        if dataset == of and ours != theirs:
            first, second = models[dataset, ours], models[of, theirs]
            for name, place in itertools.product(first[0].slices, first[0].scores):
                if (found := _difference(first, second, name, *place)) is not None:
                    yield found


def _difference(
    first: Sequence[Scored], second: Sequence[Scored], name: str, length: int, sampling: Sampling
) -> Line | None:
    folds = sorted({one.cell.fold for one in first} & {one.cell.fold for one in second})
    random, figures, resampled = np.random.default_rng(0), [], []
    for fold in folds:
        both = [[one for one in its if one.cell.fold == fold] for its in (first, second)]
        if not both[0][0].slices[name].any():
            return None
        aucs, again = [], []
        for trainings in both:
            aucs.append(statistics.fmean(_auc(one, name, length, sampling) for one in trainings))
            every = [one.resampled(name, length, sampling) for one in trainings]
            again.append(one_training_each(every, seed=int(random.integers(2**32))))
        figures.append(aucs[0] - aucs[1])
        resampled.append(again[0] - again[1])
    if not folds:
        return None
    known = metrics.interval(statistics.fmean(figures), np.mean(resampled, axis=0))
    return {
        "dataset": first[0].cell.dataset,
        "difference": f"{first[0].row} - {second[0].row}",
        "trainings": f"{len(first)}, {len(second)}",
        "folds": " ".join(map(str, folds)),
        "length": length,
        "negatives": sampling,
        "targets": name,
        "auc": round(known.difference, 5),
        "low": round(known.low, 5),
        "high": round(known.high, 5),
    }


def merged(old: Iterable[Line], new: Iterable[Line], replaced: Callable[[Line], Hashable]) -> list[Line]:
    """The lines of `old`, without those that have the same `replaced` as a line of `new`, and then those of `new`."""
    lines = list(new)
    found = {replaced(line) for line in lines}
    return [line for line in old if replaced(line) not in found] + lines


def merged_trainings(old: Sequence[Line], new: Sequence[Line]) -> list[Line]:
    """Lines of `slices-<part>.csv` with those of newly measured runs.

    A line that is the mean of several trainings gives way if one of these was measured.
    """
    rows = {line["row"] for line in (*old, *new)}
    measured = {(line["dataset"], row_of(line["row"], rows)) for line in new}
    single = [line for line in old if line["trainings"] == "1" or (line["dataset"], line["row"]) not in measured]
    return merged(single, new, lambda line: (line["dataset"], line["row"], str(line["fold"])))


def main(arguments: list[str] | None = None) -> int:
    """Evaluate the finished runs of plans by slice; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m mimn.table.slices", description="AUC by slice.")
    parser.add_argument("plans", type=Path, nargs="+", metavar="plan", help="TOML files, see models/plans")
    parser.add_argument("--part", choices=("validation", "test"), default="validation", help="(default: validation)")
    parser.add_argument("--against", nargs="*", default=(), metavar="ROW", help="compare every model with these rows")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        plans, found = [read_plan(path) for path in options.plans], []
        every = planned(plans)
        rows = {cell.key for cell in every.values()}
        for folder, cell in every.items():
            if cell.key == BOOSTING_ROW or (folder / run.METRICS).exists():
                found.append(score(cell, folder, options.part, row_of(cell.key, rows)))
                print(f"{cell.title}: {len(cell.lengths)} lengths", flush=True)
            else:
                print(f"{cell.title}: no finished run")
        if unknown := set(options.against) - {one.row for one in found}:
            raise ConfigError(f"--against {' '.join(sorted(unknown))}: the plans have no finished run of it")
    except (ConfigError, DataError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    target = Path(plans[0].records) / f"slices-{options.part}.csv"
    target.parent.mkdir(parents=True, exist_ok=True)
    write_csv(target, merged_trainings(read_lines(target), list(itertools.chain.from_iterable(map(lines, found)))))
    target = target.with_name(f"{target.stem}-differences.csv")
    compared = differences(by_model(found), options.against)
    write_csv(target, merged(read_lines(target), compared, lambda line: (line["dataset"], line["difference"])))
    print(f"wrote {target.parent}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
