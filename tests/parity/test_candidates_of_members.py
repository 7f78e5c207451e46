"""A candidate that stands for items, and past rates, are in a bundle as they are in the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mimn.bundle import load_bundle
from mimn.config import ConfigError
from mimn.export.parts import ExportError
from mimn.export.run import export_run
from mimn.impressions.config import ImpressionConfig
from mimn.impressions.train import train
from mimn.impressions.trained import TrainedRun
from support.impression_log import context, graded, made

DESCRIBED = """
[fields.user]
clicks = { kind = "past_rate" }
[fields.item]
clicked = { kind = "past_rate", prior = 10 }
[members]
files = ["members.parquet"]
key = "c"
item = "m"
"""


def trained(folder: Path, **model: Any) -> TrainedRun:
    made(np.random.default_rng(5), graded, fields=context("signal") + DESCRIBED).write(folder)
    pairs = [(item, 1 + (item * k) % 19) for item in range(10, 20) for k in (2, 3, 5)]
    pq.write_table(pa.table({"c": [c for c, _ in pairs], "m": [m for _, m in pairs]}), folder / "members.parquet")
    settings = {
        "name": "x",
        "min_count": 300,  # some candidates have no embedding of their own
        "model": {"variant": "pooling", "memory_induction": False, "utilization": False, "embedding_dim": 4}
        | {"head": "wide_deep", "head_units": [8, 4], **model},
        "windows": {"length": 16},
        "training": {"epochs": 1, "learning_rate": 1e-2, "validation_length": 16},
    }
    config = msgspec.convert(settings, ImpressionConfig)
    train(folder / "dataset.toml", config, folder / "run", cache=folder / "cache")
    return TrainedRun.load(folder / "run", folder / "cache")


def test_a_bundle_holds_the_vectors_that_the_model_reads(tmp_path: Path) -> None:
    run = trained(tmp_path)
    model, data = run.model, run.data.labelled.impressions
    bundle = load_bundle(export_run(run.folder, tmp_path / "bundles", "shop", "1", "float32"))
    some = np.unique(data.item_id)
    category = some % 3
    rows = torch.from_numpy(run.reader._ids.item_rows(some))
    categories = torch.from_numpy(run.reader._ids.category_rows(category))
    with torch.no_grad():
        vectors, fields = model.vectors(rows, categories), model.item_vector(rows)
        alone = torch.cat([model.items(rows), model.categories(categories)], -1)
    assert fields is not None
    served = bundle.candidates(some.astype(np.uint64), category.astype(np.uint64))
    assert np.allclose(served, np.concatenate([fields.numpy(), vectors.numpy()], -1), rtol=1e-6, atol=1e-7)
    with_members = some >= 10
    assert not np.isclose(vectors.numpy(), alone.numpy())[with_members].all(-1).any()
    assert model.fields is not None
    rate = model.fields.item.specs[0]
    expected = run.data.past_rates.of_items(some)["clicked"]
    x = (np.log(expected) - rate.mean) / rate.deviation
    assert np.allclose(served[:, 0], x, rtol=1e-5, atol=1e-6), "as of the end of the training labels"

    # The user's rate comes with the request, as the number that the caller's counter holds.
    row = np.array([7])
    asked = run.reader.request(row, np.ones(1, np.bool_))
    known = model.request_vector(asked)
    assert known is not None
    user = {"clicks": float(run.data.rates["clicks"][7])}
    text = run.data.prepared.texts["signal"][int(data.context["signal"][7])]
    vector = bundle.request.vector(user, {"signal": text})
    assert np.allclose(vector.values, known.detach().numpy()[0], rtol=1e-5, atol=1e-6)


def test_member_reads_cannot_be_exported_yet(tmp_path: Path) -> None:
    run = trained(tmp_path, member_reads=True)
    with pytest.raises(ExportError, match="train it with member_reads = false"):
        export_run(run.folder, tmp_path / "bundles", "shop", "1", "float32")
    assert not (tmp_path / "bundles").exists()


def test_reads_without_history_are_refused() -> None:
    settings = {"name": "x", "history": False, "model": {"member_reads": True}}
    with pytest.raises(ConfigError, match="without history"):
        _ = msgspec.convert(settings, ImpressionConfig).architecture
