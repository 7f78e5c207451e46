"""Heads read histories longer than training's as ones at the limit, in training and from states alike."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from mimn.bundle import load_bundle
from mimn.config import ConfigError, MimnConfig
from mimn.data.labelled import OccasionSampler
from mimn.export.run import export_run
from mimn.impressions.config import ImpressionConfig, OccasionPlan
from mimn.impressions.data import ImpressionData
from mimn.impressions.limits import limited
from mimn.impressions.train import train
from mimn.nn.checkpoint import load_model, untrained
from mimn.nn.sketch import folded_counters, read_counters, sketch_reader
from mimn.run import METRICS, MODEL
from mimn.training.settings import TrainingSettings
from mimn.training.warm import Start
from support.impression_log import DAY, USERS, T, graded, made

pytestmark = pytest.mark.torch

POOLING = {
    "variant": "pooling",
    "memory_induction": False,
    "utilization": False,
    "history_product": True,
    "embedding_dim": 4,
    "head_units": [16, 8],
    "sketch_category_cells": 4,
    "sketch_half_lives": [0, 30],
}
DAYS = 20


def configured(model: dict[str, object] | None = None) -> ImpressionConfig:
    return ImpressionConfig(
        name="x",
        model=POOLING | (model or {}),
        windows=OccasionPlan(length=32, occasions=8),
        training=TrainingSettings(epochs=1, windows_per_batch=16, validation_length=32),
    )


def described(folder: Path, *, actions: bool = False) -> Path:
    """150 users with about ten events, one of them with 3,000 more; with actions every second event counts 3."""
    rng = np.random.default_rng(0)
    log = made(rng, graded)
    item = rng.integers(1, 20, 3000)
    more = {"u": np.full(3000, USERS), "i": item, "c": item % 3, "t": T + rng.integers(0, DAYS * DAY, 3000)}
    log.events = {name: np.concatenate([of, more[name]]) for name, of in log.events.items()}
    if actions:
        log.events["a"] = np.where(np.arange(len(log.events["u"])) % 2, "view", "purchase").tolist()
        log.fields = '[actions]\nview = { is = "view", weight = 1.0 }\npurchase = { is = "purchase", weight = 3.0 }\n'
    path = log.write(folder)
    if actions:
        path.write_text(path.read_text().replace("[events]\n", '[events]\naction = "a"\n'))
    return path


def without_limits(model: bytes) -> bytes:
    """The model file as it was written before there were limits."""
    head, rest = model[8 : 8 + int.from_bytes(model[:8], "little")], model[8 + int.from_bytes(model[:8], "little") :]
    header = json.loads(head)
    config = json.loads(header["__metadata__"]["config"])
    del config["sketch_limit"], config["count_limit"]
    header["__metadata__"]["config"] = json.dumps(config)
    written = json.dumps(header).encode()
    return len(written).to_bytes(8, "little") + written + rest


def without_hashes(folder: Path) -> None:
    """Make a run one of before `metrics.json` held the hashes of its files."""
    metrics = json.loads((folder / METRICS).read_text())
    del metrics["files"]
    (folder / METRICS).write_text(json.dumps(metrics))


def sampled(data: ImpressionData, config: ImpressionConfig) -> OccasionSampler:
    return OccasionSampler(data.labelled.occasions("train"), config.windows.length, config.windows.occasions)


@pytest.mark.parametrize("actions", [False, True])
def test_the_limits_are_what_nearly_all_histories_of_an_epoch_have_at_most(tmp_path: Path, actions: bool) -> None:
    data, config = ImpressionData.load(described(tmp_path, actions=actions), tmp_path / "cache"), configured()
    sampler = sampled(data, config)
    found = limited(config.architecture, data, sampler, seed=3)
    events, weights = [], []
    action = data.labelled.events.action
    for batch in sampler.epoch(np.random.default_rng(3), 4):
        for row, column in zip(*np.nonzero(batch.real.any(-1)), strict=True):
            first, behind = batch.start[row], batch.start[row] + batch.position[row, column]
            of = np.ones(behind - first) if action is None else np.where(action[first:behind] == 1, 1.0, 3.0)
            events.append(len(of))
            weights.append(of.sum())
    for limit, shown in ((found.count_limit, np.array(events)), (found.sketch_limit, np.array(weights))):
        some = shown[shown > 0]
        assert limit in some
        assert np.mean(some <= limit) >= 0.99 > np.mean(some < limit)
    assert (found.sketch_limit > found.count_limit) == actions
    assert 10 < found.count_limit <= 48  # of up to 3,010


def test_a_limit_that_is_named_stays(tmp_path: Path) -> None:
    data = ImpressionData.load(described(tmp_path), tmp_path / "cache")
    config = configured({"count_limit": 1e9, "sketch_limit": 7.0})
    found = limited(config.architecture, data, sampled(data, config), seed=3)
    assert (found.count_limit, found.sketch_limit) == (1e9, 7.0)


@pytest.mark.parametrize("value", [-1.0, float("inf"), float("nan")])
def test_a_limit_that_is_none_is_refused(value: float) -> None:
    with pytest.raises(ConfigError, match=r"sketch_limit must be 0 or more"):
        MimnConfig(sketch_limit=value)


def test_a_state_of_fifty_times_the_events_gets_the_scores_of_one_at_the_limit() -> None:
    """Without a limit it does not: that is what a head of short windows cannot know."""
    rng = np.random.default_rng(1)
    torch.manual_seed(1)
    apart = {}
    for limit in (24.0, 0.0):
        config = MimnConfig.from_mapping(POOLING | {"sketch_limit": limit, "count_limit": limit})
        model = untrained(config, 20, 4).eval()
        torch.nn.init.normal_(model.head.mlp.by_user.weight, std=0.5)  # type: ignore[union-attr, arg-type]
        reader = sketch_reader(config)
        assert reader is not None
        history, candidates = rng.integers(1, 20, 24), torch.arange(1, 20)[None]
        scores = []
        for times in (1, 50):
            items = np.repeat(history, times)[None]
            cells, when = (items % 3 + 1)[..., None], np.full(items.shape, T * 1000)
            length = np.array([items.shape[1]])
            states = folded_counters(reader.sketch, cells, when, length)
            counts = read_counters(reader, states, (candidates.numpy() % 3 + 1)[..., None], when[:, 0] + 1000)
            rows = torch.from_numpy(items), torch.from_numpy(items % 3 + 1), torch.from_numpy(length)
            with torch.no_grad():
                scores.append(model.scorer(*rows)(candidates, candidates % 3 + 1, counts=counts))
        apart[limit] = float((scores[0] - scores[1]).abs().max())
    assert apart[24.0] < 2e-3
    assert apart[0.0] > 0.05


def test_training_evaluation_and_the_bundle_have_the_same_limits_and_a_warm_run_keeps_them(tmp_path: Path) -> None:
    path, cache = described(tmp_path), tmp_path / "cache"
    train(path, configured(), tmp_path / "run", cache=cache)
    model = load_model(tmp_path / "run" / MODEL).config
    assert 10 < model.count_limit <= 48
    bundle = load_bundle(export_run(tmp_path / "run", tmp_path / "bundles", "x", "1", "float32"))
    assert bundle.manifest.model["count_limit"] == model.count_limit
    # Other windows would give other limits, but the weights were learned within these.
    longer = msgspec.structs.replace(configured(), windows=OccasionPlan(length=64, occasions=8))
    train(path, longer, tmp_path / "warm", cache=cache, start=Start(tmp_path / "run"))
    assert load_model(tmp_path / "warm" / MODEL).config == model
    bare = configured({"sketch_limit": 1e9, "count_limit": 1e9})
    train(path, bare, tmp_path / "bare", cache=cache)
    (tmp_path / "bare" / MODEL).write_bytes(without_limits((tmp_path / "bare" / MODEL).read_bytes()))
    without_hashes(tmp_path / "bare")
    train(path, configured(), tmp_path / "given", cache=cache, start=Start(tmp_path / "bare", keep_state=True))
    assert load_model(tmp_path / "given" / MODEL).config == model, "a run of before limits"
    named = configured({"sketch_limit": model.sketch_limit + 1})
    with pytest.raises(ConfigError, match=r"sketch_limit = .* \(there "):
        train(path, named, tmp_path / "other", cache=cache, start=Start(tmp_path / "run"))
