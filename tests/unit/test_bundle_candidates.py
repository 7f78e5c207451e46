"""Vectors and cells of candidates: the compiled form writes numpy's bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mimn.bundle.candidates import CandidateTables
from mimn.bundle.vocabulary import EmbeddingTable
from mimn.state import Sketch
from support import skips

IDS = st.lists(st.one_of(st.integers(0, 40), st.integers(0, 2**64 - 1)), max_size=60)


def table(ids: list[int], width: int) -> EmbeddingTable:
    vectors = np.random.default_rng(len(ids)).normal(size=(len(set(ids)) + 1, width)).astype(np.float32)
    return EmbeddingTable(np.array(sorted(set(ids)), np.uint64), vectors)


@given(
    IDS,
    IDS,
    st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 50)), max_size=30),
    st.sampled_from([None, Sketch(8, 16, (0,)), Sketch(0, 1280, (0, 7)), Sketch(40, 0, (7,))]),
)
def test_both_forms_write_the_same_bytes_and_nothing_behind_them(
    items: list[int], categories: list[int], asked: list[tuple[int, int]], sketch: Sketch | None
) -> None:
    tables = CandidateTables(table(items, 5), table(categories, 3), sketch)
    if tables.compiled is None:
        pytest.skip(skips.NO_COMPILED_STEP)
    known = [*zip(items, categories, strict=False), *asked]
    of_items, of_categories = (np.array([pair[i] for pair in known], np.uint64) for i in range(2))

    def written(into: object) -> tuple[NDArray[np.float32], NDArray[np.int64] | None, int]:
        vectors = np.full((len(known) + 2, tables.width), 7, np.float32)
        cells = None if sketch is None else np.full((len(known) + 2, sketch.addresses), 7)
        unknown = into(of_items, of_categories, vectors, cells)(len(known))  # type: ignore[operator]
        return vectors, cells, unknown

    (*plain, unknown), (*fast, counted) = written(tables.by_numpy), written(tables.compiled.into)
    assert unknown == counted == sum(pair[0] not in items for pair in known)
    for one, other in zip(plain, fast, strict=True):
        if one is not None and other is not None:
            assert one.tobytes() == other.tobytes()


@given(st.integers(0, 2**45))
def test_a_moment_is_that_of_an_array_of_one_time(time_ms: int) -> None:
    sketch = Sketch(8, 16, (0, 1, 7, 30))
    np.testing.assert_array_equal(sketch.moment(time_ms), sketch.moments(np.array([time_ms]))[0])
