"""Teachers: models of the same configuration that are trained first, and of whose scores a model learns besides labels.

The mean of several models that were trained apart ranks better than each of them. A model that is trained on a mixture
of labels and their mean gains a part of that, and serving it costs what it did. Hinton et al., "Distilling the
Knowledge in a Neural Network" (2015); for click-through rates Zhu et al., "Ensembled CTR Prediction via Knowledge
Distillation" (CIKM 2020).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import torch

from mimn import run
from mimn.data.prepared import Prepared
from mimn.nn.checkpoint import load_model
from mimn.nn.model import Batch, ClickModel
from mimn.run_config import RunConfig
from mimn.training.folder import TrainingFailed

FOLDER = "teachers"
"""In the run folder: a run for each teacher."""
SEEDS_APART = 100
"""Between a model and its first teacher, and between teachers."""


def teacher_configs(config: RunConfig) -> list[RunConfig]:
    """The teachers' configurations: the model's, with other seeds."""
    training = msgspec.structs.replace(config.training, teachers=0)
    without = msgspec.structs.replace(config, training=training)
    seeds = [training.seed + SEEDS_APART * (i + 1) for i in range(config.training.teachers)]
    return [
        msgspec.structs.replace(without.with_seed(seed), name=f"{config.name}, teacher {i + 1}")
        for i, seed in enumerate(seeds)
    ]


@dataclass(frozen=True)
class Teachers:
    """Trained models of one configuration."""

    models: Sequence[ClickModel]
    share: float
    """Of the labels that are learned from: how much the teachers say, the rest the data."""
    device: torch.device
    records: Sequence[dict[str, Any]]
    """What the taught model's `metrics.json` says of each."""

    @classmethod
    def load(cls, folders: Sequence[Path], config: RunConfig, data: Prepared, device: torch.device) -> Teachers:
        """From their finished runs, which must be on `data`.

        Raises:
            TrainingFailed: they are not.
        """
        told = [json.loads((folder / run.METRICS).read_text("utf-8")) for folder in folders]
        if any(one["prepared_sha256"] != data.sha256 for one in told):
            raise TrainingFailed(
                f"the teachers of {folders[0].parents[1]} were trained on other data: choose another folder"
            )
        models = [load_model(folder / run.MODEL).eval().to(device) for folder in folders]
        for model in models if config.training.compile else ():
            model.compile_steps()
        records = [{"seed": one["seed"], "validation_auc": one["validation_auc"]} for one in told]
        return cls(models, config.training.teacher_share, device, records)

    def taught(self, batch: Batch) -> Batch:
        """The batch with labels between the data's and the teachers' probability, that of their mean logit."""
        batch = batch.to(self.device)
        with torch.no_grad():
            logits = torch.stack([model.loss(batch).logits for model in self.models]).mean(0)
        return replace(batch, labels=torch.lerp(batch.labels, logits.sigmoid(), self.share))
