"""AUC against bytes: every size and seed is trained once and to the end, and the files say what the runs did."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import msgspec
import pytest

from mimn import run, sizes, train
from mimn.baselines import state_bytes
from mimn.run import TrainingSettings

pytestmark = pytest.mark.torch

CONFIG = Path(__file__).parents[2] / "models/configs/synthetic_mimn.toml"


@pytest.fixture(name="configs")
def two_configs(tmp_path: Path) -> list[Path]:
    """Pooling and MIMN with a sketch, one epoch of the smoke configuration."""
    base, paths = run.read_config(CONFIG), []
    for name, changes in (
        ("pooling", {"variant": "pooling", "memory_induction": False, "utilization": False}),
        ("memory", {}),
    ):
        config = msgspec.structs.replace(
            base,
            name=name,
            data=msgspec.structs.replace(base.data, instances=str(tmp_path / "instances.npz")),
            model=base.model | {"sketch_category_cells": 8} | changes,
            training=msgspec.structs.replace(base.training, epochs=1, validation_length=200),
        )
        paths.append(tmp_path / f"{name}.toml")
        paths[-1].write_text(config.to_toml(), "utf-8")
    return paths


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_sweep_is_recorded_and_not_repeated(
    configs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--config", str(configs[0]), "--config", str(configs[1]), "--item-cells", "0", "16", "--seeds", "3"]
    arguments += ["--runs", str(tmp_path / "runs"), "--output", str(tmp_path / "record")]
    assert sizes.main(arguments) == 0
    rows = read(tmp_path / "record" / "sizes.csv")
    assert [(row["model"], row["item_cells"], row["seed"]) for row in rows] == [
        ("pooling", "0", "3"), ("pooling", "16", "3"), ("memory", "0", "3"), ("memory", "16", "3"),
    ]  # fmt: skip
    for row in rows:
        folder = tmp_path / "runs" / f"{row['model']}_{row['item_cells']}_3"
        assert int(row["state_bytes"]) == state_bytes(run.read_config(folder / run.CONFIG).architecture)
        record = json.loads((folder / run.METRICS).read_text())
        # The runs validate at 200 events as well, on the same rows.
        assert float(row["validation_auc_200"]) == pytest.approx(record["validation_auc"], abs=2e-5)
    found = read(tmp_path / "record" / "differences.csv")
    assert [(row["item_cells"], row["length"]) for row in found] == [
        ("0", "200"), ("0", "1000"), ("16", "200"), ("16", "1000"),
    ]  # fmt: skip
    for row in found:
        by_model = {
            r["model"]: float(r[f"validation_auc_{row['length']}"])
            for r in rows
            if r["item_cells"] == row["item_cells"]
        }
        assert float(row["auc"]) == pytest.approx(by_model["memory"] - by_model["pooling"], abs=3e-5)
        assert float(row["low"]) <= float(row["auc"]) <= float(row["high"])
    assert (tmp_path / "record" / "sizes.png").read_bytes().startswith(b"\x89PNG")

    before = (tmp_path / "record" / "sizes.csv").read_bytes()
    monkeypatch.setattr(train, "train", None)
    assert sizes.main(arguments) == 0
    assert (tmp_path / "record" / "sizes.csv").read_bytes() == before


def test_no_run_of_a_sweep_stops_early(configs: list[Path]) -> None:
    config = msgspec.structs.replace(run.read_config(configs[0]), training=TrainingSettings(epochs=9, patience=1))
    assert sizes.resized(config, 16, 0).training.patience == 9
