"""What our baselines and a package's are compared on: rows that say nothing of the label, and are the same for both."""

from __future__ import annotations

import numpy as np
import pytest

from mimn import metrics
from mimn.baselines import BaselineConfig
from mimn.data.instances import NEGATIVES
from mimn.data_set import DataSet, load_data
from mimn.run_config import decode_config
from mimn.table import peers
from support import datasets

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[peers.Rows, DataSet]:
    config = decode_config(datasets.smoke_text(tmp_path_factory.mktemp("peers")), "test")
    data = load_data(config.data)
    ids = data.vocabulary.embedding_ids(config.data.min_users)
    return peers.export_rows(config, data, ids, length=20, targets=1500), data


def test_rows_are_the_instances_with_another_negative_each_epoch(
    exported: tuple[peers.Rows, DataSet],
) -> None:
    rows, data = exported
    n = len(rows["train_items"])
    assert n <= 1500
    assert rows["train_items"].shape == (n, 20)
    assert rows["train_candidate_items"].shape == (NEGATIVES, n, 2)
    by_epoch = rows["train_candidate_items"]
    assert (by_epoch[:, :, 0] == by_epoch[0, :, 0]).all(), "positives stay"
    assert (by_epoch[0, :, 1] != by_epoch[1, :, 1]).any(), "negatives change"
    for order in rows["order"]:
        assert sorted(order.tolist()) == list(range(n))
    test = data.instances.of("test")
    assert rows["test_candidate_items"].shape == (len(test), 2)
    assert (rows["test_lengths"] == np.minimum(test.end - test.begin, 20)).all()


def test_our_model_learns_from_the_rows_and_a_difference_is_paired(
    exported: tuple[peers.Rows, DataSet],
) -> None:
    rows, data = exported
    architecture = BaselineConfig(
        variant="din", embedding_dim=int(rows["embedding_dim"]), attention_units=4, head_units=(8, 4)
    )
    test = data.instances.of("test").candidates("popularity")
    ours = [
        peers.train_ours(architecture, rows, 0, random_start=start).reshape(-1).astype(np.float64)
        for start in (False, True)
    ]
    assert metrics.auc(test.label, ours[0]) > 0.55
    assert not np.array_equal(ours[0], ours[1])
    found = peers.compared(test.label, test.user_id, ours[:1], ours[:1])
    assert (found["difference"], found["low"], found["high"]) == (0.0, 0.0, 0.0)
    better = peers.compared(test.label, test.user_id, [test.label.astype(np.float64)], ours[:1])
    assert better["ours"] == 1.0
    assert better["low"] > 0.0
