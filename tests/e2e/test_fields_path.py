"""From an impression log to a served click probability: train, calibrate, evaluate, export, fold, predict.

A small log of our own, in CSV and Parquet, with fields of user, context and item, a position, values that training
never saw, and numbers that files hold as other types than requests.
What `/predict` answers for a test impression is what `evaluate` wrote down for it.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mimn import run
from mimn.bundle import load_bundle
from mimn.impressions.trained import TrainedRun
from support.csv_log import made_bundle, write_table
from support.folded_log import folded_log

pytestmark = [pytest.mark.torch, pytest.mark.servers, pytest.mark.timeout(600)]

DAY = 86_400
T = 1_600_000_000 // DAY * DAY  # 2020-09-13
USERS, ITEMS, SHOWN = 60, 30, 40
LENGTH = 200
ASKED = 40
LONG = "https://example.org/?from=" + "w" * 300
AGES, BRANDS, TAGS = ("18-24", "25-34", LONG), ("acme", "bäcker", "c"), ("new", LONG, "7")
BIDS = ("0.35", "0.41", "0.47", "0.57", "0.69", "0.99", "1.49", "1.99", "2.49", "4.99")
RATINGS = ("0.1", "0.3", "0.7", "1.1", "1.3", "2.2", "3.3", "4.4")
"""Those that casts of decimals and of float32 move are among them."""
DESCRIPTION = """
name = "own-log"
[events]
files = ["events.csv"]
user = "uid"
item = "sku"
category = "cat"
time = "ts"
[impressions]
files = ["shown-1.csv", "shown-2.parquet"]
user = "uid"
item = "sku"
time = "ts"
label = "clicked"
window = "1h"
position = "pos"
[users]
files = ["users.csv"]
key = "uid"
[items]
files = ["items.csv"]
key = "sku"
category = "cat"
[fields.user.age]
kind = "categorical"
[fields.user.income]
kind = "numeric"
transform = "log1p"
[fields.context.hour]
kind = "categorical"
vocabulary = 24
[fields.context.tags]
kind = "multi"
[fields.context.age_hour]
kind = "cross"
of = ["age", "hour"]
buckets = 50
[fields.context.battery]
kind = "numeric"
buckets = 4
[fields.context.bid]
kind = "numeric"
buckets = 8
[fields.context.rating]
kind = "numeric"
transform = "log1p"
buckets = 6
[fields.item.brand]
kind = "categorical"
[fields.item.price]
kind = "numeric"
[split]
by = "time"
train_until = 2020-09-28
validate_until = 2020-10-03
"""
MODELS = {
    "mimn": """
controller_units = 8
slots = 3
attention_units = [8, 4]
head = "deepfm"
""",
    "pooling": """
variant = "pooling"
memory_induction = false
utilization = false
history_product = true
""",
    "gru4rec": """
variant = "gru4rec"
history_product = true
head = "deepfm"
sketch_category_cells = 6
sketch_half_lives = [0]
""",
    "din": """
variant = "din"
history_product = true
attention_units = 8
head = "dcn"
""",
}


def write_log(folder: Path) -> Path:
    """Clicks depend on user, item, hour and position. All events precede the test: its histories are whole ones."""
    random = np.random.default_rng(5)
    chosen = random.integers(1, ITEMS + 1, size=(USERS, 15))
    events = [
        (user + 1, item, 100 + item % 4, T + int(random.integers(18 * DAY)))
        for user, items in enumerate(chosen.tolist())
        for item in items
    ]
    shown: list[tuple[object, ...]] = []
    for user in range(1, USERS + 1):
        for _ in range(SHOWN):
            item, at = int(random.integers(1, ITEMS + 1)), T + int(random.integers(2 * DAY, 26 * DAY))
            hour, position = at % DAY // 3600, int(random.integers(5))
            rate = 0.08 + 0.3 * (item % 3 == user % 3) + 0.2 * (hour > 12) - 0.04 * position
            tags = "|".join(random.choice(TAGS, int(random.integers(3)), replace=False))
            battery = "" if random.random() < 0.1 else int(random.integers(100))
            if at > T + 20 * DAY and random.random() < 0.2:
                tags += "|never seen"
            bid, rating = (str(random.choice(of)) for of in (BIDS, RATINGS))
            rate += 0.1 * (float(bid) < 0.6) + 0.1 * (float(rating) > 2)
            clicked = int(random.random() < max(rate, 0.02))
            shown.append((user, item, at, clicked, position, hour, tags, battery, bid, rating))
    names = "uid sku ts clicked pos hour tags battery bid rating"
    write_table(folder / "events.csv", "uid sku cat ts", events)
    write_table(folder / "shown-1.csv", names, shown[::2])
    write_table(folder / "shown-2.csv", names, shown[1::2])
    write_parquet(folder / "shown-2.parquet", read_rows(folder / "shown-2.csv"))
    # Some users have no row, and one an age of its own.
    users = [(user, AGES[user % 3] if user > 1 else "99+", 1000 * user) for user in range(1, USERS + 1) if user % 7]
    write_table(folder / "users.csv", "uid age income", users)
    items = [(item, 100 + item % 4, BRANDS[item % 3], item * 1.5) for item in range(1, ITEMS + 1)]
    write_table(folder / "items.csv", "sku cat brand price", items)
    path = folder / "dataset.toml"
    path.write_text(DESCRIPTION)
    return path


def write_parquet(path: Path, rows: list[dict[str, str]]) -> None:
    """The rows as a warehouse keeps them: bids as decimals, ratings as float32."""
    table = pa.Table.from_pylist(rows)
    typed = {name: table[name].cast(pa.int64()) for name in ("uid", "sku", "ts", "clicked", "pos")}
    typed |= {name: table[name] for name in ("hour", "tags")}
    typed["battery"] = pa.array([int(row["battery"]) if row["battery"] else None for row in rows], pa.int8())
    typed["bid"] = pa.array([Decimal(row["bid"]) for row in rows], pa.decimal128(10, 2))
    typed["rating"] = table["rating"].cast(pa.float32())
    pq.write_table(pa.table(typed), path)


def made(folder: Path, model: str) -> Path:
    """The bundle, by the commands of the documents."""
    config = (
        f'name = "x"\nmin_count = 2\n[model]\nembedding_dim = 4\nhead_units = [16, 8]\n{MODELS[model]}\n'
        f"[windows]\nlength = 32\n[training]\nepochs = 2\nlearning_rate = 1e-2\nvalidation_length = {LENGTH}\n"
    )
    return made_bundle(folder, write_log(folder), config, method="platt")


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def request_of(shown: Mapping[str, str], users: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, Any]]:
    """An impression as a caller would describe it: what is not known is left out."""
    user: dict[str, Any] = {}
    if profile := users.get(shown["uid"]):
        user = {"age": profile["age"], "income": float(profile["income"])}
    context: dict[str, Any] = {"hour": int(shown["hour"])}
    if shown["tags"]:
        context["tags"] = [tag for tag in shown["tags"].split("|") if tag]
    if shown["battery"]:
        context["battery"] = int(shown["battery"])
    context |= {"bid": float(shown["bid"]), "rating": float(shown["rating"])}
    return {"user": user, "context": context}


@pytest.mark.parametrize("model", ["mimn", *(pytest.param(name, marks=pytest.mark.full) for name in list(MODELS)[1:])])
def test_a_test_impression_is_served_with_the_probability_that_evaluation_wrote_down(
    model: str, tmp_path: Path
) -> None:
    path = made(tmp_path, model)
    trained = TrainedRun.load(tmp_path / "run", tmp_path / "cache")
    occasions, impressions = trained.data.labelled.occasions("test"), trained.data.labelled.impressions
    with np.load(tmp_path / "run" / run.PREDICTIONS.format(length=LENGTH)) as saved:
        offline = saved["calibrated"]
    rows = {
        (row["uid"], row["sku"], row["ts"]): row
        for file in ("shown-1.csv", "shown-2.csv")
        for row in read_rows(tmp_path / file)
    }
    users = {row["uid"]: row for row in read_rows(tmp_path / "users.csv")}
    bundle = load_bundle(path)
    assert {spec.name: spec.source for spec in bundle.manifest.fields}["position"] == "context"
    chosen = np.random.default_rng(0).choice(len(occasions.rows), ASKED, replace=False)
    compared, unknown = [], 0
    with folded_log(tmp_path, path, trained.data.labelled.events) as log:
        for place in chosen.tolist():
            row = int(occasions.rows[place])
            ids = [column[row] for column in (impressions.user_id, impressions.item_id, impressions.category_id)]
            shown = rows[str(ids[0]), str(ids[1]), str(impressions.time_ms[row] // 1000)]
            request = request_of(shown, users)
            unknown += bool(bundle.request.vector(**request).unknown)
            item, category = (np.array([of], np.uint64) for of in ids[1:])
            answer = log.predict(str(ids[0]), item, category, **request)
            assert answer["calibrated"] is True
            compared.append((answer["scores"][0], float(offline[place])))
        refused = log.refused(str(ids[0]), user={"agee": "25-34"}, context={"hour": "noon?", "position": 1})
    served, expected = np.array(compared).T
    np.testing.assert_allclose(served, expected, rtol=0, atol=1e-5)
    assert np.std(served) > 1e-3
    assert unknown, "some of the values are unknown"
    assert {fault["field"] for fault in refused["errors"]} == {"user.agee", "context.position"}
    assert "age, income" in json.dumps(refused)
