"""An event whose time may have been rounded down is in no history before it is certain to have happened."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mimn.data.check import check
from mimn.data.labelled import Labelled, label_parts
from mimn.data.preparation import prepare
from mimn.data.rounding import WholeTimes, certain_ms

DAY_MS = 86_400_000
T = 1_600_000_000_000 // DAY_MS * DAY_MS
UNITS = (1, 1000, 60_000, 3_600_000, DAY_MS)
Ints = NDArray[np.int64]


def made(
    folder: Path,
    events: dict[str, Ints],
    shown: dict[str, Ints],
    files: list[NDArray[np.bool_]] | None = None,
) -> Labelled:
    """Events and impressions in ms; `files` [k, n] says which events each of the events' files has."""
    for k, rows in enumerate([np.ones(len(events["t"]), np.bool_)] if files is None else files):
        pq.write_table(pa.table({name: column[rows] for name, column in events.items()}), folder / f"events{k}.parquet")
    pq.write_table(pa.table(shown), folder / "shown.parquet")
    (folder / "d.toml").write_text(
        'name = "x"\n[events]\nfiles = ["events*.parquet"]\nuser = "u"\nitem = "i"\ntime = "t"\ntime_unit = "ms"\n'
        '[impressions]\nfiles = ["shown.parquet"]\nuser = "u"\nitem = "i"\ntime = "t"\ntime_unit = "ms"\nlabel = "y"\n'
        'window = "1h"\n[split]\nby = "time"\ntrain_until = 2020-09-15\nvalidate_until = 2020-09-17\n'
    )
    return label_parts(prepare(folder / "d.toml", folder / "cache"))


def impressions(rng: np.random.Generator, n: int, users: int = 3, items: int = 50) -> dict[str, Ints]:
    """Impressions of six days whose labels are drawn."""
    t = T + np.sort(rng.integers(0, 6 * DAY_MS, n))
    return {
        "u": rng.integers(1, users + 1, n),
        "i": rng.integers(1, items + 1, n),
        "t": t,
        "y": rng.integers(0, 2, n),
    }


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), units=st.tuples(st.sampled_from(UNITS), st.sampled_from(UNITS)))
def test_a_history_is_what_was_certain_before_its_impression_whatever_comes_later(
    tmp_path_factory: pytest.TempPathFactory, seed: int, units: tuple[int, int]
) -> None:
    """Two logs, each of which rounds down to its own unit, in one table."""
    rng = np.random.default_rng(seed)
    shown = impressions(rng, 60)
    clicked = rng.permutation(60)[:30]
    true = np.concatenate([shown["t"][clicked] + rng.integers(0, 2000, 30), T + rng.integers(0, 6 * DAY_MS, 30)])
    user = np.concatenate([shown["u"][clicked], rng.integers(1, 4, 30)])
    unit = np.array(units)[np.arange(60) % 2]
    logged = true // unit * unit
    data = made(tmp_path_factory.mktemp("mixed"), {"u": user, "i": np.arange(1, 61), "t": logged}, shown)
    for row in range(len(data.impressions)):
        now, who = int(data.impressions.time_ms[row]), int(data.impressions.user_id[row])
        history = data.events.item_id[data.begin[row] : data.end[row]] - 1
        assert (true[history] < now).all(), "an event that had not happened yet"
        latest = np.max([np.where(logged % each == 0, each, 1) for each in UNITS], axis=0)
        surely = np.flatnonzero((user == who) & (logged + latest <= now))
        assert np.isin(surely, history).all(), "no more is lost than the unit that a time is whole in"
        certain = certain_ms(logged, data.events.rounded_ms)
        assert set(history) == set(np.flatnonzero((user == who) & (certain <= now))), "whatever else there is"


def test_a_source_of_milliseconds_does_not_uncover_the_clicks_of_one_that_logs_seconds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shown = impressions(rng, 2000, users=200)
    clicked = shown["y"] == 1
    user, item, t = (shown[name][clicked] for name in ("u", "i", "t"))
    t = t + rng.integers(0, 900, len(t))
    app = user % 2 == 0
    data = made(tmp_path, {"u": user, "i": item, "t": np.where(app, t // 1000 * 1000, t)}, shown, [app, ~app])
    own = 0
    for row in np.flatnonzero(data.impressions.label == 1):
        history = slice(data.begin[row], data.end[row])
        near = np.abs(data.events.timestamp[history] - data.impressions.time_ms[row]) < 1000
        own += int((near & (data.events.item_id[history] == data.impressions.item_id[row])).any())
    assert own == 0, "clicked impressions with their own click in their history"
    report = check(tmp_path / "d.toml")
    assert not report.findings
    assert re.match(r"milliseconds 4\d\.\d%, seconds 5\d\.\d%", report.values["times of events are whole"])


@pytest.mark.parametrize(
    ("units", "found"),
    [
        ([1], ()),
        ([1000], (1000,)),
        ([DAY_MS], (1000, 60_000, 3_600_000, DAY_MS)),
        ([1] * 99 + [DAY_MS], (1000, 60_000, 3_600_000, DAY_MS)),
        ([1] * 99 + [1000], (1000,)),
    ],
)
def test_times_are_taken_as_rounded_where_more_are_whole_than_by_chance(
    units: list[int], found: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(0)
    times = T + rng.integers(0, 300 * DAY_MS, 200_000)
    unit = np.resize(units, len(times))
    whole = WholeTimes()
    for part in np.array_split(times // unit * unit, 7):
        whole.add(part)
    assert whole.units == found
    assert sum(whole.shares.values()) == pytest.approx(1)
