"""Impressions are learned from what was known: the history before them, labels after their window, parts apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimn.data.check import check
from mimn.data.events import DataError
from mimn.data.labelled import CANDIDATES, Labelled, OccasionSampler, label_parts
from mimn.data.preparation import prepare
from mimn.data.split import LEFT_OUT, PARTS, Part

DAY = 86_400
T = 1_600_000_000 // DAY * DAY


@dataclass(frozen=True)
class Case:
    events: list[tuple[int, int]]
    """user, time in s"""
    shown: list[tuple[int, int, int]]
    """user, time, label"""


def made(folder: Path, case: Case, *, window: str = "1d", by_user: bool = False) -> Labelled:
    events = pa.table(
        {"u": [u for u, _ in case.events], "i": list(range(1, len(case.events) + 1)), "t": [t for _, t in case.events]}
    )
    shown = pa.table(
        {
            "u": [u for u, _, _ in case.shown],
            "i": [1] * len(case.shown),
            "t": [t for _, t, _ in case.shown],
            "y": [y for _, _, y in case.shown],
        }
    )
    pq.write_table(events, folder / "events.parquet")
    pq.write_table(shown, folder / "shown.parquet")
    cut = "2020-09-23T00:00:00Z"  # T + 10 days
    split = "" if by_user else f'[split]\nby = "time"\ntrain_until = {cut}\nvalidate_until = 2020-09-28T00:00:00Z\n'
    (folder / "d.toml").write_text(
        'name = "x"\n[events]\nfiles = ["events.parquet"]\nuser = "u"\nitem = "i"\ntime = "t"\n'
        '[impressions]\nfiles = ["shown.parquet"]\nuser = "u"\nitem = "i"\ntime = "t"\nlabel = "y"\n'
        f'window = "{window}"\n{split}'
    )
    return label_parts(prepare(folder / "d.toml", folder / "cache"))


def with_parts(*shown: tuple[int, int, int]) -> list[tuple[int, int, int]]:
    """Impressions that give every part both labels, and `shown`."""
    return [(9, T + day * DAY, y) for day in (1, 11, 16) for y in (0, 1)] + list(shown)


def test_history_ends_strictly_before_the_impression(tmp_path: Path) -> None:
    case = Case(
        [(1, T + 1), (1, T + 5), (1, T + 5), (1, T + 9), (2, T + 1)],
        with_parts((1, T + 5, 0), (1, T + 6, 0), (3, T, 1)),
    )
    data = made(tmp_path, case)
    shown = data.impressions
    found = {
        (int(u), int(t) // 1000 - T): (int(b), int(e))
        for u, t, b, e in zip(shown.user_id, shown.time_ms, data.begin, data.end, strict=True)
    }
    assert found[1, 5] == (0, 1), "events of the same second are not its past"
    assert found[1, 6] == (0, 3)
    assert found[3, 0] == (0, 0), "a user without events"


def test_a_label_counts_only_when_its_window_is_over_at_the_cut(tmp_path: Path) -> None:
    late = (1, T + 10 * DAY - 100, 1)
    data = made(tmp_path, Case([(1, T)], with_parts(late)))
    shown = data.impressions
    at = int(np.flatnonzero(shown.user_id == 1)[0])
    assert data.part[at] == LEFT_OUT
    assert np.bincount(data.part + 1).tolist() == [1, 2, 2, 2]


def test_users_are_disjoint_when_the_split_is_by_user(tmp_path: Path) -> None:
    shown = [(user, T + k, k % 2) for user in range(200) for k in range(4)]
    data = made(tmp_path, Case([(1, T)], shown), by_user=True)
    users = [set(data.impressions.user_id[data.part == part].tolist()) for part in range(3)]
    assert not users[0] & users[1]
    assert not users[0] & users[2]
    assert all(users)


def test_a_part_with_one_label_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the part validation has 0 clicks in 1 impressions: move the cuts"):
        made(tmp_path, Case([(1, T)], [(1, T, 1), (1, T + 1, 0), (1, T + 11 * DAY, 0)]))


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    length=st.sampled_from([1, 2, 5, 16, 64]),
    per_window=st.integers(1, 5),
    windows_per_batch=st.integers(1, 4),
)
def test_an_epoch_reads_every_train_impression_once_behind_its_own_latest_events(
    tmp_path_factory: pytest.TempPathFactory, seed: int, length: int, per_window: int, windows_per_batch: int
) -> None:
    rng = np.random.default_rng(seed)
    events = [(int(rng.integers(1, 5)), T + int(rng.integers(0, 9 * DAY))) for _ in range(60)]
    shown = [
        (int(rng.integers(1, 7)), T + int(rng.integers(0, 20)) * DAY // 3, int(rng.random() < 0.3)) for _ in range(80)
    ]
    data = made(tmp_path_factory.mktemp("epoch"), Case(events, with_parts(*shown)))
    train = np.flatnonzero(data.part == PARTS.index("train"))
    seen = []
    for batch in OccasionSampler(data.occasions("train"), length, per_window).epoch(rng, windows_per_batch):
        assert batch.length.max(initial=0) <= length + max(length // 2, 1)
        for w, p, c in np.argwhere(batch.real > 0):
            row = int(batch.impression[w, p, c])
            seen.append(row)
            stop = int(batch.start[w] + batch.position[w, p])
            assert 0 <= batch.position[w, p] <= batch.length[w]
            history = int(data.end[row] - data.begin[row])
            assert stop == max(int(data.end[row]), int(batch.start[w]))
            if history:
                assert batch.position[w, p] >= min(history, max(length // 2, 1))
                assert batch.start[w] >= data.begin[row]
    assert sorted(seen) == train.tolist()


def test_large_occasions_are_read_in_pieces(tmp_path: Path) -> None:
    shown = [(1, T + DAY, int(k == 3)) for k in range(2 * CANDIDATES + 5)]
    occasions = made_without_requests(tmp_path, shown).occasions("train")
    assert sorted(occasions.size.tolist())[-3:] == [5, CANDIDATES, CANDIDATES]


def made_without_requests(folder: Path, shown: list[tuple[int, int, int]]) -> Labelled:
    """All impressions of one second are one request."""
    data = made(folder, Case([(1, T)], with_parts(*shown)))
    shown_now = data.impressions
    one = np.zeros(len(shown_now), np.int64)
    from dataclasses import replace

    return replace(data, impressions=replace(shown_now, request=one))


def test_negatives_are_kept_at_the_rate_and_clicks_always(tmp_path: Path) -> None:
    shown = [(user, T + DAY, int(user % 10 == 0)) for user in range(1, 2001)]
    data = made(tmp_path, Case([(1, T)], with_parts(*shown)))
    sampler = OccasionSampler(data.occasions("train"), 8, 4, negatives_kept=0.25)
    kept = [
        int(row) for batch in sampler.epoch(np.random.default_rng(0), 32) for row in batch.impression[batch.real > 0]
    ]
    labels = data.impressions.label[kept]
    assert labels.sum() == 201
    assert len(kept) - labels.sum() == pytest.approx(0.25 * 1801, rel=0.15)


@pytest.mark.parametrize("part", PARTS)
def test_occasions_of_a_part_hold_its_impressions(tmp_path: Path, part: Part) -> None:
    data = made(tmp_path, Case([(1, T)], with_parts((1, T + DAY, 0))))
    occasions = data.occasions(part)
    rows, real = occasions.impressions(np.arange(len(occasions)), int(occasions.size.max()))
    assert sorted(rows[real > 0].tolist()) == np.flatnonzero(data.part == PARTS.index(part)).tolist()


@pytest.mark.parametrize("unit", ["", 'time_unit = "s"\n', 'time_unit = "iso"\n'])
def test_an_event_is_no_past_of_an_impression_of_the_same_second(tmp_path: Path, unit: str) -> None:
    """Timestamps say their unit themselves, so a description leaves `time_unit` at seconds: they keep their fractions,
    as numbers of seconds do."""
    events = [(1, T - 1, 1), (1, T + 0.9, 2), (1, T + 0.5, 3), (1, T + 0.05, 4)]
    shown = [(1, T + 0.1, 1), *with_parts()]
    for kind, as_time in (("number", pa.float64()), ("timestamp", pa.timestamp("ms"))):
        if kind == "number" and "iso" in unit:
            continue
        for name, rows in (("events", events), ("shown", shown)):
            user, seconds, last = (list(column) for column in zip(*rows, strict=True))
            times = seconds if kind == "number" else [round(1000 * at) for at in seconds]
            columns = {"u": user, "t": pa.array(times, as_time), "i": last if name == "events" else [1] * len(rows)}
            pq.write_table(pa.table(columns | {"y": last}), tmp_path / f"{name}.parquet")
        (tmp_path / "d.toml").write_text(
            f'name = "{kind}"\n[events]\nfiles = ["events.parquet"]\nuser = "u"\nitem = "i"\ntime = "t"\n{unit}'
            '[impressions]\nfiles = ["shown.parquet"]\nuser = "u"\nitem = "i"\ntime = "t"\nlabel = "y"\nwindow = "1d"\n'
            f'{unit}[split]\nby = "time"\ntrain_until = 2020-09-23T00:00:00Z\nvalidate_until = 2020-09-28T00:00:00Z\n'
        )
        data = label_parts(prepare(tmp_path / "d.toml", tmp_path / "cache"))
        at = int(np.flatnonzero(data.impressions.user_id == 1)[0])
        assert data.events.item_id[data.begin[at] : data.end[at]].tolist() == [1, 4], f"{kind}: what came before"
        assert data.events.item_id.tolist() == [1, 4, 3, 2], f"{kind}: in order within a second"


def test_events_in_whole_seconds_are_no_past_of_their_own_second(tmp_path: Path) -> None:
    """A log that writes whole seconds gives a click the second of its impression, which is in ms."""
    path = tmp_path / "d.toml"
    data = made(tmp_path, Case([(1, T - 1), (1, T), (1, T + 1)], with_parts((1, T, 1))))
    assert data.events.unit_ms == 1000
    shown = pq.read_table(tmp_path / "shown.parquet").to_pydict()
    shown["t"] = [1000 * at + 400 for at in shown["t"]]
    pq.write_table(pa.table(shown), tmp_path / "shown.parquet")
    path.write_text(path.read_text().replace('label = "y"', 'time_unit = "ms"\nlabel = "y"'))
    data = label_parts(prepare(path, tmp_path / "cache"))
    at = int(np.flatnonzero(data.impressions.user_id == 1)[0])
    assert data.impressions.time_ms[at] == 1000 * T + 400
    assert data.events.timestamp[data.begin[at] : data.end[at]].tolist() == [T - 1]


@pytest.mark.parametrize(
    ("whole", "unit", "column"),
    [
        ("seconds", "ms", lambda ms: pa.array([at // 1000 * 1000 for at in ms], pa.timestamp("ms"))),
        ("seconds", "iso", lambda ms: [f"{np.datetime64(at // 1000, 's')}Z" for at in ms]),
        ("minutes", "ms", lambda ms: pa.array([at // 60_000 * 60_000 for at in ms], pa.int64())),
        ("days", "s", lambda ms: pa.array([at // 86_400_000 for at in ms], pa.int32()).cast(pa.date32())),
        ("days", "iso", lambda ms: [str(np.datetime64(at, "ms").astype("datetime64[D]")) for at in ms]),
    ],
)
def test_events_with_coarse_times_are_no_past_of_an_impression_within_them(
    tmp_path: Path, whole: str, unit: str, column: Callable[[list[int]], Any]
) -> None:
    """A click that is logged with a rounded time must not lie before its own impression: that would be the label."""
    shown_ms = 1000 * T + 45_296_678
    clicked_ms = shown_ms + 300
    rows = [(shown_ms - 2 * 86_400_000, 1), (clicked_ms, 2)]
    pq.write_table(
        pa.table({"u": [1, 1], "i": [item for _, item in rows], "t": column([at for at, _ in rows])}),
        tmp_path / "events.parquet",
    )
    shown = [(user, 1000 * at, label) for user, at, label in with_parts()]
    user, at_ms, label = (list(of) for of in zip((1, shown_ms, 1), *shown, strict=True))
    pq.write_table(pa.table({"u": user, "i": [1] * len(user), "t": at_ms, "y": label}), tmp_path / "shown.parquet")
    (tmp_path / "d.toml").write_text(
        'name = "coarse"\n[events]\nfiles = ["events.parquet"]\nuser = "u"\nitem = "i"\ntime = "t"\n'
        f'time_unit = "{unit}"\n'
        '[impressions]\nfiles = ["shown.parquet"]\nuser = "u"\nitem = "i"\ntime = "t"\ntime_unit = "ms"\nlabel = "y"\n'
        'window = "1d"\n[split]\nby = "time"\ntrain_until = 2020-09-23T00:00:00Z\n'
        "validate_until = 2020-09-28T00:00:00Z\n"
    )
    data = label_parts(prepare(tmp_path / "d.toml", tmp_path / "cache"))
    [at] = np.flatnonzero(data.impressions.time_ms == shown_ms)
    assert data.events.item_id[data.begin[at] : data.end[at]].tolist() == [1]
    assert check(tmp_path / "d.toml").values["times of events are whole"] == whole
