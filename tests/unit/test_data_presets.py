"""The authors' protocol is what their scripts do, its leaks included; and `sample` shows rows as a model sees them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimn.bundle.fields import code_of
from mimn.data.__main__ import main
from mimn.data.description import Protocol
from mimn.data.events import DataError, Events
from mimn.data.presets import PaperInstances, paper_instances

Preset = Literal["mimn-paper-taobao", "mimn-paper-amazon"]
T = 1_511_600_000


def behaviors(users: int = 60, longest: int = 260, items: int = 400, seed: int = 0) -> Events:
    """Users of 1 to `longest` events of `items` items, popular ones first."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, longest + 1, users)
    user = np.repeat(np.arange(1, users + 1), counts)
    item = rng.zipf(1.3, len(user)) % items + 1
    time = np.concatenate([np.sort(rng.integers(T, T + 800_000, n)) for n in counts])
    return Events(user, item, item % 7, time, np.arange(len(user)))


def made(events: Events, preset: Preset, seed: int = 0) -> PaperInstances:
    return paper_instances(events, Protocol(preset=preset, seed=seed))


def read(rows: PaperInstances, events: Events) -> list[tuple[list[int], list[int]]]:
    """The history of each row, as ids."""
    items, categories, lengths = rows.histories(
        np.arange(len(rows)), (events.item_id, events.category_id), (rows.item, rows.category)
    )
    return [(items[i, :n].tolist(), categories[i, :n].tolist()) for i, n in enumerate(lengths.tolist())]


def test_taobao_asks_about_each_users_last_behavior_or_about_a_drawn_one() -> None:
    events = behaviors()
    rows = made(events, "mimn-paper-taobao")
    last = events.bounds[1:] - 1
    assert rows.user_id.tolist() == events.users.tolist(), "one row a user"
    real = rows.label == 1
    assert 0.25 < real.mean() < 0.75, "a coin decides"
    assert (rows.item[real] == events.item_id[last][real]).all()
    assert (rows.item[~real] != events.item_id[last][~real]).all()
    assert np.isin(rows.item, events.item_id).all()
    assert (rows.category == rows.item % 7).all()
    assert (rows.end == last).all(), "the real item is no history"


def test_taobaos_leak_the_candidate_is_the_last_element_of_every_history() -> None:
    events = behaviors()
    rows = made(events, "mimn-paper-taobao")
    histories = read(rows, events)
    for i, (items, categories) in enumerate(histories):
        begin, end = int(rows.begin[i]), int(rows.end[i])
        assert (items[-1], categories[-1]) == (rows.item[i], rows.category[i])
        assert items[:-1] == events.item_id[begin:end].tolist()[-199:]
        assert len(items) <= 200
    assert max(len(items) for items, _ in histories) == 200
    # Without the history's last element the same user has one state; with it the state depends on what is asked.
    other = made(events, "mimn-paper-taobao", seed=1)
    asked = rows.item != other.item
    assert asked.any()
    assert all(a != b for a, b, differs in zip(histories, read(other, events), asked, strict=True) if differs)


def test_taobao_tests_the_users_whose_last_behavior_is_latest() -> None:
    events = behaviors()
    rows = made(events, "mimn-paper-taobao")
    assert rows.of("train").timestamp.max() < rows.of("test").timestamp.min()
    assert len(rows.of("validation")) == 0, "the authors have no validation part"
    assert 0.2 < len(rows.of("test")) / len(rows) < 0.35


def test_amazon_asks_about_the_last_review_and_a_drawn_one_behind_at_least_20() -> None:
    events = behaviors()
    rows = made(events, "mimn-paper-amazon")
    counts = np.diff(events.bounds)
    assert rows.user_id[::2].tolist() == events.users[counts > 20].tolist()
    assert rows.label.reshape(-1, 2).tolist() == [[0, 1]] * (len(rows) // 2)
    last = events.bounds[1:][counts > 20] - 1
    assert (rows.item[1::2] == events.item_id[last]).all()
    assert (rows.item[0::2] != events.item_id[last]).all()
    assert (rows.part[0::2] == rows.part[1::2]).all()
    histories = read(rows, events)
    assert histories[0::2] == histories[1::2], "both candidates stand behind one history: there is no leak in it"
    for (items, _), begin, end in zip(histories, rows.begin.tolist(), rows.end.tolist(), strict=True):
        assert items == events.item_id[begin:end].tolist()[-100:]


def test_amazon_tests_one_user_in_ten_and_draws_by_popularity() -> None:
    events = behaviors(users=1500, longest=30)
    rows = made(events, "mimn-paper-amazon")
    assert 0.04 < len(rows.of("test")) / len(rows) < 0.18
    drawn = rows.item[rows.label == 0]
    popular = np.bincount(events.item_id).argmax()
    assert np.mean(drawn == popular) == pytest.approx(np.mean(events.item_id == popular), abs=0.1)


@settings(max_examples=20)
@given(users=st.integers(12, 40), seed=st.integers(0, 5), preset=st.sampled_from(["taobao", "amazon"]))
def test_a_preset_is_a_function_of_events_and_seed(users: int, seed: int, preset: str) -> None:
    events = behaviors(users, 60, 30, seed)
    protocol = Protocol(preset=f"mimn-paper-{preset}", seed=seed)  # type: ignore[arg-type]
    try:
        first, again = paper_instances(events, protocol), paper_instances(events, protocol)
    except DataError as error:
        assert "leaves no" in str(error) or "no user has" in str(error)  # noqa: PT017
        return
    assert all(np.array_equal(getattr(first, name), getattr(again, name)) for name in ("item", "label", "part"))
    candidates = first.candidates()
    assert candidates.label.tolist() == first.label.tolist()


def test_what_a_preset_cannot_use_is_said() -> None:
    one = behaviors(items=1)
    with pytest.raises(DataError, match="all events are of one item"):
        made(one, "mimn-paper-taobao")
    with pytest.raises(DataError, match="no user has 20 reviews before the last one"):
        made(behaviors(longest=15), "mimn-paper-amazon")
    with pytest.raises(DataError, match="leaves no test users"):
        made(behaviors(users=1), "mimn-paper-taobao")


# sample

TOML = """
name = "shop"
[events]
files = ["events.parquet"]
user = "u"
item = "i"
category = "c"
action = "a"
time = "t"
[impressions]
files = ["impressions.parquet"]
user = "u"
item = "i"
category = "c"
time = "t"
label = "y"
position = "p"
window = "1m"
[users]
files = ["users.parquet"]
key = "u"
[fields.user.age]
kind = "categorical"
[fields.context.hour]
kind = "categorical"
[fields.context.price]
kind = "numeric"
[fields.context."shop.page"]
kind = "categorical"
column = "page"
[fields.context.query]
kind = "categorical"
buckets = 100
[actions]
buy = { is = "purchase", weight = 3.0 }
pv = { is = "view" }
"""
TABLES: dict[str, dict[str, list[Any]]] = {
    "events": {
        "u": [1] * 4 + [2],
        "i": [10, 11, 12, 13, 14],
        "c": [1, 1, 2, 2, 1],
        "a": ["pv", "buy", "pv", "pv", "pv"],
        "t": [T, T + 60, T + 7200, T + 90_000, T],
    },
    "impressions": {
        "u": [1, 3],
        "i": [11, 99],
        "c": [1, 5],
        "t": [T + 90_000, T + 5],
        "y": [1, 0],
        "p": [2, None],
        "hour": ["9", None],
        "page": ["home", None],
        "query": ["red shoes", None],
        "price": [1.5, None],
    },
    "users": {"u": [1], "age": ["30-39"]},
}


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    for name, columns in TABLES.items():
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    (tmp_path / "dataset.toml").write_text(TOML)
    return tmp_path / "dataset.toml"


def sampled(path: Path, capsys: pytest.CaptureFixture[str], *more: str) -> Any:
    assert main(["sample", str(path), "--cache", str(path.parent / "cache"), "--json", *more]) == 0
    return json.loads(capsys.readouterr().out)


def test_sample_shows_history_candidate_fields_and_label(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = sampled(shop, capsys, "--events", "2")
    query = f"#{code_of('red shoes'):016x}"
    context = {"hour": "9", "price": 1.5, "shop.page": "home", "query": query}
    assert first == {
        "user": "1",
        "time": "2017-11-26T09:53:20.000Z",
        "history_events": 3,
        "history": [
            {"item": "11", "category": "1", "action": "purchase", "weight": 3.0, "age_s": 89_940.0},
            {"item": "12", "category": "2", "action": "view", "weight": 1.0, "age_s": 82_800.0},
        ],
        "item": "11",
        "category": "1",
        "fields": {"user": {"age": "30-39"}, "context": context},
        "position": 2.0,
        "label": 1,
    }, "the event of the impression's own second is not history"
    assert (second["user"], second["history"], second["history_events"], second["label"]) == ("3", [], 0, 0)
    assert second["fields"] == {
        "user": {"age": None},
        "context": dict.fromkeys(("hour", "price", "shop.page", "query")),
    }


def test_sample_is_the_same_for_the_same_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events = behaviors()
    columns = {"u": events.user_id, "i": events.item_id, "c": events.category_id, "t": events.timestamp}
    pq.write_table(pa.table(columns), tmp_path / "e.parquet")
    table = 'name = "x"\n[events]\nfiles = ["e.parquet"]\nuser = "u"\nitem = "i"\ncategory = "c"\ntime = "t"\n'
    (tmp_path / "clean.toml").write_text(table)
    (tmp_path / "paper.toml").write_text(f'{table}[protocol]\npreset = "mimn-paper-taobao"\n')
    clean = sampled(tmp_path / "clean.toml", capsys)
    assert clean == sampled(tmp_path / "clean.toml", capsys)
    assert clean != sampled(tmp_path / "clean.toml", capsys, "--seed", "1")
    assert [one["label"] for one in clean] == [1, 1, 1]
    for one in sampled(tmp_path / "paper.toml", capsys, "--rows", "20"):
        leaked = one["history"][-1]
        assert (leaked["item"], leaked["age_s"]) == (one["item"], None), "the leak is seen"


def test_sample_of_a_broken_description_leaves_nothing(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shop.write_text(f'{TOML}[protocol]\npreset = "mimn-paper-taobao"\n')
    assert main(["sample", str(shop), "--cache", str(shop.parent / "cache")]) == 1
    assert "`[protocol]` draws negatives: it goes without `[impressions]`" in capsys.readouterr().err
    assert not (shop.parent / "cache").exists()
