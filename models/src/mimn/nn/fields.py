"""Fields in a model: the tables of their vectors, and what rows and numbers look up in them.

The same order everywhere: the fields of user and context in the manifest's order make the request's vector, those of
the item the item's. A field with a table gives its row's vector (a list the mean of its rows'), a scalar number itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn

from mimn.bundle.fields import FieldSpec

FIELD_STD = 0.05
NO_ROW = -1
"""Behind the end of a list."""


@dataclass(frozen=True, kw_only=True)
class FieldValues:
    """Values of some fields, for any leading axes."""

    rows: Tensor
    """[..., S] int64: one column a tabled field with one value, in the order of the fields."""
    lists: tuple[Tensor, ...]
    """[..., M] int64 each, `NO_ROW` behind the end: one a multi-valued field. A list has at least one row."""
    numbers: Tensor
    """[..., Q] float32: one column a scalar field."""

    def to(self, device: torch.device) -> Self:
        """The same on `device`."""
        lists = tuple(values.to(device) for values in self.lists)
        return replace(self, rows=self.rows.to(device), lists=lists, numbers=self.numbers.to(device))

    def at(self, index: Tensor) -> FieldValues:
        """The values at places of the first axis. index [...] int64"""
        lists = tuple(values[index] for values in self.lists)
        return FieldValues(rows=self.rows[index], lists=lists, numbers=self.numbers[index])


class FieldTables(nn.Module):
    """Tables of one side's fields: the request's (user and context), or the item's."""

    def __init__(self, specs: Sequence[FieldSpec], dim: int, *, first_order: bool) -> None:
        """
        Args:
            specs: of one side, in the manifest's order.
            dim: E.
            first_order: whether each value also has a first-order weight, in front of its vector.
        """
        super().__init__()
        self.specs, self.dim, self.first_order = tuple(specs), dim, first_order
        self.tables = nn.ModuleDict()
        for spec in self.specs:
            if spec.tabled:
                table = nn.Embedding(spec.rows, dim + first_order)
                nn.init.normal_(table.weight, std=FIELD_STD)
                self.tables[spec.name] = table
        scalars = sum(not spec.tabled for spec in self.specs)
        self.directions = nn.Parameter(torch.randn(scalars, dim + first_order) * FIELD_STD)
        """What a scalar is multiplied by where a head takes vectors."""

    @property
    def width(self) -> int:
        """Floats of `vector`."""
        return sum(self.dim + self.first_order if spec.tabled else 1 for spec in self.specs)

    def table(self, name: str) -> Tensor:
        """A field's vectors, the first-order weight in front. → [rows, E]"""
        return self.tables[name].get_parameter("weight")

    def vector(self, values: FieldValues) -> Tensor:
        """The fields behind one another, as the request's or the item's vector in a bundle. → [..., W]"""
        pieces: list[Tensor] = []
        row = listed = number = 0
        for spec in self.specs:
            if not spec.tabled:
                pieces.append(values.numbers[..., number : number + 1])
                number += 1
            elif spec.kind == "multi":
                rows = values.lists[listed]
                real = (rows != NO_ROW).unsqueeze(-1)
                found = self.tables[spec.name](rows.clamp_min(0)) * real
                pieces.append(found.sum(-2) / real.sum(-2).clamp_min(1))
                listed += 1
            else:
                pieces.append(self.tables[spec.name](values.rows[..., row]))
                row += 1
        return torch.cat(pieces, -1) if pieces else values.numbers

    def fields(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        """A vector as fields of one width, and the sum of their first-order weights (0 without).

        [..., W] → [..., F, E], [...]
        """
        wide = self.dim + self.first_order
        pieces, at, number = [], 0, 0
        for spec in self.specs:
            if spec.tabled:
                pieces.append(vector[..., at : at + wide])
                at += wide
            else:
                pieces.append(vector[..., at : at + 1] * self.directions[number])
                at, number = at + 1, number + 1
        if not pieces:
            return vector.new_zeros((*vector.shape[:-1], 0, self.dim)), vector.new_zeros(vector.shape[:-1])
        stacked = torch.stack(pieces, -2)
        if not self.first_order:
            return stacked, stacked.new_zeros(stacked.shape[:-2])
        return stacked[..., 1:], stacked[..., 0].sum(-1)


class ModelFields(nn.Module):
    """The fields of a model: the request's tables, the item's, and each item's values."""

    def __init__(
        self,
        request: FieldTables,
        item: FieldTables,
        item_values: FieldValues | None = None,
        embedding_rows: Tensor | None = None,
    ) -> None:
        """
        Args:
            request, item: the tables of each side.
            item_values: by row of the model's item table, row 0 the unknown item. They are data, not weights, but a run
                folder without them could not be exported, so they are saved with the model.
            embedding_rows: [items] int64, the row of each item's id embedding: its own, or 0 for an item that has
                fields and was not shown in training. None: every item has its own.
        """
        super().__init__()
        if embedding_rows is not None:
            self.register_buffer("embedding_rows", embedding_rows)
        self.tied = embedding_rows is not None
        self.request, self.item = request, item
        self.lists = 0 if item_values is None else len(item_values.lists)
        if item_values is not None:
            self.register_buffer("item_rows", item_values.rows)
            self.register_buffer("item_numbers", item_values.numbers)
            for place, rows in enumerate(item_values.lists):
                self.register_buffer(f"item_list_{place}", rows)

    def id_rows(self, items: Tensor) -> Tensor:
        """The rows of the items' id embeddings. [...] int64 rows → [...]"""
        return self.get_buffer("embedding_rows")[items] if self.tied else items

    def item_vector(self, items: Tensor) -> Tensor | None:
        """The items' vectors of their fields, None without any. [...] int64 rows → [..., W]"""
        if not self.item.specs:
            return None
        values = FieldValues(
            rows=self.get_buffer("item_rows"),
            lists=tuple(self.get_buffer(f"item_list_{place}") for place in range(self.lists)),
            numbers=self.get_buffer("item_numbers"),
        )
        return self.item.vector(values.at(items))


def item_width(fields: ModelFields | None) -> int:
    """W: floats of the item's fields, 0 for a model without."""
    return 0 if fields is None else fields.item.width


def request_width(fields: ModelFields | None) -> int:
    """K: floats of the request's fields."""
    return 0 if fields is None else fields.request.width


NO_FIELDS = ModelFields(FieldTables((), 1, first_order=False), FieldTables((), 1, first_order=False))
"""Of a model without fields."""
