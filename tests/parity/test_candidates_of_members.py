"""A candidate that stands for items, and past rates, are in a bundle as they are in the model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mimn.bundle import Bundle, BundleError, MembersSpec, load_bundle
from mimn.bundle.graph import open_head, open_step
from mimn.bundle.manifest import decode_manifest, encode_manifest
from mimn.config import ConfigError
from mimn.export.parts import ExportError
from mimn.export.run import export_run
from mimn.impressions.__main__ import main
from mimn.impressions.config import ImpressionConfig
from mimn.impressions.train import train
from mimn.impressions.trained import TrainedRun
from mimn.run_config import DataSettings, RunConfig
from rtp.runtime import OnnxModel
from support.impression_log import context, graded, made

pytestmark = pytest.mark.torch

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


READING: dict[str, dict[str, Any]] = {
    "pooling": {"sketch_category_cells": 4, "history_product": True},
    "ledger": {"variant": "ledger"},
}
Shop = Callable[[str], tuple[TrainedRun, Bundle]]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """The run and the bundle of a state, made once."""

    def made_with(state: str) -> tuple[TrainedRun, Bundle]:
        folder = tmp_path_factory.mktemp(state)
        run = trained(folder, member_reads=True, ledger_buckets=2, **READING[state])
        return run, load_bundle(export_run(run.folder, folder / "bundles", "shop", "1", "float32"))

    return cache(made_with)


def test_a_bundle_holds_the_vectors_that_the_model_reads(shop: Shop) -> None:
    run, bundle = shop("pooling")
    model, data = run.model, run.data.labelled.impressions
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
    assert rate.bounds is not None
    x = (np.clip(np.log(expected), *rate.bounds) - rate.mean) / rate.deviation
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


@pytest.mark.parametrize("state", READING)
def test_a_bundle_reads_members_as_training_did(shop: Shop, state: str) -> None:
    """Events folded one at a time as UIC does, scored as RTP does: the scores of `evaluate`."""
    run, bundle = shop(state)
    assert bundle.manifest.item_table is None
    reads = bundle.reads
    assert reads is not None
    assert reads.members is not None
    predicted = run.predict("test", 16)
    rows, shown, log = predicted.occasions.rows, run.data.labelled.impressions, run.data.labelled
    head, step = open_head(bundle), open_step(bundle)
    some = np.random.default_rng(0).choice(len(rows), 40, replace=False)
    sums, touched = 0.0, 0
    for place in some.tolist():
        row = int(rows[place])
        past = slice(max(int(log.begin[row]), int(log.end[row]) - 16), int(log.end[row]))
        items, categories = (of[past].astype(np.uint64) for of in (log.events.item_id, log.events.category_id))
        times = log.events.timestamp[past] * log.events.unit_ms
        state_of = bundle.initial_state[np.newaxis].copy()
        for t in range(len(items)):
            one, rest = slice(t, t + 1), bundle.rest
            vector = bundle.events(items[one], categories[one])
            state_of[:, rest] = step(vector, np.ascontiguousarray(state_of[:, rest]))
            if bundle.sketch is not None:
                moments = bundle.sketch.sketch.moments(times[one])
                plain = state_of[:, : -reads.ledger.words]
                bundle.sketch.sketch.add(plain, bundle.sketch.addresses(items[one], categories[one]), moments)
            reads.ledger.add(state_of, reads.ledger.keys(items[one]), times[one])
        now = int(shown.time_ms[row])
        asked = tuple(np.array([of[row]], np.uint64) for of in (shown.item_id, shown.category_id))
        text = run.data.prepared.texts["signal"][int(shown.context["signal"][row])]
        request = bundle.request.vector({"clicks": float(run.data.rates["clicks"][row])}, {"signal": text})
        known: dict[str, Any] = {"reads": reads.read(reads.ledger.of(state_of[0]), asked[0], now)}
        if bundle.sketch is not None:
            known |= {"addresses": bundle.sketch.addresses(*asked)}
            known |= {"now": bundle.sketch.sketch.moments(np.array([now]))[0]}
        candidate = bundle.candidates(*asked)
        rates = run.reader.item_rates(np.array([row]))
        assert rates is not None
        candidate[:, 0] = rates.numpy()[0, 0]  # as of then, as evaluation has it
        score = head(candidate, state_of[0], request.values, **known)[0]
        assert score == pytest.approx(float(predicted.scores[place]), abs=1e-5)
        sums, touched = sums + score, touched + bool(known["reads"].any())
    assert touched > 10
    assert sums > 0


def test_new_candidates_are_a_release_of_the_head_alone(shop: Shop, tmp_path: Path) -> None:
    """The index is outside of the states' fingerprint, and a candidate that no table has is read by its members."""
    run, before = shop("pooling")
    shutil.copytree(run.folder.parent, tmp_path, dirs_exist_ok=True)
    ledger = before.ledger
    assert ledger is not None
    newest = 77_777
    pq.write_table(pa.table({"c": [10, *[newest] * 3], "m": [19, 1, 2, 3]}), tmp_path / "members.parquet")
    again = ["export", "--run", str(tmp_path / "run"), "--output", str(tmp_path / "bundles"), "--name", "shop"]
    again += ["--version", "2", "--members", str(tmp_path / "dataset.toml"), "--cache", str(tmp_path / "cache")]
    assert main(again) == 0
    after = load_bundle(tmp_path / "bundles" / "shop" / "2")
    assert after.fingerprint == before.fingerprint
    state = np.zeros((1, ledger.words), np.float32)
    ledger.add(state, ledger.keys(np.array([2], np.uint64)), np.array([1_600_000_000_000]))
    asked = ledger.of(state[0]), np.array([newest], np.uint64), 1_600_000_000_000
    assert before.reads is not None
    assert after.reads is not None
    assert not before.reads.read(*asked).any()
    assert after.reads.read(*asked)[0, :2].tolist() == pytest.approx([np.log1p(1)] * 2)
    assert [unknown_of(bundle, newest, newest + 1) for bundle in (before, after)] == [2, 1]


def unknown_of(bundle: Bundle, *items: int) -> int:
    """How many of these candidates RTP counts as unknown to the bundle."""
    model, ids = OnnxModel(bundle), np.array(items, np.uint64)
    model.score(ids, np.zeros_like(ids), bundle.initial_state, np.zeros(bundle.request.width, np.float32), 0)
    return model.unknown_items


def test_an_index_that_does_not_fit_its_bundle_is_refused(shop: Shop, tmp_path: Path) -> None:
    run, bundle = shop("ledger")
    manifest = bundle.manifest
    assert manifest.members is not None
    broken: dict[str, Any] = {
        "members.half_lives": MembersSpec(()),
        "numbers of days above 0": MembersSpec((0, 30, 120)),
        "input `reads`": MembersSpec((7,)),
        "goes together": None,
    }
    for message, members in broken.items():
        wrong = msgspec.structs.replace(manifest, members=members)
        if members is None:
            files = {name: sha for name, sha in manifest.files.items() if not name.startswith("members.")}
            wrong = msgspec.structs.replace(wrong, files=files, sizes=None)
        with pytest.raises(BundleError, match=message):
            decode_manifest(encode_manifest(wrong))
    copy = shutil.copytree(run.folder, tmp_path / "run")
    (copy / "members.first.npy").unlink()
    with pytest.raises(ExportError, match=r"members\.first\.npy"):
        export_run(copy, tmp_path / "bundles", "shop", "2", "float32")
    assert not (tmp_path / "bundles" / "shop" / "2").exists()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"member_reads": True}, "ledger_buckets must be above 0"),
        ({"ledger_buckets": 2}, "set member_reads = true"),
        ({"ledger_buckets": 2, "member_reads": True, "ledger_reads": ["user"]}, "no table of items"),
    ],
)
def test_reads_that_impressions_do_not_have_are_refused(model: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _ = msgspec.convert({"name": "x", "model": model}, ImpressionConfig).architecture


def test_drawn_negatives_have_no_members() -> None:
    data = DataSettings(description="dataset.toml")
    config = RunConfig(name="x", data=data, model={"ledger_buckets": 2, "member_reads": True})
    with pytest.raises(ConfigError, match="member_reads must be false in a run"):
        _ = config.architecture


def test_reads_without_history_are_refused() -> None:
    settings = {"name": "x", "history": False, "model": {"member_reads": True, "ledger_buckets": 2}}
    with pytest.raises(ConfigError, match="without history"):
        _ = msgspec.convert(settings, ImpressionConfig).architecture
