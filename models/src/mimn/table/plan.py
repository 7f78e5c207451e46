"""The plan of the table: its rows, their folds, the settings that they share, and which rows are still to be run.

A plan is a TOML file that names the configurations that its rows are made of. A cell, one row on one fold, is done when
its record (`mimn.table.records`) says that it was run with the same configuration.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import msgspec

from mimn import run
from mimn.config import ConfigError
from mimn.data.description import read_description
from mimn.data.split import FOLDS
from mimn.data.windows import WindowPlan
from mimn.data_set import load_data
from mimn.run_config import DataSettings, DrawnTrainingSettings, RunConfig, decode_config, read_config
from mimn.table.boosting import BOOSTING_NAME, BOOSTING_ROW
from mimn.table.records import FLOOR_ROW, SEEDS_APART, TRAININGS, Record, training_key
from mimn.toml_text import NotToml, parsed

PLAN = Path("models/plans/table.toml")
CONFIG_OF = {FLOOR_ROW: "pooling", BOOSTING_ROW: "pooling_ledger"}
"""Rows without a configuration of their own, and the row whose data they read; boosting also what that row reads."""
_DATA_DEFAULTS = {field.name: field.default for field in msgspec.structs.fields(DataSettings)}


class Variation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A row that is another row's configuration with other fields of its tables."""

    config: str
    name: str
    model: dict[str, Any] = {}
    training: dict[str, Any] = {}
    windows: dict[str, Any] = {}
    data: dict[str, Any] = {}


class Stage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rows that are run together: all of them on one fold, then on the next, then again with other seeds."""

    dataset: str
    rows: tuple[str, ...]
    """`floors`, `boosting`, a variation, or X for the configuration `<dataset>_X.toml`."""
    lengths: tuple[int, ...] = (200,)
    """Each trained model is evaluated on histories of these lengths, a user's latest events."""
    folds: tuple[int, ...] = tuple(range(FOLDS))
    trainings: Annotated[int, msgspec.Meta(ge=1, le=TRAININGS)] = 1
    """How often each row is trained on each fold, with another seed each time. Rows that nothing random decides
    (`CONFIG_OF`) are run once."""
    description: str | None = None
    """The data set's description, instead of that of the configurations: the same events with other fields."""


class DataSetPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the rendered table says of a data set."""

    title: str
    week_rows: tuple[str, ...] = ()
    """Rows that are `mimn_bounded` without the targets of one week: of the busiest, and of one with as many purchases
    as the median (`mimn.table.weeks`)."""
    expected: tuple[tuple[int, float], ...] = ()
    """Length and test AUC that the best small model was expected to reach before anything was run."""


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A plan file."""

    configs: str
    """Folder of the configurations."""
    records: str
    """Folder of the records."""
    runs: str
    """Folder of the run folders, models included."""
    stages: tuple[Stage, ...]
    training: dict[str, Any] = {}
    """Fields of `[training]` that all rows have instead of their own."""
    windows: dict[str, Any] = {}
    variations: dict[str, Variation] = {}
    datasets: dict[str, DataSetPlan] = {}

    def of(self, dataset: str) -> DataSetPlan:
        """What the plan says of a data set; one that it does not name is called by its key."""
        return self.datasets.get(dataset) or DataSetPlan(title=dataset)

    def title(self, dataset: str) -> str:
        """A data set's title."""
        return self.of(dataset).title


@dataclass(frozen=True)
class Cell:
    """One row on one fold."""

    dataset: str
    key: str
    fold: int
    lengths: tuple[int, ...]
    config: RunConfig
    """Of the row, its fold set. The floors have one for its data alone."""

    @property
    def fingerprint(self) -> str:
        """sha256 of what decides the cell's figures, the code aside.

        It covers every value that is not its field's default, so that a field that is added later changes nothing.
        Where files are and whether the step is compiled do not matter.
        """
        config, whole = self.config, {}
        chosen = _chosen(msgspec.to_builtins(config.data), _DATA_DEFAULTS, leave_out=("description",))
        described = read_description(config.data.description)
        whole["data"] = {"dataset": described.name} | chosen
        if described.fields:
            whole["fields"] = msgspec.to_builtins(described.fields)
        if self.key != FLOOR_ROW:
            architecture = config.architecture
            whole["model"] = _chosen(asdict(architecture), asdict(type(architecture)()), leave_out=())
        if self.key not in {
            FLOOR_ROW,
            BOOSTING_ROW,
        }:  # boosting reads what the model reads; it is trained in another way
            whole["windows"] = _chosen(msgspec.to_builtins(config.windows), msgspec.to_builtins(WindowPlan()))
            training = msgspec.to_builtins(DrawnTrainingSettings())
            whole["training"] = _chosen(msgspec.to_builtins(config.training), training, leave_out=("compile",))
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()

    @property
    def run_folder(self) -> str:
        """Where the cell's run is, under the plan's `runs`; another configuration is another folder."""
        return f"{self.dataset}/{self.key}/fold{self.fold}-{self.fingerprint[:8]}"

    @property
    def title(self) -> str:
        """How messages name the cell."""
        return f"{self.dataset} {self.key}, fold {self.fold}"


def _chosen(values: Mapping[str, Any], defaults: Mapping[str, Any], leave_out: tuple[str, ...] = ()) -> dict[str, Any]:
    """The values that are not the defaults."""
    return {
        name: value
        for name, value in values.items()
        if name not in leave_out and (name not in defaults or value != defaults[name])
    }


def read_plan(path: Path) -> Plan:
    """The plan in a file.

    Raises:
        ConfigError: it cannot be read, or a field is unknown, missing or of the wrong type; the message names it.
    """
    try:
        return msgspec.convert(parsed(path.read_text("utf-8")), Plan)
    except (OSError, UnicodeDecodeError, NotToml, msgspec.ValidationError) as error:
        raise ConfigError(f"{path}: {error}") from error


def plan_files(folder: Path) -> list[Path]:
    """The files of a folder that are plans: TOML with stages.

    Raises:
        ConfigError: a TOML file cannot be read.
    """
    try:
        return [path for path in sorted(folder.glob("*.toml")) if "stages" in parsed(path.read_text("utf-8"))]
    except (OSError, UnicodeDecodeError, NotToml) as error:
        raise ConfigError(f"a plan in {folder} cannot be read: {error}") from error


def cells(plan: Plan) -> list[Cell]:
    """The cells of a plan in the order in which they are run.

    Raises:
        ConfigError: a configuration cannot be used, or the rows of a data set differ in their data.
    """
    found = []
    for stage in plan.stages:
        rows = {key: _row_config(plan, stage, key) for key in stage.rows}
        if len({config.data for config in rows.values()}) > 1:
            raise ConfigError(f"the rows of {stage.dataset} differ in [data]: they cannot be compared")
        for training, fold in itertools.product(range(stage.trainings), stage.folds):
            for row, config in rows.items():
                if training == 0 or row not in CONFIG_OF:
                    key, seeded = training_key(row, training), _of_fold(config, fold, training)
                    found.append(Cell(stage.dataset, key, fold, stage.lengths, seeded))
    return found


def planned(plans: Iterable[Plan]) -> dict[Path, Cell]:
    """The cells of plans by their run folders; one that several stages name has the lengths of all of them.

    Raises:
        ConfigError: a configuration cannot be used.
    """
    found: dict[Path, Cell] = {}
    for plan in plans:
        for cell in cells(plan):
            folder = Path(plan.runs) / cell.run_folder
            lengths = {*cell.lengths, *found.get(folder, cell).lengths}
            found[folder] = replace(cell, lengths=tuple(sorted(lengths)))
    return found


def _row_config(plan: Plan, stage: Stage, key: str) -> RunConfig:
    variation = plan.variations.get(key)
    name = key if variation is None else variation.config
    name = CONFIG_OF.get(key, name)
    path = Path(plan.configs) / f"{stage.dataset}_{name}.toml"
    config = read_config(path)
    changes: dict[str, Any] = {
        "training": msgspec.to_builtins(config.training) | plan.training,
        "windows": msgspec.to_builtins(config.windows) | plan.windows,
        "data": msgspec.to_builtins(config.data),
    }
    if stage.description is not None:
        changes["data"]["description"] = stage.description
    if variation is not None:
        changes |= {"name": variation.name, "model": config.model | variation.model}
        changes["training"] |= variation.training
        changes["windows"] |= variation.windows
        changes["data"] |= variation.data
    source = f"{path} in the plan's row {key!r}"
    try:
        changed = msgspec.convert(msgspec.to_builtins(config) | changes, RunConfig)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{source}: {error}") from error
    return decode_config(changed.to_toml(), source)


def _of_fold(config: RunConfig, fold: int, training: int) -> RunConfig:
    """The configuration on one fold and in one training, whose numbers decide its seed."""
    data = msgspec.structs.replace(config.data, fold=fold)
    seed = config.training.seed + fold + SEEDS_APART * training
    return msgspec.structs.replace(config, data=data).with_seed(seed)


def check_data(of: Iterable[Cell]) -> None:
    """Load each data set of some cells once, so that missing data is an error before anything is trained.

    Raises:
        DataError: files are missing or damaged.
    """
    for cell in {cell.dataset: cell for cell in of}.values():
        load_data(cell.config.data)


def open_cells(plan: Plan) -> list[Cell]:
    """The cells whose figures no record has, or has for another configuration.

    Raises:
        ConfigError, NoRecord: the plan, a configuration or a record cannot be used.
    """
    read: dict[tuple[str, str], Record] = {}  # each once: its cells are its folds
    found: list[Cell] = []
    for cell in cells(plan):
        key = (cell.dataset, cell.key)
        if key not in read:
            read[key] = record_of(plan, cell)
        if not _is_done(read[key], cell):
            found.append(cell)
    return found


def record_of(plan: Plan, cell: Cell) -> Record:
    """The record that a cell belongs to, empty if there is none yet.

    Raises:
        NoRecord: it cannot be read.
    """
    folder = Path(plan.records) / cell.dataset / cell.key
    if (folder / run.METRICS).exists():
        return Record.load(folder)
    names = {FLOOR_ROW: FLOOR_ROW, BOOSTING_ROW: BOOSTING_NAME}
    return Record(cell.dataset, cell.key, names.get(cell.key, cell.config.name))


def _is_done(record: Record, cell: Cell) -> bool:
    known = record.folds.get(cell.fold, {})
    return known.get("config_sha256") == cell.fingerprint and set(map(str, cell.lengths)) <= set(known["evaluation"])


def remaining(plan: Plan) -> Iterator[str]:
    """What is still to be run, a line for each row."""
    rows: dict[tuple[str, str], list[int]] = {}
    for cell in open_cells(plan):
        rows.setdefault((cell.dataset, cell.key), []).append(cell.fold)
    for (dataset, key), folds in rows.items():
        once = sorted(set(folds))
        yield f"{dataset} {key}: fold{'s' if once[1:] else ''} {', '.join(map(str, once))}"
