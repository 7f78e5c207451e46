"""The feeder produces what it says, and says so when it cannot."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from ctr.event.v1.behavior_event_pb2 import BehaviorEvent
from loadtest.feeder import event, feeding, main, zipf_users
from loadtest.population import BUNDLE


def test_users_are_drawn_by_zipf_and_the_same_for_the_same_seed() -> None:
    drawn = list(zipf_users(100, 20_000))
    assert drawn == list(zipf_users(100, 20_000))
    assert drawn != list(zipf_users(100, 20_000, seed=1))
    often = Counter(drawn)
    assert often["crowd-0"] / often["crowd-9"] == pytest.approx(10, rel=0.3)
    assert set(often) <= {f"crowd-{rank}" for rank in range(100)}


def test_an_event_is_what_the_log_holds() -> None:
    read = BehaviorEvent.FromString(event("someone", 7, 3))
    assert (read.user_id, read.item_id, read.category_id) == ("someone", 7, 3)
    assert read.event_time > 1_700_000_000_000


@pytest.mark.parametrize("given", [["--rate", "0"], ["--count", "0"], ["--users", "-1"]])
def test_sizes_that_make_no_sense_are_refused(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--bootstrap", "127.0.0.1:1", "--topic", "t", *given])
    assert "must be positive" in capsys.readouterr().err


def test_a_feeder_that_ended_early_is_not_taken_for_one_that_fed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    with (
        pytest.raises(RuntimeError, match="the feeder ended"),
        feeding("127.0.0.1:1", "events", -1.0, BUNDLE) as feeder,
    ):
        feeder.wait(timeout=60)
