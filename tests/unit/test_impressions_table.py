"""The table of models of labelled impressions: what is missing is run, what is there is kept, the page says both."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mimn.config import ConfigError
from mimn.impressions.__main__ import main
from mimn.impressions.page import rendered
from mimn.impressions.table import make, read_plan, read_results
from support.impression_log import SHOP_PLAN, context, graded, made

pytestmark = pytest.mark.torch

ROOT = Path(__file__).parents[2]
BASE = """
name = "base"
[model]
variant = "pooling"
memory_induction = false
utilization = false
embedding_dim = 4
head = "deepfm"
head_units = [8, 4]
ledger_buckets = 4
member_reads = true
[windows]
length = 16
negatives_kept = 0.5
[training]
epochs = 1
learning_rate = 1e-2
validation_length = 16
"""
PLAN = f"""{SHOP_PLAN}
[[rows]]
name = "with history"
reads = "16 events"
[[rows]]
name = "without"
history = false
model = {{ ledger_buckets = 0, member_reads = false, head = "wide_deep" }}
"""


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made(np.random.default_rng(3), graded, fields=context("signal")).write(tmp_path)
    (tmp_path / "base.toml").write_text(BASE)
    (tmp_path / "plan.toml").write_text(PLAN)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "plan.toml"


def test_a_plan_is_run_once_and_goes_on_where_it_ended(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = plan.parent / "cache"
    assert main(["table", "--plan", str(plan), "--row", "without", "--cache", str(cache)]) == 0
    first = read_results(plan.parent / "out/results.json")
    assert [(one.row, one.seed) for one in first] == [("without", 0), ("without", 1)]
    page = (plan.parent / "page.md").read_text()
    assert "| with history | 16 events | 0 | not run |" in page
    assert main(["table", "--plan", str(plan), "--cache", str(cache)]) == 0
    every = read_results(plan.parent / "out/results.json")
    assert {(one.row, one.seed) for one in every} == {(row, s) for row in ("with history", "without") for s in (0, 1)}
    assert [one for one in every if one.row == "without"] == first, "what was there is kept"
    assert not list((plan.parent / "runs/impressions").iterdir())
    capsys.readouterr()
    assert main(["table", "--plan", str(plan), "--page-only", "--cache", str(cache)]) == 0
    assert json.loads(capsys.readouterr().out) == {"page": "page.md", "models": 4}

    one = next(found for found in every if found.row == "with history")
    whole, low = one.groups["all"], one.groups["low"]
    assert low["rows"] == one.each["s0"]["rows"] + one.each["s1"]["rows"]
    assert whole["clicks"] == sum(value["clicks"] for value in one.each.values())
    assert whole["auc"]["low"] < whole["auc"]["value"] < whole["auc"]["high"]
    # Half of the negatives were left out: only the corrected scores are click probabilities.
    assert whole["raw"]["pcoc"]["value"] > 1.2
    assert 0.8 < whole["prior"]["pcoc"]["value"] < 1.25
    assert 0.8 < whole["progressive"]["pcoc"]["value"] < 1.25
    predicted = sum(value["progressive"] for value in one.each.values())
    assert predicted / whole["clicks"] == pytest.approx(whole["progressive"]["pcoc"]["value"], rel=1e-3)
    text = (plan.parent / "page.md").read_text()
    assert f"{np.mean([found.groups['all']['auc']['value'] for found in every if found.row == one.row]):.3f} ±" in text


def test_predicted_clicks_of_a_value_count_the_negatives_that_the_files_left_out(plan: Path) -> None:
    log = made(np.random.default_rng(3), graded, fields=context("signal"), columns="negatives_kept = 0.25")
    kept = (log.shown["y"] == 1) | (np.arange(len(log.shown["y"])) % 4 == 0)
    log.shown = {name: np.asarray(values)[kept] for name, values in log.shown.items()}
    log.write(plan.parent)
    one = make(read_plan(plan), plan.parent / "cache", only=["without"])[0]
    whole = one.groups["all"]
    for kind in ("raw", "prior", "progressive"):
        predicted = sum(value[kind] for value in one.each.values())
        assert predicted / whole["clicks"] == pytest.approx(whole[kind]["pcoc"]["value"], rel=1e-3)


def test_a_missing_value_is_not_the_value_0(plan: Path) -> None:
    log = made(np.random.default_rng(3), graded, fields=context("signal"))
    log.shown["signal"] = [None if text == "s3" else text[1:] for text in log.shown["signal"]]
    log.write(plan.parent)
    one = make(read_plan(plan), plan.parent / "cache", only=["without"])[0]
    assert set(one.each) == {"0", "1", "2", "missing"}
    assert sum(value["rows"] for value in one.each.values()) == one.groups["all"]["rows"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('name = "without"', 'name = "with history"'), "two rows are called 'with history'"),
        (('each = "signal"', 'each = "color"'), "no context field or slice 'color', but signal"),
        (("ledger_buckets = 0, member_reads = false,", ""), "without history"),
    ],
)
def test_a_plan_that_cannot_be_run_is_said(plan: Path, change: tuple[str, str], message: str) -> None:
    plan.write_text(PLAN.replace(*change))
    with pytest.raises(ConfigError, match=message):
        make(read_plan(plan), plan.parent / "cache")


def test_the_committed_plan_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    plan = read_plan(ROOT / "models/plans/impressions/coupon_mail.toml")
    for row in plan.rows:
        plan.config(row, 0)
    done = read_results(ROOT / plan.results)
    assert (ROOT / plan.page).read_text("utf-8") == rendered(plan, done), "make the page again: --page-only"
