"""Small data sets and configurations to train on, as files, and the commands that do it."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from support import datasets

DAY, T = 86_400, 1_600_000_000 // 86_400 * 86_400
TEST_FROM = T + 16 * DAY
"""The test impressions of `labelled` begin here; none is in between."""


def drawn(folder: Path, **training: Any) -> list[str]:
    """Arguments of a training on drawn negatives, its configuration in `folder`."""
    whole = tomllib.loads(datasets.smoke_text(folder))
    whole["training"] |= {"epochs": 2, **training}
    path = folder / "drawn.toml"
    path.write_text(tomli_w.dumps(whole))
    return ["-m", "mimn.train", "--config", str(path)]


def labelled(
    folder: Path, *, epochs: int, learning_rate: float = 1e-2, test_labels_flipped: bool = False, **training: Any
) -> list[str]:
    """Arguments of a training on labelled impressions, its data and its configuration in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    n, users = 3000, 100
    signal, shown, item = rng.integers(0, 4, n), rng.integers(1, 20, n), rng.integers(1, 20, 1000)
    clicked = (rng.random(n) < np.array([0.05, 0.1, 0.3, 0.6])[signal]).astype(int)
    time = T + rng.integers(0, 20 * DAY, n)
    if test_labels_flipped:
        clicked = np.where(time >= TEST_FROM, 1 - clicked, clicked)
    _csv(folder / "shown.csv", u=rng.integers(1, users, n), i=shown, c=shown % 3, t=time, y=clicked, signal=signal)
    _csv(
        folder / "events.csv",
        u=rng.integers(1, users, 1000), i=item, c=item % 3, t=T + rng.integers(0, 20 * DAY, 1000),
    )  # fmt: skip
    (folder / "dataset.toml").write_text(
        'name = "x"\n[events]\nfiles = ["events.csv"]\nuser = "u"\nitem = "i"\ntime = "t"\ncategory = "c"\n'
        '[impressions]\nfiles = ["shown.csv"]\nuser = "u"\nitem = "i"\ntime = "t"\nlabel = "y"\ncategory = "c"\n'
        'window = "1h"\n[fields.context.signal]\nkind = "categorical"\n'
        '[split]\nby = "time"\ntrain_until = 2020-09-23\nvalidate_until = 2020-09-29\n'
    )
    (folder / "labelled.toml").write_text(
        'name = "x"\n[model]\nvariant = "pooling"\nmemory_induction = false\nutilization = false\nembedding_dim = 4\n'
        'head = "deepfm"\nhead_units = [16, 8]\n[windows]\nlength = 16\noccasions = 8\n'
        f"[training]\nepochs = {epochs}\npatience = {epochs}\nwindows_per_batch = 5\n"
        f"learning_rate = {learning_rate}\n" + _toml(training)
    )
    return [
        "-m", "mimn.impressions", "train", "--description", str(folder / "dataset.toml"),
        "--config", str(folder / "labelled.toml"), "--cache", str(folder / "cache"),
    ]  # fmt: skip


def _csv(path: Path, **columns: Any) -> None:
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    path.write_text("\n".join([",".join(columns), *(",".join(map(str, row)) for row in rows)]) + "\n")


def _toml(values: dict[str, Any]) -> str:
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())
