"""Small models of every configuration that is served, with dimensions that all differ, for the parity tests."""

from __future__ import annotations

from dataclasses import replace

import torch

from mimn.config import MimnConfig
from mimn.nn.model import ClickModel, MimnModel

BASE = MimnConfig(embedding_dim=2, controller_units=6, slots=3, attention_units=(9, 5), head_units=(11, 7))
CONFIGS = {
    "both": BASE,
    "context": replace(BASE, context_features=("hour", "price")),
    "bounded writes": replace(BASE, bounded_writes=True),
    "history product": replace(BASE, history_product=True),
    "shift": replace(BASE, rebalance="shift"),
    "unbalanced": replace(BASE, rebalance="none"),
    "no MUR": replace(BASE, utilization=False),
    "no MIU": replace(BASE, memory_induction=False),
    "neither": replace(BASE, memory_induction=False, utilization=False),
    "one slot": replace(BASE, slots=1),
    "batch norm and dropout": replace(BASE, head_norm="batch", head_dropout=0.5),
    "auxiliary loss": replace(BASE, auxiliary_loss=True),
    "pooling": MimnConfig.pooling(embedding_dim=2, head_units=(11, 7)),
    "pooling with context": MimnConfig.pooling(embedding_dim=2, head_units=(11, 7), context_features=("hour",)),
}
ITEMS, CATEGORIES = 13, 5


def small_model(config: MimnConfig, seed: int = 1) -> MimnModel:
    """A model whose every weight and statistic is drawn, so that nothing is hidden by a zero or a one."""
    torch.manual_seed(seed)
    model = MimnModel(config, ITEMS + 1, CATEGORIES + 1)
    draw_rest(model)
    return model.eval()


def draw_rest(model: ClickModel) -> None:
    """Draw what a new model has as zeros and ones, and make its embeddings larger."""
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if "running_var" in name:
                value.uniform_(0.5, 2.0)
            elif value.dim() == 1 and value.is_floating_point():
                value.add_(torch.randn_like(value) * 0.2)
            elif name in ("items.weight", "categories.weight"):
                value.mul_(10.0)
