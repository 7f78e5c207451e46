"""Search for settings of a model with drawn negatives, on validation alone: a table of trials, and the best as TOML.

    python -m mimn.tune --config model.toml --space space.toml --output runs/search [--trials 20]

The format of the space is in `mimn.training.search`. The same command goes on with an interrupted search.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from mimn.config import ConfigError
from mimn.data.events import DataError
from mimn.data_set import load_data
from mimn.enough_targets import check_any, too_few_to_choose
from mimn.run_config import RunConfig, read_config
from mimn.train import DrawnNegatives, train
from mimn.training.command import add_search_options, end_search, resumable
from mimn.training.folder import TrainingFailed
from mimn.training.loop import Running
from mimn.training.search import SEEN, Search, read_space


def main(arguments: list[str] | None = None) -> int:
    """Search; see the module's text."""
    parser = argparse.ArgumentParser(
        prog="python -m mimn.tune", description="Search for settings, on validation alone."
    )
    parser.add_argument("--config", type=Path, required=True, help="TOML file to begin with, see models/configs")
    add_search_options(parser)
    options = parser.parse_args(arguments)

    def trained(config: RunConfig, folder: Path, running: Running, resume: bool) -> dict[str, Any]:
        return train(config, folder, running, resume=resume, parts=SEEN)

    with resumable(ConfigError, DataError, TrainingFailed, OSError) as ended:
        space = read_space(options.space, options.trials)
        base = read_config(options.config)
        data = load_data(base.data, SEEN)  # which is the same in all trials
        check_any(data, "validation", "nothing can choose a configuration")
        few = too_few_to_choose(data, SEEN, "a configuration")
        if few is not None:  # the result would be chance alone, where a training still gives a model
            raise DataError(f"{data.name}: {few}")
        search = Search(base, space, options.output, DrawnNegatives.measure, trained, sys.stderr.isatty())
        end_search(search)
    return ended.status


if __name__ == "__main__":
    sys.exit(main())
