"""Where a training run is, on disk: the model, the optimizers' moments, the curve. All written whole or not at all.

The best model is not part of it: it is in the run folder already, under its final name. Tensors go to the file from
where they are, so saving takes no memory of the tables' size.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mimn.nn.checkpoint import save_model
from mimn.nn.model import ClickModel
from mimn.training.folder import TrainingFailed
from mimn.training.optimizers import Optimizers
from mimn.training.schedule import Epoch
from mimn.whole_file import writing


class Past(msgspec.Struct, frozen=True, array_like=True):
    """What a run has done so far."""

    curve: list[Epoch]
    steps: int
    start: dict[str, float] | None = None
    """As `Schedule.start`."""


def save_best(model: ClickModel, path: Path) -> None:
    """Write the model of the best epoch so far."""
    with writing(path) as partial:
        save_model(model, partial)


def save_checkpoint(path: Path, model: ClickModel, optimizers: Optimizers, past: Past, data_sha256: str) -> None:
    """Write all that the next epoch depends on, except the seed."""
    tensors = {f"model/{name}": value.detach().contiguous() for name, value in model.state_dict().items()}
    tensors |= {f"optimizer/{name}": value.contiguous() for name, value in optimizers.tensors()}
    with writing(path) as partial:
        save_file(tensors, partial, metadata={"past": msgspec.json.encode(past).decode(), "data": data_sha256})


def load_checkpoint(path: Path, model: ClickModel, optimizers: Optimizers, data_sha256: str) -> Past:
    """Set model and optimizers to what `save_checkpoint` wrote; returns what was before.

    Raises:
        TrainingFailed: the file cannot be read, or belongs to another model or other data.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            past = msgspec.json.decode(metadata["past"], type=Past)
            if metadata["data"] != data_sha256:
                raise TrainingFailed(f"{path} was trained on other data: restore it, or start in another folder")
            parts = {
                part: {name: file.get_tensor(f"{part}/{name}") for name in _names(list(file.keys()), part)}
                for part in ("model", "optimizer")
            }
        model.load_state_dict(parts["model"])
        optimizers.load(parts["optimizer"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise TrainingFailed(f"{path} cannot be resumed ({error}): start again in another folder") from error
    return past


def _names(keys: list[str], part: str) -> list[str]:
    return [key.removeprefix(f"{part}/") for key in keys if key.startswith(f"{part}/")]
