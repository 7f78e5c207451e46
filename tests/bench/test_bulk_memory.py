"""A backfill's tasks are as large as their memory allows: what is planned for a user is what a user takes."""

from __future__ import annotations

import pytest

from bench.bulk_memory import BUNDLES, user_bytes
from mimn.rows.library import library
from support import skips


@pytest.mark.parametrize("name", ["online-retail-sketch", "online-retail-ledger"])
def test_the_memory_that_is_planned_for_a_user_is_what_a_user_takes(name: str) -> None:
    if library() is None:  # then a batch's copies hide what a user takes
        pytest.skip(skips.NO_COMPILED_STEP)
    planned, taken = user_bytes(BUNDLES / name / "1", users=20_000, events=24_000)
    assert 0.9 * taken < planned < 1.25 * taken
