"""Offers that stand for products, from a log in CSV to served probabilities: train, calibrate, evaluate, export, fold,
predict. Products are read in the user's ledger, which UIC writes and which is too small for all that a user touched."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mimn import run
from mimn.bundle import load_bundle
from mimn.impressions.trained import TrainedRun
from mimn.state.ledger import EVICTED
from support.csv_log import made_bundle, write_table
from support.folded_log import folded_log

pytestmark = [pytest.mark.torch, pytest.mark.servers, pytest.mark.timeout(900)]

DAY = 86_400
USERS, PRODUCTS, OFFERS, TOUCHED, SHOWN, ASKED = 40, 40, 12, 35, 30, 40
AGES = ("18-24", "25-34", "35+")
DESCRIPTION = """
name = "offers"
[events]
files = ["events.csv"]
user = "uid"
item = "sku"
category = "cat"
time = "ts"
[impressions]
files = ["shown.csv"]
user = "uid"
item = "offer"
time = "ts"
label = "clicked"
window = "1s"
[users]
files = ["users.csv"]
key = "uid"
[items]
files = ["offers.csv"]
key = "offer"
category = "cat"
[members]
files = ["members.csv"]
key = "offer"
item = "sku"
[fields.user.age]
kind = "categorical"
[fields.context.hour]
kind = "categorical"
vocabulary = 24
[split]
by = "time"
train_until = {train}
validate_until = {validate}
"""
MODELS = {
    "pooling": 'variant = "pooling"\nmemory_induction = false\nutilization = false\nhistory_product = true\n',
    "mimn": "controller_units = 8\nslots = 3\nattention_units = [8, 4]\nbounded_writes = true\n",
}


def write_log(folder: Path, now: int) -> Path:
    """A month up to `now`; the test impressions are of the last minutes, behind all events."""
    random, start = np.random.default_rng(5), now // DAY * DAY - 30 * DAY
    members = [random.choice(PRODUCTS, 3 + k % 3, replace=False) + 1 for k in range(OFFERS)]
    favorites = random.integers(1, PRODUCTS + 1, size=(USERS, TOUCHED))
    events: list[tuple[object, ...]] = []
    touched: list[list[tuple[int, int]]] = []
    for user in range(USERS):
        times = np.sort(random.integers(start, now - 600, TOUCHED))
        touched.append(list(zip(favorites[user].tolist(), times.tolist(), strict=True)))
        events += [(user + 1, item, 100 + item % 4, at) for item, at in touched[-1]]
    shown: list[tuple[object, ...]] = []
    for user in range(USERS):
        for number in range(SHOWN):
            offer = int(random.integers(OFFERS + 5))  # the last ones are products, which stand for themselves
            of = members[offer].tolist() if offer < OFFERS else [offer - OFFERS + 1]
            at = int(random.integers(start + 8 * DAY, start + 28 * DAY) if number < SHOWN - 4 else now - 1 - number)
            counts = sum(item in of for item, when in touched[user] if when < at)
            clicked = int(random.random() < min(0.08 + 0.2 * counts, 0.9))
            hour = at % DAY // 3600
            shown.append((user + 1, 1000 + offer if offer < OFFERS else of[0], at, clicked, hour))
    write_table(folder / "events.csv", "uid sku cat ts", events)
    write_table(folder / "shown.csv", "uid offer ts clicked hour", shown)
    write_table(folder / "users.csv", "uid age", [(user, AGES[user % 3]) for user in range(1, USERS + 1)])
    offers: list[tuple[object, ...]] = [(1000 + k, 100 + k % 4) for k in range(OFFERS)]
    write_table(folder / "offers.csv", "offer cat", offers + [(item, 100 + item % 4) for item in range(1, 6)])
    write_table(
        folder / "members.csv", "offer sku", [(1000 + k, item) for k in range(OFFERS) for item in members[k].tolist()]
    )
    cuts = (datetime.fromtimestamp(start + day * DAY, UTC).date() for day in (22, 28))
    path = folder / "dataset.toml"
    path.write_text(DESCRIPTION.format(**dict(zip(("train", "validate"), cuts, strict=True))))
    return path


def made(folder: Path, model: str, now: int) -> Path:
    """The bundle, by the commands of the documents."""
    folder.mkdir()
    config = (
        f'name = "x"\nmin_count = 2\n[model]\nembedding_dim = 4\nhead = "wide_deep"\nhead_units = [16, 8]\n'
        "sketch_category_cells = 4\nsketch_half_lives = [0]\nledger_buckets = 3\nmember_reads = true\n"
        f"{MODELS[model]}[windows]\nlength = 64\n"
        "[training]\nepochs = 8\nlearning_rate = 1e-2\nvalidation_length = 50\n"
    )
    return made_bundle(folder, write_log(folder, now), config, method="shift")


def of_today(now: int) -> int:
    """The end of a log whose newest impressions are of the day of `now`, as the requests are: in a day's first half
    minute (UTC) it lies ahead."""
    return max(now, now // DAY * DAY + SHOWN + 1)


def compare(folder: Path, model: str) -> tuple[NDArray[np.float64], int]:
    """Served and offline probabilities of test impressions [k, 2], and how many entries the users' ledgers gave up."""
    path = made(folder, model, of_today(int(time.time())))
    trained = TrainedRun.load(folder / "run", folder / "cache")
    occasions, shown = trained.data.labelled.occasions("test"), trained.data.labelled.impressions
    with np.load(folder / "run" / run.PREDICTIONS.format(length=50)) as saved:
        offline = saved["calibrated"]
    bundle = load_bundle(path)
    assert bundle.ledger is not None
    compared, evicted = [], 0
    with folded_log(folder, path, trained.data.labelled.events) as log:
        for place in np.random.default_rng(0).choice(len(occasions.rows), ASKED, replace=False).tolist():
            row = int(occasions.rows[place])
            user, item, category = (int(of[row]) for of in (shown.user_id, shown.item_id, shown.category_id))
            hour = int(shown.time_ms[row]) // 1000 % DAY // 3600
            answer = log.predict(
                str(user),
                np.array([item], np.uint64),
                np.array([category], np.uint64),
                user={"age": AGES[user % 3]},
                context={"hour": hour},
            )
            compared.append((answer["scores"][0], float(offline[place])))
            words = bundle.ledger.of(log.state(str(user)).tensors)
            evicted += int(bundle.ledger.scalars(words)[EVICTED])
    return np.array(compared), evicted


@pytest.mark.parametrize("model", ["pooling", pytest.param("mimn", marks=pytest.mark.full)])
def test_an_offer_is_served_with_the_probability_that_evaluation_wrote_down(model: str, tmp_path: Path) -> None:
    # A ledger counts days. If midnight (UTC) came between the impressions and a request, its age is another one.
    for attempt in ("first", "after midnight"):
        day = int(time.time()) // DAY
        compared, evicted = compare(tmp_path / attempt, model)
        if int(time.time()) // DAY == day:
            break
    served, offline = compared.T
    np.testing.assert_allclose(served, offline, rtol=0, atol=1e-5)
    assert np.std(served) > 1e-2
    assert evicted > 0, "the ledgers are too small for all that the users touched"
