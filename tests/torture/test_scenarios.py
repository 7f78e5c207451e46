"""The fast size of every scenario. `make torture` plays the full ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from torture.scenarios import SCENARIOS, Scenario
from torture.stage import Stage

pytestmark = [pytest.mark.servers, pytest.mark.timeout(900)]  # minutes, where the machine is slow


@pytest.fixture
def stage(tmp_path: Path, real_kafka: str) -> Iterator[Stage]:
    with Stage(tmp_path, real_kafka) as stage:
        yield stage


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_nothing_is_lost_and_nothing_doubled(scenario: Scenario, stage: Stage) -> None:
    try:
        tally = scenario.play(stage, "fast")
    except LookupError as missing:
        pytest.skip(str(missing))
    assert tally.held, str(tally)  # pytest cuts what is not a text
