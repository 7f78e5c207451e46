"""The options that every command that trains has, the processes and watchers that they name, and how it ends."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from mimn.config import ConfigError
from mimn.options import whole_number
from mimn.training.folder import TrainingFailed
from mimn.training.loop import Running
from mimn.training.processes import joined
from mimn.training.search import Search
from mimn.training.tensorboard import TensorBoard
from mimn.training.warm import Start

WIDTH = 160
"""Columns of a table that goes into a file."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Where the run goes, and how it starts."""
    parser.add_argument("--output", type=Path, required=True, help="run folder to write")
    parser.add_argument("--seed", type=whole_number(0), help="use this seed, not training.seed")
    parser.add_argument("--resume", action="store_true", help="continue the run in the folder")
    parser.add_argument("--tensorboard", type=Path, metavar="DIR", help="write curves for TensorBoard into this folder")
    parser.add_argument(
        "--from", dest="start", type=Path, metavar="RUN", help="begin with the weights of a finished run"
    )
    parser.add_argument(
        "--keep-state",
        action="store_true",
        help="with --from: train only what reads a state, so that the states of RUN's bundle stay valid",
    )


def start_of(options: argparse.Namespace) -> Start | None:
    """What the run starts from.

    Raises:
        ConfigError: states of no run are to be kept.
    """
    if options.start is None:
        if options.keep_state:
            raise ConfigError("--keep-state needs --from: the run whose states stay valid")
        return None
    return Start(options.start, keep_state=options.keep_state)


@contextmanager
def running(options: argparse.Namespace) -> Iterator[Running]:
    """How the training runs: by the processes of `torchrun`, with a progress bar on a terminal.

    Raises:
        TrainingFailed: TensorBoard is wanted and not installed.
    """
    with joined() as processes, ExitStack() as closed:
        watchers = []
        if options.tensorboard is not None and processes.first:
            watchers.append(closed.enter_context(closing(TensorBoard(options.tensorboard))))
        yield Running(processes, progress_bar=sys.stderr.isatty(), watchers=watchers)


def say_resume(options: argparse.Namespace) -> None:
    """Say how a run that Ctrl-C has ended goes on; `options`: those of `add_options`."""
    print(f"interrupted; continue with --resume --output {options.output}", file=sys.stderr)


def say_again() -> None:
    """The same of a command that goes on with what there is."""
    print("interrupted; the same command continues from here", file=sys.stderr)


@dataclass
class Ended:
    """How a command ended."""

    status: int = 0
    """Its exit status."""


@contextmanager
def resumable(*failures: type[Exception]) -> Iterator[Ended]:
    """How a command ends that continues from its files when it is run again: with 1 after one of `failures`, which is
    printed, and with 130 after Ctrl-C."""
    ended = Ended()
    try:
        yield ended
    except failures as error:
        print(f"error: {error}", file=sys.stderr)
        ended.status = 1
    except KeyboardInterrupt:
        say_again()
        ended.status = 130


def add_search_options(parser: argparse.ArgumentParser) -> None:
    """What is searched, and where the search goes."""
    parser.add_argument("--space", type=Path, required=True, help="TOML file of the settings to search")
    parser.add_argument(
        "--output", type=Path, required=True, help="folder of the search; it goes on with what is there"
    )
    parser.add_argument("--trials", type=whole_number(1), help="trials in all, not those of the space's file")


def end_search(search: Search[Any]) -> None:
    """Run what is left of a search; print its trials, the best first, and where the best configuration is.

    Raises:
        ConfigError, DataError, TrainingFailed: the search, or all of its trials, cannot be made.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise TrainingFailed("a search is one process: start it without torchrun")
    try:
        best = search.run()
    finally:
        if search.begun:
            Console(width=None if sys.stdout.isatty() else WIDTH).print(search.table())
    print(f"best configuration: {best}")
