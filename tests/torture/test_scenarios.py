"""The torture: five scenarios in the fast size in `make test`, all of them in full in `make test-full`."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from torture.report import LOAD, PLAYED
from torture.scenarios import SCENARIOS, SMALL, Part, Play
from torture.stage import Stage, Tally

pytestmark = [pytest.mark.servers, pytest.mark.timeout(1800)]  # minutes, where the machine is slow
PARTS = [
    pytest.param(
        scenario.name, part, id=f"{scenario.name}.{part.name}", marks=[pytest.mark.alone] if scenario.alone else []
    )
    for scenario in SCENARIOS
    for part in scenario.parts
]


@pytest.mark.parametrize("play", SMALL, ids=lambda play: play.__name__)
def test_nothing_is_lost_or_doubled(play: Play, real_kafka: str, tmp_path: Path) -> None:
    with Stage(tmp_path, real_kafka) as stage:
        tally = play(stage, "fast")
    assert tally.held, str(tally)  # pytest cuts what is not a text


@pytest.mark.full
@pytest.mark.parametrize(("scenario", "part"), PARTS)
def test_nothing_is_lost_or_doubled_in_full(
    scenario: str, part: Part, real_kafka: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    began = time.monotonic()
    try:
        with Stage(tmp_path, real_kafka, seed=part.seed) as stage:
            tally = part.play(stage, "full")
    except Exception as error:
        tally = Tally.failed(error)
    took, load = round(time.monotonic() - began, 1), round(os.getloadavg()[0], 1)
    tally += Tally(figures={PLAYED: [took], LOAD: [load]})
    record_property("torture", json.dumps({"scenario": scenario, "tally": asdict(tally)}))
    assert tally.held, str(tally)
