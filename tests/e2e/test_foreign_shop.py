"""Logs in a layout that no code knows, from their description to served scores, by commands alone.

A client that shares no code with training reads the CSV, hashes the texts by the documented rule and produces events to
a real broker; what `/predict` answers must be what evaluation computes.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import xxhash
from kafka import KafkaProducer
from numpy.typing import NDArray

from ctr.event.v1.behavior_event_pb2 import Action, BehaviorEvent
from localstack.replay import Records
from localstack.shoppers import Shopper
from mimn import run
from mimn.bundle import load_bundle
from mimn.data.vocabulary import EmbeddingIds
from mimn.data_set import load_data
from mimn.impressions.trained import TrainedRun
from mimn.nn.checkpoint import load_model
from mimn.run_config import read_config
from mimn.scoring import predict
from support import foreign_shop
from support.folded_log import FoldedLog, folded_stack

pytestmark = [pytest.mark.torch, pytest.mark.servers, pytest.mark.timeout(600)]

ROWS, ASKED, NEGATIVES = 12_000, 25, 4
DEEDS = {
    "looked": Action.ACTION_CLICK,
    "teased": Action.ACTION_VIEW,
    "put in cart": Action.ACTION_CART,
    "bought": Action.ACTION_PURCHASE,
}
MODEL = """
[model]
variant = "paper"
embedding_dim = 4
controller_units = 8
memory_induction = false # no choice of a channel that rounding could decide
sketch_category_cells = 26
sketch_item_cells = 64
sketch_half_lives = [0] # without decay: the request comes years after the events
[windows]
length = 64
[training]
epochs = 2
windows_per_batch = 16
validation_length = 1000
"""


class Asked(NamedTuple):
    """What is asked of a visitor after some of the events, and the scores that evaluation gives."""

    who: str
    until_ms: int
    """Events before this time are folded."""
    events: int
    """So many of them, by training's count."""
    items: NDArray[np.uint64]
    categories: NDArray[np.uint64]
    scores: NDArray[np.float64]
    context: dict[str, int]


class Visit(NamedTuple):
    """One line of the shop's log."""

    at_ms: int
    article: str
    range: str
    deed: str


def number(text: str) -> int:
    """The id of a text, as docs/formats/ids.md says."""
    return xxhash.xxh64_intdigest(text.encode()) or 1


def visits(folder: Path) -> dict[str, list[Visit]]:
    """Every visitor's lines in the order of time."""
    found: dict[str, list[Visit]] = {}
    for path in sorted(folder.glob("visits-*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            for who, article, group, deed, at_ms in list(csv.reader(file, delimiter=";"))[1:]:
                found.setdefault(who, []).append(Visit(int(at_ms), article, group, deed))
    return {who: sorted(lines, key=lambda visit: visit.at_ms) for who, lines in found.items()}


def produce(bootstrap: str, topic: str, logs: Mapping[str, list[Visit]]) -> dict[str, Records]:
    """Send what has an action on the wire, ids by text and by number in turn; the records whose action the description
    folds."""
    producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, linger_ms=5)
    try:
        sent = []
        for who, lines in logs.items():
            for at, visit in enumerate(lines):
                if visit.deed not in DEEDS:
                    continue
                event = BehaviorEvent(user_id=who, action=DEEDS[visit.deed], event_time=visit.at_ms)
                if at % 2:
                    event.item_id, event.category_id = number(visit.article), number(visit.range)
                else:
                    event.item_text, event.category_text = visit.article, visit.range
                value = event.SerializeToString()
                sent.append((who, visit.deed, value, producer.send(topic, key=who.encode(), value=value)))
        producer.flush(timeout=60)
        records: dict[str, Records] = {}
        for who, deed, value, landed in sent:
            if deed != "teased":
                records.setdefault(who, []).append((landed.get(timeout=10).offset, value))
        return records
    finally:
        producer.close()


def ctr(folder: Path, *arguments: str | Path) -> str:
    """Run the command `ctr`, which must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", "ctr_cli", *map(str, arguments)],
        env=os.environ | {"CTR_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def unsigned(ids: NDArray[np.int64]) -> NDArray[np.uint64]:
    return ids.view(np.uint64)


def assert_served(folder: Path, asked: list[Asked]) -> None:
    """Fold what happened before each question, ask it, and compare."""
    logs, bundle = visits(folder / "shop"), folder / "shop" / "1"
    before = {one.who: [visit for visit in logs[one.who] if visit.at_ms < one.until_ms] for one in asked}
    with folded_stack(folder, bundle, lambda bootstrap, topic: produce(bootstrap, topic, before)) as (at, records):
        served = FoldedLog(load_bundle(bundle), [Shopper(one.who, range(0), 0, 0, ()) for one in asked], at)
        for one in asked:
            assert served.state(one.who).header.event_count == len(records[one.who]) == one.events
            fields = {"context": one.context} if one.context else {}
            answer = served.predict(one.who, one.items, one.categories, **fields)
            np.testing.assert_allclose(answer["scores"], one.scores, atol=1e-5, rtol=0)
        served.close()
    assert np.ptp([one.scores[0] for one in asked]) > 1e-3, "visitors differ"


def named(folder: Path) -> dict[int, str]:
    """The visitors by the id that training has for them."""
    return {number(who): who for who in visits(folder / "shop")}


def test_drawn_negatives_from_a_foreign_layout_to_served_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    description = foreign_shop.write(tmp_path / "shop", ROWS, labelled=False)
    assert "nothing to fix" in ctr(tmp_path, "data", "check", description)
    data_table = f'name = "x"\n[data]\ndescription = "{description}"\nmin_users = 2\n'
    (tmp_path / "model.toml").write_text(data_table + MODEL, "utf-8")
    ctr(tmp_path, "train", "--config", tmp_path / "model.toml", "--output", tmp_path / "run")
    ctr(tmp_path, "export", "--run", tmp_path / "run", "--output", tmp_path, "--name", "shop", "--version", "1")

    monkeypatch.setenv("CTR_CACHE", str(tmp_path / "cache"))
    data = load_data(read_config(tmp_path / "run" / run.CONFIG).data)
    test = data.instances.of("test", "A")
    test = test.select(np.arange(len(test)) < ASKED)
    scores = predict(
        load_model(tmp_path / "run" / run.MODEL),
        EmbeddingIds.load(tmp_path / "run"),
        data.events,
        test,
        samplings={"popularity": NEGATIVES},
        length=1000,
    )["popularity"].reshape(len(test), -1)
    candidates, who = test.candidates("popularity", NEGATIVES), named(tmp_path)
    items, categories = (unsigned(ids).reshape(len(test), -1) for ids in (candidates.item, candidates.category))
    asked = [
        Asked(
            who[int(unsigned(test.user_id)[row])],
            int(test.timestamp[row]),
            int(test.end[row] - test.begin[row]),
            items[row],
            categories[row],
            scores[row].astype(np.float64),
            {},
        )
        for row in range(len(test))
    ]
    assert scores.std(axis=1).min() > 1e-4, "candidates differ"
    assert_served(tmp_path, asked)


@pytest.mark.full
def test_labelled_impressions_from_a_foreign_layout_to_served_probabilities(tmp_path: Path) -> None:
    description = foreign_shop.write(tmp_path / "shop", ROWS, labelled=True)
    assert "nothing to fix" in ctr(tmp_path, "data", "check", description)
    (tmp_path / "model.toml").write_text(f'name = "x"\nmin_count = 2\n{MODEL}', "utf-8")
    output: list[str | Path] = ["--output", tmp_path / "run"]
    ctr(tmp_path, "impressions", "train", "--description", description, "--config", tmp_path / "model.toml", *output)
    ctr(tmp_path, "impressions", "calibrate", "--run", tmp_path / "run", "--method", "platt")
    ctr(tmp_path, "impressions", "evaluate", "--run", tmp_path / "run")
    into: list[str | Path] = ["--output", tmp_path, "--name", "shop", "--version", "1"]
    ctr(tmp_path, "impressions", "export", "--run", tmp_path / "run", *into)

    trained = TrainedRun.load(tmp_path / "run", tmp_path / "cache")
    shown, occasions, who = trained.data.labelled.impressions, trained.data.labelled.occasions("test"), named(tmp_path)
    with np.load(tmp_path / "run" / run.PREDICTIONS.format(length=1000)) as saved:
        scores = saved["calibrated"]
    history = trained.data.labelled.end - trained.data.labelled.begin
    last = {int(unsigned(shown.user_id)[row]): place for place, row in enumerate(occasions.rows.tolist())}
    asked = []
    for user, place in list(last.items())[:ASKED]:
        row = slice(int(occasions.rows[place]), int(occasions.rows[place]) + 1)
        at_ms = int(shown.time_ms[row][0])
        asked.append(
            Asked(
                who[user],
                at_ms,
                int(history[row][0]),
                unsigned(shown.item_id[row]),
                unsigned(shown.category_id[row]),
                scores[place : place + 1],
                {"hour": at_ms // 3_600_000 % 24},
            )
        )
    assert_served(tmp_path, asked)
