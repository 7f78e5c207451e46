"""A run: its configuration, strictly read from TOML, and the data set that the configuration names.

Training, evaluation and export share this module. A run folder holds the resolved configuration, so the folder alone
says everything about the run.
"""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, get_args, get_origin, get_type_hints

import msgspec
import numpy as np
import tomli_w
from numpy.typing import NDArray

from mimn.baselines import ModelConfig, model_config
from mimn.config import ConfigError
from mimn.data.description import ActionRules, UserSplit
from mimn.data.events import DataError, Events
from mimn.data.instances import DEFAULT_RULE, Instances, stored_instances
from mimn.data.negatives import Exclusion, NegativeRule, Sampling
from mimn.data.preparation import cache_folder, prepare
from mimn.data.prepared import Prepared
from mimn.data.split import FOLDS, PARTS, Part, parts_of
from mimn.data.vocabulary import TwoCategories, Vocabulary, build_vocabulary
from mimn.data.windows import WindowPlan
from mimn.whole_file import writing

CONFIG, METRICS, MODEL, CHECKPOINT, LOG, CURVES = (
    "config.toml",
    "metrics.json",
    "model.safetensors",
    "checkpoint.safetensors",
    "train.log",
    "curves.png",
)
PREDICTIONS = "predictions-{length}.npz"
AUTO_EPOCHS = 500
"""The most epochs of a training run whose end validation chooses."""


class DataSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table `[data]`."""

    description: str
    """The data set's `dataset.toml`, relative to the working directory."""
    min_users: int = 5
    """Frequency cut: items that fewer train users touched share the unknown row."""
    fold: int | None = None
    """Which fifth of the users is tested (`mimn.data.split`); None: as the description says."""
    samplings: tuple[Sampling, ...] = DEFAULT_RULE.samplings
    """How negatives are drawn (`mimn.data.negatives`): `popularity`, `uniform`, `recent`. The first is what training
    draws and what chooses the epoch; all are evaluated."""
    negatives_exclude: Exclusion = DEFAULT_RULE.exclude
    """What a negative must not be: an item of the target's `basket`, or also one of the user's `history`, which is
    right where no user has an item twice."""

    def __post_init__(self) -> None:
        if self.fold is not None and not 0 <= self.fold < FOLDS:
            raise ValueError(f"fold must be 0 to {FOLDS - 1}, not {self.fold}")
        _ = self.negatives

    @property
    def negatives(self) -> NegativeRule:
        """How negatives are drawn."""
        return NegativeRule(self.samplings, self.negatives_exclude)


class TrainingSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table `[training]`."""

    seed: int = 0
    epochs: int | Literal["auto"] = 20
    """The most epochs. `auto` lets validation choose the schedule: it trains until `patience` runs out (at most
    `AUTO_EPOCHS`) and lowers the learning rate only after epochs that were not the best so far."""
    patience: int = 5
    """Training stops after this many epochs in a row without a better validation AUC."""
    windows_per_batch: int = 32
    learning_rate: float = 3e-3
    learning_rate_decay: float = 1.0
    """The learning rate is multiplied by this after every epoch; with `epochs = "auto"`, after every epoch that was not
    the best so far."""
    embeddings: Literal["dense", "sparse"] = "dense"
    """How the embedding tables learn: every row in every step, or only the rows that a batch looks up, at a cost that
    follows their number (`mimn.training.optimizers`)."""
    embedding_l2: float = 1e-5
    """Weight decay of the embedding tables, inside Adam; with sparse embeddings, of the rows that a batch looks up."""
    gradient_clip: float = 5.0
    """Largest norm of a step's gradient."""
    validation_length: int = 200
    """Events of history that validation reads."""
    compile: bool = False
    """Compile the step that runs once per event. MIMN compiles in seconds and then trains ten times as fast; the steps
    of other models take minutes to compile. Without a C++ compiler nothing is compiled."""

    def __post_init__(self) -> None:
        for name in ("epochs", "patience", "windows_per_batch", "validation_length"):
            if getattr(self, name) != "auto" and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("learning_rate", "learning_rate_decay", "gradient_clip"):
            if not getattr(self, name) > 0.0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        if self.seed < 0 or not self.embedding_l2 >= 0.0:
            raise ValueError("seed and embedding_l2 must be 0 or more")

    @property
    def most_epochs(self) -> int:
        """How many epochs training may have."""
        return AUTO_EPOCHS if self.epochs == "auto" else self.epochs


class DrawnTrainingSettings(TrainingSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table `[training]` of a run with drawn negatives."""

    teachers: int = 0
    """How many models of the same configuration are trained first, with other seeds: this one also learns of their mean
    score (`mimn.training.teachers`). With three, training takes five times as long."""
    teacher_share: float = 0.5
    """How much of a label is what the teachers say."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.teachers <= 16:
            raise ValueError(f"teachers must be 0 to 16, not {self.teachers}")
        if not 0 < self.teacher_share <= 1:
            raise ValueError(f"teacher_share must be above 0 and at most 1, not {self.teacher_share}")


class RunConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole configuration file."""

    name: str
    """What the model is called in tables."""
    data: DataSettings
    model: dict[str, Any] = msgspec.field(default_factory=dict)
    """The fields of `MimnConfig`, or of `BaselineConfig` if `variant` is one of its variants."""
    windows: WindowPlan = WindowPlan()
    training: DrawnTrainingSettings = DrawnTrainingSettings()

    @property
    def architecture(self) -> ModelConfig:
        """The model's configuration.

        Raises:
            ConfigError: it cannot be used, or it names context features: fields took their place.
        """
        config = model_config(self.model)
        if config.context_features:
            raise ConfigError(
                f"context_features must be empty in a run, not {list(config.context_features)}: describe the fields in "
                "dataset.toml, [fields.context], instead"
            )
        if config.member_reads:
            raise ConfigError(
                "member_reads must be false in a run: only candidates of impressions stand for other items"
            )
        return config

    def with_description(self, path: Path) -> RunConfig:
        """The same run on another data set."""
        return msgspec.structs.replace(self, data=msgspec.structs.replace(self.data, description=str(path)))

    def with_seed(self, seed: int) -> RunConfig:
        """The same run with another seed."""
        return msgspec.structs.replace(self, training=msgspec.structs.replace(self.training, seed=seed))

    def to_toml(self) -> str:
        """The configuration with every field written out: the inverse of `decode_config`."""
        tables = {
            "data": msgspec.to_builtins(self.data),
            "model": asdict(self.architecture),
            "windows": msgspec.to_builtins(self.windows),
            "training": msgspec.to_builtins(self.training),
        }
        known = {
            table: {key: value for key, value in values.items() if value is not None}
            for table, values in tables.items()
        }
        return tomli_w.dumps({"name": self.name, **known})


class HasArchitecture(Protocol):
    """A configuration file's value that describes a model."""

    @property
    def architecture(self) -> ModelConfig:
        """The model's configuration."""


class HasToml(HasArchitecture, Protocol):
    """A configuration that a run folder holds."""

    def to_toml(self) -> str:
        """The configuration with every field written out."""


C = TypeVar("C", bound=HasArchitecture)


def decode_config(text: str, source: str) -> RunConfig:
    """The configuration in `text`; see `decode`."""
    return decode(text, source, RunConfig)


def decode(text: str, source: str, kind: type[C]) -> C:
    """The configuration of type `kind` in `text`; `source` names it in errors.

    Raises:
        ConfigError: not TOML, or a field is unknown, missing, of the wrong type or out of range; the message names it.
    """
    try:
        config = msgspec.convert(tomllib.loads(text), kind)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source}: {error}") from error
    except msgspec.ValidationError as error:
        raise ConfigError(f"{source}: {with_allowed_values(str(error), kind)}") from error
    try:
        _ = config.architecture
    except ConfigError as error:
        raise ConfigError(f"{source}: [model] {error}") from error
    return config


def with_allowed_values(message: str, config: type) -> str:
    """msgspec's `message` on a value of the struct `config`; for a wrong literal, followed by the allowed ones.

    msgspec says "Invalid enum value 'x' - at `$.table.field`" and leaves them out.
    """
    path = re.fullmatch(r"Invalid enum value .* - at `\$\.(.+)`", message)
    if path is None:
        return message
    kind: Any = config
    for name in path[1].split("."):
        kind = get_type_hints(kind)[name.partition("[")[0]]
    return f"{message}; it must be one of {', '.join(_literals(kind))}"


def _literals(kind: Any) -> list[str]:
    """The values of all literals in a type."""
    if get_origin(kind) is Literal:
        return [str(value) for value in get_args(kind)]
    return ["a whole number"] * (kind is int) + [value for part in get_args(kind) for value in _literals(part)]


def read_config(path: Path) -> RunConfig:
    """The configuration in a file; see `read`."""
    return read(path, RunConfig)


def read(path: Path, kind: type[C]) -> C:
    """The configuration of type `kind` in a file.

    Raises:
        ConfigError: the file cannot be read, or see `decode`.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    return decode(text, str(path), kind)


@dataclass(frozen=True)
class DataSet:
    """Everything that training and evaluation need of the data."""

    prepared: Prepared
    events: Events
    train_users: NDArray[np.bool_]
    """[U]"""
    vocabulary: Vocabulary
    instances: Instances
    action_rules: ActionRules
    """What each action makes of an event; empty if all events are alike."""

    @property
    def name(self) -> str:
        """As the description says."""
        return self.prepared.description.name


def description_of(run: str, now: Path | None) -> Path:
    """The description of a run's data set: where it is `now`, else where it was in training, `run`.

    Raises:
        DataError: it is not there.
    """
    path = Path(run) if now is None else now
    if not path.exists():
        raise DataError(f"{path}, which the run was trained with, is gone: name the description by --description")
    return path


def load_data(settings: DataSettings, parts: Sequence[Part] = PARTS) -> DataSet:
    """The data set that the settings describe, and its instances of `parts`: all models and seeds of a split share
    these.

    Raises:
        DataError: the description or a file of it cannot be used, or another command trains on it.
    """
    path = Path(settings.description)
    prepared = prepare(path, cache_folder())
    _check_trainable(path, prepared)
    events, split = prepared.events, prepared.description.split
    fold = split.fold if settings.fold is None and isinstance(split, UserSplit) else settings.fold
    train_users = parts_of(events.users, fold) == PARTS.index("train")
    try:
        vocabulary = build_vocabulary(events, train_users)
    except TwoCategories as error:
        table, item = prepared.description.events, prepared.names("item", [error.item])[error.item]
        raise DataError(
            f"`events`, columns {table.item} and {table.category} of {', '.join(table.files)}: item {item} has two "
            "categories: give each item one"
        ) from error
    instances = stored_instances(prepared.folder, events, fold, settings.negatives)
    wanted = np.isin(instances.part, [PARTS.index(part) for part in parts])
    return DataSet(
        prepared=prepared,
        events=events,
        train_users=train_users,
        vocabulary=vocabulary,
        instances=instances if wanted.all() else instances.select(wanted),
        action_rules=prepared.description.action_rules,
    )


def _check_trainable(path: Path, prepared: Prepared) -> None:
    """Raises DataError if positives are not events."""
    described = prepared.description
    if described.impressions is not None:
        raise DataError(f"{path} has `[impressions]`: train on their labels with `ctr impressions train`")
    if described.protocol is not None:
        raise DataError(
            f"{path} has `[protocol]`, the authors' own instances: train on them with `python -m mimn.paper`"
        )


@cache
def commit() -> str:
    """The source's git commit, with `+` appended if this package's files differ from it; empty outside a checkout.

    As it is when a process first asks: the code that it runs does not change afterwards.
    """
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write `text`, whole or not at all."""
    with writing(path) as partial:
        partial.write_text(text, "utf-8")
