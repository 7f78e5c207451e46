"""A table of models of one data set: a plan's rows, each trained with several seeds, measured on groups of the test.

Results are one JSON file. A row and seed that it holds with the same configuration and data is not run again, so a run
that was cut off goes on where it ended. The test impressions are read once a trained model.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mimn.calibration import CalibrationError, Method
from mimn.config import ConfigError, SharedConfig
from mimn.impressions.calibrate import calibrated
from mimn.impressions.config import ImpressionConfig
from mimn.impressions.data import ImpressionData
from mimn.impressions.evaluate import probabilities_of
from mimn.impressions.figures import Rows, differences, figures
from mimn.impressions.floors import FloorSettings, fit_floor
from mimn.impressions.train import train
from mimn.impressions.trained import Fitted, Scorer, TrainedRun
from mimn.run import write_text
from mimn.toml_text import NotToml, parsed
from mimn.training.loop import Running

log = logging.getLogger("mimn.table")
Mask = NDArray[np.bool_]
CORRECTED, PROGRESSIVE = "corrected", "progressive"
"""Kinds of probability that the page shows."""
SHARED = frozenset(field.name for field in fields(SharedConfig))


class Compared(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which rows are compared with a floor, impression by impression."""

    to: str
    """The floor's row."""
    rows: tuple[str, ...]


class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model: the plan's base with some other settings. With another variant the fields of the base that not all
    variants have are dropped."""

    name: str
    reads: str = ""
    """What it reads of the history, for the page."""
    model: dict[str, Any] = {}
    windows: dict[str, Any] = {}
    training: dict[str, Any] = {}
    history: bool = True
    floor: FloorSettings | None = None
    """Not a model but a floor, which reads what this configuration names. It is fitted once, with the first seed."""


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A plan file."""

    title: str
    description: str
    """File of the data set, relative to the working directory, as all paths here."""
    base: str
    """Configuration that the rows share."""
    seeds: tuple[int, ...]
    calibration: Method
    """How scores become probabilities; progressive figures are by this method, too."""
    groups: dict[str, dict[str, tuple[str, ...]]]
    """Groups of the test impressions: by column (a context field or a slice), the values."""
    each: str
    """A column for each of whose values ΣP/Σy is said."""
    results: str
    page: str
    runs: str = "runs/impressions"
    """Folder of what is being trained; a measured run is removed."""
    rows: tuple[Row, ...]
    compared: Compared | None = None

    def row(self, name: str) -> Row:
        """The row of a name."""
        return next(row for row in self.rows if row.name == name)

    def floor_of(self, row: Row) -> Row | None:
        """The floor that a row is compared with, None for most rows."""
        if self.compared is None or row.name not in self.compared.rows:
            return None
        return self.row(self.compared.to)

    def settings(self, row: Row, seed: int) -> dict[str, Any]:
        """What the base and the row write of a configuration; fields that neither names have their defaults.

        Raises:
            ConfigError: the base cannot be read.
        """
        try:
            written = parsed(Path(self.base).read_text("utf-8"))
        except (OSError, NotToml) as error:
            raise ConfigError(f"{self.base}: {error}") from error
        model = written.get("model", {})
        if "variant" in row.model:
            model = {name: value for name, value in model.items() if name in SHARED}
        training = written.get("training", {}) | row.training | {"seed": seed}
        return written | {
            "name": row.name,
            "history": row.history,
            "model": model | row.model,
            "windows": written.get("windows", {}) | row.windows,
            "training": training,
        }

    def config(self, row: Row, seed: int) -> ImpressionConfig:
        """The configuration of a row.

        Raises:
            ConfigError: the base or the row cannot be used.
        """
        try:
            config = msgspec.convert(self.settings(row, seed), ImpressionConfig)
        except msgspec.ValidationError as error:
            raise ConfigError(f"row {row.name!r}: {error}") from error
        _ = config.architecture
        return config

    def settings_sha256(self, row: Row, seed: int) -> str:
        """Hash of `settings` and the floor's: a field that is added to the code with a default does not change it."""
        settings = self.settings(row, seed)
        if row.floor is not None:
            settings["floor"] = msgspec.to_builtins(row.floor)
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


class Done(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is kept of one trained model, or of a floor: its epochs are the predictors that validation chose from."""

    row: str
    seed: int
    settings_sha256: str
    data_sha256: str
    commit: str
    cpu_s: float
    """Of the training passes."""
    epochs: int
    best_epoch: int
    parameters: int
    groups: dict[str, Any]
    """`mimn.impressions.figures.figures` of each group; `all` is the whole test."""
    each: dict[str, dict[str, float]]
    """By value of the plan's column: impressions, clicks, and predicted clicks of each kind."""
    chosen: str = ""
    """Of a floor: what validation chose."""
    floor_sha256: str = ""
    """`settings_sha256` of the floor that this was compared with."""
    over_floor: dict[str, Any] = {}
    """`mimn.impressions.figures.differences` to that floor, by group as `groups`."""


def read_plan(path: Path) -> Plan:
    """The plan in a file.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        plan = msgspec.convert(parsed(path.read_text("utf-8")), Plan)
    except (OSError, NotToml, msgspec.ValidationError) as error:
        raise ConfigError(f"{path}: {error}") from error
    names = [row.name for row in plan.rows]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"{path}: two rows are called {repeated[0]!r}")
    if plan.compared is not None:
        floors = {row.name for row in plan.rows if row.floor is not None}
        if plan.compared.to not in floors:
            raise ConfigError(f"{path}: compared.to must be a row with a floor, not {plan.compared.to!r}")
        if wrong := sorted(set(plan.compared.rows) - (set(names) - floors)):
            raise ConfigError(f"{path}: compared.rows must be rows without a floor, not {wrong[0]!r}")
    return plan


def read_results(path: Path) -> list[Done]:
    """What was measured so far.

    Raises:
        ConfigError: the file is damaged.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Done])
    except FileNotFoundError:
        return []
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigError(
            f"{path} cannot be read ({error}): restore it, or remove it to run everything again"
        ) from error


def still_to_run(plan: Plan, done: list[Done], data_sha256: str) -> Iterator[tuple[Row, int]]:
    """Rows and seeds without a result of the same settings, data and floor: all rows of one seed, then of the next."""
    have = {
        (one.row, one.seed, one.settings_sha256, one.floor_sha256) for one in done if one.data_sha256 == data_sha256
    }
    for seed in plan.seeds:
        for row in plan.rows:
            if row.floor is not None and seed != plan.seeds[0]:
                continue
            if (row.name, seed, plan.settings_sha256(row, seed), _floor_sha256(plan, row)) not in have:
                yield row, seed


def _floor_sha256(plan: Plan, row: Row) -> str:
    floor = plan.floor_of(row)
    return "" if floor is None else plan.settings_sha256(floor, plan.seeds[0])


@dataclass(frozen=True)
class Measured:
    """A row's predictions of the test impressions."""

    scorer: Scorer
    places: NDArray[np.int64]
    """[n]: the impressions."""
    rows: Rows
    """[n]"""


def make(plan: Plan, cache: Path, *, only: Sequence[str] | None = None, progress_bar: bool = False) -> list[Done]:
    """Train and measure what is missing, of `only` these rows; the results file is written after every model.

    Raises:
        ConfigError, DataError, TrainingFailed: a row cannot be trained; those before it are kept.
    """
    if unknown := sorted(set(only or ()) - {row.name for row in plan.rows}):
        raise ConfigError(f"the plan has no row {unknown[0]!r}")
    results = Path(plan.results)
    description = Path(plan.description)
    data = ImpressionData.load(description, cache)
    done = read_results(results)
    floors: dict[str, Measured] = {}  # only rows of this call that are compared need their scores

    def floor_of(row: Row, floor: FloorSettings) -> Measured:
        if row.name not in floors:
            floors[row.name] = measured(plan, fit_floor(floor, plan.config(row, plan.seeds[0]), data))
        return floors[row.name]

    for row, seed in still_to_run(plan, done, data.sha256):
        if only is not None and row.name not in only:
            continue
        log.info("%s, seed %d", row.name, seed)
        if row.floor is None:
            other = plan.floor_of(row)
            against = None if other is None or other.floor is None else floor_of(other, other.floor)
            folder = Path(plan.runs) / hashlib.sha256(f"{row.name}\0{seed}".encode()).hexdigest()[:16]
            shutil.rmtree(folder, ignore_errors=True)  # of a run that was cut off
            train(description, plan.config(row, seed), folder, Running(progress_bar=progress_bar), cache=cache)
            one = done_of(plan, row, measured(plan, TrainedRun.load(folder, cache, description)), against)
            shutil.rmtree(folder)
        else:
            one = done_of(plan, row, floor_of(row, row.floor))
        done = [other for other in done if (other.row, other.seed) != (row.name, seed)] + [one]
        _write(results, done)
    return done


def measured(plan: Plan, scorer: Scorer) -> Measured:
    """What a trained model or a floor predicts of the test impressions."""
    length = scorer.config.training.validation_length
    fitted = None
    try:
        fitted = Fitted(plan.calibration, calibrated(scorer, plan.calibration, length))
    except CalibrationError as error:
        log.warning("%s is not calibrated: %s", scorer.config.name, error)
    predicted = scorer.predict("test", length)
    kinds = probabilities_of(scorer, predicted, length, fitted)
    places = predicted.occasions.rows
    users = scorer.data.labelled.impressions.user_id[places]
    return Measured(scorer, places, Rows(predicted.labels, predicted.scores, kinds, users, predicted.weights))


def done_of(plan: Plan, row: Row, found: Measured, floor: Measured | None = None) -> Done:
    """The test figures of a trained row, and their differences to those of a floor."""
    scorer, rows = found.scorer, found.rows
    each = {}
    for text, mask in values(scorer.data, found.places, plan.each).items():
        clicks = {"clicks": float(rows.labels[mask].sum()), "rows": float(mask.sum())}
        # An unclicked impression stands for those that the files left out, as in all figures of probabilities.
        each[text] = clicks | {kind: float(rows.weights[mask] @ p[mask]) for kind, p in rows.probabilities.items()}
    masks = {"all": np.ones(len(found.places), np.bool_)}
    masks |= {name: _group(scorer.data, found.places, wanted) for name, wanted in plan.groups.items()}
    over_floor = {}
    if floor is not None:
        ours, theirs = (_comparable(of.rows) for of in (found, floor))
        over_floor = {name: differences(ours.where(mask), theirs.where(mask)) for name, mask in masks.items()}
    return Done(
        row=row.name,
        seed=scorer.config.training.seed,
        settings_sha256=plan.settings_sha256(row, scorer.config.training.seed),
        data_sha256=scorer.data.sha256,
        groups={name: figures(rows.where(mask)) for name, mask in masks.items()},
        each=each,
        floor_sha256=_floor_sha256(plan, row),
        over_floor=over_floor,
        **scorer.training,
    )


def _comparable(rows: Rows) -> Rows:
    """With the kinds of probability of the page: corrected for negatives that were left out, and progressive."""
    kinds = rows.probabilities
    compared = {CORRECTED: kinds[corrected(kinds)]}
    if PROGRESSIVE in kinds:
        compared[PROGRESSIVE] = kinds[PROGRESSIVE]
    return replace(rows, probabilities=compared)


def corrected(kinds: Collection[str]) -> str:
    """Which kind of probability is corrected for negatives that were left out: if none were, the raw one."""
    return "prior" if "prior" in kinds else "raw"


def values(data: ImpressionData, rows: NDArray[np.int64], column: str) -> dict[str, Mask]:
    """By value of a context field or slice, where it stands. [n] → [n] each

    Raises:
        ConfigError: there is no such column.
    """
    shown = data.labelled.impressions
    columns = {**shown.context, **shown.slices}
    if column not in columns:
        raise ConfigError(f"the data set has no context field or slice {column!r}, but {', '.join(columns)}")
    codes = columns[column][rows]
    texts = data.prepared.texts.get(column, {})
    if codes.dtype == np.uint64:  # a number that is 0 is one, a code that is 0 is no value
        texts = texts | {0: "missing"}
    return {texts.get(code, str(code)): codes == code for code in np.unique(codes).tolist()}


def _group(data: ImpressionData, rows: NDArray[np.int64], wanted: Mapping[str, tuple[str, ...]]) -> Mask:
    inside = np.ones(len(rows), np.bool_)
    for column, texts in wanted.items():
        masks = values(data, rows, column)
        inside &= np.any([masks[text] for text in texts if text in masks], axis=0)
    return inside


def _write(path: Path, done: list[Done]) -> None:
    """One model a line, so that a difference of two versions can be read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(_rounded(msgspec.to_builtins(one)), ensure_ascii=False) for one in done]
    write_text(path, "[\n" + ",\n".join(lines) + "\n]\n")


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return float(f"{value:.6g}") if isinstance(value, float) else value
