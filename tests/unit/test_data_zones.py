"""`check` finds tables whose times are of different zones, by what they say and by where the events of clicks lie."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mimn.data import own_events
from mimn.data.check import Report, check
from mimn.data.own_events import Distance, OwnEvents
from support.shop_description import TOML

BEGIN_MS = 1_767_571_200_000
"""2026-01-05"""
HOUR_MS, DAY_MS = 3_600_000, 86_400_000


class Log:
    """200 users see 20 of 50 items each within a month, and a click is an event seconds to minutes after it."""

    def __init__(self, again: float = 0.04) -> None:
        """`again`: share of the impressions whose user looked at the item in the two hours before."""
        rng = np.random.default_rng(7)
        self.user = np.repeat(np.arange(1, 201, dtype=np.uint64), 20)
        n = len(self.user)
        self.item = rng.integers(1, 51, n).astype(np.uint64)
        self.shown = BEGIN_MS + DAY_MS + rng.integers(0, 30 * DAY_MS, n)
        self.clicked = rng.random(n) < 0.1
        self.clicked_at = self.shown + rng.exponential(120_000, n).astype(np.int64) + 1500
        back = rng.random(n) < again
        self.event_user = np.concatenate([self.user[self.clicked], self.user[back], self.user])
        self.event_item = np.concatenate([self.item[self.clicked], self.item[back], rng.permutation(self.item)])
        before = self.shown[back] - rng.integers(60_000, 2 * HOUR_MS, int(back.sum()))
        self.event = np.concatenate([self.clicked_at[self.clicked], before, BEGIN_MS + rng.integers(0, 30 * DAY_MS, n)])

    def add_events(self, rows: np.ndarray[Any, Any], times_ms: np.ndarray[Any, Any]) -> None:
        """Events of the users and items of impressions."""
        self.event_user = np.concatenate([self.event_user, self.user[rows]])
        self.event_item = np.concatenate([self.event_item, self.item[rows]])
        self.event = np.concatenate([self.event, times_ms])

    def distance(self, shift_ms: int | np.ndarray[Any, Any] = 0) -> Distance | None:
        """What is found if the times of impressions are `shift_ms` later than they were."""
        own = OwnEvents()
        own.add_events(self.event_user, self.event_item, self.event)
        at = self.shown + shift_ms
        half = len(self.user) // 2
        for part in (slice(half), slice(half, None)):
            own.add_impressions(self.user[part], self.item[part], at[part], self.clicked[part])
        return own.distance


@pytest.mark.parametrize("hours", [2, -5, 5.5])
def test_events_of_clicks_at_the_distance_of_a_zone_are_found(hours: float) -> None:
    log = Log()
    distance = log.distance(int(hours * HOUR_MS))
    assert distance is not None
    assert distance.minutes == -hours * 60
    found, clicks = distance.clicked
    assert clicks == int(log.clicked.sum())
    assert found > 0.9 * clicks
    assert distance.others[0] < 0.03 * distance.others[1]


@pytest.mark.parametrize("again", [0.04, 0.6])
def test_users_who_come_back_to_what_they_looked_at_are_no_finding(again: float) -> None:
    assert Log(again).distance() is None


@pytest.mark.parametrize("known", [True, False], ids=["clicks are events", "clicks are none"])
def test_reminders_that_are_clicked_more_often_than_the_rest_are_no_finding(known: bool) -> None:
    """One impression in 20 is shown 2 hours after a visit. 20 % of these are clicked, and 3 % of the others."""
    log, rng = Log(), np.random.default_rng(5)
    reminder = rng.random(len(log.user)) < 0.05
    log.clicked = rng.random(len(log.user)) < np.where(reminder, 0.2, 0.03)
    if known:
        log.add_events(np.flatnonzero(log.clicked), log.clicked_at[log.clicked])
    rows = np.flatnonzero(reminder)
    log.add_events(rows, log.shown[rows] - 2 * HOUR_MS + rng.integers(0, 60_000, len(rows)))
    assert log.distance() is None


def test_what_is_shown_again_within_a_minute_and_clicked_once_hides_no_zone() -> None:
    log = Log()
    for column in ("user", "item", "clicked", "clicked_at", "shown"):
        setattr(log, column, np.tile(getattr(log, column), 2))
    n = len(log.user) // 2
    log.clicked[n:] = False
    log.shown[n:] -= 45_000
    distance = log.distance(2 * HOUR_MS)
    assert distance is not None
    assert distance.minutes == -120
    assert log.distance() is None


@pytest.mark.parametrize("rounded", ["impressions", "events", "dates"])
def test_dates_and_whole_hours_are_at_no_distance(rounded: str) -> None:
    """Impressions as dates of visits in the morning, and events of whole hours or dates with pushes at fixed times."""
    log, rng = Log(), np.random.default_rng(6)
    n = len(log.user)
    match rounded:
        case "impressions":
            log.shown = log.shown // DAY_MS * DAY_MS
            log.clicked_at = log.shown + 8 * HOUR_MS + rng.integers(1, 600_000, n)
            event = log.clicked_at
        case "events":
            log.shown = log.shown // HOUR_MS * HOUR_MS + 3_000_000 + rng.integers(1, 60_000, n)
            event = log.shown // HOUR_MS * HOUR_MS - HOUR_MS
        case _:
            log.shown = log.shown // DAY_MS * DAY_MS + 8 * HOUR_MS + rng.integers(1, 60_000, n)
            event = log.shown // DAY_MS * DAY_MS
    log.event_user, log.event_item = log.user[log.clicked], log.item[log.clicked]
    log.event = event[log.clicked]
    assert log.distance() is None


def test_clicks_after_hours_of_reading_and_events_of_whole_hours_are_no_finding() -> None:
    log = Log()
    log.event = log.event // HOUR_MS * HOUR_MS
    assert log.distance() is None
    log = Log()
    own = log.event[: int(log.clicked.sum())]
    own += np.random.default_rng(1).integers(0, 8 * HOUR_MS, len(own))
    assert log.distance() is None


def test_few_clicks_and_tables_without_some_are_no_finding() -> None:
    log = Log()
    log.clicked[np.flatnonzero(log.clicked)[15:]] = False
    assert log.distance(2 * HOUR_MS) is None
    log.clicked[:] = False
    assert log.distance(2 * HOUR_MS) is None
    assert OwnEvents().distance is None


def test_a_sample_of_users_is_kept_of_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_events, "SAMPLED_ROWS", 2000)
    log = Log()
    distance = log.distance(2 * HOUR_MS)
    assert distance is not None
    assert distance.minutes == -120
    assert 20 <= distance.clicked[1] < int(log.clicked.sum()) * 0.7
    monkeypatch.setattr(own_events, "SAMPLED_ROWS", 0)
    assert log.distance(2 * HOUR_MS) is None


def checked(folder: Path, events: pa.Array, shown: pa.Array, log: Log, toml: str = TOML, **more: pa.Array) -> Report:
    of_events = {"uid": log.event_user, "sku": log.event_item, "ts": events}
    pq.write_table(pa.table(of_events), folder / "events.parquet")
    of_shown = {"uid": log.user, "sku": log.item, "ts": shown, "clicked": log.clicked, **more}
    pq.write_table(pa.table(of_shown), folder / "impressions.parquet")
    (folder / "dataset.toml").write_text(toml)
    return check(folder / "dataset.toml")


def stamps(times_ms: np.ndarray[Any, Any], zone: str | None = None) -> pa.Array:
    return pa.array(times_ms, pa.timestamp("ms", zone))


def texts(times_ms: np.ndarray[Any, Any], *, hours: int = 0, offset: bool = True) -> pa.Array:
    zone = timezone(timedelta(hours=hours))
    local = [datetime.fromtimestamp(at / 1000, UTC).astimezone(zone) for at in times_ms.tolist()]
    return pa.array([at.isoformat() if offset else at.replace(tzinfo=None).isoformat() for at in local])


BOTH = "times with and without a zone"


def test_a_zone_that_one_table_lost_is_said_and_found_by_the_events_of_clicks(tmp_path: Path) -> None:
    log = Log()
    events, shown = texts(log.event), texts(log.shown, hours=2, offset=False)
    report = checked(tmp_path, events, shown, log)
    assert re.search(
        r"impressions.parquet: column ts \(`impressions.time`\) holds '2026-[-0-9T:.]+' in row 1, without a zone, "
        r"which is read as UTC, and .+parquet: column ts \(`events.time`\) holds '2026-.+\+00:00' in row 1, with "
        r"one",
        report.values[BOTH],
    )
    assert re.search(
        r"`impressions`, column ts of impressions.parquet: (\d+) of \d+ clicked impressions that were looked at have "
        r"an event of their user and item about 2 h before them; of the others, \d+ of \d+ have. So the click is in "
        r"its own history: compare the zone of the column with that of column ts of events.parquet",
        "\n".join(report.findings),
    )
    report = checked(tmp_path, events, texts(log.shown, hours=2), log)
    assert report.findings == []
    assert BOTH not in report.values
    later = checked(tmp_path, events, texts(log.shown, hours=-2, offset=False), log)
    assert "about 2 h after them; " in later.findings[0]
    assert "have. So the latest events are not in the history: compare" in later.findings[0]
    right = checked(tmp_path, events, texts(log.shown, offset=False), log)
    assert right.findings == [], "without a zone a time is UTC"
    assert BOTH in right.values


@pytest.mark.parametrize(
    ("events", "shown", "found"),
    [
        ("UTC", None, True),
        (None, "+02:00", True),
        (None, None, False),
        ("UTC", "numbers", False),
        ("UTC", "dates", False),
    ],
)
def test_a_type_without_a_zone_beside_one_with_a_zone_is_said_and_numbers_and_dates_need_none(
    tmp_path: Path, events: str | None, shown: str | None, found: bool
) -> None:
    log = Log()

    def column(times: np.ndarray[Any, Any], kind: str | None) -> pa.Array:
        match kind:
            case "numbers":
                return pa.array(times)
            case "dates":
                return stamps(times // DAY_MS * DAY_MS)
            case _:
                return stamps(times, kind)

    report = checked(tmp_path, column(log.event, events), column(log.shown, shown), log)
    assert (BOTH in report.values) is found
    assert report.findings == []


def test_a_time_of_the_click_of_another_zone_is_no_distance_of_the_impressions_time(tmp_path: Path) -> None:
    log = Log()
    toml = TOML.replace('window = "30m"', 'label_time = "at"\nwindow = "6h"')
    at = pa.array(log.clicked_at + 2 * HOUR_MS, pa.timestamp("ms", "UTC"), mask=~log.clicked)
    report = checked(tmp_path, stamps(log.event, "UTC"), stamps(log.shown, "UTC"), log, toml, at=at)
    assert report.findings == []


def test_a_time_of_the_click_without_the_zone_of_its_impression_is_said(tmp_path: Path) -> None:
    log = Log()
    toml = TOML.replace('label = "clicked"', 'label = "clicked"\nlabel_time = "at"')
    at = pa.array(log.clicked_at, pa.timestamp("ms"), mask=~log.clicked)
    said = checked(tmp_path, stamps(log.event, "UTC"), stamps(log.shown, "UTC"), log, toml, at=at).values[BOTH]
    assert re.search(r"column at \(`impressions.label_time`\) is timestamp\[ms\], without a zone", said), said
