"""Rows of any order come out sorted by user and time, whatever fits into memory at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mimn.data.sorting import SortingWriter


@given(
    users=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=6),
    seed=st.integers(0, 1000),
    batches=st.lists(st.integers(0, 60), max_size=8),
    range_rows=st.sampled_from([7, 40, 10_000]),
    backwards=st.booleans(),
)
def test_columns_are_sorted_and_equal_keys_keep_their_order(
    tmp_path_factory: object, users: list[int], seed: int, batches: list[int], range_rows: int, backwards: bool
) -> None:
    folder = Path(tmp_path_factory.mktemp("sorted"))  # type: ignore[attr-defined]
    rng = np.random.default_rng(seed)
    n = sum(batches)
    rows = {
        "user": np.array(users, np.int64)[rng.integers(len(users), size=n)],
        "time": rng.integers(0, 5, n),
        "place": np.arange(n),
    }
    dtypes = {"user": np.int64, "time": np.int64, "place": np.int32}
    with SortingWriter(folder, dtypes, ("user", "time"), range_rows=range_rows) as writer:
        begin = 0
        for size in batches:
            writer.add({name: values[begin : begin + size] for name, values in rows.items()})
            begin += size
        writer.finish(np.negative if backwards else None)
    time = -rows["time"] if backwards else rows["time"]
    order = np.lexsort((rows["place"], time, rows["user"]))
    for name, dtype in dtypes.items():
        found = np.load(folder / f"{name}.npy")
        assert found.dtype == dtype
        assert np.array_equal(found, rows[name][order])
    assert {path.name for path in folder.iterdir()} == {f"{name}.npy" for name in dtypes}
