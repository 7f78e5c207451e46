"""Comparisons of rows: means over folds, intervals over users, groups of test rows."""

from __future__ import annotations

import numpy as np
import pytest

from mimn import metrics
from mimn.data.split import FOLDS
from mimn.table.compare import Entry, Results, results
from mimn.table.records import Record
from support.table_records import floors, label, model, of_quality


def of(*records: Record) -> Results:
    return results(list(records))[0]


def test_an_auc_is_the_mean_of_the_folds_and_never_ranks_across_them() -> None:
    record = model("pooling", 1.0)
    shifted = model("shifted", 1.0)
    for fold in range(FOLDS):
        # Another fold's scores on another scale: what would ruin one ranking over all folds changes nothing here.
        moved = of_quality(fold, 1.0) / (fold + 1.0) + fold
        shifted.put(fold, shifted.folds[fold], {"200": moved.astype(np.float64)})
    one = of(floors(0.0), record, shifted)
    expected = [metrics.auc(label(), of_quality(fold, 1.0).astype(np.float64)) for fold in range(FOLDS)]
    assert one.aucs(Entry("pooling", 200)) == pytest.approx(expected)
    assert one.auc(Entry("pooling", 200)) == pytest.approx(np.mean(expected))
    found = one.compare(Entry("shifted", 200), Entry("pooling", 200))
    assert found is not None
    assert found.difference.difference == pytest.approx(0.0, abs=1e-4)


def test_better_needs_an_interval_without_zero() -> None:
    one = of(floors(0.0), model("a", 1.0), model("b", 0.2), model("c", 1.0))
    clear = one.compare(Entry("a", 200), Entry("b", 200))
    same = one.compare(Entry("a", 200), Entry("c", 200))
    assert clear is not None
    assert same is not None
    assert (clear.verdict, clear.won, clear.folds) == ("better", FOLDS, FOLDS)
    assert clear.difference.low > 0
    assert (same.verdict, same.won) == ("not established", 0)
    assert one.compare(Entry("b", 200), Entry("a", 200)).verdict == "worse"  # type: ignore[union-attr]  # as above


def test_rows_are_compared_on_the_folds_that_both_have() -> None:
    one = of(floors(0.0), model("a", 1.0), model("b", 0.5, range(2)), model("c", 0.5, range(3, 5)))
    found = one.compare(Entry("a", 200), Entry("b", 200))
    assert found is not None
    assert found.folds == 2
    ours, theirs = (one.aucs(Entry(key, 200), folds=range(2)) for key in "ab")
    assert found.difference.difference == pytest.approx(np.mean(ours) - np.mean(theirs))
    assert one.compare(Entry("b", 200), Entry("c", 200)) is None


def test_a_group_of_rows_keeps_each_positive_with_its_negative() -> None:
    one = of(floors(0.0), model("a", 1.0))
    for group, share in (("all", 1.0), ("bought", 0.6), ("new", 0.4), ("long", 0.2)):
        labels, users, mask = one.rows(0, group)  # type: ignore[arg-type]  # names of groups
        assert len(labels) == len(users) == mask.sum()
        assert labels.tolist() == [1, 0] * (len(labels) // 2)
        assert one.share(group) == pytest.approx(share)  # type: ignore[arg-type]  # as above


def test_a_group_without_rows_has_no_comparison_and_its_other_folds_have_one() -> None:
    """A data set whose targets are all new, or without long histories: no figure, and no error."""
    nothing = floors(0.0)
    for fold in range(FOLDS):
        nothing.arrays[f"fold{fold}_bought"][:] = False
    nothing.arrays["fold0_events"][:] = 30
    one = of(nothing, model("a", 1.0), model("b", 0.2))
    assert one.share("bought") == 0.0
    assert one.compare(Entry("a", 200), Entry("b", 200), "bought") is None
    found = one.compare(Entry("a", 200), Entry("b", 200), "long")
    assert found is not None
    assert found.folds == FOLDS - 1


def test_the_best_row_is_chosen_on_validation_users_among_the_accepted_sizes() -> None:
    one = of(
        floors(0.0),
        model("a", 1.0, state=6064, validation=0.75),
        model("b", 2.0, state=6065, validation=0.8),
        model("c", 1.5, state=None, validation=0.74),
    )
    assert one.best_on_validation(200, lambda state: state is not None and state <= 6144) == "a"
    assert one.best_on_validation(200, lambda state: True) == "b"
    assert one.best_on_validation(200, lambda state: state is None) == "c"
    assert one.best_on_validation(1000, lambda state: True) is None


def test_a_row_that_was_trained_again_is_the_mean_of_its_trainings_with_an_interval_over_them() -> None:
    rival, first, second = model("b", 0.5), model("a", 1.5), model("a_10", 0.9)
    alone, both = of(floors(0.0), rival, first), of(floors(0.0), rival, first, second)
    assert list(both.models) == ["b", "a"]
    entries = Entry("a", 200), Entry("b", 200)
    aucs = [of(floors(0.0), model("a", quality)).aucs(Entry("a", 200)) for quality in (1.5, 0.9)]
    assert both.aucs(Entry("a", 200)) == pytest.approx(np.mean(aucs, axis=0))
    assert both.figures(Entry("a", 200), "popularity", "auc") == [
        auc for pair in zip(*aucs, strict=True) for auc in pair
    ]
    once, twice = alone.compare(*entries), both.compare(*entries)
    assert once is not None
    assert twice is not None
    assert (once.trainings, twice.trainings) == ((1, 1), (2, 1))
    assert twice.difference.difference == pytest.approx(both.auc(Entry("a", 200)) - both.auc(Entry("b", 200)))
    widths = [found.difference.high - found.difference.low for found in (once, twice)]
    assert widths[1] > widths[0], "trainings differ, too"
    assert both.spread("a") == pytest.approx(np.mean(aucs[0]) - np.mean(aucs[1]))
    assert both.spread("b") is None
    assert both.validation_auc("a", 1) == pytest.approx(0.8)
    assert both.validation_auc("a", 7) is None
