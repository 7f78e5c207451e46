"""A run: its configuration, strictly read from TOML, and the data set that the configuration names.

Training, evaluation and export share this module; a run folder holds the resolved configuration, so that everything
else about the run can be found from the folder alone.
"""

from __future__ import annotations

import json
import subprocess
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import tomli_w
from numpy.typing import NDArray

from mimn.baselines import ModelConfig, model_config
from mimn.config import ConfigError
from mimn.data import complete_journey, online_retail, synthetic
from mimn.data.events import Events
from mimn.data.instances import Instances, stored_instances
from mimn.data.split import FOLDS, PARTS, parts_of
from mimn.data.vocabulary import Vocabulary, build_vocabulary
from mimn.data.windows import WindowPlan

CONFIG, METRICS, MODEL, CHECKPOINT, LOG, CURVES = (
    "config.toml",
    "metrics.json",
    "model.safetensors",
    "checkpoint.safetensors",
    "train.log",
    "curves.png",
)
PREDICTIONS = "predictions-{length}.npz"


class DataSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table `[data]`."""

    dataset: Literal["online_retail", "complete_journey", "synthetic"]
    folder: str
    """Where the data set's files are, relative to the working directory; the instances file is kept beside them, or
    under `instances`."""
    instances: str
    """The instances file that all models and seeds share; made when it does not exist. A fold's has its number at the
    end of its name."""
    min_users: int = 5
    """Frequency cut: items that fewer train users touched share the unknown row."""
    fold: int | None = None
    """Which fifth of the users is tested (`mimn.data.split`); none: the split into eight, one and one tenths."""

    def __post_init__(self) -> None:
        if self.fold is not None and not 0 <= self.fold < FOLDS:
            raise ValueError(f"fold must be 0 to {FOLDS - 1}, not {self.fold}")

    @property
    def instances_path(self) -> Path:
        """The instances file of the fold."""
        path = Path(self.instances)
        return path if self.fold is None else path.with_name(f"{path.stem}-fold{self.fold}{path.suffix}")


class TrainingSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table `[training]`."""

    seed: int = 0
    epochs: int = 20
    """At most."""
    patience: int = 5
    """Epochs without a better validation AUC after which training stops."""
    windows_per_batch: int = 32
    learning_rate: float = 3e-3
    learning_rate_decay: float = 1.0
    """The learning rate is multiplied by this after every epoch."""
    embedding_l2: float = 1e-5
    """Weight decay of the embedding tables, inside Adam."""
    gradient_clip: float = 5.0
    """Largest norm of a step's gradient."""
    validation_length: int = 200
    """Events of history that validation reads."""
    compile: bool = False
    """Compile what is computed once an event: MIMN in some seconds and ten times as fast, the others' steps in minutes.
    Without a C++ compiler nothing is compiled."""

    def __post_init__(self) -> None:
        for name in ("epochs", "patience", "windows_per_batch", "validation_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("learning_rate", "learning_rate_decay", "gradient_clip"):
            if not getattr(self, name) > 0.0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        if self.seed < 0 or not self.embedding_l2 >= 0.0:
            raise ValueError("seed and embedding_l2 must be 0 or more")


class RunConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole configuration file."""

    name: str
    """What the model is called in tables."""
    data: DataSettings
    model: dict[str, Any] = msgspec.field(default_factory=dict)
    """The fields of `MimnConfig`, or of `BaselineConfig` where `variant` is one of its."""
    windows: WindowPlan = WindowPlan()
    training: TrainingSettings = TrainingSettings()

    @property
    def architecture(self) -> ModelConfig:
        """The model's configuration."""
        return model_config(self.model)

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


def decode_config(text: str, source: str) -> RunConfig:
    """The configuration in `text`; `source` names it in errors.

    Raises:
        ConfigError: not TOML, or a field is unknown, missing, of the wrong type or out of range; the message names it.
    """
    try:
        config = msgspec.convert(tomllib.loads(text), RunConfig)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(f"{source}: {error}") from error
    try:
        model_config(config.model)
    except ConfigError as error:
        raise ConfigError(f"{source}: [model] {error}") from error
    return config


def read_config(path: Path) -> RunConfig:
    """The configuration in a file.

    Raises:
        ConfigError: the file cannot be read, or see `decode_config`.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    return decode_config(text, str(path))


@dataclass(frozen=True)
class DataSet:
    """Everything that training and evaluation need of the data."""

    events: Events
    train_users: NDArray[np.bool_]
    """[U]"""
    vocabulary: Vocabulary
    instances: Instances


def load_data(settings: DataSettings) -> DataSet:
    """The data set that the settings name, and its instances.

    Raises:
        DataError: files are missing or damaged.
    """
    if settings.dataset == "online_retail":
        events = online_retail.read(settings.folder)
    elif settings.dataset == "complete_journey":
        events = complete_journey.read(settings.folder)
    else:
        events = synthetic.make()
    train_users = parts_of(events.users, settings.fold) == PARTS.index("train")
    vocabulary = build_vocabulary(events, train_users)
    return DataSet(events, train_users, vocabulary, stored_instances(settings.instances_path, events, settings.fold))


def commit() -> str:
    """The source's git commit, `+` behind it when this package's files differ from it; empty outside a checkout."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    partial = path.with_name(f".{path.name}.tmp")
    partial.write_text(json.dumps(value, indent=2) + "\n", "utf-8")
    partial.replace(path)
