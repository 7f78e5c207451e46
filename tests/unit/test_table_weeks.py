"""Weeks: sums of seven days, and the ones that the table's plan leaves out are what it says they are."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pytest

from mimn.data.events import Events
from mimn.table import weeks
from mimn.table.plan import PLAN, cells, read_plan
from mimn.table.weeks import DAY_MS, Week

ROOT = Path(__file__).parents[2]


def bought(*days: int) -> Events:
    """A purchase at noon on each of some days after 2024-02-27."""
    noon = np.array(days, np.int64) * (DAY_MS // 1000) + int(np.datetime64("2024-02-27T12:00:00", "s").astype(np.int64))
    ids = np.ones(len(days), np.int64)
    return Events(user_id=ids, item_id=ids, category_id=ids, timestamp=noon, basket_id=ids)


def test_each_seven_days_in_a_row_are_summed_whole() -> None:
    found = weeks.weeks(bought(0, 0, 3, 7, 7, 7, 8))
    assert found == [Week(date(2024, 2, 27), 3), Week(date(2024, 2, 28), 4), Week(date(2024, 2, 29), 5)]
    assert weeks.busiest(found).first_day == date(2024, 2, 29)
    assert weeks.median(found) == 4
    assert weeks.weeks(bought(0, 5)) == []


@pytest.mark.parametrize(
    ("dataset", "busy", "plain"),
    [
        ("complete_journey", "mimn_without_busy_week", "mimn_without_plain_week"),
        ("online_retail", "mimn_without_busy_november", "mimn_without_plain_june"),
    ],
)
def test_the_plan_leaves_out_the_busiest_week_and_one_like_most(
    dataset: str, busy: str, plain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    counted = weeks.read(weeks.OUTPUT / f"{dataset}.csv")
    left_out = {cell.key: cell.config.windows.without for cell in cells(read_plan(PLAN)) if cell.dataset == dataset}
    most, usual = left_out[busy], left_out[plain]
    assert most is not None
    assert usual is not None
    assert most[0] == weeks.busiest(counted).first_day
    assert (most[1] - most[0]).days == (usual[1] - usual[0]).days == weeks.DAYS
    purchases = {week.first_day: week.purchases for week in counted}
    assert purchases[usual[0]] == pytest.approx(weeks.median(counted), rel=0.01)
