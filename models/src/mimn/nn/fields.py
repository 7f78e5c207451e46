"""Fields in a model: the tables of their vectors, and what rows and numbers look up in them.

The same order everywhere: the fields of user and context in the manifest's order make the request's vector, those of
the item the item's. A field with a table gives its row's vector (a list the mean of its rows'), a scalar number itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from mimn.bundle.fields import FieldSpec

FIELD_STD = 0.05
NO_ROW = -1
"""Behind the end of a list."""
TAKEN = frozenset(dir(nn.ModuleDict()))
"""Names that a module in a dictionary of modules cannot have."""


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


def table_key(name: str) -> str:
    """What a field's table is called among a model's weights: its name, if torch takes that for a module.

    torch takes no point, and no attribute of its own, such as `type` or `items`. No field has a slash in its name.
    """
    return name.replace(".", "/") + "/" * (name in TAKEN)


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
                self.tables[table_key(spec.name)] = table
        scalars = sum(not spec.tabled for spec in self.specs)
        self.directions = nn.Parameter(torch.randn(scalars, dim + first_order) * FIELD_STD)
        """What a scalar is multiplied by where a head takes vectors."""

    @property
    def rates(self) -> list[int]:
        """Which of the numbers are past rates."""
        return [place for place, spec in enumerate(s for s in self.specs if not s.tabled) if spec.past_rate]

    @property
    def width(self) -> int:
        """Floats of `vector`."""
        return sum(self.dim + self.first_order if spec.tabled else 1 for spec in self.specs)

    def table(self, name: str) -> Tensor:
        """A field's vectors, the first-order weight in front. → [rows, E]"""
        return self.tables[table_key(name)].get_parameter("weight")

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
                found = self.tables[table_key(spec.name)](rows.clamp_min(0)) * real
                pieces.append(found.sum(-2) / real.sum(-2).clamp_min(1))
                listed += 1
            else:
                pieces.append(self.tables[table_key(spec.name)](values.rows[..., row]))
                row += 1
        return torch.cat(pieces, -1) if pieces else values.numbers

    def fields(self, vector: Tensor) -> FieldVectors:
        """A vector cut into its fields. [..., W] → [..., F, E], [...]"""
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
            return FieldVectors(
                vector.new_zeros((*vector.shape[:-1], 0, self.dim)), vector.new_zeros(vector.shape[:-1])
            )
        stacked = torch.stack(pieces, -2)
        if not self.first_order:
            return FieldVectors(stacked, stacked.new_zeros(stacked.shape[:-2]))
        return FieldVectors(stacked[..., 1:], stacked[..., 0].sum(-1))


class FieldVectors(NamedTuple):
    """Fields of one width, as a field head takes them."""

    vectors: Tensor
    """[..., F, E]"""
    first: Tensor
    """[...]: the sum of their first-order weights, 0 without."""


class ServedFields(nn.Module):
    """`FieldTables.fields` as one product with a constant matrix: a served graph pays for every operation."""

    matrix: Tensor
    """[W, F E + 1]"""

    def __init__(self, tables: FieldTables) -> None:
        super().__init__()
        self.count, self.dim = len(tables.specs), tables.dim
        with torch.no_grad():
            cut = tables.fields(torch.eye(tables.width))
            self.register_buffer("matrix", torch.cat([cut.vectors.flatten(-2), cut.first.unsqueeze(-1)], -1))

    def forward(self, vector: Tensor) -> FieldVectors:
        """[..., W] → [..., F, E], [...]"""
        product = vector @ self.matrix
        return FieldVectors(product[..., :-1].view(*product.shape[:-1], self.count, self.dim), product[..., -1])


@dataclass(frozen=True)
class ItemMembers:
    """What items stand for, by row of the model's item table: item r has `rows[first[r] : first[r + 1]]`."""

    first: Tensor
    """[items + 1] int64"""
    rows: Tensor
    """[n] int64 rows of the item table, of members with an embedding of their own."""


class ModelFields(nn.Module):
    """The fields of a model: the request's tables, the item's, and each item's values."""

    def __init__(
        self,
        request: FieldTables,
        item: FieldTables,
        item_values: FieldValues | None = None,
        embedding_rows: Tensor | None = None,
        members: ItemMembers | None = None,
    ) -> None:
        """
        Args:
            request, item: the tables of each side.
            item_values: by row of the model's item table, row 0 the unknown item. They are data, not weights, but a run
                folder without them could not be exported, so they are saved with the model.
            embedding_rows: [items] int64, the row of each item's id embedding: its own, or 0 for an item that has
                fields and was not shown in training. None: every item has its own.
            members: what each item stands for; None: every item stands for itself.
        """
        super().__init__()
        if embedding_rows is not None:
            self.register_buffer("embedding_rows", embedding_rows)
        self.tied = embedding_rows is not None
        self.request, self.item = request, item
        self.with_members = members is not None
        if members is not None:
            self.register_buffer("member_first", members.first)
            self.register_buffer("member_rows", members.rows)
        self.lists = 0 if item_values is None else len(item_values.lists)
        if item_values is not None:
            self.register_buffer("item_rows", item_values.rows)
            self.register_buffer("item_numbers", item_values.numbers)
            for place, rows in enumerate(item_values.lists):
                self.register_buffer(f"item_list_{place}", rows)

    def id_rows(self, items: Tensor) -> Tensor:
        """The rows of the items' id embeddings. [...] int64 rows → [...]"""
        return self.get_buffer("embedding_rows")[items] if self.tied else items

    def item_embeddings(self, table: nn.Embedding, items: Tensor) -> Tensor:
        """Items as vectors: their own embeddings, plus the mean of those of their members.

        An item's vector depends on the item alone, so a bundle holds it as one row. [...] int64 rows → [..., E]
        """
        own: Tensor = table(self.id_rows(items))
        if not self.with_members:
            return own
        first = self.get_buffer("member_first")
        group = (first[items + 1] > first[items]).nonzero(as_tuple=True)
        if not len(group[0]):
            return own
        found, place = torch.unique(items[group], return_inverse=True)
        start, size = first[found], first[found + 1] - first[found]
        offset = size.cumsum(0) - size
        at = torch.arange(int(size.sum()), device=items.device) + (start - offset).repeat_interleave(size)
        rows = self.get_buffer("member_rows")[at]
        means = nn.functional.embedding_bag(rows, table.weight, offset, mode="mean", sparse=table.sparse)
        return own.index_put(group, means[place], accumulate=True)

    def item_vector(self, items: Tensor, rates: Tensor | None = None) -> Tensor | None:
        """The items' vectors of their fields, None without any.

        `rates`: the numbers of fields whose value differs from impression to impression, in the fields' order; None:
        as they were at the end of training.

        [...] int64 rows, [..., Q] → [..., W]
        """
        if not self.item.specs:
            return None
        values = FieldValues(
            rows=self.get_buffer("item_rows"),
            lists=tuple(self.get_buffer(f"item_list_{place}") for place in range(self.lists)),
            numbers=self.get_buffer("item_numbers"),
        )
        found = values.at(items)
        if rates is not None:
            numbers = found.numbers.clone()
            numbers[..., self.item.rates] = rates
            found = replace(found, numbers=numbers)
        return self.item.vector(found)


class HeadFields(nn.Module):
    """The fields of one user's request and of the candidates, as a served graph takes them."""

    def __init__(self, fields: ModelFields | None, *, cut: bool) -> None:
        """`cut`: the head takes vectors of fields, and not all behind one another."""
        super().__init__()
        self.width = item_width(fields)
        self.request = ServedFields(fields.request) if cut and request_width(fields) and fields is not None else None
        self.item = ServedFields(fields.item) if cut and self.width and fields is not None else None

    def split(self, candidates: Tensor) -> tuple[Tensor, Tensor | FieldVectors | None]:
        """The candidates' own vectors, and the item fields in front of them. [C, W + D] → [1, C, D], [1, C, ...]"""
        if not self.width:
            return candidates.unsqueeze(0), None
        fields, own = candidates[:, : self.width].unsqueeze(0), candidates[:, self.width :].unsqueeze(0)
        return own, fields if self.item is None else self.item(fields)

    def of_request(self, context: Tensor | None) -> Tensor | FieldVectors | None:
        """The request's fields. [1, K]"""
        return context if context is None or self.request is None else self.request(context)


def item_width(fields: ModelFields | None) -> int:
    """W: floats of the item's fields, 0 for a model without."""
    return 0 if fields is None else fields.item.width


def request_width(fields: ModelFields | None) -> int:
    """K: floats of the request's fields."""
    return 0 if fields is None else fields.request.width


NO_FIELDS = ModelFields(FieldTables((), 1, first_order=False), FieldTables((), 1, first_order=False))
"""Of a model without fields."""
