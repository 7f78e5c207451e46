"""The whole model: embedding tables, cell and head behind one interface for all variants.

The trainer calls `loss`, evaluation calls `scorer`, and export reads the parts. Ids are table rows here. Row 0 of each
table is the unknown id and is trained. Padding is marked by lengths, not by an id.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, Self, cast

import torch
from torch import Tensor, nn

from mimn.baselines import ModelConfig
from mimn.config import MimnConfig
from mimn.nn import native, official
from mimn.nn.actions import ModelActions
from mimn.nn.auxiliary import AuxiliaryNet
from mimn.nn.cell import Cell, CountCell, MimnCell, PoolingCell, State, states_at, unroll
from mimn.nn.compilation import compiled
from mimn.nn.fields import NO_FIELDS, FieldValues, ModelFields
from mimn.nn.head import MimnHead, PoolingHead
from mimn.nn.official import OfficialAuxiliaryNet, OfficialCell, OfficialHead
from mimn.nn.sketch import Touches, window_counts

EMBEDDING_STD = 0.1


class BatchError(ValueError):
    """A batch lacks a field that the configuration needs; the message names it."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """B windows of at most T events, each with P occasions of C candidates.

    An occasion comes after the window's first `positions` events and does not see later ones. Either `lengths` or
    `real` says which events are real. With `lengths` windows are left-aligned and no step is masked, which is cheaper.
    """

    items: Tensor
    """[B, T] int64 rows."""
    categories: Tensor
    """[B, T] int64 rows."""
    positions: Tensor
    """[B, P] int64, 0 to T; padding counts with `real`."""
    candidate_items: Tensor
    """[B, P, C] int64 rows."""
    candidate_categories: Tensor
    """[B, P, C] int64 rows."""
    labels: Tensor
    """[B, P, C] float32, 1 for a click; or a probability (`mimn.training.teachers`)."""
    lengths: Tensor | None = None
    """[B] int64, 0 to T: number of real events at the beginning of a window."""
    real: Tensor | None = None
    """[B, T] bool: which events are real; padding may be anywhere."""
    weights: Tensor | None = None
    """[B, P, C] float32, the weight of each label (0: no such occasion); None: all weights are 1."""
    actions: Tensor | None = None
    """[B, T] int64: the events' actions by number on the wire, for a model that names actions only."""
    context: Tensor | None = None
    """[B, P, K] float32, with `context_features` only."""
    request: FieldValues | None = None
    """[B, P, ...]: values of the fields of user and context, with fields only."""
    item_rates: Tensor | None = None
    """[B, P, C, Q] float32: the candidates' past rates, with such fields of the item only."""
    reads: Tensor | None = None
    """[B, P, C, R] float32: what is read of the ledger, with one only."""
    negative_items: Tensor | None = None
    """[B, T] int64 rows, for the auxiliary loss: an event that did not happen at that step."""
    negative_categories: Tensor | None = None
    state: Tensor | None = None
    """[B, F], the states where the windows start; None: users without events."""
    touches: Touches | None = None
    """With a sketch only: the cells and times of events and candidates."""

    def to(self, device: torch.device) -> Self:
        """The batch with its tensors on `device`."""
        return replace(self, **{name: value.to(device) for name, value in vars(self).items() if value is not None})


class Losses(NamedTuple):
    """Scalars: the parts of `total`, which training minimizes; the states at the end of the windows; the logits."""

    total: Tensor
    click: Tensor
    utilization: Tensor
    auxiliary: Tensor
    states: Tensor
    """[B, F], detached: the states after each window's last event."""
    logits: Tensor
    """[B, P, C], detached: of the clicks on the candidates."""


Scorer = Callable[..., Tensor]
"""Click probabilities of candidates for N histories: items [N, C], categories [N, C] int64 rows → [N, C]. A model
with a sketch also takes `counts` [N, C, A, S], one with a ledger `reads` [N, C, R]; with past rates of the item
`item_rates` [N, C, Q] may be given."""


class ClickModel(nn.Module, ABC):
    """What training and evaluation need from a model, with a state or with a list of events."""

    config: ModelConfig

    def __init__(
        self,
        config: ModelConfig,
        item_rows: int,
        category_rows: int,
        fields: ModelFields | None = None,
        actions: ModelActions | None = None,
    ) -> None:
        """`item_rows` and `category_rows` count the unknown row; `fields` is None for a model that reads none,
        `actions` for one to which all events are alike."""
        super().__init__()
        self.fields, self.actions = fields, actions
        self.items = nn.Embedding(item_rows, config.embedding_dim)
        self.categories = nn.Embedding(category_rows, config.embedding_dim)
        for table in (self.items, self.categories):
            nn.init.normal_(table.weight, std=EMBEDDING_STD)

    def vectors(self, items: Tensor, categories: Tensor) -> Tensor:
        """Candidates as the model reads them. [...], [...] int64 → [..., D]"""
        of_items = self.items(items) if self.fields is None else self.fields.item_embeddings(self.items, items)
        return torch.cat([of_items, self.categories(categories)], -1)

    def category_columns(self, rows: Tensor) -> Tensor:
        """What a step reads of a category beside its embedding: nothing, in most models. A bundle's table of categories
        has it behind the embeddings. [...] int64 rows → [..., X]"""
        return self.categories.weight.new_zeros((*rows.shape, 0))

    def events(self, items: Tensor, categories: Tensor, actions: Tensor | None = None) -> Tensor:
        """Events as the model reads them. [...], [...] int64 rows, [...] int64 → [..., D]

        Raises:
            BatchError: to the model actions differ, and there are none.
        """
        vectors = self.vectors(items, categories)
        if self.actions is None or self.actions.plain:
            return vectors
        if actions is None:
            raise BatchError("a model that names actions needs `actions`, those of the events")
        events: Tensor = self.actions(vectors, actions)
        return events

    def request_vector(self, values: FieldValues | None) -> Tensor | None:
        """The request's vector of its fields, None for a model without. → [..., K]

        Raises:
            BatchError: the model has fields and there are no values.
        """
        if self.fields is None or not self.fields.request.specs:
            return None
        if values is None:
            raise BatchError("a model with fields needs `request`, their values")
        return self.fields.request.vector(values)

    def item_vector(self, items: Tensor, rates: Tensor | None = None) -> Tensor | None:
        """The items' vectors of their fields, None for a model without (see `ModelFields.item_vector`).

        [...] int64 rows, [..., Q] → [..., W]
        """
        return None if self.fields is None else self.fields.item_vector(items, rates)

    def counts(self, touches: Touches | None, positions: Tensor) -> Tensor | None:
        """The values of the candidates' cells after `positions` [B, P] events each; None without a sketch.

        → [B, P, C, A, S]
        """
        if self.config.sketch is None or touches is None:
            return None
        return window_counts(self.config.sketch, touches, positions, self.config.sketch_limit)

    @abstractmethod
    def loss(self, batch: Batch) -> Losses:
        """The training loss of one batch.

        Raises:
            BatchError: the batch lacks what this configuration needs.
        """

    @abstractmethod
    def scorer(self, items: Tensor, categories: Tensor, lengths: Tensor, *, actions: Tensor | None = None) -> Scorer:
        """Read left-aligned histories once; returns a function that scores candidates for them.

        [N, T], [N, T] int64 rows, [N] int64, 0 to T: how many of a history's events are real; [N, T] int64 `actions`
        """

    @abstractmethod
    def compile_steps(self) -> None:
        """Compile the code that runs once per event."""

    @abstractmethod
    def state_weights(self) -> list[nn.Parameter]:
        """The weights that a stored state is made of: under others it means something else."""

    def event_weights(self) -> list[nn.Parameter]:
        """The weights of `events`."""
        modules = [self.items, self.categories, *([] if self.actions is None else [self.actions])]
        return [weight for module in modules for weight in module.parameters()]


class MimnModel(ClickModel):
    """Tables, cell and head of one configuration."""

    config: MimnConfig

    def __init__(
        self,
        config: MimnConfig,
        item_rows: int,
        category_rows: int,
        fields: ModelFields | None = None,
        actions: ModelActions | None = None,
    ) -> None:
        """`item_rows` and `category_rows` count the unknown row."""
        super().__init__(config, item_rows, category_rows, fields, actions)
        self.config = config
        of_head = fields or NO_FIELDS
        self.cell: Cell
        self.head: MimnHead | PoolingHead | OfficialHead
        self.auxiliary: AuxiliaryNet | OfficialAuxiliaryNet | None = None
        if config.variant == "paper":
            cell = MimnCell(config)
            self.cell, self.head = cell, MimnHead(config, cell, of_head)
        elif config.variant == "official":
            published = OfficialCell(config)
            self.cell, self.head = published, OfficialHead(config, published)
        else:
            self.cell = CountCell(config) if config.variant == "ledger" else PoolingCell(config)
            self.head = PoolingHead(config, self.cell, of_head)
        if config.auxiliary_loss:
            net = OfficialAuxiliaryNet if config.variant == "official" else AuxiliaryNet
            self.auxiliary = net(config.controller_units, config.width)
        self.native = False
        """Whether histories go through the compiled recurrence (`mimn.nn.native`) instead of the cell's steps."""

    def unroll(
        self,
        items: Tensor,
        categories: Tensor,
        state: Tensor | None = None,
        real: Tensor | None = None,
        *,
        actions: Tensor | None = None,
    ) -> Tensor:
        """The states before, between and after the events (see `mimn.nn.cell.unroll`). [B, T] int64 → [B, T + 1, F]"""
        start = self.cell.initial(len(items)) if state is None else state
        return unroll(self.cell, self.events(items, categories, actions), start, real)

    def states(self, events: Tensor, state: Tensor, positions: Tensor, real: Tensor | None = None) -> Tensor:
        """The states after `positions` events each. [B, T, D], [B, F], [B, P] int64, [B, T] bool → [B, P, F]"""
        if self.native and real is None:
            return native.states_at(cast(MimnCell, self.cell), events, state, positions)
        if isinstance(self.cell, PoolingCell | CountCell) and real is None:
            return self.cell.states_at(events, state, positions)
        return states_at(unroll(self.cell, events, state, real), positions)

    def logits(
        self,
        states: Tensor,
        items: Tensor,
        categories: Tensor,
        context: Tensor | None = None,
        counts: Tensor | None = None,
        *,
        reads: Tensor | None = None,
        item_rates: Tensor | None = None,
    ) -> Tensor:
        """[N, F], [N, C], [N, C] int64 rows, [N, K], with a sketch [N, C, A, S] (see `counts`), with a ledger
        [N, C, R], with past rates of the item [N, C, Q] → [N, C]

        `context` is the context features and, with fields, the request's vector behind them.
        """
        check_reads(self.config, counts, reads)
        known = {"counts": counts, "reads": reads, "item_fields": self.item_vector(items, item_rates)}
        logits: Tensor = self.head(
            states,
            self.vectors(items, categories),
            context,
            **{name: value for name, value in known.items() if value is not None},
        )
        return logits

    def score(
        self,
        states: Tensor,
        items: Tensor,
        categories: Tensor,
        context: Tensor | None = None,
        counts: Tensor | None = None,
        *,
        reads: Tensor | None = None,
        item_rates: Tensor | None = None,
    ) -> Tensor:
        """Click probabilities; as `logits`."""
        return torch.sigmoid(
            self.logits(states, items, categories, context, counts, reads=reads, item_rates=item_rates)
        )

    def scorer(self, items: Tensor, categories: Tensor, lengths: Tensor, *, actions: Tensor | None = None) -> Scorer:
        """A function that scores candidates on the states after the histories (see `ClickModel.scorer`)."""
        states = self.states(
            self.events(items, categories, actions), self.cell.initial(len(items)), lengths.unsqueeze(-1)
        )
        return partial(self.score, states.squeeze(1))

    def state_weights(self) -> list[nn.Parameter]:
        """See `ClickModel`: none, where a state is a ledger alone."""
        return [] if isinstance(self.cell, CountCell) else [*self.event_weights(), *self.cell.parameters()]

    def compile_steps(self) -> None:
        """Use the compiled recurrence for histories if possible, else compile the cell's step."""
        self.native = native.usable(self.cell, self.items.weight)
        if not self.native:
            self.cell.step = compiled(self.cell.step)  # type: ignore[method-assign]  # what torch.compile is for

    def loss(self, batch: Batch) -> Losses:
        """The training loss of one batch: click + utilization + auxiliary.

        Raises:
            BatchError: the batch lacks what this configuration needs.
        """
        real = self._real(batch)
        events = self.events(batch.items, batch.categories, batch.actions)
        if self.config.variant == "official":
            events = events * real.unsqueeze(-1)
        start = self.cell.initial(len(events)) if batch.state is None else batch.state
        B, T, P = *batch.items.shape, batch.positions.shape[1]
        ends = batch.positions.new_full((B,), T) if batch.lengths is None else batch.lengths
        every = torch.arange(T + 1 if self.auxiliary is not None else 0, device=ends.device).expand(B, -1)
        positions = torch.cat([batch.positions, ends.unsqueeze(-1), every], 1)
        states = self.states(events, start, positions, batch.real)
        last = states[:, P]

        counts = self.counts(batch.touches, batch.positions)
        both = [value for value in (batch.context, self.request_vector(batch.request)) if value is not None]
        context = torch.cat(both, -1) if both else None
        logits = self.logits(
            states[:, :P].flatten(0, 1),
            batch.candidate_items.flatten(0, 1),
            batch.candidate_categories.flatten(0, 1),
            None if context is None else context.flatten(0, 1),
            None if counts is None else counts.flatten(0, 1),
            reads=None if batch.reads is None else batch.reads.flatten(0, 1),
            item_rates=None if batch.item_rates is None else batch.item_rates.flatten(0, 1),
        ).view_as(batch.labels)
        click = self._click_loss(logits, batch.labels, batch.weights)
        utilization = auxiliary = click.new_zeros(())
        if self.config.utilization:
            utilization = self.config.utilization_weight * self._utilization_loss(self.cell.unpack(last))
        if self.auxiliary is not None:
            auxiliary = self.config.auxiliary_weight * self._auxiliary_loss(batch, events, states[:, P + 1 :], real)
        total = click + utilization + auxiliary
        return Losses(total, click, utilization, auxiliary, last.detach(), logits.detach())

    def _real(self, batch: Batch) -> Tensor:
        """[B, T] bool: which events are real."""
        if (batch.real is None) == (batch.lengths is None):
            raise BatchError("a batch needs either `lengths` or `real`")
        if batch.lengths is None:
            return cast(Tensor, batch.real)
        return torch.arange(batch.items.shape[1], device=batch.items.device) < batch.lengths.unsqueeze(-1)

    def _click_loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        if self.config.variant == "official":
            return official.click_loss(logits, labels, weights)
        return click_loss(logits, labels, weights)

    def _utilization_loss(self, blocks: State) -> Tensor:
        if self.config.variant == "official":
            return official.utilization_loss(blocks["utilization"])
        return utilization_loss(blocks["shares"] * blocks["count"])

    def _auxiliary_loss(self, batch: Batch, events: Tensor, states: Tensor, real: Tensor) -> Tensor:
        if batch.negative_items is None or batch.negative_categories is None:
            raise BatchError("auxiliary_loss needs `negative_items` and `negative_categories`")
        # With the actions of the real events: an action must not tell which event did not happen.
        negatives = self.events(batch.negative_items, batch.negative_categories, batch.actions)
        if self.config.variant == "official":
            negatives = negatives * real.unsqueeze(-1)
        # The output after event t must predict event t + 1; entry 0 of `states` is before any event.
        before = self.cell.unpack(states[:, 1:-1])
        outputs = before["output"] if isinstance(self.head, OfficialHead) else self._outputs(before)
        loss: Tensor = cast(AuxiliaryNet, self.auxiliary).loss(outputs, events[:, 1:], negatives[:, 1:], real[:, 1:])
        return loss

    def _outputs(self, blocks: State) -> Tensor:
        return cast(MimnHead, self.head).step_output(blocks["controller"], blocks["read"])


def check_reads(config: ModelConfig, counts: Tensor | None, reads: Tensor | None) -> None:
    """Whether there is what a model of `config` reads of its candidates.

    Raises:
        BatchError: something is missing.
    """
    if config.sketch is not None and counts is None:
        raise BatchError("a model with a sketch needs `counts`, or a batch's `touches`")
    if config.ledger is not None and reads is None:
        raise BatchError("a model with a ledger needs `reads`")


def click_loss(logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    """The mean log loss, weighted. All [B, P, C] → []"""
    total = nn.functional.binary_cross_entropy_with_logits(logits, labels, weights, reduction="sum")
    return total / (labels.numel() if weights is None else weights.sum().clamp_min(1e-9))


def utilization_loss(utilization: Tensor) -> Tensor:
    """Mean over the batch of sum_i (g_i - mean g)^2 (paper, eq. 8), before lambda. [B, m] → []"""
    return (utilization - utilization.mean(-1, keepdim=True)).square().sum(-1).mean()
