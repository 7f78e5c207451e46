"""Slices of targets, and the differences between models over users and trainings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mimn import metrics
from mimn.data.events import Events
from mimn.data.instances import Instances
from mimn.table.plan import Cell, Plan, Stage, cells, planned
from mimn.table.slices import (
    Line,
    Scored,
    by_model,
    differences,
    head_items,
    lines,
    merged_trainings,
    slices_of,
)

pytestmark = pytest.mark.torch

ROOT = Path(__file__).parents[2]


def ints(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


def test_head_items_are_as_few_as_have_half_of_the_events() -> None:
    assert head_items(ints(7, 7, 7, 5, 5, 3)).tolist() == [7]
    assert head_items(ints(7, 7, 7, 5, 5, 3, 2)).tolist() == [5, 7]
    assert head_items(ints(4)).tolist() == [4]


def test_each_target_is_in_the_slices_of_its_user_history_and_item() -> None:
    """User 1 touches 60 items, the last one item 1 again; the last of user 2's 10 events is of the new item 70."""
    events = Events(
        user_id=ints(*[1] * 60, *[2] * 10),
        item_id=ints(*range(1, 60), 1, *[8] * 9, 70),
        category_id=ints(*[1] * 70),
        timestamp=ints(*range(60), *range(10)),
        basket_id=ints(*range(70)),
    )
    instances = Instances(
        part=ints(1, 1), user_id=ints(1, 2), timestamp=ints(59, 9), begin=ints(0, 60), end=ints(59, 69),
        last=np.array([True, True]), item=ints(1, 70), category=ints(1, 1), negatives={}, unknown=ints(0, 0, 0),
    )  # fmt: skip
    train = np.array([True, True])
    found = {name: mask.tolist() for name, mask in slices_of(events, instances, train).items()}
    assert found == {
        "all": [True, True],
        "bought before": [True, False],
        "new": [False, True],
        "history under 50": [False, True],
        "history under 200": [True, True],
        "history under 1,000": [True, True],
        "head items": [True, False],
        "tail items": [False, True],
    }


@pytest.fixture(scope="module")
def of_row() -> dict[tuple[str, int], Cell]:
    """Two models on two folds."""
    stage = Stage(dataset="online_retail", rows=("pooling_ledger", "mimn_ledger"), folds=(0, 1))
    plan = Plan(configs=str(ROOT / "models/configs"), records="", runs="", stages=(stage,))
    return {(one.key, one.fold): one for one in cells(plan)}


def scored(cell: Cell, seed: int, skill: float) -> Scored:
    """40 users with two targets each; a skillful model scores targets higher."""
    random = np.random.default_rng(seed)
    scores = random.normal(size=(80, 5))
    scores[:, 0] += skill
    masks = {"all": np.ones(80, np.bool_), "new": np.arange(80) % 2 == 0, "bought before": np.zeros(80, np.bool_)}
    row = cell.key.removesuffix("_10")
    return Scored(cell, row, np.repeat(np.arange(40), 2), masks, {(200, "popularity"): scores})


def test_a_slice_has_its_own_line_and_one_without_targets_none(of_row: dict[tuple[str, int], Cell]) -> None:
    one = scored(of_row["pooling_ledger", 0], 0, 1.0)
    found = {line["targets"]: line for line in lines(one)}
    assert found.keys() == {"all", "new"}
    assert (found["all"]["count"], found["new"]["count"]) == (80, 40)
    labels = np.tile(ints(1, 0, 0, 0, 0), 40)
    assert found["new"]["auc"] == round(metrics.auc(labels, one.scores[200, "popularity"][::2].reshape(-1)), 5)


def test_rows_that_differ_in_their_seed_alone_are_one_model(of_row: dict[tuple[str, int], Cell]) -> None:
    cell = of_row["pooling_ledger", 0]
    again = replace(cell, key="pooling_ledger_10", config=cell.config.with_seed(10))
    assert scored(cell, 0, 1.0).model == scored(again, 1, 1.0).model
    assert scored(cell, 0, 1.0).model == scored(of_row["pooling_ledger", 1], 0, 1.0).model
    assert scored(cell, 0, 1.0).model != scored(of_row["mimn_ledger", 0], 0, 1.0).model


def test_a_difference_is_the_mean_of_the_folds_with_an_interval_over_users_and_trainings(
    of_row: dict[tuple[str, int], Cell],
) -> None:
    cell, other = of_row["pooling_ledger", 0], of_row["mimn_ledger", 0]
    again = replace(cell, key="pooling_ledger_10", config=cell.config.with_seed(10))
    runs = [scored(cell, 0, 1.5), scored(other, 1, 0.5), scored(again, 2, 0.9)]
    found = {line["targets"]: line for line in differences(by_model(runs), ["mimn_ledger"])}
    assert found.keys() == {"all", "new"}
    line = found["all"]
    assert (line["difference"], line["trainings"], line["folds"]) == ("pooling_ledger - mimn_ledger", "2, 1", "0")
    aucs = [next(iter(lines(one)))["auc"] for one in runs]
    assert line["auc"] == pytest.approx((aucs[0] + aucs[2]) / 2 - aucs[1], abs=2e-5)
    assert line["low"] < line["auc"] < line["high"]
    alone = next(iter(differences(by_model(runs[:2]), ["mimn_ledger"])))
    assert line["high"] - line["low"] > alone["high"] - alone["low"], "trainings differ, too"
    assert not list(differences(by_model(runs), []))


def test_a_run_that_two_plans_name_is_read_at_the_lengths_of_both() -> None:
    def plan(*lengths: int) -> Plan:
        stage = Stage(dataset="online_retail", rows=("pooling_ledger",), folds=(0,), lengths=lengths)
        return Plan(configs=str(ROOT / "models/configs"), records="", runs="runs", stages=(stage,))

    found = planned([plan(200), plan(50, 1000)])
    assert [cell.lengths for cell in found.values()] == [(50, 200, 1000)]


def line(row: str, auc: float, fold: object = "0", trainings: object = "1", dataset: str = "films") -> Line:
    return {"dataset": dataset, "row": row, "fold": fold, "trainings": trainings, "auc": auc}


def test_trainings_are_added_to_the_record_one_by_one() -> None:
    old = [line("ours", 0.5), line("ours", 0.6, "1"), line("ours", 0.7, dataset="shop"), line("theirs", 0.8)]
    new = [line("ours_10", 0.52, 0, 1), line("ours_10", 0.62, 1, 1)]
    assert merged_trainings(old, new) == old + new
    again = [line("ours_10", 0.53, 0, 1)]
    assert merged_trainings(old + new, again) == [*old, new[1], *again]


def test_boosting_is_no_training_of_the_row_whose_reads_it_takes() -> None:
    stage = Stage(dataset="online_retail", rows=("pooling_ledger", "boosting"), folds=(0,))
    pooling, boosting = cells(Plan(configs=str(ROOT / "models/configs"), records="", runs="", stages=(stage,)))
    assert scored(pooling, 0, 1.0).model != scored(boosting, 0, 1.0).model
