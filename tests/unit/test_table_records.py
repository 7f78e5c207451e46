"""Records: what is written comes back, changes are noticed, and ranks order rows as their scores do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimn import metrics, run
from mimn.table.records import NoRecord, Record, ranks, read_records
from support.table_records import model, of_quality


def test_a_record_comes_back_and_notices_changed_predictions(tmp_path: Path) -> None:
    record = model("pooling", 1.0, range(3))
    record.save(tmp_path, "name = 'x'\n")
    back = read_records(tmp_path)
    assert len(back) == 1
    assert back[0].folds == record.folds
    np.testing.assert_array_equal(back[0].of_fold(2)["200"], record.of_fold(2)["200"])

    record.put(3, model("pooling", 1.0).folds[3], {"200": of_quality(3, 1.0)})
    record.save(tmp_path)
    assert sorted(Record.load(tmp_path / "complete_journey" / "pooling").folds) == [0, 1, 2, 3]

    record.arrays["fold1_200"][0] += 0.1
    record.save(tmp_path)
    with pytest.raises(NoRecord, match="ranks of fold 1 were changed"):
        read_records(tmp_path)
    (tmp_path / "complete_journey" / "pooling" / run.METRICS).write_text("{")
    with pytest.raises(NoRecord, match="pooling cannot be read"):
        read_records(tmp_path)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=60),
    st.integers(0, 2**32 - 1),
)
def test_ranks_give_the_same_auc_and_resamples_to_the_last_bit(pairs: list[tuple[int, int]], seed: int) -> None:
    """Of all rows, and of the rows of any users: many scores are tied, within a label and across."""
    scores = np.array(pairs, np.float64).reshape(-1) / 9.0
    places = ranks(scores).astype(np.float64)
    assert ranks(scores).dtype == np.uint16
    random = np.random.default_rng(seed)
    users = np.repeat(random.integers(5, size=len(pairs)), 2)
    for user in (None, int(users[0])):
        mask = np.ones(len(users), bool) if user is None else users == user
        labels = np.tile([1, 0], int(mask.sum()) // 2)
        assert metrics.auc(labels, places[mask]) == metrics.auc(labels, scores[mask])
        ours, theirs = (metrics.resampled_aucs(labels, of[mask], users[mask], resamples=20) for of in (places, scores))
        np.testing.assert_array_equal(ours, theirs)


def test_ranks_beyond_16_bits_are_refused() -> None:
    with pytest.raises(ValueError, match="more ranks than 65,536"):
        ranks(np.tile([1.0, 0.0], 40_000) + np.arange(80_000) * 2)
