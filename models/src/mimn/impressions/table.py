"""A table of models of one data set: a plan's rows, each trained with several seeds, measured on groups of the test.

Results are one JSON file. A row and seed that it holds with the same configuration and data is not run again, so a run
that was cut off goes on where it ended. The test impressions are read once a trained model.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mimn.calibration import CalibrationError, Method
from mimn.config import ConfigError, SharedConfig
from mimn.impressions.calibrate import calibrate
from mimn.impressions.config import ImpressionConfig
from mimn.impressions.data import ImpressionData
from mimn.impressions.evaluate import probabilities_of
from mimn.impressions.figures import Rows, figures
from mimn.impressions.train import train
from mimn.impressions.trained import TrainedRun
from mimn.training.loop import Running

log = logging.getLogger("mimn.table")
Mask = NDArray[np.bool_]
SHARED = frozenset(field.name for field in fields(SharedConfig))


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

    def settings(self, row: Row, seed: int) -> dict[str, Any]:
        """What the base and the row write of a configuration; fields that neither names have their defaults.

        Raises:
            ConfigError: the base cannot be read.
        """
        try:
            written = tomllib.loads(Path(self.base).read_text("utf-8"))
        except (OSError, tomllib.TOMLDecodeError) as error:
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
        """Hash of `settings`: a field that is added to the code with a default does not change it."""
        return hashlib.sha256(json.dumps(self.settings(row, seed), sort_keys=True).encode()).hexdigest()


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of one trained model."""

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


def read_plan(path: Path) -> Plan:
    """The plan in a file.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        plan = msgspec.convert(tomllib.loads(path.read_text("utf-8")), Plan)
    except (OSError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(f"{path}: {error}") from error
    names = [row.name for row in plan.rows]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"{path}: two rows are called {repeated[0]!r}")
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
    """Rows and seeds without a result of the same settings and data: all rows of one seed, then of the next."""
    have = {(one.row, one.seed, one.settings_sha256) for one in done if one.data_sha256 == data_sha256}
    for seed in plan.seeds:
        for row in plan.rows:
            if (row.name, seed, plan.settings_sha256(row, seed)) not in have:
                yield row, seed


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
    for row, seed in still_to_run(plan, done, data.sha256):
        if only is not None and row.name not in only:
            continue
        log.info("%s, seed %d", row.name, seed)
        folder = Path(plan.runs) / hashlib.sha256(f"{row.name}\0{seed}".encode()).hexdigest()[:16]
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was cut off
        config = plan.config(row, seed)
        train(description, config, folder, Running(progress_bar=progress_bar), cache=cache)
        one = measure(plan, row, TrainedRun.load(folder, cache, description))
        done = [other for other in done if (other.row, other.seed) != (row.name, seed)] + [one]
        _write(results, done)
        shutil.rmtree(folder)
    return done


def measure(plan: Plan, row: Row, trained: TrainedRun) -> Done:
    """The test figures of a trained row."""
    length = trained.config.training.validation_length
    try:
        calibrate(trained, plan.calibration, length)
    except CalibrationError as error:
        log.warning("%s is not calibrated: %s", row.name, error)
    predicted = trained.predict("test", length)
    kinds = probabilities_of(trained, predicted, length)
    users = trained.data.labelled.impressions.user_id[predicted.occasions.rows]
    rows = Rows(predicted.labels, predicted.scores, kinds, users, predicted.weights)
    each = {}
    for text, mask in values(trained, predicted.occasions.rows, plan.each).items():
        clicks = {"clicks": float(predicted.labels[mask].sum()), "rows": float(mask.sum())}
        each[text] = clicks | {kind: float(p[mask].sum()) for kind, p in kinds.items()}
    return Done(
        row=row.name,
        seed=trained.config.training.seed,
        settings_sha256=plan.settings_sha256(row, trained.config.training.seed),
        data_sha256=trained.data.sha256,
        commit=trained.record["commit"],
        cpu_s=round(sum(epoch["cpu_s"] for epoch in trained.record["curve"]), 1),
        epochs=trained.record["epochs"],
        best_epoch=trained.record["best_epoch"],
        parameters=trained.record["parameters"],
        groups={"all": figures(rows)}
        | {
            name: figures(rows.where(_group(trained, predicted.occasions.rows, wanted)))
            for name, wanted in plan.groups.items()
        },
        each=each,
    )


def values(trained: TrainedRun, rows: NDArray[np.int64], column: str) -> dict[str, Mask]:
    """By value of a context field or slice, where it stands. [n] → [n] each

    Raises:
        ConfigError: there is no such column.
    """
    shown = trained.data.labelled.impressions
    columns = {**shown.context, **shown.slices}
    if column not in columns:
        raise ConfigError(f"the data set has no context field or slice {column!r}, but {', '.join(columns)}")
    codes = columns[column][rows]
    texts = trained.data.prepared.texts.get(column, {})
    return {texts.get(code, str(code)): codes == code for code in np.unique(codes).tolist()}


def _group(trained: TrainedRun, rows: NDArray[np.int64], wanted: Mapping[str, tuple[str, ...]]) -> Mask:
    inside = np.ones(len(rows), np.bool_)
    for column, texts in wanted.items():
        masks = values(trained, rows, column)
        inside &= np.any([masks[text] for text in texts if text in masks], axis=0)
    return inside


def _write(path: Path, done: list[Done]) -> None:
    """One model a line, so that a difference of two versions can be read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.tmp")
    lines = [json.dumps(_rounded(msgspec.to_builtins(one)), ensure_ascii=False) for one in done]
    partial.write_text("[\n" + ",\n".join(lines) + "\n]\n", "utf-8")
    partial.replace(path)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return float(f"{value:.6g}") if isinstance(value, float) else value
