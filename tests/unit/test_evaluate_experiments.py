"""The table: every figure and every word comes from the records, and what speaks against a model stands first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mimn import metrics, run
from mimn.data.split import FOLDS
from mimn.table import render as experiments
from mimn.table.appendix import appendix
from mimn.table.compare import Entry, Results, results
from mimn.table.floors import FLOORS
from mimn.table.plan import PLAN, read_plan, remaining
from mimn.table.records import FLOOR_ROW, NoRecord, Record, arrays_sha256, read_records
from mimn.table.render import mean_std, table

REPOSITORY = Path(__file__).parents[2]
USERS, PER_USER = 40, 5


def noise(fold: int) -> np.ndarray:
    """What every row of a fold has in common."""
    return np.random.default_rng(fold).normal(size=2 * USERS * PER_USER)


def label() -> np.ndarray:
    return np.tile([1, 0], USERS * PER_USER)


def of_quality(fold: int, quality: float) -> np.ndarray:
    """Predictions that tell the labels apart the better the higher `quality` is."""
    scores: np.ndarray = (1.0 / (1.0 + np.exp(-noise(fold) - quality * (label() - 0.5)))).astype(np.float32)
    return scores


def figures(fold: int, scores: np.ndarray) -> dict[str, Any]:
    auc = metrics.auc(label(), scores.astype(np.float64))
    by_history = {"20+": {"rows": len(scores), "pcoc": 1.0}}
    return {
        "auc": auc, "gauc": auc, "logloss": 0.6, "normalized_entropy": 0.9, "pcoc": 1.0, "pcoc_by_history": by_history,
    }  # fmt: skip


def floors(quality: float, folds: range = range(FOLDS)) -> Record:
    """Floors of which counting has the given quality, the others none."""
    record = Record("complete_journey", FLOOR_ROW, FLOOR_ROW)
    for fold in folds:
        scores = {name: of_quality(fold, quality if name == "counts" else -0.5) for name in FLOORS}
        arrays = {f"200_{name}": value for name, value in scores.items()} | {
            "user_id": np.repeat(np.arange(USERS), PER_USER) + 1000 * fold,
            "events": np.tile(np.array([30, 60, 100, 500, 2000]), USERS),
            "bought": np.tile(np.array([0, 1, 0, 2, 5]), USERS),
            "drawn": np.zeros(USERS * PER_USER, np.int32),
        }
        found = {name: figures(fold, value) for name, value in scores.items()}
        record.put(fold, fold_record({"200": {"popularity": found, "uniform": found}}, arrays, fold), arrays)
    return record


def model(
    key: str, quality: float, folds: range = range(FOLDS), state: int | None = 100, validation: float = 0.7
) -> Record:
    record = Record("complete_journey", key, f"the {key}")
    for fold in folds:
        scores = of_quality(fold, quality)
        found = {"popularity": figures(fold, scores), "uniform": figures(fold, scores)}
        one = fold_record({"200": found}, {"200": scores}, fold)
        one |= {"state_bytes": state, "targets_per_cpu_s": 10.0, "validation_auc": validation + 0.1 * fold}
        record.put(fold, one, {"200": scores})
    return record


def fold_record(evaluation: dict[str, Any], arrays: dict[str, np.ndarray], fold: int) -> dict[str, Any]:
    return {
        "evaluation": evaluation,
        "data_sha256": "d" * 64,
        "instances_sha256": f"{fold}" * 64,
        "commit": "abc",
        "cpu_s": 3.0,
        "predictions_sha256": arrays_sha256(arrays),
    }


def of(*records: Record) -> Results:
    return results(list(records))[0]


def test_an_auc_is_the_mean_of_the_folds_and_never_ranks_across_them() -> None:
    record = model("pooling", 1.0)
    shifted = model("shifted", 1.0)
    for fold in range(FOLDS):
        # Another fold's scores on another scale: what would ruin one ranking over all folds changes nothing here.
        moved = of_quality(fold, 1.0) / (fold + 1.0) + fold
        shifted.put(fold, shifted.folds[fold], {"200": moved.astype(np.float64)})
    one = of(floors(0.0), record, shifted)
    expected = [metrics.auc(label(), of_quality(fold, 1.0).astype(np.float64)) for fold in range(FOLDS)]
    assert one.aucs(Entry("pooling", 200)) == pytest.approx(expected)
    assert one.auc(Entry("pooling", 200)) == pytest.approx(np.mean(expected))
    found = one.compare(Entry("shifted", 200), Entry("pooling", 200))
    assert found is not None
    assert found.difference.difference == pytest.approx(0.0, abs=1e-4)


def test_better_needs_an_interval_without_zero() -> None:
    one = of(floors(0.0), model("a", 1.0), model("b", 0.2), model("c", 1.0))
    clear = one.compare(Entry("a", 200), Entry("b", 200))
    same = one.compare(Entry("a", 200), Entry("c", 200))
    assert clear is not None
    assert same is not None
    assert (clear.verdict, clear.won, clear.folds) == ("better", FOLDS, FOLDS)
    assert clear.difference.low > 0
    assert (same.verdict, same.won) == ("not established", 0)
    assert one.compare(Entry("b", 200), Entry("a", 200)).verdict == "worse"  # type: ignore[union-attr]  # as above


def test_rows_are_compared_on_the_folds_that_both_have() -> None:
    one = of(floors(0.0), model("a", 1.0), model("b", 0.5, range(2)), model("c", 0.5, range(3, 5)))
    found = one.compare(Entry("a", 200), Entry("b", 200))
    assert found is not None
    assert found.folds == 2
    ours, theirs = (one.aucs(Entry(key, 200), folds=range(2)) for key in "ab")
    assert found.difference.difference == pytest.approx(np.mean(ours) - np.mean(theirs))
    assert one.compare(Entry("b", 200), Entry("c", 200)) is None


def test_a_group_of_rows_keeps_each_positive_with_its_negative() -> None:
    one = of(floors(0.0), model("a", 1.0))
    for group, share in (("all", 1.0), ("bought", 0.6), ("new", 0.4), ("long", 0.2)):
        labels, users, mask = one.rows(0, group)  # type: ignore[arg-type]  # names of groups
        assert len(labels) == len(users) == mask.sum()
        assert labels.tolist() == [1, 0] * (len(labels) // 2)
        assert one.share(group) == pytest.approx(share)  # type: ignore[arg-type]  # as above


def test_the_table_has_mean_and_sample_deviation_of_the_folds() -> None:
    record = model("pooling", 1.0)
    text = table([floors(0.0), record])
    aucs = [record.folds[fold]["evaluation"]["200"]["popularity"]["auc"] for fold in range(FOLDS)]
    assert f"| the pooling | 5 | {np.mean(aucs):.4f} ± {np.std(aucs, ddof=1):.4f} |" in text
    assert mean_std([0.5]) == "0.5000"


def test_a_floor_that_is_near_or_above_mimn_is_said_in_the_first_line() -> None:
    near = table([floors(1.0), model("mimn", 1.02)]).splitlines()[0]
    assert "logistic regression on counts" in near
    assert "so within 0.01 of, the mimn" in near
    above = table([floors(1.0), model("mimn", 0.5)]).splitlines()[0]
    assert "above the mimn" in above
    far = table([floors(0.0), model("mimn", 2.0)]).splitlines()[0]
    assert far.startswith("No floor is within 0.01")


def answer(text: str, question: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(f"**{question}"))


def test_the_answers_follow_from_the_intervals() -> None:
    question = "Does MIMN beat DIEN, DIN and sum pooling at equal length?"
    rivals = [model("pooling", 0.3), model("din_product", 0.4, state=None)]
    yes = table([floors(0.0), model("mimn", 2.0), *rivals])
    assert answer(yes, question).endswith("Yes: better in 2 of 2 comparisons, worse in 0.")
    assert answer(yes, "Does MIMN beat counting?").endswith("Yes: better in 1 of 1 comparisons, worse in 0.")
    no = table([floors(2.0), model("mimn", 0.1), model("pooling", 0.1), model("din_product", 2.0, state=None)])
    assert answer(no, question).endswith("No: better in 0 of 2 comparisons, worse in 1.")
    assert answer(no, "Does MIMN beat counting?").endswith("No: better in 0 of 1 comparisons, worse in 1.")
    part = table([floors(0.0), model("mimn", 1.0), model("pooling", 0.3), model("din_product", 2.0, state=None)])
    assert answer(part, question).endswith("In part: better in 1 of 2 comparisons, worse in 1.")
    assert answer(table([floors(0.0), *rivals]), question).endswith("Not run.")
    assert "| the din_product | 5 |" in yes
    assert "| reads the events |" in yes


def test_the_best_small_model_is_within_the_bytes_and_chosen_on_validation_users() -> None:
    text = table(
        [
            floors(0.0),
            model("a", 1.0, state=6144, validation=0.75),
            model("b", 2.0, state=6145, validation=0.8),
            model("c", 1.5, state=8, validation=0.74),
            model("d", 0.5, range(1, 3), validation=0.751),
        ]
    )
    best = next(line for line in text.splitlines() if line.startswith("* 200 events: the d, "))
    assert "(2 of 5 folds) with 100 bytes" in best, "of its own folds alone it is the best, which is said"
    text = table([floors(0.0), model("a", 1.0, state=6144, validation=0.75), model("c", 1.5, validation=0.74)])
    assert "* 200 events: the a, " in text, "though c does better on test users"
    assert "with 6,144 bytes" in text


def test_the_published_forms_are_compared_among_themselves_where_they_were_run() -> None:
    question = "Does MIMN beat the others in the form in which its authors ran them all (Table 2)?"
    assert question not in table([floors(0.0), model("mimn", 2.0), model("dnn_official", 1.0)])
    text = table([floors(0.0), model("mimn_official", 2.0), model("dnn_official", 1.0), model("mimn", 0.0)])
    assert answer(text, question).endswith("Yes: better in 1 of 1 comparisons, worse in 0.")


def test_what_a_busy_week_does_is_said_beside_what_any_week_does() -> None:
    text = table([floors(0.0), model("mimn_bounded", 1.0), model("mimn_without_busy_week", 2.0)])
    lines = text.split("**Is it well to train on a sale?**")[1].splitlines()
    (busy, plain) = (line for line in lines[:8] if line.startswith("* "))
    assert busy.startswith("* 200 events: the mimn_without_busy_week against the mimn_bounded")
    assert busy.endswith("ahead in 5 of 5, better.")
    assert plain == "* 1 more comparison: not run."


def test_what_is_not_run_is_said_with_the_command_that_runs_it() -> None:
    text = table([floors(0.0), model("mimn", 2.0)], ["complete_journey dien_product: fold 3"], "the command")
    assert "The table is not complete: 1 rows lack folds" in text.splitlines()[1]
    assert text.endswith(
        "`the command` runs them, cheapest answers first:\n\n* complete_journey dien_product: fold 3\n"
    )


def test_curves_weeks_and_trials_are_tables_of_what_their_files_say(tmp_path: Path) -> None:
    (tmp_path / "curves").mkdir()
    (tmp_path / "curves/complete_journey_delay.csv").write_text(
        "dataset,row,x,auc,low,high,folds,positives\n"
        'complete_journey,"MIMN, wide",0,0.71234,0.7,0.72,2,10\ncomplete_journey,"MIMN, wide",1000,0.7,0.6,0.8,2,10\n'
    )
    (tmp_path / "trials/sizes").mkdir(parents=True)
    (tmp_path / "trials/sizes/trials.csv").write_text(
        "row,name,state_bytes,length,validation_auc\nlarge,a,6000,200,0.8\nsmall,b,900,200,0.75\nsmall,b,900,1000,0.76\n"
    )
    (tmp_path / "trials/memories").mkdir()
    (tmp_path / "trials/memories/trials.csv").write_text(
        "row,name,state_bytes,length,validation_auc\nreads,c,,200,0.9\nslots,d,800,200,0.7\n"
    )
    (tmp_path / "trials/memories/differences.csv").write_text(
        "difference,length,folds,auc,low,high\nslots - reads,1000,1,-0.2,-0.31,0.1\n"
    )
    (tmp_path / "weeks").mkdir()
    (tmp_path / "weeks/complete_journey.csv").write_text(
        "first_day,purchases\n2024-02-27,1000\n2024-02-28,1210\n2024-02-29,900\n"
    )
    lines = appendix(tmp_path, {"complete_journey": "The Complete Journey"})
    assert "## The Complete Journey: AUC by hours that the state lacks" in lines
    assert "| row | folds | 0 | 1,000 |" in lines
    assert "| MIMN, wide | 2 | 0.7123 | 0.7000 |" in lines
    small, large = (line for line in lines if "`small`" in line or "`large`" in line)
    assert small == "| 900 | b | `small` | 0.7500 | 0.7600 |"
    assert large == "| 6,000 | a | `large` | 0.8000 | - |"
    assert "| - | c | `reads` | 0.9000 |" in lines
    assert "| `slots - reads` | 1,000 | -0.2000 [-0.3100, +0.1000] |" in lines
    assert "| The Complete Journey | 2024-02-28 | 1,210 | 1,000 | 1.21 |" in lines
    assert appendix(tmp_path / "nothing", {"complete_journey": "The Complete Journey"}) == []


def test_rows_on_different_instances_are_not_put_into_one_table() -> None:
    other = model("pooling", 1.0)
    other.folds[3]["instances_sha256"] = "another"
    with pytest.raises(NoRecord, match="fold 3 rests on other instances"):
        table([floors(0.0), other])
    with pytest.raises(NoRecord, match="no record 'floors'"):
        table([model("pooling", 1.0)])
    with pytest.raises(NoRecord, match="there are no records"):
        table([])


def test_a_record_comes_back_and_notices_changed_predictions(tmp_path: Path) -> None:
    record = model("pooling", 1.0, range(3))
    record.save(tmp_path, "name = 'x'\n")
    back = read_records(tmp_path)
    assert len(back) == 1
    assert back[0].folds == record.folds
    np.testing.assert_array_equal(back[0].of_fold(2)["200"], record.of_fold(2)["200"])

    record.put(3, model("pooling", 1.0).folds[3], {"200": of_quality(3, 1.0)})
    record.save(tmp_path)
    assert sorted(Record.load(tmp_path / "complete_journey" / "pooling").folds) == [0, 1, 2, 3]

    record.arrays["fold1_200"][0] += 0.1
    record.save(tmp_path)
    with pytest.raises(NoRecord, match="predictions of fold 1 were changed"):
        read_records(tmp_path)
    (tmp_path / "complete_journey" / "pooling" / run.METRICS).write_text("{")
    with pytest.raises(NoRecord, match="pooling cannot be read"):
        read_records(tmp_path)


def test_the_committed_table_is_what_the_committed_records_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    committed = experiments.RECORDS / experiments.TABLE
    others = appendix(experiments.RECORDS, experiments.TITLES)
    text = table(read_records(experiments.RECORDS), remaining(read_plan(PLAN)), others=others)
    assert committed.read_text("utf-8") == text
