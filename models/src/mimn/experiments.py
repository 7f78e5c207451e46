"""Records of experiments: finished runs into a committed folder, and all folders into one table. Nothing is typed.

    python -m mimn.experiments record --output models/experiments/<date>_<dataset>_<model> RUN RUN RUN
    python -m mimn.experiments [table models/experiments]

A record holds the runs of one configuration, one a seed: `config.toml`, `metrics.json` (every run's metrics, and the
difference to the counting floor), `predictions.npz` (seed-averaged, for the test users) and a `README.md` with the
figures. The table, `AUC.md`, is made from the records alone: no data set and no model is needed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimn import metrics, run
from mimn.config import ConfigError
from mimn.data.events import DataError
from mimn.run import RunConfig

FLOOR = "counts"
"""The floor that a model is compared with."""
MARGIN = 0.01
"""A floor nearer than this to a model is said first."""
TABLE = "AUC.md"
RECORDS = Path("models/experiments")
TITLES = {"online_retail": "Online Retail", "complete_journey": "The Complete Journey", "synthetic": "Synthetic"}
FLOOR_TITLES = {
    "constant": "floor: constant",
    "popularity": "floor: popularity alone",
    "last_category": "floor: category of the last item",
    "counts": "floor: logistic regression on counts",
}


PREDICTIONS = "predictions.npz"
CERTAIN = 0.001
"""A difference is one when its interval excludes 0 and it is larger than this."""


class NoRecord(Exception):
    """Runs that make no record, or a record that makes no table; the message says why and what to do."""


@dataclass(frozen=True)
class Predictions:
    """Test rows with popularity negatives. All [r]."""

    label: NDArray[np.int64]
    user_id: NDArray[np.int64]
    model: NDArray[np.float64]
    """Mean over the seeds."""
    floor: NDArray[np.float64]
    """Of the counting floor."""

    def against(self, first: NDArray[np.float64], second: NDArray[np.float64]) -> metrics.Interval:
        """AUC of `first` minus AUC of `second` on these rows, users resampled."""
        return metrics.paired_bootstrap(metrics.auc, self.label, first, second, self.user_id)


@dataclass(frozen=True)
class Record:
    """One folder of records."""

    metrics: dict[str, Any]
    predictions: Predictions


def record(folders: list[Path], output: Path, length: int) -> dict[str, Any]:
    """Write the record of the runs in `folders`, which differ in their seed alone, to `output`.

    Raises:
        NoRecord: a run is not finished or not evaluated at `length`, or two runs differ in more than the seed.
        ConfigError, DataError: a run's files or data cannot be read.
    """
    runs = sorted((_finished(folder, length) for folder in folders), key=lambda pair: pair[1]["seed"])
    configs = [run.read_config(folder / run.CONFIG).with_seed(0) for folder, _ in runs]
    if any(config != configs[0] for config in configs):
        raise NoRecord("the runs differ in more than their seed: record each configuration by itself")
    if len({metrics_["seed"] for _, metrics_ in runs}) != len(runs):
        raise NoRecord("two runs have one seed: a repetition is no second sample")
    if len({metrics_["instances_sha256"] for _, metrics_ in runs}) != 1:
        raise NoRecord("the runs have different instances: train them on one instances file")
    predictions = _predictions(configs[0], [folder for folder, _ in runs], length)
    result = {
        "name": configs[0].name,
        "dataset": configs[0].data.dataset,
        "length": length,
        "difference_to_counts": asdict(predictions.against(predictions.model, predictions.floor)),
        "runs": [metrics_ for _, metrics_ in runs],
    }
    output.mkdir(parents=True, exist_ok=True)
    (output / run.CONFIG).write_text(configs[0].to_toml(), "utf-8")
    run.write_json(output / run.METRICS, result)
    np.savez_compressed(
        output / PREDICTIONS,
        label=predictions.label.astype(np.int8),
        user_id=predictions.user_id.astype(np.int32),
        model=predictions.model.astype(np.float32),
        floor=predictions.floor.astype(np.float32),
    )
    (output / "README.md").write_text(describe(result), "utf-8")
    return result


def _finished(folder: Path, length: int) -> tuple[Path, dict[str, Any]]:
    try:
        found: dict[str, Any] = json.loads((folder / run.METRICS).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise NoRecord(f"{folder} holds no finished run ({error}): train it first") from error
    if str(length) not in found.get("evaluation", {}):
        raise NoRecord(f"{folder} is not evaluated at length {length}: python -m mimn.evaluate --run {folder}")
    found["evaluation"] = {str(length): found["evaluation"][str(length)]}
    return folder, found


def _predictions(config: RunConfig, folders: list[Path], length: int) -> Predictions:
    """The runs' predictions for the test users, averaged over the seeds."""
    rows = run.load_data(config.data).instances.of("test").candidates("popularity")
    arrays = []
    for folder in folders:
        with np.load(folder / run.PREDICTIONS.format(length=length), allow_pickle=False) as archive:
            arrays.append((archive["test_popularity"], archive[f"test_popularity_{FLOOR}"]))
    model, floor = (np.mean([pair[i] for pair in arrays], axis=0).astype(np.float64) for i in range(2))
    return Predictions(rows.label, rows.user_id, model, floor)


def mean_std(values: list[float]) -> str:
    """Mean ± sample standard deviation, four decimals; the mean alone for a single value."""
    mean = f"{statistics.fmean(values):.4f}"
    return f"{mean} ± {statistics.stdev(values):.4f}" if len(values) > 1 else mean


def describe(record_: dict[str, Any]) -> str:
    """A record's README: what it is, and the figures of each seed."""
    runs, length = record_["runs"], str(record_["length"])
    difference = record_["difference_to_counts"]
    lines = [
        f"# {record_['name']} on {TITLES[record_['dataset']]}",
        "",
        "Made by `python -m mimn.experiments record` from finished runs; the configuration is `config.toml`, every",
        "figure is in `metrics.json`.",
        "",
        f"Latest {length} events, test users, one negative a positive. Checkpoints chosen on validation users.",
        "",
        "| seed | best epoch of | validation AUC | test AUC, popularity | GAUC | logloss | PCOC | test AUC, uniform |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in runs:
        popularity = one["evaluation"][length]["test"]["popularity"]
        uniform = one["evaluation"][length]["test"]["uniform"]
        lines.append(
            f"| {one['seed']} | {one['best_epoch']} of {one['epochs']} | {one['validation_auc']:.4f} "
            f"| {popularity['auc']:.4f} | {popularity['gauc']:.4f} | {popularity['logloss']:.4f} "
            f"| {popularity['pcoc']:.3f} | {uniform['auc']:.4f} |"
        )
    lines += [
        "",
        "The validation AUC of the table is against four popularity negatives a positive.",
        "",
        "Seed-averaged predictions against logistic regression on counts, same rows, popularity negatives, 2,000",
        f"resamples of the users: {difference['difference']:+.4f} "
        f"[{difference['low']:+.4f}, {difference['high']:+.4f}].",
        "",
        f"{_stored(runs[0]['state_bytes'])}; {runs[0]['parameters']} parameters; "
        f"data `{runs[0]['data_sha256'][:16]}`, instances `{runs[0]['instances_sha256'][:16]}`.",
    ]
    return "\n".join(lines) + "\n"


def table(records: list[Record]) -> str:
    """The whole of `AUC.md`.

    Raises:
        NoRecord: there are no records, or two records of one data set rest on different instances.
    """
    if not records:
        raise NoRecord("there are no records: make one with `python -m mimn.experiments record`")
    sections, warnings = [], []
    for dataset in dict.fromkeys(sorted(r.metrics["dataset"] for r in records)):
        chosen = sorted((r for r in records if r.metrics["dataset"] == dataset), key=_mean_auc)
        if len({(r.metrics["length"], one["instances_sha256"]) for r in chosen for one in r.metrics["runs"]}) != 1:
            raise NoRecord(f"the records of {dataset} rest on different instances or lengths: they cannot be compared")
        warnings += [*_near_floors(chosen), *_memory_in_doubt(chosen)]
        sections += _section(dataset, chosen)
    head = [
        *(warnings or [f"No floor is within {MARGIN} of a model's test AUC, popularity negatives."]),
        "",
        "# AUC",
        "",
        "Made by `python -m mimn.experiments` from the records beside it. Clean protocol: users disjoint, history",
        "strictly before the target's basket, vocabulary of train users, checkpoint chosen on validation users. One",
        "negative a positive, drawn by popularity (the figure to read) or uniformly. The models learn from popularity",
        "negatives alone, to which popularity says nothing; the floors are fitted anew on each kind, and with uniform",
        "negatives popularity alone says most: those two columns are not one contest. Mean ± sample standard deviation",
        "over the seeds. Differences are of seed-averaged predictions on the same rows, popularity negatives, with",
        "their 95 % intervals from 2,000 resamples of the test users; they do not cover the choice of seeds. The",
        "Complete Journey is taken for real purchases at shifted dates (see `models/README.md`).",
    ]
    return "\n".join([*head, *sections]) + "\n"


def _near_floors(records: list[Record]) -> list[str]:
    lines = []
    for record_ in records:
        model = _mean_auc(record_)
        for floor, title in FLOOR_TITLES.items():
            value = _floor(record_, "popularity", floor)
            if value > model - MARGIN:
                relation = "above" if value > model else f"within {MARGIN} of"
                lines.append(
                    f"**{TITLES[record_.metrics['dataset']]}: {title} ({value:.4f}) is {relation} "
                    f"{record_.metrics['name']} ({model:.4f}).**  "
                )
    return lines


def _memory_in_doubt(records: list[Record]) -> list[str]:
    """Said first as well: the best model with the largest state, if a model with a smaller one does as well."""
    sized = [(state, r) for r in records if (state := r.metrics["runs"][0]["state_bytes"]) is not None]
    largest = max((state for state, _ in sized), default=0)
    small = [(state, r) for state, r in sized if state < largest]
    if not small:
        return []
    pair = [max(group, key=lambda one: _mean_auc(one[1])) for group in ([s for s in sized if s[0] == largest], small)]
    (_, best), (_, rival) = pair
    found = best.predictions.against(best.predictions.model, rival.predictions.model)
    if _verdict(found) == "better":
        return []
    names = [f"{r.metrics['name']} ({_mean_auc(r):.4f}, {state:,} bytes a user)" for state, r in pair]
    return [
        f"**{TITLES[best.metrics['dataset']]}: {names[0]} is not established to be better than {names[1]}: "
        f"{found.difference:+.4f} [{found.low:+.4f}, {found.high:+.4f}].**  "
    ]


def _section(dataset: str, records: list[Record]) -> list[str]:
    first, length = records[0].metrics["runs"][0], records[0].metrics["length"]
    rows = first["evaluation"][str(length)]["test"]["popularity"]["rows"]
    lines = [
        "",
        f"## {TITLES[dataset]}, latest {length} events",
        "",
        f"{rows} test rows; data `{first['data_sha256'][:16]}`, instances `{first['instances_sha256'][:16]}`.",
        "",
        "| row | seeds | popularity negatives | uniform negatives | state bytes | targets a CPU-second | commit |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for floor, title in FLOOR_TITLES.items():
        popularity, uniform = (_floor(records[0], sampling, floor) for sampling in ("popularity", "uniform"))
        lines.append(f"| {title} | - | {popularity:.4f} | {uniform:.4f} | - | - | `{first['commit']}` |")
    for record_ in records:
        runs = record_.metrics["runs"]
        lines.append(
            f"| {record_.metrics['name']} | {len(runs)} | {mean_std(_aucs(record_, 'popularity'))} "
            f"| {mean_std(_aucs(record_, 'uniform'))} | {_bytes(runs[0]['state_bytes'])} "
            f"| {statistics.fmean(one['targets_per_cpu_s'] for one in runs):,.0f} | `{runs[0]['commit']}` |"
        )
    lines += ["", "| difference | AUC | 95 % | |", "| --- | --- | --- | --- |"]
    lines += [
        _difference(
            f"{r.metrics['name']} − {FLOOR_TITLES[FLOOR]}", metrics.Interval(**r.metrics["difference_to_counts"])
        )
        for r in records
    ]
    for lower, higher in itertools.combinations(records, 2):
        names = f"{higher.metrics['name']} − {lower.metrics['name']}"
        lines.append(_difference(names, higher.predictions.against(higher.predictions.model, lower.predictions.model)))
    return lines


def _bytes(state: int | None) -> str:
    """The size of a user's state; a model without one reads the events, of which there is no end."""
    return "reads the events" if state is None else f"{state:,}"


def _stored(state: int | None) -> str:
    return "No state: it reads the events" if state is None else f"State {state} bytes a user"


def _difference(names: str, found: metrics.Interval) -> str:
    return f"| {names} | {found.difference:+.4f} | {found.low:+.4f} to {found.high:+.4f} | {_verdict(found)} |"


def _verdict(found: metrics.Interval) -> str:
    if (found.low > 0 or found.high < 0) and abs(found.difference) > CERTAIN:
        return "better" if found.difference > 0 else "worse"
    return "not established"


def _aucs(record_: Record, sampling: str) -> list[float]:
    length = str(record_.metrics["length"])
    return [one["evaluation"][length]["test"][sampling]["auc"] for one in record_.metrics["runs"]]


def _mean_auc(record_: Record) -> float:
    return statistics.fmean(_aucs(record_, "popularity"))


def _floor(record_: Record, sampling: str, floor: str) -> float:
    evaluation = record_.metrics["runs"][0]["evaluation"][str(record_.metrics["length"])]
    value: float = evaluation["floors"][sampling][floor]["auc"]
    return value


def read_records(folder: Path) -> list[Record]:
    """The records in the folders of `folder`, by name.

    Raises:
        NoRecord: a record cannot be read.
    """
    records = []
    for path in sorted(folder.glob(f"*/{run.METRICS}")):
        try:
            found = json.loads(path.read_text("utf-8"))
            with np.load(path.with_name(PREDICTIONS), allow_pickle=False) as archive:
                predictions = Predictions(
                    archive["label"].astype(np.int64),
                    archive["user_id"].astype(np.int64),
                    archive["model"].astype(np.float64),
                    archive["floor"].astype(np.float64),
                )
        except (OSError, ValueError, KeyError) as error:
            raise NoRecord(f"{path.parent} cannot be read: {error}") from error
        records.append(Record(found, predictions))
    return records


def main(arguments: list[str] | None = None) -> int:
    """Make a record or the table; see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m mimn.experiments", description="Records of experiments.")
    parser.set_defaults(command="table", folder=RECORDS)
    commands = parser.add_subparsers(dest="command", help="without one: the table of models/experiments")
    record_parser = commands.add_parser("record", help="finished runs of one configuration into one record")
    record_parser.add_argument("runs", type=Path, nargs="+", help="run folders, one a seed")
    record_parser.add_argument("--output", type=Path, required=True, help="folder of the record")
    record_parser.add_argument("--length", type=int, default=200, help="evaluated length (default 200)")
    table_parser = commands.add_parser("table", help=f"all records into {TABLE}")
    table_parser.add_argument("folder", type=Path, help="folder of all records")
    options = parser.parse_args(arguments)
    try:
        if options.command == "record":
            record(options.runs, options.output, options.length)
            print(f"wrote {options.output}")
        else:
            text = table(read_records(options.folder))
            (options.folder / TABLE).write_text(text, "utf-8")
            print(f"wrote {options.folder / TABLE}")
    except (NoRecord, ConfigError, DataError, metrics.UndefinedMetric, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
