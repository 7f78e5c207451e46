"""Records and the table: every figure comes from the runs, and what speaks against a model stands first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mimn import experiments, run
from mimn.experiments import NoRecord, Predictions, Record, mean_std, read_records, table

RECORDS = Path(__file__).parents[2] / "models/experiments"


def a_record(
    name: str, aucs: list[float], *, floor: float, quality: float, state: int | None = 100, **other: Any
) -> Record:
    """A record whose seeds have the given AUCs; `quality` is how far its predictions tell the labels apart."""
    rng = np.random.default_rng(0)
    label, user = np.tile([1, 0], 400), np.repeat(np.arange(200), 4)
    noise = rng.normal(size=800)
    floors = {kind: {"auc": floor if kind == "counts" else 0.5} for kind in experiments.FLOOR_TITLES}
    runs = [
        {
            "seed": seed,
            "data_sha256": "d" * 64,
            "instances_sha256": other.get("instances", "i" * 64),
            "commit": "abc",
            "state_bytes": state,
            "targets_per_cpu_s": 10.0,
            "evaluation": {
                "200": {
                    "test": {
                        "popularity": {"auc": auc, "rows": 800},
                        "uniform": {"auc": auc + 0.1},
                    },
                    "floors": {"popularity": floors, "uniform": floors},
                }
            },
        }
        for seed, auc in enumerate(aucs)
    ]
    predictions = Predictions(label, user, noise + quality * label, noise)
    return Record(
        {
            "name": name,
            "dataset": "online_retail",
            "length": 200,
            "runs": runs,
            "difference_to_counts": {"difference": 0.1, "low": 0.05, "high": 0.15},
        },
        predictions,
    )


def test_the_table_has_mean_and_sample_deviation_of_the_seeds() -> None:
    text = table([a_record("A", [0.7, 0.72, 0.74], floor=0.6, quality=1.0)])
    assert "| A | 3 | 0.7200 ± 0.0200 | 0.8200 ± 0.0200 | 100 |" in text
    assert mean_std([0.5]) == "0.5000"


def test_a_floor_that_is_near_or_above_is_said_in_the_first_line() -> None:
    near = table([a_record("A", [0.70, 0.70], floor=0.695, quality=1.0)]).splitlines()[0]
    assert "logistic regression on counts (0.6950) is within 0.01 of A (0.7000)" in near
    above = table([a_record("A", [0.70, 0.70], floor=0.75, quality=1.0)]).splitlines()[0]
    assert "is above A" in above
    far = table([a_record("A", [0.70, 0.70], floor=0.6, quality=1.0)]).splitlines()[0]
    assert far.startswith("No floor is within 0.01")


def test_a_memory_that_adds_nothing_is_said_first() -> None:
    small = a_record("pooling", [0.70], floor=0.5, quality=0.5, state=10)
    same = table([small, a_record("memory", [0.701], floor=0.5, quality=0.5)])
    assert "memory (0.7010, 100 bytes a user) is not established to be better than pooling" in same.splitlines()[0]
    better = table([small, a_record("memory", [0.8], floor=0.5, quality=2.0)])
    assert better.splitlines()[0].startswith("No floor")
    row = next(line for line in better.splitlines() if line.startswith("| memory − pooling"))
    assert row.endswith("| better |")


def test_a_model_that_reads_the_events_is_no_rival_in_state_bytes() -> None:
    reader = a_record("DIN", [0.9], floor=0.5, quality=3.0, state=None)
    assert "| DIN | 1 | 0.9000 | 1.0000 | reads the events |" in table([reader])
    memory = a_record("memory", [0.8], floor=0.5, quality=2.0)
    beside = table([reader, memory, a_record("pooling", [0.70], floor=0.5, quality=0.5, state=10)])
    assert beside.splitlines()[0].startswith("No floor")


def test_rows_on_different_instances_are_not_put_into_one_table() -> None:
    first = a_record("A", [0.7], floor=0.6, quality=1.0)
    with pytest.raises(NoRecord, match="different instances"):
        table([first, a_record("B", [0.7], floor=0.6, quality=1.0, instances="j" * 64)])
    with pytest.raises(NoRecord, match="no records"):
        table([])


def test_a_record_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / run.METRICS).write_text("{")
    with pytest.raises(NoRecord, match="x cannot be read"):
        read_records(tmp_path)


def test_the_committed_table_is_what_the_committed_records_give() -> None:
    assert (RECORDS / experiments.TABLE).read_text("utf-8") == table(read_records(RECORDS))


def test_the_committed_readmes_are_what_their_records_give() -> None:
    folders = [path.parent for path in RECORDS.glob(f"*/{run.METRICS}")]
    assert folders
    for folder in folders:
        found = json.loads((folder / run.METRICS).read_text("utf-8"))
        assert (folder / "README.md").read_text("utf-8") == experiments.describe(found)
        assert run.read_config(folder / run.CONFIG).name == found["name"]
