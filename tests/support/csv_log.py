"""An impression log in CSV files, and a bundle of it by the commands of the documents."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from mimn.impressions.__main__ import main


def write_table(path: Path, names: str, rows: Iterable[Iterable[object]]) -> None:
    """A file with the columns `names`."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(names.split())
        writer.writerows(rows)


def made_bundle(folder: Path, description: Path, config: str, *, method: str) -> Path:
    """Train by `config`, calibrate by `method`, evaluate, export. The run is in `folder / "run"`, what was prepared
    in `folder / "cache"`."""
    written, output = folder / "model.toml", folder / "run"
    written.write_text(config)
    cache = ["--cache", str(folder / "cache")]
    trained = ["--run", str(output), *cache]
    commands = [
        ["train", "--description", str(description), "--config", str(written), "--output", str(output), *cache],
        ["calibrate", *trained, "--method", method],
        ["evaluate", *trained],
        ["export", "--run", str(output), "--output", str(folder / "bundles"), "--name", "own", "--version", "1"],
    ]
    for command in commands:
        assert main(command) == 0
    return folder / "bundles" / "own" / "1"
