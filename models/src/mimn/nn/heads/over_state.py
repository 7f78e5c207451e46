"""Any field head over any state: what a state says of the user, and of a candidate, become fields too.

A piece as wide as an event vector is two fields, its item half and its category half; a piece of another width (a
controller's output, counts, the number of events) goes through a linear layer to one field.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mimn.nn.fields import FieldVectors
from mimn.nn.heads.interface import FieldHead, FieldInputs, HeadSizes, linear


class FieldTop(nn.Module):
    """The layers above a state's read-outs, in place of `mimn.nn.head.Mlp`, when a field head is chosen."""

    def __init__(
        self,
        head: type[FieldHead],
        *,
        user_widths: Sequence[int],
        candidate_widths: Sequence[int],
        shared_fields: int,
        own_fields: int,
        dim: int,
        units: tuple[int, ...],
        dropout: float,
    ) -> None:
        """
        Args:
            head: which.
            user_widths, candidate_widths: of the state's read-outs; the first of the candidate is its own event vector.
            shared_fields, own_fields: fields of the request and of the item.
            dim: E, half the width of an event vector.
            units, dropout: of the head's deep part.
        """
        super().__init__()
        self.dim = dim
        self.user = nn.ModuleList(nn.Identity() if width == 2 * dim else linear(width, dim) for width in user_widths)
        self.candidate = nn.ModuleList(
            nn.Identity() if width == 2 * dim else linear(width, dim) for width in candidate_widths
        )
        sizes = HeadSizes(
            shared=shared_fields + sum(1 + (width == 2 * dim) for width in user_widths),
            own=own_fields + sum(1 + (width == 2 * dim) for width in candidate_widths),
            dim=dim,
            units=units,
            dropout=dropout,
        )
        self.head = head(sizes)
        self.by_candidate = linear(2 * dim, 1) if self.head.first_order else None
        """First-order weight of the candidate's ids, from their vectors: a table of its own would say no more."""

    def forward(
        self,
        user: Sequence[Tensor],
        candidate: Sequence[Tensor],
        shared: FieldVectors,
        own: FieldVectors,
    ) -> Tensor:
        """The click logits.

        Args:
            user: [N, width] each.
            candidate: [N, C, width] each.
            shared: the request's fields, [N, F, E] and [N].
            own: the items', [N, C, G, E] and [N, C].

        Returns: [N, C]
        """
        projected = [layer(piece) for layer, piece in zip(self.candidate, candidate, strict=True)]
        return self.over_projected(user, projected, shared, own)

    def start_at(self, logit: float) -> None:
        """Before training: give a head without a tower this logit where all features are 0.

        Adam moves a weight by at most its learning rate a step. Where clicks are rare, such a head would spend hundreds
        of steps on its level, and every first-order weight would go down with it, whatever it says (decision 132).
        """
        if self.by_candidate is not None and not self.head.has_tower:
            nn.init.constant_(self.by_candidate.bias, logit)

    def over_projected(
        self,
        user: Sequence[Tensor],
        candidate: Sequence[Tensor],
        shared: FieldVectors,
        own: FieldVectors,
    ) -> Tensor:
        """As `forward`, with the candidate's read-outs behind their linear layers: each as wide as one field or two."""
        of_user = [self._fields(layer(piece)) for layer, piece in zip(self.user, user, strict=True)]
        of_candidate = [self._fields(piece) for piece in candidate]
        own_first = own.first
        if self.by_candidate is not None:
            own_first = own_first + self.by_candidate(candidate[0]).squeeze(-1)
        logits: Tensor = self.head(
            FieldInputs(_joined(shared.vectors, of_user), _joined(own.vectors, of_candidate), shared.first, own_first)
        )
        return logits

    def _fields(self, piece: Tensor) -> Tensor:
        return piece.reshape(*piece.shape[:-1], piece.shape[-1] // self.dim, self.dim)


def _joined(fields: Tensor, pieces: list[Tensor]) -> Tensor:
    """Fields and pieces as one row of vectors; a model without fields has none. [..., F, E], [..., G, E] each"""
    return torch.cat([fields, *pieces] if fields.shape[-2] else pieces, -2)
