"""The configuration of a model of labelled impressions, strictly read from TOML. `dataset.toml` describes the data."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import msgspec
import tomli_w

from mimn.baselines import ModelConfig, check_reads_fields, model_config
from mimn.config import ConfigError
from mimn.data.description import Description
from mimn.training.settings import TrainingSettings


class OccasionPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table `[windows]`."""

    length: int = 256
    """Most events in a window."""
    occasions: int = 24
    """Most occasions in a window."""
    negatives_kept: float = 1.0
    """The share of unclicked impressions that an epoch reads. Scores are too high by it until `calibrate` corrects
    them."""

    def __post_init__(self) -> None:
        for name in ("length", "occasions"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0.0 < self.negatives_kept <= 1.0:
            raise ValueError(f"negatives_kept must be above 0 and at most 1, not {self.negatives_kept}")


class ImpressionConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole configuration file."""

    name: str
    """What the model is called in tables."""
    history: bool = True
    """Whether the model reads events. Without: what the candidate and the fields alone are worth."""
    min_count: int = 5
    """Items with fewer train events and impressions share the unknown item's embedding."""
    model: dict[str, Any] = msgspec.field(default_factory=dict)
    """The fields of `MimnConfig`, or of `BaselineConfig` if `variant` is one of its variants."""
    windows: OccasionPlan = OccasionPlan()
    training: TrainingSettings = TrainingSettings()
    """`patience` counts epochs without a better validation log loss."""

    def __post_init__(self) -> None:
        if self.min_count < 1:
            raise ValueError(f"min_count must be at least 1, not {self.min_count}")

    @property
    def architecture(self) -> ModelConfig:
        """The model's configuration.

        Raises:
            ConfigError: it cannot be used on labelled impressions.
        """
        config = model_config(self.model)
        if config.context_features:
            raise ConfigError(
                "context_features must be empty: describe the fields in dataset.toml, [fields.context], instead"
            )
        if not self.history and (config.ledger is not None or config.sketch is not None):
            raise ConfigError("ledger_buckets and sketch cells must be 0 without history: they count its events")
        if config.ledger is not None and config.read_groups:
            raise ConfigError(
                "on impressions a head reads members in the ledger and no table of items: set member_reads = true "
                "and leave ledger_reads empty, or set ledger_buckets = 0"
            )
        if config.auxiliary_loss:
            raise ConfigError("auxiliary_loss must be false: training on impressions draws no foreign events for it")
        return config

    def check_against(self, description: Description) -> None:
        """Whether the data set can train this model.

        Raises:
            ConfigError: the data set has fields that the model cannot read.
        """
        if description.fields or (description.impressions and description.impressions.position):
            check_reads_fields(self.architecture)

    def with_seed(self, seed: int) -> ImpressionConfig:
        """The same run with another seed."""
        return msgspec.structs.replace(self, training=msgspec.structs.replace(self.training, seed=seed))

    def to_toml(self) -> str:
        """The configuration with every field written out."""
        values = msgspec.to_builtins(self) | {"model": asdict(self.architecture)}
        return tomli_w.dumps(values)
