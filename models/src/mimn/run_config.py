"""The configuration of a run with drawn negatives: its tables `[data]`, `[model]`, `[windows]` and `[training]`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import tomli_w

from mimn import config_file
from mimn.baselines import ModelConfig, model_config
from mimn.config import ConfigError
from mimn.data.instances import DEFAULT_RULE, MIN_HISTORY
from mimn.data.negatives import Exclusion, NegativeRule, Sampling
from mimn.data.split import FOLDS
from mimn.data.windows import WindowPlan
from mimn.training.settings import TrainingSettings


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
    min_history: int = MIN_HISTORY
    """Events that must precede a target that a model is judged on, in validation and in the test part. What training
    reads is `min_history` of `[windows]`."""

    def __post_init__(self) -> None:
        if self.fold is not None and not 0 <= self.fold < FOLDS:
            raise ValueError(f"fold must be 0 to {FOLDS - 1}, not {self.fold}")
        if self.min_history < 1:
            raise ValueError(f"min_history must be at least 1, not {self.min_history}")
        _ = self.negatives

    @property
    def negatives(self) -> NegativeRule:
        """How negatives are drawn."""
        return NegativeRule(self.samplings, self.negatives_exclude)


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


def decode_config(text: str, source: str) -> RunConfig:
    """The configuration in `text`; see `mimn.config_file.decode`."""
    return config_file.decode(text, source, RunConfig)


def read_config(path: Path) -> RunConfig:
    """The configuration in a file; see `mimn.config_file.read`."""
    return config_file.read(path, RunConfig)
