"""Saves and loads models as safetensors, so nothing is pickled. The file also contains the configuration and the
descriptions of the fields."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mimn.baselines import BaselineConfig, ModelConfig, model_config
from mimn.bundle.fields import FieldSpec
from mimn.config import ConfigError
from mimn.data.description import ActionRules
from mimn.nn.actions import event_rules, model_actions
from mimn.nn.baselines.model import BaselineModel
from mimn.nn.fields import FieldTables, FieldValues, ItemMembers, ModelFields
from mimn.nn.heads import HEADS
from mimn.nn.model import ClickModel, MimnModel
from mimn.whole_file import cause


class CheckpointError(Exception):
    """A model file that cannot be read; the message names the file and the fix."""


def untrained(
    config: ModelConfig,
    item_rows: int,
    category_rows: int,
    fields: ModelFields | None = None,
    actions: ActionRules | None = None,
) -> ClickModel:
    """The model of `config` with weights drawn from torch's generator; the rows count the unknown ones."""
    of_events = model_actions(actions or {}, config.width)
    if isinstance(config, BaselineConfig):
        return BaselineModel(config, item_rows, category_rows, fields, of_events)
    return MimnModel(config, item_rows, category_rows, fields, of_events)


def model_fields(
    config: ModelConfig,
    specs: Sequence[FieldSpec],
    item_values: FieldValues | None = None,
    embedding_rows: Tensor | None = None,
    members: ItemMembers | None = None,
) -> ModelFields:
    """Untrained tables of the fields `specs` for a model of `config`; the other arguments as `ModelFields`."""
    dim, first_order = config.embedding_dim, config.head != "paper" and HEADS[config.head].first_order
    request, item = (
        FieldTables([spec for spec in specs if (spec.source == "item") == own], dim, first_order=first_order)
        for own in (False, True)
    )
    return ModelFields(request, item, item_values, embedding_rows, members)


def save_model(model: ClickModel, path: str | Path) -> None:
    """Write the weights and the configuration of `model` to `path`; the same model gives the same bytes."""
    tensors = {name: value.detach().contiguous() for name, value in model.state_dict().items()}
    # One entry: safetensors writes several in any order.
    values = asdict(model.config)
    if model.fields is not None:
        values["fields"] = msgspec.to_builtins([*model.fields.request.specs, *model.fields.item.specs])
    if model.actions is not None:
        values["actions"] = model.actions.rules
    save_file(tensors, str(path), metadata={"config": json.dumps(values, sort_keys=True)})


def load_model(path: str | Path) -> ClickModel:
    """The model that `save_model` wrote to `path`, in evaluation mode.

    Raises:
        CheckpointError: no such file, or one that this user may not read; not safetensors, no configuration inside, or
            weights that do not fit it.
    """
    try:
        with Path(path).open("rb"):  # safetensors says of each error here that there is no such file
            pass
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict: it cannot be iterated)
    except PermissionError as error:
        raise CheckpointError(f"{path} cannot be read ({cause(error)}): let this user read it") from error
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} cannot be read as safetensors ({error}): copy it again from where the model was trained, "
            "or train again"
        ) from error
    try:
        known = described(metadata)
        fields = _fields(known.config, known.specs, tensors)
        rows = len(tensors["items.weight"]), len(tensors["categories.weight"])
        model = untrained(known.config, *rows, fields, known.actions)
        model.load_state_dict(tensors)
    except (KeyError, ValueError, ConfigError, RuntimeError) as error:
        raise CheckpointError(f"{path} is not a model of this program version: {error}") from error
    return model.eval()


@dataclass(frozen=True)
class Described:
    """What a model file says of its model."""

    config: ModelConfig
    specs: tuple[FieldSpec, ...] | None
    """None for a model without fields."""
    actions: ActionRules


def described(metadata: Mapping[str, str]) -> Described:
    """The description in a model file's metadata.

    Raises:
        KeyError, ValueError, ConfigError: it is not a model's.
    """
    values = json.loads(metadata["config"])
    # Files of earlier versions have entries of their own for fields and actions.
    found = {name: json.loads(metadata[name]) for name in ("fields", "actions") if name in metadata}
    found |= {name: values.pop(name) for name in ("fields", "actions") if name in values}
    specs = msgspec.convert(found["fields"], tuple[FieldSpec, ...]) if "fields" in found else None
    return Described(model_config(values), specs, event_rules(found.get("actions", {})))


def _fields(
    config: ModelConfig, specs: tuple[FieldSpec, ...] | None, tensors: Mapping[str, Tensor]
) -> ModelFields | None:
    """Tables and item values of the shapes that the file has, None for a model without fields."""
    if specs is None:
        return None
    values = None
    if "fields.item_rows" in tensors:
        lists = sum(name.startswith("fields.item_list_") for name in tensors)
        values = FieldValues(
            rows=tensors["fields.item_rows"],
            lists=tuple(tensors[f"fields.item_list_{place}"] for place in range(lists)),
            numbers=tensors["fields.item_numbers"],
        )
    members = None
    if "fields.member_first" in tensors:
        members = ItemMembers(tensors["fields.member_first"], tensors["fields.member_rows"])
    return model_fields(config, specs, values, tensors.get("fields.embedding_rows"), members)
