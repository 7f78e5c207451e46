"""The options that every command that trains has, and the processes and watchers that they name."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mimn.training.loop import Running
from mimn.training.processes import joined


def add_options(parser: argparse.ArgumentParser) -> None:
    """Where the run goes, and how it starts."""
    parser.add_argument("--output", type=Path, required=True, help="run folder to write")
    parser.add_argument("--seed", type=int, help="use this seed, not training.seed")
    parser.add_argument("--resume", action="store_true", help="continue the run in the folder")
    parser.add_argument(
        "--from", dest="start", type=Path, metavar="RUN", help="begin with the weights of a finished run"
    )


@contextmanager
def running(options: argparse.Namespace) -> Iterator[Running]:
    """How the training runs: by the processes of `torchrun`, with a progress bar on a terminal."""
    with joined() as processes:
        yield Running(processes, progress_bar=sys.stderr.isatty())
