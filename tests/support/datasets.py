"""The data sets that tests use: Online Retail of this repository, and a small made-up one with its description."""

from __future__ import annotations

from pathlib import Path

from mimn.data import synthetic
from mimn.data.events import Events
from mimn.data.prepared import cache_folder, prepare

DATASETS = Path(__file__).parents[2] / "models/datasets"
SMOKE = Path(__file__).parents[2] / "models/configs/synthetic_mimn.toml"
"""The committed configuration of a smoke test."""


def retail() -> Events:
    """The events of Online Retail."""
    return prepare(DATASETS / "online-retail.toml", cache_folder()).events


def made_up(folder: Path, users: int = synthetic.USERS) -> Path:
    """The description of the made-up data set in `folder`, written with its file if it is not there."""
    path = folder / "synthetic.toml"
    if path.exists():
        return path
    synthetic.convert(folder / "synthetic", users)
    path.write_text((DATASETS / "synthetic.toml").read_text("utf-8").replace("../../data/", ""), "utf-8")
    return path


def smoke_text(folder: Path) -> str:
    """The committed smoke configuration on the made-up data set in `folder`."""
    return SMOKE.read_text("utf-8").replace("models/datasets/synthetic.toml", str(made_up(folder)))
