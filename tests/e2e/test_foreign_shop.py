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
from mimn.nn.checkpoint import load_model
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
CONFIG = """
name = "MIMN with counters"
[data]
description = "{description}"
min_users = 2
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
"""


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
    """Send what has an action on the wire; the records whose action the description folds."""
    producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, linger_ms=5)
    try:
        sent = []
        for who, lines in logs.items():
            for visit in lines:
                if visit.deed not in DEEDS:
                    continue
                event = BehaviorEvent(
                    user_id=who,
                    item_id=number(visit.article),
                    category_id=number(visit.range),
                    action=DEEDS[visit.deed],
                    event_time=visit.at_ms,
                )
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


def test_drawn_negatives_from_a_foreign_layout_to_served_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    description = foreign_shop.write(tmp_path / "shop", ROWS, labelled=False)
    assert "nothing to fix" in ctr(tmp_path, "data", "check", description)
    (tmp_path / "model.toml").write_text(CONFIG.format(description=description), "utf-8")
    ctr(tmp_path, "train", "--config", tmp_path / "model.toml", "--output", tmp_path / "run")
    ctr(tmp_path, "export", "--run", tmp_path / "run", "--output", tmp_path, "--name", "shop", "--version", "1")

    monkeypatch.setenv("CTR_CACHE", str(tmp_path / "cache"))
    data = run.load_data(run.read_config(tmp_path / "run" / run.CONFIG).data)
    asked = data.instances.of("test", "A")
    asked = asked.select(np.arange(len(asked)) < ASKED)
    offline = predict(
        load_model(tmp_path / "run" / run.MODEL),
        EmbeddingIds.load(tmp_path / "run"),
        data.events,
        asked,
        samplings={"popularity": NEGATIVES},
        length=10_000,
    )["popularity"].reshape(len(asked), -1)

    logs = visits(tmp_path / "shop")
    named = {number(who): who for who in logs}
    users = [named[int(user)] for user in unsigned(asked.user_id)]
    # What had happened before each target.
    until = dict(zip(users, asked.timestamp.tolist(), strict=True))
    before = {who: [visit for visit in logs[who] if visit.at_ms < until[who]] for who in users}
    bundle = tmp_path / "shop" / "1"
    with folded_stack(tmp_path, bundle, lambda bootstrap, topic: produce(bootstrap, topic, before)) as (at, records):
        shoppers = [Shopper(who, range(0), 0, 0, ()) for who in users]
        served = FoldedLog(load_bundle(bundle), shoppers, at)
        candidates = asked.candidates("popularity", NEGATIVES)
        items, categories = (unsigned(ids).reshape(len(users), -1) for ids in (candidates.item, candidates.category))
        for row, who in enumerate(users):
            assert served.state(who).header.event_count == len(records[who]) == asked.end[row] - asked.begin[row]
            answer = served.predict(who, items[row], categories[row])
            np.testing.assert_allclose(answer["scores"], offline[row], atol=1e-5, rtol=0)
        served.close()
    assert offline.std(axis=0).max() > 1e-3, "users differ"
    assert offline.std(axis=1).min() > 1e-4, "candidates differ"
