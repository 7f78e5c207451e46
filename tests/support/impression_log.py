"""A log of impressions of our own, whose clicks follow a known rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

DAY = 86_400
T = 1_600_000_000 // DAY * DAY
USERS, SHOWN = 150, 30
SHOP_PLAN = """
title = "Models of a shop"
description = "dataset.toml"
base = "base.toml"
seeds = [0, 1]
calibration = "shift"
each = "signal"
results = "out/results.json"
page = "page.md"
[groups]
"low" = { signal = ["s0", "s1"] }"""
"""How a plan of the impression table begins, for a log with the context field `signal`."""


@dataclass
class Log:
    """A log of our own, and what its description says besides."""

    events: dict[str, Any]
    shown: dict[str, Any]
    items: dict[str, Any] = field(default_factory=dict)
    fields: str = ""
    columns: str = ""
    """More of `[impressions]`."""
    top: str = ""
    split: str = 'by = "time"\ntrain_until = 2020-09-23\nvalidate_until = 2020-09-28\n'

    def write(self, folder: Path) -> Path:
        """Write the files and the description; returns the description's path."""
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(self.events), folder / "events.parquet")
        pq.write_table(pa.table(self.shown), folder / "shown.parquet")
        items = ""
        if self.items:
            pq.write_table(pa.table(self.items), folder / "items.parquet")
            items = '[items]\nfiles = ["items.parquet"]\nkey = "i"\n'
        path = folder / "dataset.toml"
        path.write_text(
            f'name = "x"\n{self.top}\n[events]\nfiles = ["events.parquet"]\nuser = "u"\nitem = "i"\ntime = "t"\n'
            'category = "c"\n[impressions]\nfiles = ["shown.parquet"]\nuser = "u"\nitem = "i"\ntime = "t"\n'
            f'label = "y"\ncategory = "c"\nwindow = "1h"\n{self.columns}\n{items}{self.fields}\n[split]\n{self.split}'
        )
        return path


def made(rng: np.random.Generator, rate: Callable[[NDArray[np.int64]], NDArray[np.float64]], **more: Any) -> Log:
    """Clicks whose probability is `rate` of the column `signal` (0 to 3); the column `noise` means nothing."""
    n = USERS * SHOWN
    signal = rng.integers(0, 4, n)
    events = USERS * 10
    item = rng.integers(1, 20, events)
    shown_item = rng.integers(1, 20, n)
    return Log(
        {"u": rng.integers(1, USERS, events), "i": item, "c": item % 3, "t": T + rng.integers(0, 20 * DAY, events)},
        {
            "u": np.repeat(np.arange(1, USERS + 1), SHOWN),
            "i": shown_item,
            "c": shown_item % 3,
            "t": T + rng.integers(0, 20 * DAY, n),
            "y": (rng.random(n) < rate(signal)).astype(np.int64),
            "signal": [f"s{value}" for value in signal],
            "noise": [f"n{value}" for value in rng.integers(0, 4, n)],
        },
        **more,
    )


def graded(signal: NDArray[np.int64]) -> NDArray[np.float64]:
    """Click probabilities that rise with the signal."""
    return np.array([0.05, 0.1, 0.3, 0.6])[signal]


def context(*names: str) -> str:
    """The description of categorical context fields."""
    return "".join(f'[fields.context.{name}]\nkind = "categorical"\n' for name in names)
