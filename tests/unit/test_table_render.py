"""AUC.md and its appendix: every figure and every word follows from the records."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mimn.data.split import FOLDS
from mimn.table import render
from mimn.table.at_the_time import VALIDATION
from mimn.table.csv_tables import csv_tables
from mimn.table.plan import PLAN, DataSetPlan, Plan
from mimn.table.records import NoRecord, Record, read_records
from mimn.table.render import APPENDIX, TABLE
from mimn.table.wording import mean_std
from support.table_records import floors, model

REPOSITORY = Path(__file__).parents[2]
NAMED = DataSetPlan(
    title="The Complete Journey",
    week_rows=("mimn_without_busy_week", "mimn_without_plain_week"),
    expected=((200, 0.99), (1000, 0.1)),
)
PLAN_OF_TWO = Plan(configs="", records="", runs="", stages=(), datasets={"complete_journey": NAMED})


def page(*records: Record) -> str:
    return render.texts(list(records), PLAN_OF_TWO)[TABLE]


def appendix(*records: Record) -> str:
    return render.texts(list(records), PLAN_OF_TWO)[APPENDIX]


def test_the_table_has_mean_and_sample_deviation_of_the_folds() -> None:
    record = model("pooling", 1.0)
    text = appendix(floors(0.0), record)
    aucs = [record.folds[fold]["evaluation"]["200"]["popularity"]["auc"] for fold in range(FOLDS)]
    assert f"| the pooling | 5 | {np.mean(aucs):.4f} ± {np.std(aucs, ddof=1):.4f} |" in text
    assert mean_std([0.5]) == "0.5000"


def test_the_first_page_chooses_a_model_and_compares_it() -> None:
    text = page(
        floors(0.0),
        model("pooling_product", 0.5),
        model("pooling_ledger", 2.5, validation=0.8),
        model("mimn_ledger", 2.5),
        model("boosting", 3.0, state=None, validation=None),
        model("din_product", 1.0, state=None),
    )
    assert "the pooling_ledger: +0.0000 [+0.0000, +0.0000]" in text
    assert "* the mimn_ledger beats the din_product: +" in text
    assert "| The Complete Journey | 60% | the pooling_ledger: " in text, "a ceiling is no model to choose"
    assert "| the din_product | reads the events | " in text


def test_the_longer_training_of_a_model_counts() -> None:
    rows = [
        model("pooling_product", 0.1),
        model("pooling_product_long", 2.4, validation=0.6),
        model("din_product", 0.1, state=None),
        model("din_product_long", 1.0, state=None),
    ]
    for record in rows:
        record.name = record.name.replace("_long", ", trained long")
    text = page(floors(0.0), *rows)
    short, long = (f"{np.mean(aucs(record)):.4f}" for record in rows[-2:])
    assert f"| the din_product | reads the events | {long} |" in text
    assert short not in text.partition("## Main rows")[2]


def aucs(record: Record) -> list[float]:
    return [record.folds[fold]["evaluation"]["200"]["popularity"]["auc"] for fold in range(FOLDS)]


def test_plans_that_write_to_the_same_records_are_rendered_together(tmp_path: Path) -> None:
    text = 'configs = "c"\nrecords = "{}"\nruns = "r"\nstages = []\n[datasets.{}]\ntitle = "{}"\n'
    for file, of in {"a": ("here", "films", "Films"), "b": ("here", "shop", "A shop"), "c": ("else", "x", "X")}.items():
        (tmp_path / f"{file}.toml").write_text(text.format(*of))
    plan, open_rows = render.together(tmp_path / "b.toml")
    assert [plan.title(key) for key in ("films", "shop", "x")] == ["Films", "A shop", "x"]
    assert open_rows == {f"python -m mimn.table --plan {tmp_path}/{file}.toml": [] for file in "ba"}


def answer(text: str, question: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(f"**{question}"))


def test_the_answers_follow_from_the_intervals() -> None:
    question = "Does MIMN beat DIEN, DIN and sum pooling at equal length?"
    rivals = [model("pooling", 0.3), model("din_product", 0.4, state=None)]
    yes = appendix(floors(0.0), model("mimn", 2.0), *rivals)
    assert answer(yes, question).endswith("Yes: better in 2 of 2 comparisons, worse in 0.")
    assert answer(yes, "Does MIMN beat counting?").endswith("Yes: better in 1 of 1 comparisons, worse in 0.")
    part = appendix(floors(0.0), model("mimn", 1.0), model("pooling", 0.3), model("din_product", 2.0, state=None))
    assert answer(part, question).endswith("In part: better in 1 of 2 comparisons, worse in 1.")
    assert answer(appendix(floors(0.0), *rivals), question).endswith("Not run.")


def test_the_best_small_model_is_within_the_bytes_and_chosen_on_validation_users() -> None:
    text = appendix(
        floors(0.0),
        model("a", 1.0, state=6064, validation=0.75),
        model("b", 2.0, state=6065, validation=0.8),
        model("c", 1.5, state=8, validation=0.74),
    )
    assert "* 200 events: the a, " in text, "though c does better on test users"
    assert "with 6,144 bytes" in text, "the header of 80 included"


def test_the_first_page_chooses_by_negatives_at_the_time_among_the_rows_scored_so(tmp_path: Path) -> None:
    (tmp_path / VALIDATION[0]).parent.mkdir(parents=True)
    (tmp_path / VALIDATION[0]).write_text(
        "dataset,row,fold,trainings,length,negatives,targets,count,auc\n"
        + "".join(
            f"complete_journey,{row},{fold},1,1000,recent,all,10,{auc}\n"
            for row, auc in (("a", 0.7), ("b", 0.8), ("c", 0.6))
            for fold in range(FOLDS)
        )
    )
    rows = [
        model("a", 1.0, state=6064, validation=0.70),
        model("b", 2.0, state=6065, validation=0.74),
        model("c", 1.5, state=None, validation=0.73),
        model("not scored", 3.0, state=8, validation=0.9),
    ]
    text = render.texts([floors(0.0), *rows], PLAN_OF_TWO, folder=tmp_path)[TABLE]
    (best,) = (line for line in text.splitlines() if line.startswith("| The Complete Journey |"))
    assert [cell.split(":")[0] for cell in best.split(" | ")[2:]] == ["the a", "the c"]


def test_what_is_not_run_is_said_with_the_command_that_runs_it() -> None:
    found = render.texts(
        [floors(0.0), model("mimn", 2.0)], PLAN_OF_TWO, {"the command": ["complete_journey dien_product: fold 3"]}
    )
    assert "**The table is not complete**: 1 rows lack folds" in found[TABLE].splitlines()[2]
    assert found[APPENDIX].endswith(
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
        "dataset,row,name,fold,state_bytes,length,validation_auc\n"
        "complete_journey,large,a,0,6000,200,0.8\ncomplete_journey,small,b,0,900,200,0.75\n"
        "complete_journey,small,b,0,900,1000,0.76\n"
        "online_retail,small,b,0,900,200,0.6\nonline_retail,small,b,1,900,200,0.7\n"
    )
    (tmp_path / "weeks").mkdir()
    (tmp_path / "weeks/complete_journey.csv").write_text(
        "first_day,purchases\n2024-02-27,1000\n2024-02-28,1210\n2024-02-29,900\n"
    )
    lines = csv_tables(tmp_path, PLAN_OF_TWO)
    assert "## The Complete Journey: AUC by hours that the state is behind" in lines
    assert "| row | folds | 0 | 1,000 |" in lines
    assert "| MIMN, wide | 2 | 0.7123 | 0.7000 |" in lines
    small, large, elsewhere = (line for line in lines if "`small`" in line or "`large`" in line)
    assert small == "| The Complete Journey | 900 | b | `small` | 1 | 0.7500 | 0.7600 |"
    assert large == "| The Complete Journey | 6,000 | a | `large` | 1 | 0.8000 | - |"
    assert elsewhere == "| online_retail | 900 | b | `small` | 2 | 0.6500 | - |"
    assert "| The Complete Journey | 2024-02-28 | 1,210 | 1,000 | 1.21 |" in lines
    assert csv_tables(tmp_path / "nothing", PLAN_OF_TWO) == []


def test_rows_on_different_instances_are_not_put_into_one_table() -> None:
    other = model("pooling", 1.0)
    other.folds[3]["instances_sha256"] = "another"
    with pytest.raises(NoRecord, match="fold 3 was made on other instances"):
        appendix(floors(0.0), other)
    with pytest.raises(NoRecord, match="no record 'floors'"):
        appendix(model("pooling", 1.0))
    with pytest.raises(NoRecord, match="there are no records"):
        appendix()


@pytest.mark.full  # more than a minute of computing
@pytest.mark.timeout(900)
def test_the_committed_files_are_what_the_committed_records_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    plan, open_rows = render.together(PLAN)
    others = csv_tables(render.RECORDS, plan)
    found = render.texts(read_records(render.RECORDS), plan, open_rows, others, render.RECORDS)
    for file, text in found.items():
        assert (render.RECORDS / file).read_text("utf-8") == text


def test_the_default_recipe_is_what_others_are_compared_with() -> None:
    rows = [model("mimn_ledger", 2.5), model("default", 3.0), model("din_product", 1.0, state=None)]
    text = page(floors(0.0), *rows)
    assert "* The default recipe beats the din_product: +" in text
    assert "the mimn_ledger beats" not in text
    assert "| the default (the default recipe) | " in text


def test_the_published_forms_are_compared_among_themselves_where_they_were_run() -> None:
    question = "Does MIMN beat the others in the form in which its authors ran them all (Table 2)?"
    assert question not in appendix(floors(0.0), model("mimn", 2.0), model("dnn_official", 1.0))
    text = appendix(floors(0.0), model("mimn_official", 2.0), model("dnn_official", 1.0), model("mimn", 0.0))
    assert answer(text, question).endswith("Yes: better in 1 of 1 comparisons, worse in 0.")
