"""Saves and loads models as safetensors, so nothing is pickled. The file also contains the configuration."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mimn.baselines import BaselineConfig, ModelConfig, model_config
from mimn.config import ConfigError
from mimn.nn.baselines.model import BaselineModel
from mimn.nn.fields import ModelFields
from mimn.nn.model import ClickModel, MimnModel


class CheckpointError(Exception):
    """A model file that cannot be read; the message names the file and the fix."""


def untrained(config: ModelConfig, item_rows: int, category_rows: int, fields: ModelFields | None = None) -> ClickModel:
    """The model of `config` with weights drawn from torch's generator; the rows count the unknown ones."""
    if isinstance(config, BaselineConfig):
        return BaselineModel(config, item_rows, category_rows, fields)
    return MimnModel(config, item_rows, category_rows, fields)


def save_model(model: ClickModel, path: str | Path) -> None:
    """Write the weights and the configuration of `model` to `path`; the same model gives the same bytes."""
    tensors = {name: value.detach().contiguous() for name, value in model.state_dict().items()}
    save_file(tensors, str(path), metadata={"config": json.dumps(asdict(model.config), sort_keys=True)})


def load_model(path: str | Path) -> ClickModel:
    """The model that `save_model` wrote to `path`, in evaluation mode.

    Raises:
        CheckpointError: no such file, not safetensors, no configuration inside, or weights that do not fit it.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict: it cannot be iterated)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {error}") from error
    try:
        config = model_config(json.loads(metadata["config"]))
        model = untrained(config, len(tensors["items.weight"]), len(tensors["categories.weight"]))
        model.load_state_dict(tensors)
    except (KeyError, ValueError, ConfigError, RuntimeError) as error:
        raise CheckpointError(f"{path} is not a model of this program version: {error}") from error
    return model.eval()
