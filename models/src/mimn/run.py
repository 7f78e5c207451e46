"""A run folder: the names of its files, how they are written, and which source wrote them.

It holds the resolved configuration, so the folder alone says everything about the run.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from mimn.file_lock import hold
from mimn.whole_file import writing

CONFIG, METRICS, MODEL, CHECKPOINT, LOG, CURVES = (
    "config.toml",
    "metrics.json",
    "model.safetensors",
    "checkpoint.safetensors",
    "train.log",
    "curves.png",
)
PREDICTIONS = "predictions-{length}.npz"
ITEM_IDS, CATEGORY_IDS = "items.ids.npy", "categories.ids.npy"
COPY_AGAIN = "copy it again from where the model was trained, or train again"


class NoFinishedRun(Exception):
    """A folder that holds no finished run that is whole; the message says why and what to do."""


def finished(folder: Path) -> dict[str, Any]:
    """What `metrics.json` says of the run in `folder`. Training writes it last: a model without it may be any epoch's.

    Raises:
        NoFinishedRun: training has not begun or not ended there, or the file is damaged.
        OSError: it cannot be read.
    """
    path = folder / METRICS
    try:
        record = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NoFinishedRun(f"{folder} holds no finished run: {_remedy(folder)}") from error
    except ValueError as error:
        raise NoFinishedRun(f"{path} is not JSON ({error}): {COPY_AGAIN}") from error
    if not isinstance(record, dict):
        raise NoFinishedRun(f"{path} is not the record of a run: {COPY_AGAIN}")
    return record


def _remedy(folder: Path) -> str:
    """What helps a folder without `metrics.json`. Without a checkpoint `--resume` would train over the model there."""
    if not (folder / CONFIG).exists():
        return "train it first"
    if (folder / CHECKPOINT).exists():
        return "wait until its training has ended, or finish it with --resume"
    return (
        f"wait until its training has ended; if it is a copy, copy {METRICS}, too; else train it again (--resume "
        "starts over without a checkpoint)"
    )


@cache
def commit() -> str:
    """The source's git commit, with `+` appended if this package's files differ from it; empty outside a checkout.

    As it is when a process first asks: the code that it runs does not change afterwards.
    """
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def update_json(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Let `change` alter the JSON object in `path`, and write it, whole or not at all.

    Processes that update a file at the same time do so one after the other, so that each finds what the others wrote.
    The lock is a file of its own, which stays: a file that is replaced cannot be the one that others wait for.

    Raises:
        OSError, ValueError: `path` cannot be read as JSON, or not be written.
    """
    with path.with_name(f".{path.name}.lock").open("ab") as lock:
        hold(lock, wait=True)
        value = json.loads(path.read_text("utf-8"))
        change(value)
        write_json(path, value)


def write_text(path: Path, text: str) -> None:
    """Write `text`, whole or not at all."""
    with writing(path) as partial:
        partial.write_text(text, "utf-8")
