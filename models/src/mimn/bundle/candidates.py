"""What a head is given of candidates by their ids: vectors, and cells of a sketch; and what a step is given of events:
vectors. One call a request or a round, compiled where that is installed (`mimn.rows.candidates`); numpy gives the
same bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimn.bundle.vocabulary import UNKNOWN_ROW, EmbeddingTable
from mimn.rows.candidates import LookUp
from mimn.rows.library import library
from mimn.state.sketch import Sketch

Ids = NDArray[np.uint64]
Write = Callable[[int], int]
"""Of the first C candidates; returns how many of their items the table does not have."""


@dataclass(frozen=True)
class CandidateTables:
    """The tables that candidates are looked up in."""

    items: EmbeddingTable
    """Items as candidates, with the vectors of their fields."""
    categories: EmbeddingTable
    sketch: Sketch | None = None

    @property
    def width(self) -> int:
        """W: width of a candidate's vector."""
        return self.items.width + self.categories.width

    def into(self, items: Ids, categories: Ids, vectors: NDArray[np.float32], cells: NDArray[np.int64] | None) -> Write:
        """What writes vectors, and with a sketch cells, of the first C items and categories, as the arrays are then,
        into the first rows of the other two. [≥ C], [≥ C], [≥ C, W], [≥ C, A]; `cells` is None without a sketch."""
        into = self.by_numpy if self.compiled is None else self.compiled.into
        return into(items, categories, vectors, cells)

    def look_up(self, items: Ids, categories: Ids) -> NDArray[np.float32]:
        """Vectors alone. [k], [k] → [k, W]"""
        vectors = np.empty((len(items), self.width), np.float32)
        asked = np.ascontiguousarray(items, np.uint64), np.ascontiguousarray(categories, np.uint64)
        self.into(*asked, vectors, None)(len(items))
        return vectors

    def by_numpy(
        self, items: Ids, categories: Ids, vectors: NDArray[np.float32], cells: NDArray[np.int64] | None
    ) -> Write:
        """As `into`."""

        def write(count: int) -> int:
            asked, category_rows = items[:count], self.categories.rows(categories[:count])
            item_rows = self.items.rows(asked)
            vectors[:count, : self.items.width] = self.items.vectors[item_rows]
            vectors[:count, self.items.width :] = self.categories.vectors[category_rows]
            if self.sketch is not None and cells is not None:
                cells[:count] = self.sketch.addresses_of(asked, category_rows)
            return int((item_rows == UNKNOWN_ROW).sum())

        return write

    @cached_property
    def compiled(self) -> LookUp | None:
        """The compiled form, if it can be had."""
        if (built := library()) is None:
            return None
        items, categories, sketch = self.items, self.categories, self.sketch
        arrays: dict[str, NDArray[Any]] = {
            "item_ids": items.ids, "category_ids": categories.ids, "item_vectors": items.vectors,
            "category_vectors": categories.vectors,
        }  # fmt: skip
        numbers = {
            "items": len(items.ids), "categories": len(categories.ids), "item_width": items.width,
            "category_width": categories.width, "sketched": int(sketch is not None),
            "category_cells": 0 if sketch is None else sketch.category_cells,
            "item_cells": 0 if sketch is None else sketch.item_cells,
        }  # fmt: skip
        return LookUp(arrays, numbers, built)
