"""What our field heads and a package's are compared on: rows that both can read, and heads that learn from them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from mimn import metrics
from mimn.config import HeadName
from mimn.data.events import DataError
from mimn.data.instances import MIN_HISTORY
from mimn.data.vocabulary import KnownIds
from mimn.data_set import DataSet, load_data
from mimn.event_fields import EventFields, fit_event_fields, known_ids
from mimn.run_config import RunConfig, decode_config
from mimn.table import head_peers
from mimn.table.peers import Rows
from support import datasets

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return datasets.made_up_with_fields(tmp_path_factory.mktemp("head_peers"))


def loaded(path: Path) -> tuple[RunConfig, DataSet, KnownIds, EventFields]:
    text = datasets.SMOKE.read_text("utf-8").replace("models/datasets/synthetic.toml", str(path))
    config = decode_config(text, "test")
    config = msgspec.structs.replace(
        config, model={"variant": "pooling", "memory_induction": False, "utilization": False}
    )
    data = head_peers.thinned(load_data(config.data), 1000, 0)
    fitted = fit_event_fields(data.prepared, data.train_users)
    known = known_ids(data.vocabulary, data.prepared, config.data.min_users)
    return config, data, known, EventFields.of(data.prepared, data.train_users, fitted)


@pytest.fixture(scope="module")
def exported(described: Path) -> tuple[Rows, DataSet, KnownIds, EventFields]:
    path = described.with_name("intervals.toml")
    path.write_text(described.read_text("utf-8").replace('kind = "numeric"', 'kind = "numeric", buckets = 4'), "utf-8")
    config, data, known, fields = loaded(path)
    return head_peers.rows_with_fields(config, data, known, fields), data, known, fields


def test_a_number_without_intervals_is_refused(described: Path) -> None:
    with pytest.raises(DataError, match="only categorical fields, crosses and intervals can be compared"):
        head_peers.rows_with_fields(*loaded(described))


def test_rows_have_every_field_and_equally_many_events(
    exported: tuple[Rows, DataSet, KnownIds, EventFields],
) -> None:
    rows, data, known, _ = exported
    n = len(data.instances.of("train"))
    assert n == 1000
    assert set(rows["train_lengths"].tolist()) == {MIN_HISTORY}
    assert rows["train_request"].shape == (n, 2)
    assert rows["item_values"].shape == (len(known.ids.items) + 1, 2)
    assert rows["field_names"].tolist() == ["taste", "weekday", "brand", "price"]
    of = [*rows["train_request"].max(0).tolist(), *rows["item_values"].max(0).tolist()]
    assert all(largest < size for largest, size in zip(of, rows["field_rows"].tolist(), strict=True))


@pytest.mark.parametrize("head", ["deepfm", "fnn"])
def test_our_heads_learn_from_the_rows(exported: tuple[Rows, DataSet, KnownIds, EventFields], head: HeadName) -> None:
    rows, data, known, fields = exported
    test = data.instances.of("test").candidates("popularity")
    scores = head_peers.train_ours(head, rows, fields, known, 0)
    assert metrics.auc(test.label, scores.reshape(-1).astype(np.float64)) > 0.55
