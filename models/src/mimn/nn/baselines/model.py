"""The baselines behind one interface: the embeddings, the features that every model has, one interest, and the MLP."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from mimn.baselines import BaselineConfig, BaselineVariant, folded_blocks
from mimn.nn import official
from mimn.nn.actions import ModelActions
from mimn.nn.auxiliary import AuxiliaryNet
from mimn.nn.baselines.arnn import Arnn
from mimn.nn.baselines.buckets import Buckets
from mimn.nn.baselines.delta import Delta
from mimn.nn.baselines.dien import Dien, OfficialDien
from mimn.nn.baselines.din import Din
from mimn.nn.baselines.dnn import Dnn
from mimn.nn.baselines.folded import FoldedCell, FoldedHead
from mimn.nn.baselines.gru4rec import Gru4Rec
from mimn.nn.baselines.hashed import Hashed
from mimn.nn.baselines.interest import Features, FoldedInterest, Interest, Occasions, Window
from mimn.nn.baselines.readout import ReadOut
from mimn.nn.baselines.rum import OfficialRum, Rum
from mimn.nn.baselines.sim import Sim
from mimn.nn.cell import states_at
from mimn.nn.fields import NO_FIELDS, ModelFields
from mimn.nn.head import FieldHeadTop, MlpTop, sketch_widths, top
from mimn.nn.model import Batch, BatchError, ClickModel, Losses, Scorer, check_reads, click_loss
from mimn.nn.official import OfficialAuxiliaryNet, OfficialMlp
from mimn.nn.sketch import sketch_reader

INTERESTS: dict[BaselineVariant, type[Interest]] = {
    "dnn": Dnn,
    "din": Din,
    "gru4rec": Gru4Rec,
    "arnn": Arnn,
    "rum": Rum,
    "dien": Dien,
    "sim": Sim,
    "hashed": Hashed,
    "delta": Delta,
    "buckets": Buckets,
}
PUBLISHED: dict[BaselineVariant, type[Interest]] = {"dien": OfficialDien, "rum": OfficialRum}
"""The variants for which form `official` has a separate class."""


class BaselineModel(ClickModel):
    """Tables, one baseline's interest, and the same MLP as MIMN."""

    config: BaselineConfig

    def __init__(
        self,
        config: BaselineConfig,
        item_rows: int,
        category_rows: int,
        fields: ModelFields | None = None,
        actions: ModelActions | None = None,
    ) -> None:
        """`item_rows` and `category_rows` count the unknown row."""
        super().__init__(config, item_rows, category_rows, fields, actions)
        self.config = config
        published = config.form == "official"
        interests = INTERESTS | PUBLISHED if published else INTERESTS
        self.interest = interests[config.variant](config)
        self.sketch = sketch_reader(config)
        D = config.width
        user, candidate = self.interest.user_width, self.interest.candidate_width
        products = D * (1 + config.history_product)
        self.mlp: MlpTop | FieldHeadTop | OfficialMlp
        if published:
            self.mlp = OfficialMlp(D + user + products + candidate, config.head_units)
        else:
            of_user = [D, 1] + ([user] if user else [])
            of_candidate = [D] + ([candidate] if candidate else []) + [D] * config.history_product
            reads = [*sketch_widths(self.sketch), *config.read_widths]
            self.mlp = top(config, of_user, of_candidate + reads, fields or NO_FIELDS)
        self.auxiliary: AuxiliaryNet | OfficialAuxiliaryNet | None = None
        if config.auxiliary_loss:
            self.auxiliary = (OfficialAuxiliaryNet if published else AuxiliaryNet)(D, D)

    def window(self, items: Tensor, categories: Tensor, actions: Tensor | None = None) -> Window:
        """The events of windows, read once. [B, T], [B, T] int64 rows, [B, T] int64"""
        events = self.events(items, categories, actions)
        return Window(events, categories, self.interest.encode(events))

    def logits(
        self,
        window: Window,
        positions: Tensor,
        items: Tensor,
        categories: Tensor,
        *,
        counts: Tensor | None = None,
        request: Tensor | None = None,
        reads: Tensor | None = None,
        item_rates: Tensor | None = None,
    ) -> Tensor:
        """The click logits.

        [B, P], [B, P, C], [B, P, C] int64 rows, with a sketch [B, P, C, A, S], with fields [B, P, K], with a ledger
        [B, P, C, R], with past rates of the item [B, P, C, Q] → [B, P, C]
        """
        check_reads(self.config, counts, reads)
        occasions = Occasions(positions, self.vectors(items, categories), categories)
        features = self.interest(window, occasions)
        if isinstance(self.mlp, OfficialMlp):
            return self._official_logits(self.mlp, window, occasions, features)
        mean = states_at(means(window.events), positions)
        count = positions.unsqueeze(-1).to(mean.dtype)
        logits: Tensor = self.readout(
            occasions.candidates.flatten(0, 1),
            {"history_mean": mean.flatten(0, 1), "count": count.flatten(0, 1)},
            Features(*([piece.flatten(0, 1) for piece in pieces] for pieces in features)),
            *(None if value is None else value.flatten(0, 1) for value in (request, counts)),
            item_fields=None if (of := self.item_vector(items, item_rates)) is None else of.flatten(0, 1),
            reads=None if reads is None else reads.flatten(0, 1),
        )
        return logits.view(items.shape)

    @property
    def readout(self) -> ReadOut:
        """The layers above the interest.

        Raises:
            TypeError: form `official`, whose layers are its own.
        """
        if isinstance(self.mlp, OfficialMlp):
            raise TypeError("form 'official' has layers of its own")
        return ReadOut(self.mlp, self.sketch, self.config)

    @property
    def cell(self) -> FoldedCell:
        """The fold of one event, of a variant whose interest is a state.

        Raises:
            TypeError: a variant that reads the events, or form `official`, which sums what a state has as a mean.
        """
        if not folded_blocks(self.config) or self.config.form == "official":
            raise TypeError(f"variant {self.config.variant!r} in form {self.config.form!r} is no fold of events")
        return FoldedCell(self.config, cast(FoldedInterest, self.interest))

    @property
    def head(self) -> FoldedHead:
        """The head over such a state; raises as `cell`."""
        return FoldedHead(self.cell, self.readout)

    def category_columns(self, rows: Tensor) -> Tensor:
        """Those of the interest (see `ClickModel.category_columns`)."""
        return self.interest.category_columns(rows)

    def _official_logits(self, mlp: OfficialMlp, window: Window, occasions: Occasions, features: Features) -> Tensor:
        q = occasions.candidates
        summed = states_at(nn.functional.pad(window.events.cumsum(1), (0, 0, 1, 0)), occasions.positions)
        every = [known.unsqueeze(-2).expand(*q.shape[:3], -1) for known in (summed, *features.user)]
        product = [q * summed.unsqueeze(-2)] if self.config.history_product else []
        logits: Tensor = mlp(torch.cat([q, *every, *features.candidate, *product], -1))
        return logits

    def scorer(self, items: Tensor, categories: Tensor, lengths: Tensor, *, actions: Tensor | None = None) -> Scorer:
        """A function that scores candidates after the histories (see `ClickModel.scorer`)."""
        window, positions = self.window(items, categories, actions), lengths.unsqueeze(-1)

        def score(
            items: Tensor, categories: Tensor, *, context: Tensor | None = None, **reads: Tensor | None
        ) -> Tensor:
            known = {name: None if value is None else value.unsqueeze(1) for name, value in reads.items()}
            known["request"] = None if context is None else context.unsqueeze(1)
            logits = self.logits(window, positions, items.unsqueeze(1), categories.unsqueeze(1), **known)
            return torch.sigmoid(logits).squeeze(1)

        return score

    def loss(self, batch: Batch) -> Losses:
        """The training loss of one batch: click + auxiliary.

        Raises:
            BatchError: the batch lacks what this configuration needs, or has fields that only a model with a state can
            use.
        """
        if batch.lengths is None or batch.state is not None or batch.context is not None:
            raise BatchError("a baseline needs `lengths`, and neither `state` nor `context`: it reads whole windows")
        window = self.window(batch.items, batch.categories, batch.actions)
        counts = self.counts(batch.touches, batch.positions)
        logits = self.logits(
            window,
            batch.positions,
            batch.candidate_items,
            batch.candidate_categories,
            counts=counts,
            request=self.request_vector(batch.request),
            reads=batch.reads,
            item_rates=batch.item_rates,
        )
        loss = official.click_loss if self.config.form == "official" else click_loss
        click = loss(logits, batch.labels, batch.weights)
        zero = click.new_zeros(())
        auxiliary = zero if self.auxiliary is None else self._auxiliary_loss(self.auxiliary, batch, window)
        no_states = window.events.new_zeros(len(window.events), 0)
        return Losses(click + auxiliary, click, zero, auxiliary, no_states, logits.detach())

    def state_weights(self) -> list[nn.Parameter]:
        """See `ClickModel`: none, where a state is a list of rows."""
        folded = isinstance(self.interest, FoldedInterest)
        return [*self.event_weights(), *self.interest.parameters()] if folded else []

    def compile_steps(self) -> None:
        """Compile the interest's recurrences."""
        self.interest.compile_steps()

    def _auxiliary_loss(self, net: AuxiliaryNet | OfficialAuxiliaryNet, batch: Batch, window: Window) -> Tensor:
        if batch.negative_items is None or batch.negative_categories is None or batch.lengths is None:
            raise BatchError("auxiliary_loss needs `negative_items` and `negative_categories`")
        negatives = self.events(batch.negative_items, batch.negative_categories, batch.actions)
        real = torch.arange(batch.items.shape[1], device=batch.items.device) < batch.lengths.unsqueeze(-1)
        loss = net.loss(window.encoded[:, 1:-1], window.events[:, 1:], negatives[:, 1:], real[:, 1:])
        return self.config.auxiliary_weight * loss


def means(events: Tensor) -> Tensor:
    """The mean of the first n events in row n; row 0 is 0. [B, T, D] → [B, T + 1, D]"""
    counts = torch.arange(1, events.shape[1] + 1, device=events.device, dtype=events.dtype).unsqueeze(-1)
    return nn.functional.pad(events.cumsum(1) / counts, (0, 0, 1, 0))
