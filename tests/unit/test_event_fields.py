"""Fields where negatives are drawn: fitted on train users, the same for a target and its negatives, learned, stored."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from mimn import evaluate, run, train
from mimn.baselines import model_config
from mimn.config import ConfigError
from mimn.data.instances import build_instances, target_rows
from mimn.data_set import DataSet, load_data
from mimn.event_fields import EventFields, fit_event_fields, known_ids
from mimn.nn.checkpoint import load_model
from mimn.run_config import RunConfig, decode_config
from support import datasets

pytestmark = pytest.mark.torch

POOLING = {"variant": "pooling", "memory_induction": False, "utilization": False, "embedding_dim": 8}


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return datasets.made_up_with_fields(tmp_path_factory.mktemp("fields"))


@pytest.fixture(scope="module")
def config(described: Path) -> RunConfig:
    text = datasets.SMOKE.read_text("utf-8").replace("models/datasets/synthetic.toml", str(described))
    config = decode_config(text, "test")
    training = msgspec.structs.replace(config.training, epochs=2)
    return msgspec.structs.replace(config, model=POOLING, training=training)


@pytest.fixture(scope="module")
def data(config: RunConfig) -> DataSet:
    return load_data(config.data)


def fields_of(data: DataSet) -> EventFields:
    fitted = fit_event_fields(data.prepared, data.train_users)
    return EventFields.of(data.prepared, data.train_users, fitted)


def test_target_rows_are_the_events_that_the_positives_were(data: DataSet) -> None:
    rows = target_rows(data.events, data.instances)
    for name, column in (("user_id", "user_id"), ("item_id", "item"), ("timestamp", "timestamp")):
        np.testing.assert_array_equal(getattr(data.events, name)[rows], getattr(data.instances, column))


def test_what_values_mean_comes_from_train_users_alone(data: DataSet) -> None:
    fields = fields_of(data)
    taste = next(spec for spec in fields.fitted.specs if spec.name == "taste")
    assert taste.rows == 2 + 8, "the texts of validation and test users are unknown"
    outside = np.flatnonzero(~data.train_users[data.events.user_index])
    assert set(fields.request(outside).rows[:, 0].tolist()) == {0}


def test_context_is_that_of_the_target(data: DataSet) -> None:
    rows = target_rows(data.events, data.instances)
    found = fields_of(data).request(rows).rows[:, 1].numpy()
    np.testing.assert_array_equal(found - 2, data.instances.timestamp // 86400 % 7)


def test_an_item_that_nobody_bought_is_read_by_its_fields(data: DataSet) -> None:
    known = known_ids(data.vocabulary, data.prepared, 1)
    row = int(known.ids.item_rows(np.array([datasets.NEW_ITEM]))[0])
    assert row > 0
    assert known.embedding_rows[row] == 0, "it shares the unknown item's embedding"
    tables = fields_of(data).model(model_config(POOLING), known)
    of_category_1 = int(known.ids.item_rows(data.events.item_id[data.events.category_id == 1][:1])[0])
    values = tables.get_buffer("item_rows")
    assert values[row].tolist() == values[of_category_1].tolist() != values[0].tolist()


def test_a_run_learns_from_fields_and_its_folder_is_all_that_evaluation_needs(
    config: RunConfig, tmp_path: Path
) -> None:
    record = train.train(config, tmp_path / "run")
    assert record["dataset"] == "with-fields"
    model = load_model(tmp_path / "run" / run.MODEL)
    assert model.fields is not None
    assert {spec.name for spec in model.fields.item.specs} == {"brand", "price"}
    evaluated = evaluate.evaluate(tmp_path / "run", 50)
    again = evaluate.evaluate(tmp_path / "run", 50)
    assert evaluated == again
    assert json.loads((tmp_path / "run/metrics.json").read_text())["evaluation"]["50"]["test"] == evaluated["test"]


@pytest.mark.parametrize(
    "model",
    [
        {"variant": "din", "history_product": True},
        {"variant": "dien", "history_product": True},
        {"slots": 2, "bounded_writes": True, "sketch_category_cells": 8, "head": "deepfm"},
    ],
    ids=["DIN", "DIEN", "MIMN with a sketch under DeepFM"],
)
def test_every_kind_of_model_reads_fields(config: RunConfig, tmp_path: Path, model: dict[str, object]) -> None:
    short = msgspec.structs.replace(
        config,
        model={"embedding_dim": 4, "head_units": [8, 4], **model},
        training=msgspec.structs.replace(config.training, epochs=1),
        windows=msgspec.structs.replace(config.windows, length=32, per_user=1),
    )
    record = train.train(short, tmp_path / "run")
    evaluated = evaluate.evaluate(tmp_path / "run", 20, parts=("validation",), floors=False)
    assert 0.0 < record["validation_auc"] < 1.0
    assert evaluated["validation"]["popularity"]["rows"] > 0


def test_fields_change_no_instance(data: DataSet) -> None:
    assert build_instances(data.events).sha256 == data.instances.sha256


def test_a_published_model_with_fields_is_refused_before_anything_is_written(config: RunConfig, tmp_path: Path) -> None:
    official = msgspec.structs.replace(
        config, model={"variant": "official", "rebalance": "shift", "padding": "run", "embedding_dim": 8}
    )
    with pytest.raises(ConfigError, match="the published models read no fields"):
        train.train(official, tmp_path / "run")
    assert not (tmp_path / "run").exists()
