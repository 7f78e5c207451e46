"""`make torture` goes on where it was stopped, says what did not hold, and its exit status agrees."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from judge import Differs, Findings
from torture import __main__ as torture
from torture.scenarios import Part, Scenario
from torture.stage import Size, Stage, Tally, side_by_side

played: list[str] = []


def first(stage: Stage, size: Size) -> Tally:
    played.append(f"first {size}")
    return Tally(trials=2, faults=3)


def flaky(stage: Stage, size: Size) -> Tally:
    played.append(f"flaky {stage.seed}")
    if played.count(f"flaky {stage.seed}") == 1 and stage.seed == 2:
        return Tally(trials=1, faults=1, lost=4, wrong=("ann: 3 events folded of 7",))
    return Tally(trials=1, faults=1)


def failing(stage: Stage, size: Size) -> Tally:
    raise RuntimeError("no such luck")


def differing(stage: Stage, size: Size) -> Tally:
    raise Differs("not after 60 s", Findings(lost=3, doubled=5, wrong=["ann: 11 events folded of 10"]))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    played.clear()
    parts = Part("seed-1", flaky, 1), Part("seed-2", flaky, 2)
    monkeypatch.setattr(torture, "SCENARIOS", (Scenario(first, (Part("whole", first),)), Scenario(flaky, parts)))
    monkeypatch.setattr(torture, "kafka", lambda ending: "nowhere:1")
    monkeypatch.setattr(torture, "tree", lambda: ("abc", True))
    return monkeypatch


def test_parts_that_held_are_not_played_again_for_the_same_commit(
    run: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert torture.main(["--results", str(tmp_path)]) == 1
    assert played == ["first full", "flaky 1", "flaky 2"]
    assert "DID NOT HOLD" in capsys.readouterr().out
    assert torture.main(["--results", str(tmp_path)]) == 0
    assert played[3:] == ["flaky 2"]
    written = json.loads((tmp_path / "abc-full" / "torture.json").read_text())
    assert written["held"] is True
    assert {k: written["scenarios"]["flaky"][k] for k in ("trials", "faults", "lost", "doubled", "held")} == {
        "trials": 2,
        "faults": 2,
        "lost": 0,
        "doubled": 0,
        "held": True,
    }


def test_what_was_not_played_is_said_and_what_was_kept_is_shown(run: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert torture.main(["--results", str(tmp_path), "--only", "first"]) == 0
    assert torture.main(["--results", str(tmp_path), "--only", "seed-1"]) == 0
    assert played == ["first full", "flaky 1"]
    folder = tmp_path / "abc-full"
    written = json.loads((folder / "torture.json").read_text())
    assert set(written["scenarios"]) == {"first", "flaky"}
    assert written["not_played"] == ["flaky.seed-2"]
    page = (folder / "torture.md").read_text()
    assert "Not completed: `flaky.seed-2`." in page
    assert "| `first` | 2 | 3 | 0 | 0 | 0 | 0 | 0.0 | held |" in page


def test_a_changed_tree_is_played_whole(run: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run.setattr(torture, "tree", lambda: ("abc", False))
    torture.main(["--results", str(tmp_path), "--only", "first"])
    torture.main(["--results", str(tmp_path), "--only", "first"])
    assert played == ["first full", "first full"]


def test_a_part_that_raises_did_not_hold_and_the_others_are_played(run: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run.setattr(torture, "SCENARIOS", (Scenario(failing, (Part("whole", failing),)), Scenario(first, ())))
    assert torture.main(["--results", str(tmp_path), "--size", "fast"]) == 1
    assert played == ["first fast"]
    written = json.loads((tmp_path / "abc-fast" / "torture.json").read_text())
    assert written["scenarios"]["failing"]["wrong"] == ["RuntimeError: no such luck"]


def test_what_the_judge_counted_where_a_scenario_stopped_is_in_the_table(
    run: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run.setattr(torture, "SCENARIOS", (Scenario(differing, (Part("whole", differing),)),))
    assert torture.main(["--results", str(tmp_path)]) == 1
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("differing "))
    assert row.split()[1:5] == ["1", "1", "3", "5"], "trials, faults, lost, doubled"
    found = json.loads((tmp_path / "abc-full" / "torture.json").read_text())["scenarios"]["differing"]
    assert (found["lost"], found["doubled"]) == (3, 5)
    assert found["wrong"] == ["Differs: not after 60 s: lost 3, doubled 5: ann: 11 events folded of 10"]


def test_lanes_count_what_the_judge_counted_in_one_that_stopped() -> None:
    def act(lane: int) -> Tally:
        return differing(None, "fast") if lane == 1 else Tally(trials=1, faults=1)  # type: ignore[arg-type]  # it looks at neither

    tally = side_by_side(act, range(3), lanes=2)
    assert (tally.trials, tally.lost, tally.doubled) == (3, 3, 5)
    assert tally.wrong[0].startswith("1: Differs: ")


def test_without_a_kafka_it_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    monkeypatch.delenv("CTR_KAFKA_BROKER", raising=False)
    assert torture.main(["--results", str(tmp_path)]) == 2
    assert "CTR_KAFKA_BROKER" in capsys.readouterr().err
