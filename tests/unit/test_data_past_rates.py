"""Past rates: counted as at the moment of each impression, from labels that were known by then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mimn.data.check import check
from mimn.data.events import DataError
from mimn.data.labelled import label_parts
from mimn.data.past_rates import FIRST_RATE, FIRST_SHOWN, Counters, PastRates
from mimn.data.preparation import prepare
from mimn.data.split import LEFT_OUT, PARTS

DAY = 86_400
T = 1_600_000_000 // DAY * DAY

Shown = list[tuple[int, int, int, int]]
"""Key, time, clicked, delay of the click."""
impressions = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 12), st.integers(0, 1), st.integers(0, 5)), min_size=1, max_size=30
)


def counters(shown: Shown) -> tuple[NDArray[np.int64], NDArray[np.int64], Counters]:
    key, time, label, delay = (np.array(column, np.int64) for column in zip(*shown, strict=True))
    return key, time, Counters(time, time + delay, label.astype(np.uint8), np.ones(len(key)))


@given(impressions, st.floats(0.5, 50.0))
@settings(max_examples=200, deadline=None)
def test_a_rate_counts_what_was_seen_strictly_before(shown: Shown, prior: float) -> None:
    key, time, counted = counters(shown)
    for row, rate in enumerate(counted.rates(key, prior, key, time)):
        now = time[row]
        every = [(y == 1 and t + d < now, k == key[row]) for k, t, y, d in shown if t < now]
        # A click may be seen when its impression is; it never counts without it.
        overall = (sum(c for c, _ in every) + FIRST_RATE * FIRST_SHOWN) / (len(every) + FIRST_SHOWN)
        own = [c for c, same in every if same]
        assert rate == pytest.approx((sum(own) + prior * overall) / (len(own) + prior))


@given(impressions, st.integers(0, 12), st.data())
@settings(max_examples=200, deadline=None)
def test_no_label_that_is_seen_later_changes_a_rate(shown: Shown, now: int, data: st.DataObject) -> None:
    key, _, counted = counters(shown)
    changed = [
        (k, t, data.draw(st.integers(0, 1)), max(d, now - t)) if t + d >= now or y == 0 else (k, t, y, d)
        for k, t, y, d in shown
    ]
    asked = np.arange(4)
    at = np.full(4, now)
    assert counted.rates(key, 5.0, asked, at).tolist() == counters(changed)[2].rates(key, 5.0, asked, at).tolist()


def described(folder: Path, shown: dict[str, Any], extra: str, fields: str) -> Path:
    pq.write_table(pa.table({"u": [1], "i": [1], "t": [T - DAY]}), folder / "events.parquet")
    pq.write_table(pa.table(shown), folder / "shown.parquet")
    (folder / "d.toml").write_text(
        'name = "x"\n[events]\nfiles = ["events.parquet"]\nuser = "u"\nitem = "i"\ntime = "t"\n'
        '[impressions]\nfiles = ["shown.parquet"]\nuser = "u"\nitem = "i"\ntime = "t"\nlabel = "y"\n'
        f"{extra}\n{fields}\n"
        '[split]\nby = "time"\ntrain_until = 2020-09-23\nvalidate_until = 2020-09-28\n'
    )
    return folder / "d.toml"


def log(n: int, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    time = T + rng.integers(0, 25, n) * DAY
    label = rng.integers(0, 2, n)
    return {
        "u": rng.integers(1, 6, n),
        "i": rng.integers(1, 4, n),
        "t": time,
        "y": label,
        "seen": [int(t) + 3600 if y else None for t, y in zip(time, label, strict=True)],
        "end": time + rng.integers(1, 4, n) * DAY,
        "kind": [f"k{value}" for value in rng.integers(0, 3, n)],
    }


FIELDS = """
[fields.user]
clicks = { kind = "past_rate" }
[fields.item]
clicked = { kind = "past_rate", prior = 10 }
[fields.context]
kind = { kind = "categorical" }
of_kind = { kind = "past_rate", of = ["kind"] }
"""


@pytest.mark.parametrize("extra", ['window = "2d"', 'label_time = "seen"\nwindow_end = "end"'], ids=["window", "seen"])
def test_rates_of_a_described_log_follow_its_labels_as_they_become_known(tmp_path: Path, extra: str) -> None:
    shown = log(200, 0)
    data = prepare(described(tmp_path, shown, extra, FIELDS), tmp_path / "cache")
    labelled = label_parts(data)
    rates = PastRates(data, labelled.impressions).of_impressions()
    of = labelled.impressions
    live = "seen" in extra
    for row in range(len(of)):
        now = int(of.time_ms[row])
        counted = of.time_ms < now if live else of.known_ms < now
        clicked = counted & (of.label == 1) & (of.seen_ms < now)
        overall = (clicked.sum() + FIRST_RATE * FIRST_SHOWN) / (counted.sum() + FIRST_SHOWN)
        for name, same, prior in (
            ("clicks", of.user_id == of.user_id[row], 100.0),
            ("clicked", of.item_id == of.item_id[row], 10.0),
            ("of_kind", of.context["kind"] == of.context["kind"][row], 100.0),
        ):
            expected = ((clicked & same).sum() + prior * overall) / ((counted & same).sum() + prior)
            assert rates[name][row] == pytest.approx(expected)


@pytest.mark.torch
def test_impressions_before_training_are_in_no_part_and_count_as_before(tmp_path: Path) -> None:
    """Else a head that is trained on later impressions alone reads rates that no live counter shows."""
    shown = log(200, 0)
    shown["i"] = [9 if at < T + 5 * DAY else item for at, item in zip(shown["t"], shown["i"], strict=True)]
    path = described(tmp_path, shown, 'window = "1d"', FIELDS)
    from mimn.impressions.data import ImpressionData

    whole = ImpressionData.load(path, tmp_path / "cache")
    path.write_text(path.read_text().replace("train_until", "train_from = 2020-09-18\ntrain_until"))
    later = ImpressionData.load(path, tmp_path / "cache")
    early = later.labelled.impressions.time_ms < 1000 * (T + 5 * DAY)
    assert early.sum() > 20
    assert later.labelled.part.tolist() == np.where(early, LEFT_OUT, whole.labelled.part).tolist()
    assert {name: of.tolist() for name, of in later.rates.items()} == {n: of.tolist() for n, of in whole.rates.items()}
    rated = later.known_ids(min_count=5).ids.items
    assert 9 in rated, "an item of the earlier impressions alone has a row for its rate"
    assert later.past_rates.of_items(rated)["clicked"].tolist() == whole.past_rates.of_items(rated)["clicked"].tolist()
    said = check(path).values
    assert said["impressions of no part, before `train_from`, which past rates count"] == early.sum()
    assert said["impressions of the part train"] == (later.labelled.part == PARTS.index("train")).sum()


def test_training_begins_before_it_ends(tmp_path: Path) -> None:
    path = described(tmp_path, log(20, 0), 'window = "1d"', FIELDS)
    path.write_text(path.read_text().replace("train_until", "train_from = 2020-09-23\ntrain_until"))
    with pytest.raises(DataError, match="train_from, train_until, validate_until and test_until must rise"):
        prepare(path, tmp_path / "cache")


WINDOW_HOURS = 5
Dated = list[tuple[int, int, bool, int | None]]
"""Item, hour, whether it was clicked, hours from then to the click's time (None: the log has no time)."""
dated = st.lists(
    st.tuples(
        st.integers(1, 3), st.integers(0, 30), st.booleans(), st.one_of(st.none(), st.integers(-40, WINDOW_HOURS))
    ),
    min_size=1,
    max_size=20,
)


@given(dated, dated, st.integers(0, 40))
@settings(max_examples=40, deadline=None)
def test_clicks_without_a_time_or_before_their_impression_neither_leak_nor_exceed_1(
    tmp_path_factory: pytest.TempPathFactory, shown: Dated, others: Dated, now: int
) -> None:
    """Whatever the log says of clicks: rates lie in [0, 1], and what was not seen by some hour changes none before."""
    seen = [at + (WINDOW_HOURS if d is None else max(d, 0)) for _, at, _, d in shown]
    changed: Dated = [(i, at, y and at_click < now, d) for (i, at, y, d), at_click in zip(shown, seen, strict=True)]
    changed = [row for row in changed if row[1] < now] + [row for row in others if row[1] >= now]
    rates = []
    for rows in (shown, changed):
        # One click and one impression of another item: without both there is nothing to learn.
        log = [*rows, (9, 0, True, 0), (9, 0, False, None)]
        folder = tmp_path_factory.mktemp("dated")
        columns = {
            "u": [1] * len(log),
            "i": [i for i, _, _, _ in log],
            "t": [T + at * 3600 for _, at, _, _ in log],
            "y": [int(y) for _, _, y, _ in log],
            "seen": pa.array([T + (at + d) * 3600 if y and d is not None else None for _, at, y, d in log], pa.int64()),
        }
        fields = "[fields.item]\nrate = { kind = 'past_rate', prior = 0.5 }\n"
        extra = f'label_time = "seen"\nwindow = "{WINDOW_HOURS}h"'
        data = prepare(described(folder, columns, extra, fields), folder / "cache")
        assert data.impressions is not None
        of = PastRates(data, data.impressions)
        rate = of.of_impressions()["rate"]
        assert bool(np.all((rate >= 0) & (rate <= 1)))
        assert bool(np.all(data.impressions.seen_ms >= data.impressions.time_ms))
        before = data.impressions.time_ms < (T + now * 3600) * 1000
        asked = data.impressions.time_ms, data.impressions.item_id, rate
        rates.append(sorted(zip(*(values[before].tolist() for values in asked), strict=True)))
    assert rates[0] == rates[1]


def test_check_counts_clicks_without_a_time_and_before_their_impression(tmp_path: Path) -> None:
    shown = log(40, 2)
    clicked = np.flatnonzero(shown["y"])
    shown["seen"][clicked[0]] = None
    for row in clicked[1:3]:
        shown["seen"][row] -= 2 * 3600
    findings = check(described(tmp_path, shown, 'label_time = "seen"\nwindow = "2d"', FIELDS)).findings
    said = "`impressions.label_time`, column seen of shown.parquet: "
    assert f"{said}1 clicks have no time, and count as seen when their window is over: add their times" in findings
    assert f"{said}2 clicks are before their impression, and count as seen at its time: correct them" in findings


def test_an_items_rate_for_export_is_what_training_knew(tmp_path: Path) -> None:
    shown = log(200, 1)
    data = prepare(described(tmp_path, shown, 'window = "2d"', FIELDS), tmp_path / "cache")
    rates = PastRates(data, label_parts(data).impressions)
    items = np.array([1, 2, 3, 99])
    before = rates.of_items(items)["clicked"]
    cut = T + 10 * DAY  # 2020-09-23
    later = {**shown, "y": np.where(shown["t"] + 2 * DAY >= cut, 1 - shown["y"], shown["y"])}
    other = tmp_path / "later"
    other.mkdir()
    again = prepare(described(other, later, 'window = "2d"', FIELDS), tmp_path / "cache")
    assert before.tolist() == PastRates(again, label_parts(again).impressions).of_items(items)["clicked"].tolist()
    known = shown["t"] + 2 * DAY < cut
    overall = (shown["y"][known].sum() + FIRST_RATE * FIRST_SHOWN) / (known.sum() + FIRST_SHOWN)
    assert before[3] == pytest.approx(overall)


@pytest.mark.parametrize(
    ("extra", "fields", "message"),
    [
        ("", FIELDS, "either `window` or `window_end`"),
        ('window = "1d"\nwindow_end = "end"', FIELDS, "either `window` or `window_end`"),
        ('window_end = "early"', FIELDS, "200 windows end before their impression"),
        ('window = "2d"', '[fields.context]\na = { kind = "past_rate" }', "`fields.context.a.of`: name"),
        ('window = "2d"', '[fields.user]\na = { kind = "past_rate", buckets = 4 }', "it has no `column`"),
        (
            'window = "2d"',
            '[fields.context]\nkind = { kind = "categorical" }\n'
            '[fields.item]\na = { kind = "past_rate", of = ["kind"] }',
            "kind is a field of another side",
        ),
    ],
)
def test_what_cannot_be_counted_is_said(tmp_path: Path, extra: str, fields: str, message: str) -> None:
    shown = log(200, 2)
    shown["early"] = shown["t"] - 1
    with pytest.raises(DataError, match=message):
        prepare(described(tmp_path, shown, extra, fields), tmp_path / "cache")
