"""A state's bits are its user's alone: they do not depend on who else shared the run of the step graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mimn.bundle import load_bundle
from mimn.bundle.graph import open_step

BUNDLES = {
    "tiny": Path(__file__).parents[1] / "fixtures/bundle_tiny/tiny/1",
    "online-retail": Path(__file__).parents[2] / "models/bundles/online-retail/1",
}
ROWS = 600


@pytest.mark.parametrize("name", BUNDLES)
def test_a_rows_bits_do_not_depend_on_how_many_rows_share_the_run(name: str) -> None:
    bundle = load_bundle(BUNDLES[name])
    step, random = open_step(bundle), np.random.default_rng(0)
    events = random.standard_normal((ROWS, bundle.width)).astype(np.float32)
    states = np.tile(bundle.initial_state, (ROWS, 1))
    for _ in range(3):
        states = step(events, states)
    together = step(events, states)
    for width in (*range(1, 34), 63, 64, 65, 127, 255, 256, 257, 599):
        for at in range(0, ROWS - width + 1, width):
            some = slice(at, at + width)
            assert step(events[some], states[some]).tobytes() == together[some].tobytes(), f"{width} rows at {at}"
