"""The rule of actions (`mimn.state.actions`) in a model, with the vectors that training learns."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from mimn.data.description import EMBEDDING, ActionRules, weights_of
from mimn.state.actions import NAMES, ActionName, Actions


class ModelActions(nn.Module):
    """What each action makes of an event's vector."""

    weight: Tensor
    """[6]: by number; not trained."""
    has_vector: Tensor
    """[6, 1]: 1 where the action has a vector."""

    def __init__(self, rules: ActionRules, width: int) -> None:
        """
        Args:
            rules: each named action's weight, or `EMBEDDING`.
            width: D, of an event's vector.
        """
        super().__init__()
        self.rules: dict[ActionName, float | str] = dict(rules)
        self._weights = weights_of(rules)
        embedded = torch.tensor([rules.get(name) == EMBEDDING for name in NAMES])
        self.register_buffer("weight", torch.from_numpy(Actions.of(self._weights).weight), persistent=False)
        self.register_buffer("has_vector", embedded.float().unsqueeze(-1), persistent=False)
        # From zero: a new model reads all embedded actions alike, and training tells them apart.
        self.vectors = nn.Parameter(torch.zeros(len(NAMES), width)) if bool(embedded.any()) else None
        self.plain = self.value.plain
        """Whether the rule changes no event."""

    @property
    def value(self) -> Actions:
        """The rule with the vectors as they are now, as a bundle has it."""
        if self.vectors is None:
            return Actions.of(self._weights)
        rows = self.vectors.detach().cpu().numpy().astype(np.float32)
        vectors = {name: rows[at] for at, name in enumerate(NAMES) if self.rules.get(name) == EMBEDDING}
        return Actions.of(self._weights, vectors)

    def forward(self, vectors: Tensor, actions: Tensor) -> Tensor:
        """Events as the cell reads them; as `Actions.apply`. [..., D], [...] int64 → [..., D]"""
        events = vectors * self.weight[actions].unsqueeze(-1)
        return events if self.vectors is None else events + (self.vectors * self.has_vector)[actions]


def model_actions(rules: ActionRules, width: int) -> ModelActions | None:
    """The actions of a model whose events have vectors of `width`; None if the data set names none."""
    return ModelActions(rules, width) if rules else None


def event_rules(stored: Mapping[str, float | str]) -> ActionRules:
    """Rules as a model file holds them.

    Raises:
        ValueError: a name or a rule that there is none of.
    """
    for name, rule in stored.items():
        if name not in NAMES or (isinstance(rule, str) and rule != EMBEDDING):
            raise ValueError(f"action {name!r} with rule {rule!r}")
    return dict(stored)  # type: ignore[arg-type]  # just checked
