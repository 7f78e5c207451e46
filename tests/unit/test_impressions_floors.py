"""Floors of the impression table: what they read is counted naively, and they are compared on the same impressions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from mimn import metrics
from mimn.config import ConfigError
from mimn.impressions.__main__ import main
from mimn.impressions.config import ImpressionConfig, OccasionPlan
from mimn.impressions.data import ImpressionData
from mimn.impressions.figures import Rows, differences, figures
from mimn.impressions.floors import FloorSettings, ValueReader, fit_floor
from mimn.impressions.table import make, read_plan, read_results
from mimn.training.settings import TrainingSettings
from support.impression_log import DAY, SHOP_PLAN, Log, context, graded, made

pytestmark = pytest.mark.torch

EVERYTHING = 1_000_000
MODEL: dict[str, Any] = {
    "variant": "pooling",
    "memory_induction": False,
    "utilization": False,
    "embedding_dim": 4,
    "head": "deepfm",
    "ledger_buckets": 64,
    "member_reads": True,
    "sketch_category_cells": 8,
    "sketch_half_lives": [0, 7],
}
RATE = '[fields.user.clicks]\nkind = "past_rate"\n[fields.item.liked]\nkind = "past_rate"\n'


def configured(*, kept: float = 1.0, length: int = EVERYTHING, **model: Any) -> ImpressionConfig:
    return ImpressionConfig(
        name="x",
        min_count=1,
        model=MODEL | model,
        windows=OccasionPlan(negatives_kept=kept),
        training=TrainingSettings(validation_length=length),
    )


def loaded(log: Log, folder: Path) -> ImpressionData:
    return ImpressionData.load(log.write(folder), folder / "cache")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> ImpressionData:
    """Clicks follow `signal`; events and `noise` mean nothing."""
    log = made(np.random.default_rng(5), graded, fields=context("signal", "noise") + RATE)
    return loaded(log, tmp_path_factory.mktemp("shop"))


def test_a_floor_reads_what_counting_the_whole_history_gives(shop: ImpressionData) -> None:
    occasions = shop.labelled.occasions("test")
    found = ValueReader(shop, configured()).of(occasions, EVERYTHING)
    events, shown = shop.labelled.events, shop.labelled.impressions
    # Members: baskets, members, three half-lives; then counters of the category, never and every 7 days halved.
    assert found.numbers.shape == (len(occasions.rows), 5 + 2 + 2)
    for place in range(0, len(occasions.rows), 37):
        row = occasions.rows[place]
        before = (events.user_id == shown.user_id[row]) & (events.timestamp * events.unit_ms < shown.time_ms[row])
        times = events.timestamp[before] * events.unit_ms
        own = np.sort(times[events.item_id[before] == shown.item_id[row]])
        every = np.sort(times)  # a basket ends with a pause of half an hour, whatever is in it
        basket_of = np.cumsum(np.diff(every // 60_000, prepend=every[:1] // 60_000) >= 30)
        baskets = len(np.unique(basket_of[np.searchsorted(every, own)]))
        assert found.numbers[place, 0] == pytest.approx(np.log1p(baskets))
        assert found.numbers[place, 1] == pytest.approx(np.log1p(min(baskets, 1)))
        ages = (shown.time_ms[row] - times[events.category_id[before] == shown.category_id[row]]) / (DAY * 1000)
        counted = [np.log1p(len(ages)), np.log1p(np.exp2(-ages / 7).sum())]
        np.testing.assert_allclose(found.numbers[place, 5:7], counted, rtol=1e-4)


def test_a_floor_reads_past_rates_as_of_each_impression(shop: ImpressionData) -> None:
    occasions = shop.labelled.occasions("test")
    values = ValueReader(shop, configured(), ["clicks", "liked"]).of(occasions, EVERYTHING)
    assert values.rows.shape[1] == 0
    bounds = {spec.name: spec.bounds for spec in shop.fit_fields().specs}
    for name, column in (("clicks", -2), ("liked", -1)):
        within = bounds[name]
        assert within is not None
        rates = np.clip(np.log(shop.rates[name][occasions.rows]), *within)
        assert np.corrcoef(rates, values.numbers[:, column])[0, 1] == pytest.approx(1.0, abs=1e-5), name


@pytest.mark.parametrize("learner", ["logistic_regression", pytest.param("gradient_boosting", marks=pytest.mark.full)])
def test_a_floor_learns_a_field_that_carries_the_signal(shop: ImpressionData, learner: Any) -> None:
    floor = fit_floor(FloorSettings(learner=learner), configured(), shop)
    predicted = floor.predict("test", EVERYTHING)
    assert metrics.auc(predicted.labels, predicted.scores) > 0.7
    assert 0.8 < metrics.pcoc(predicted.labels, predicted.scores) < 1.25
    blind = fit_floor(FloorSettings(learner=learner, fields=("noise",)), configured(), shop)
    predicted = blind.predict("test", EVERYTHING)
    assert metrics.auc(predicted.labels, predicted.scores) < 0.6


def bought(rng: np.random.Generator) -> Log:
    """Clicks of those who had the item before, and of few others."""
    log = made(rng, graded)
    events = zip(*(log.events[name].tolist() for name in "uit"), strict=True)
    had = {(user, item): at for user, item, at in sorted(events, key=lambda event: -event[2])}  # the first time
    shown = zip(*(log.shown[name].tolist() for name in "uit"), strict=True)
    rate = np.array([0.6 if had.get((u, i), t) < t else 0.05 for u, i, t in shown])
    log.shown["y"] = (rng.random(len(rate)) < rate).astype(np.int64)
    return log


@pytest.mark.parametrize("learner", ["logistic_regression", pytest.param("gradient_boosting", marks=pytest.mark.full)])
def test_a_floor_learns_from_all_events_what_the_latest_do_not_say(learner: Any, tmp_path: Path) -> None:
    data = loaded(bought(np.random.default_rng(1)), tmp_path)
    floor = fit_floor(FloorSettings(learner=learner), configured(), data)
    whole = floor.predict("test", EVERYTHING)
    latest = fit_floor(FloorSettings(learner=learner), configured(length=2), data).predict("test", 2)
    aucs = [metrics.auc(predicted.labels, predicted.scores) for predicted in (whole, latest)]
    assert aucs[0] > 0.7
    assert aucs[1] < aucs[0] - 0.05


@given(st.integers(0, 1000))
def test_the_difference_of_a_model_to_itself_is_0_in_every_resample(seed: int) -> None:
    ours, theirs = of_two(seed)
    same = differences(ours, ours, resamples=20)
    assert all(figure == {"value": 0.0, "low": 0.0, "high": 0.0} for figure in same.values())
    # And one way round is the other with the sign changed.
    there, back = differences(ours, theirs, resamples=20), differences(theirs, ours, resamples=20)
    for name, figure in there.items():
        assert figure["value"] == -back[name]["value"]
        assert figure["low"] == pytest.approx(-back[name]["high"])


def test_a_difference_is_that_of_the_figures_and_surer_than_they_are() -> None:
    ours, theirs = of_two(3)
    found = differences(ours, theirs)
    first, second = figures(ours), figures(theirs)
    assert found["auc"]["value"] == first["auc"]["value"] - second["auc"]["value"]
    assert found["raw.ne"]["value"] == first["raw"]["ne"]["value"] - second["raw"]["ne"]["value"]
    width = found["auc"]["high"] - found["auc"]["low"]
    assert width < 0.7 * (first["auc"]["high"] - first["auc"]["low"]), "the users are the same"


def test_a_difference_of_other_rows_is_refused() -> None:
    ours, theirs = of_two(3)
    with pytest.raises(ValueError, match="of the same rows"):
        differences(ours, theirs.where(theirs.labels == 1))


def of_two(seed: int) -> tuple[Rows, Rows]:
    """Predictions of two models that are nearly the same."""
    rng = np.random.default_rng(seed)
    users = rng.integers(0, 60, 600)
    p = 1 / (1 + np.exp(-rng.normal(-1.5, 1.5, 600) - rng.normal(0, 1, 60)[users]))
    labels = (rng.random(600) < p).astype(np.int64)
    first, second = (np.clip(p * np.exp(rng.normal(0, 0.2, 600)), 0.001, 0.999) for _ in range(2))
    rows = [Rows(labels, of, {"raw": of}, users, np.ones(600)) for of in (first, second)]
    return rows[0], rows[1]


PLAN = f"""{SHOP_PLAN}
[compared]
to = "boosting"
rows = ["pooling"]
[[rows]]
name = "boosting"
reads = "all events"
floor = {{ learner = "gradient_boosting", fields = ["signal"] }}
windows = {{ negatives_kept = 1.0 }}
training = {{ validation_length = 1000000 }}
[[rows]]
name = "pooling"
reads = "16 events"
"""
BASE = """
name = "base"
[windows]
length = 16
negatives_kept = 0.5
[training]
epochs = 1
learning_rate = 1e-2
validation_length = 16
"""


@pytest.mark.full
def test_a_floor_is_a_row_that_is_fitted_once_and_others_are_compared_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(np.random.default_rng(3), graded, fields=context("signal", "noise")).write(tmp_path)
    (tmp_path / "base.toml").write_text(BASE + tomli_w.dumps({"model": MODEL}))
    (tmp_path / "plan.toml").write_text(PLAN)
    monkeypatch.chdir(tmp_path)
    assert main(["table", "--plan", "plan.toml", "--cache", "cache"]) == 0
    done = read_results(tmp_path / "out/results.json")
    assert [(one.row, one.seed) for one in done] == [("boosting", 0), ("pooling", 0), ("pooling", 1)]
    floor, first, _ = done
    assert floor.chosen.endswith(" trees")
    assert not floor.over_floor
    for group in ("all", "low"):
        over, ours, theirs = first.over_floor[group], first.groups[group], floor.groups[group]
        assert over["auc"]["value"] == pytest.approx(ours["auc"]["value"] - theirs["auc"]["value"], abs=1e-5)
        corrected = ours["prior"]["ne"]["value"] - theirs["raw"]["ne"]["value"]  # the floor left no negatives out
        assert over["corrected.ne"]["value"] == pytest.approx(corrected, abs=1e-5)
        progressive = ours["progressive"]["ne"]["value"] - theirs["progressive"]["ne"]["value"]
        assert over["progressive.ne"]["value"] == pytest.approx(progressive, abs=1e-5)
        assert over["auc"]["low"] <= over["auc"]["value"] <= over["auc"]["high"]
    page = (tmp_path / "page.md").read_text()
    assert "| boosting | all events | 1 |" in page
    assert "## Difference to boosting, on the same impressions" in page
    assert (
        f"| pooling | low | 2 | {np.mean([one.over_floor['low']['auc']['value'] for one in done[1:]]):+.3f} ±" in page
    )

    plan = read_plan(tmp_path / "plan.toml")
    assert make(plan, Path("cache")) == done, "nothing is missing"
    other = PLAN.replace('fields = ["signal"]', 'fields = ["noise"]')
    (tmp_path / "plan.toml").write_text(other)
    again = make(read_plan(tmp_path / "plan.toml"), Path("cache"))
    assert not {one.floor_sha256 for one in again if one.row == "pooling"} & {first.floor_sha256}, "compared again"
    assert again[-1].over_floor["all"]["auc"]["value"] > done[-1].over_floor["all"]["auc"]["value"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('to = "boosting"', 'to = "pooling"'), "compared.to must be a row with a floor, not 'pooling'"),
        (('rows = ["pooling"]', 'rows = ["boosting"]'), "compared.rows must be rows without a floor, not 'boosting'"),
        (('rows = ["pooling"]', 'rows = ["dien"]'), "compared.rows must be rows without a floor, not 'dien'"),
        (("gradient_boosting", "forest"), "learner"),
    ],
)
def test_a_comparison_that_cannot_be_made_is_said(change: tuple[str, str], message: str, tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text(PLAN.replace(*change))
    with pytest.raises(ConfigError, match=message):
        read_plan(tmp_path / "plan.toml")
