"""What stands above a baseline's interest, in training windows and over folded states alike."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mimn.baselines import BaselineConfig
from mimn.nn.baselines.interest import Features
from mimn.nn.cell import State
from mimn.nn.fields import FieldVectors
from mimn.nn.head import FieldHeadTop, MlpTop, history_product, user_pieces
from mimn.nn.sketch import SketchReader


class ReadOut(nn.Module):
    """The features of N occasions through the layers above them. Its modules belong to the model."""

    def __init__(self, mlp: MlpTop | FieldHeadTop, sketch: SketchReader | None, config: BaselineConfig) -> None:
        super().__init__()
        self.mlp, self.sketch, self.config = mlp, sketch, config

    def forward(  # noqa: PLR0917 (the order of all heads)
        self,
        candidates: Tensor,
        history: State,
        features: Features,
        request: Tensor | FieldVectors | None = None,
        counts: Tensor | None = None,
        item_fields: Tensor | FieldVectors | None = None,
        *,
        reads: Tensor | None = None,
    ) -> Tensor:
        """The click logits.

        [N, C, D]; `history_mean` [N, D] and `count` [N, 1]; the interest's features [N, .] and [N, C, .]; [N, K]; with
        a sketch [N, C, A, S]; with item fields [N, C, W]; with member reads or a ledger [N, C, R] → [N, C]
        """
        user, candidate = user_pieces(history, self.config), [candidates]
        if features.user:
            user.append(torch.cat(features.user, -1))
        if features.candidate:
            candidate.append(torch.cat(features.candidate, -1))
        if self.config.history_product:
            candidate.append(history_product(history, candidates))
        if self.sketch is not None:
            candidate.append(self.sketch(counts))
        if reads is not None:
            candidate.append(reads)
        logits: Tensor = self.mlp(user, candidate, request, item_fields)
        return logits
