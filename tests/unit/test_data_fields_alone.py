"""`check` finds fields that are known only after the answer, and no field that is merely good."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mimn import metrics
from mimn.data import fields_alone
from mimn.data.__main__ import main
from mimn.data.check import BEST_ALONE, KNOWN_BEFORE, Report, check
from mimn.data.fields_alone import FieldsAlone, Told
from mimn.data.split import PARTS, parts_of
from support.shop_description import TOML

Column = NDArray[np.uint64] | NDArray[np.float64]
Mask = NDArray[np.bool_]
DAY_MS = 86_400_000
BEGIN_MS = 1_767_571_200_000
"""2026-01-05"""
BY_TIME = """
[split]
by = "time"
train_until = 2026-01-15
validate_until = 2026-01-20
"""


def all_train(users: NDArray[np.uint64]) -> Mask:
    return np.ones(len(users), np.bool_)


class Log:
    """Impressions of users, a share of which is clicked; some users click ten times as often as others."""

    def __init__(self, rate: float = 0.02, n: int = 20_000, users: int = 1000, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.user = self.rng.integers(1, users + 1, n).astype(np.uint64)
        eager = self.rng.choice([0.2, 2.0], users + 1)
        self.clicked = self.rng.random(n) < rate * eager[self.user.astype(np.int64)]

    def told(self, **fields: Column) -> dict[str, Told]:
        """What each field tells, of rows that come in batches."""
        alone = FieldsAlone(list(fields), all_train)
        batch = {"user": self.user, **fields}
        for rows in np.array_split(np.arange(len(self.user)), 7):
            some = {name: column[rows] for name, column in batch.items()}
            alone.add(some, self.clicked[rows], np.ones(len(rows), np.bool_))
        return {one.column: one for one in alone.told}

    def score(self, auc: float) -> NDArray[np.float64]:
        """A number that orders clicks before others with an AUC: two normal distributions."""
        apart = {0.8: 1.190, 0.9: 1.812, 0.93: 2.087}[auc]
        return self.rng.normal(size=len(self.user)) + apart * self.clicked


def leaks(log: Log) -> dict[str, Column]:
    """Columns that are known after the answer."""
    n, rng, clicked = len(log.user), log.rng, log.clicked
    wrong = rng.random(n) < 0.03
    return {
        "copy as a number": clicked.astype(np.float64),
        "copy as a category": np.where(clicked, 11, 12).astype(np.uint64),
        "copy turned round": (~clicked).astype(np.float64),
        "copy, 3 of 100 rows are wrong": np.where(clicked ^ wrong, 11, 12).astype(np.uint64),
        "the same as a number": (clicked ^ wrong).astype(np.float64),
        "copy, 3 of 100 clicks are missing": np.where(clicked & ~wrong, 7, 0).astype(np.uint64),
        "above 0 after a click": np.where(clicked, rng.exponential(4000, n), 0.0),
        "missing without a click, number": np.where(clicked, rng.normal(size=n), np.nan),
        "missing without a click, category": np.where(clicked, rng.integers(1, 30, n), 0).astype(np.uint64),
        "an id without a click": np.where(clicked, 0, np.arange(1, n + 1)).astype(np.uint64),
        "an id of the click": np.where(clicked, np.arange(1, n + 1), 0).astype(np.uint64),
        "outside of a range": np.where(clicked, rng.choice([-1.0, 1.0], n), 0.0) * rng.uniform(1, 2, n),
    }


@pytest.mark.parametrize("rate", [0.01, 0.3])
def test_what_is_known_after_the_answer_is_found(rate: float) -> None:
    log = Log(rate)
    told = log.told(**leaks(log))
    assert {name: one.auc for name, one in told.items() if not one.answer} == {}


def test_exact_copies_are_found_with_50_clicks() -> None:
    log = Log(0.004, 12_000)
    log.clicked[np.flatnonzero(log.clicked)[50:]] = False
    told = log.told(**{name: column for name, column in leaks(log).items() if "3 of 100" not in name})
    assert int(log.clicked.sum()) == 50
    assert len(told) == 10
    assert all(one.answer for one in told.values())


def honest(log: Log) -> dict[str, Column]:
    """Columns that a request can have, however much they say."""
    n, rng = len(log.user), log.rng
    clicks_of = np.bincount(log.user.astype(np.int64), log.clicked)[log.user.astype(np.int64)]
    request = np.arange(n) // 4
    return {
        "noise": rng.normal(size=n),
        "constant": np.ones(n),
        "all missing": np.zeros(n, np.uint64),
        "half missing": np.where(rng.random(n) < 0.5, np.nan, rng.normal(size=n)),
        "id of the impression": rng.permutation(n).astype(np.uint64) + np.uint64(1),
        "id of the request": request.astype(np.uint64) + np.uint64(1),
        "id of the user": log.user,
        "id of the user as a number": log.user.astype(np.float64),
        "clicks of the user over the whole time": clicks_of.astype(np.float64),
        "few values": rng.integers(1, 25, n).astype(np.uint64),
        "many values": rng.zipf(1.3, n).astype(np.uint64) % np.uint64(1 << 40),
        "score of 0.8": log.score(0.8),
        "score of 0.9": log.score(0.9),
        "score of 0.93": log.score(0.93),
        "position": np.where(log.clicked, np.minimum(rng.geometric(0.5, n), 20), rng.integers(1, 21, n)).astype(float),
        "missing for most others": np.where(log.clicked | (rng.random(n) < 0.2), 5, 0).astype(np.uint64),
    }


@pytest.mark.parametrize("rate", [0.01, 0.3])
def test_good_fields_ids_and_what_repeats_within_users_are_no_finding(rate: float) -> None:
    log = Log(rate)
    told = log.told(**honest(log))
    assert {name: one.auc for name, one in told.items() if one.answer} == {}
    for name in ("noise", "constant", "all missing", "id of the impression", "id of the request", "id of the user"):
        assert told[name].auc == pytest.approx(0.5, abs=0.1), name


@pytest.mark.parametrize("rare", [True, False], ids=["few clicks", "few others"])
def test_nothing_is_said_of_few_clicks_or_few_others(rare: bool) -> None:
    log = Log(0.3)
    log.clicked = log.clicked if rare else ~log.clicked
    log.clicked[np.flatnonzero(log.clicked == rare)[30:]] = not rare
    assert log.told(copy=log.clicked.astype(np.float64)) == {}
    assert Log(0.3).told() == {}
    assert FieldsAlone(["x"], all_train).told == []


def test_the_figure_is_that_of_an_honest_score() -> None:
    log = Log(0.1, 40_000)
    score = log.score(0.8)
    told = log.told(score=score, turned=-score)
    label = log.clicked.astype(np.int64)
    expected = metrics.auc(label, score)
    assert told["score"].auc == pytest.approx(expected, abs=0.005)
    assert told["turned"].auc == pytest.approx(expected, abs=0.005)
    drawn = log.rng.integers(0, len(label), (40, len(label)))
    resampled = [metrics.auc(label[rows], score[rows]) for rows in drawn]
    assert told["score"].error == pytest.approx(np.std(resampled), rel=0.4)


def test_a_sample_is_kept_of_many_rows_and_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(0.02, 60_000)
    fields = leaks(log) | honest(log)
    whole = log.told(**fields)
    monkeypatch.setattr(fields_alone, "SAMPLED_ROWS", 4000)
    sampled = log.told(**fields)
    assert {name for name, one in sampled.items() if one.answer} == {name for name, one in whole.items() if one.answer}
    assert sampled["score of 0.8"].auc == pytest.approx(whole["score of 0.8"].auc, abs=0.03)
    assert log.told(**fields) == sampled
    monkeypatch.setattr(fields_alone, "SAMPLED_ROWS", 0)
    assert log.told(**fields) == {}


@settings(max_examples=50, deadline=None)
@given(
    clicked=st.lists(st.booleans(), min_size=4, max_size=300),
    values=st.lists(st.sampled_from([0, 1, 2, 3, 99]), min_size=4, max_size=300),
    seed=st.integers(0, 9),
)
def test_ranks_of_rates_are_the_auc(clicked: list[bool], values: list[int], seed: int) -> None:
    """Of whatever rows: the AUC by counts is that of `metrics` on rows, and a copy's is 1."""
    n = min(len(clicked), len(values))
    label, value = np.array([True, False, *clicked[:n]]), np.array([1, 0, *values[:n]])
    rates = np.random.default_rng(seed).choice([0.1, 0.2, 0.3], 100)
    clicks, others = np.bincount(value[label], minlength=100), np.bincount(value[~label], minlength=100)
    auc, variance = fields_alone._ranked(rates, clicks, others)
    assert auc == pytest.approx(metrics.auc(label.astype(np.int64), rates[value]))
    assert variance >= 0.0
    twice = np.array([0, label.sum()]), np.array([(~label).sum(), 0])
    assert fields_alone._auc(*twice, *twice) == pytest.approx((1.0, 0.0))


def checked(folder: Path, log: Log, toml: str, **fields: pa.Array | NDArray[Any]) -> Report:
    n = len(log.user)
    at = BEGIN_MS + DAY_MS + log.rng.integers(1, 20 * DAY_MS, n)
    sku = log.rng.integers(1, 50, n).astype(np.uint64)
    events = {"uid": log.user, "sku": sku, "ts": BEGIN_MS + log.rng.integers(1, DAY_MS, n)}
    pq.write_table(pa.table(events), folder / "events.parquet")
    shown = {"uid": log.user, "sku": sku, "ts": at, "clicked": log.clicked, **fields}
    pq.write_table(pa.table(shown), folder / "impressions.parquet")
    kinds = {name: "numeric" if pa.types.is_floating(pa.array(f).type) else "categorical" for name, f in fields.items()}
    toml += "[fields.context]\n" + "".join(f'{name} = {{ kind = "{kind}" }}\n' for name, kind in kinds.items())
    (folder / "dataset.toml").write_text(toml)
    return check(folder / "dataset.toml")


@pytest.mark.parametrize("split", ["", BY_TIME], ids=["by user", "by time"])
def test_check_names_the_column_and_prints_the_best_fields(tmp_path: Path, split: str) -> None:
    log = Log(0.03, 12_000)
    hour = np.where(log.rng.random(12_000) < 0.5, log.clicked * 7, log.rng.integers(0, 24, 12_000)).astype(np.int64)
    fields = {
        "outcome": log.clicked.astype(np.int64),
        "dwell_ms": np.where(log.clicked, log.rng.exponential(4000, 12_000), 0.0),
        "landing": pa.array([f"/p/{k}" for k in range(12_000)], mask=~log.clicked),
        "hour": hour,
        "noise": log.rng.normal(size=12_000),
    }
    report = checked(tmp_path, log, TOML + split, **fields)
    assert len(report.findings) == 3
    said = "\n".join(report.findings)
    for name in ("outcome", "dwell_ms", "landing"):
        assert re.search(rf"column {name} of impressions.parquet: .* AUC of 1.000", said)
    assert report.values[BEST_ALONE].count(" 1.000") == 3
    report = checked(tmp_path, log, TOML + split, hour=hour, noise=fields["noise"])
    assert report.findings == []
    assert re.fullmatch(r"fields.context.hour 0.\d{3}, fields.context.noise 0.[45]\d{2}", report.values[BEST_ALONE])


def test_a_field_that_is_known_before_the_answer_is_named_and_other_findings_stay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A position of 50 that gets nearly all clicks is as good as an answer."""
    log = Log(0.02, 40_000)
    shown = log.rng.integers(1, 51, 40_000)
    position = np.where(log.clicked, np.minimum(log.rng.geometric(0.5, 40_000), 50), shown).astype(np.int64)
    report = checked(tmp_path, log, TOML, position=position, outcome=log.clicked.astype(np.int64))
    assert [re.findall(r"--known-before \S+$", finding) for finding in report.findings] == [
        ["--known-before fields.context.outcome"],
        ["--known-before fields.context.position"],
    ]
    assert KNOWN_BEFORE not in report.values
    asked = ["check", str(tmp_path / "dataset.toml"), "--known-before", "fields.context.position"]
    assert main(asked) == 1
    said = capsys.readouterr().out
    assert "1 to fix" in said
    assert re.search(rf"^{KNOWN_BEFORE} +fields.context.position$", said, re.MULTILINE)
    assert main([*asked, "--known-before", "fields.context.outcome"]) == 0
    assert "nothing to fix" in capsys.readouterr().out
    assert main([*asked, "--known-before", "position"]) == 1
    assert "--known-before position" in capsys.readouterr().err


@pytest.mark.parametrize("by", ["user", "time"])
def test_labels_of_the_other_parts_are_not_looked_at(tmp_path: Path, by: str) -> None:
    """A field that is the label in the validation and test parts alone."""
    log = Log(0.1, 12_000)
    if by == "user":
        trains = parts_of(log.user.view(np.int64)) == PARTS.index("train")
        field = np.where(trains, log.rng.random(12_000) < 0.1, log.clicked).astype(np.int64)
        report = checked(tmp_path, log, TOML, x=field)
    else:
        state = log.rng.bit_generator.state
        at = BEGIN_MS + DAY_MS + log.rng.integers(1, 20 * DAY_MS, 12_000)
        field = np.where(at < BEGIN_MS + 10 * DAY_MS, log.rng.random(12_000) < 0.1, log.clicked).astype(np.int64)
        log.rng.bit_generator.state = state
        report = checked(tmp_path, log, TOML + BY_TIME, x=field)
    assert report.findings == []
    assert float(report.values[BEST_ALONE].split()[-1]) == pytest.approx(0.5, abs=0.05)
