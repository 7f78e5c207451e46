"""Models of labelled impressions, from a description to click probabilities.

python -m mimn.impressions train --description dataset.toml --config model.toml --output runs/x [--seed 1]
python -m mimn.impressions tune --description dataset.toml --config model.toml --space space.toml --output runs/search
python -m mimn.impressions calibrate --run runs/x --method platt      fitted on the validation impressions
python -m mimn.impressions evaluate --run runs/x                      figures on the test impressions
python -m mimn.impressions evaluate --run runs/x --on later.toml      and on later ones (calibrate, too)
python -m mimn.impressions table --plan plan.toml                     rows and seeds that are missing, then the page
python -m mimn.impressions export --run runs/x --output bundles --name shop --version 1   a bundle for serving
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, get_args

from mimn import config_file
from mimn.bundle.members import MemberIndex
from mimn.calibration import CalibrationError, Method
from mimn.config import ConfigError
from mimn.data.events import DataError
from mimn.data.preparation import cache_folder
from mimn.data.split import Part
from mimn.export.__main__ import FAILURES, add_bundle_arguments
from mimn.export.run import export_run
from mimn.impressions.calibrate import calibrate
from mimn.impressions.config import ImpressionConfig
from mimn.impressions.evaluate import evaluate
from mimn.impressions.new_members import new_members
from mimn.impressions.page import rendered
from mimn.impressions.table import make, read_plan, read_results
from mimn.impressions.train import LabelledImpressions, train
from mimn.impressions.trained import RunFault, TrainedRun
from mimn.training.command import add_options, add_search_options, end_search, running, say_again, say_resume, start_of
from mimn.training.folder import TrainingFailed
from mimn.training.loop import Running
from mimn.training.search import SEEN, Search, read_space


def main(arguments: list[str] | None = None) -> int:
    """Run a command; see the module's text. Exit status 1: it could not be done."""
    options = parser().parse_args(arguments)
    try:
        found = _run(options)
    except (DataError, TrainingFailed, RunFault, CalibrationError, *FAILURES) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if options.command == "train":
            say_resume(options)
        elif options.command in ("tune", "table"):
            say_again()
        return 130
    if found is not None:
        print(json.dumps(found, indent=2))
    return 0


def parser() -> argparse.ArgumentParser:
    """Commands and options."""
    parser = argparse.ArgumentParser(
        prog="python -m mimn.impressions",
        description="Train, calibrate, evaluate and export models of labelled impressions.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train", help="train a model", description="Train a model.")
    training.add_argument("--description", type=Path, required=True, help="dataset.toml with [impressions]")
    training.add_argument("--config", type=Path, required=True, help="TOML file of the model")
    add_options(training)
    tuning = commands.add_parser(
        "tune",
        help="search for settings, on validation alone",
        description="Search for settings on the validation impressions; test labels are not read.",
    )
    tuning.add_argument("--description", type=Path, required=True, help="dataset.toml with [impressions]")
    tuning.add_argument("--config", type=Path, required=True, help="TOML file of the model to begin with")
    add_search_options(tuning)
    calibrating = commands.add_parser("calibrate", help="fit click probabilities to validation impressions")
    calibrating.add_argument("--method", choices=get_args(Method), required=True, help="see docs/impressions.md")
    evaluating = commands.add_parser("evaluate", help="figures on the test impressions")
    for command in (calibrating, evaluating):
        command.add_argument("--run", type=Path, required=True, help="run folder of train")
        data = command.add_mutually_exclusive_group()
        data.add_argument("--description", type=Path, help="where the description is now, if it has moved")
        data.add_argument(
            "--on", type=Path, help="description of later data with the same inputs, in place of training's"
        )
        command.add_argument(
            "--members", type=Path, help="with --on: description whose [members] are served, if not the run's"
        )
        command.add_argument("--length", type=int, help="latest events to read (training.validation_length)")
    exporting = commands.add_parser("export", help="write the run as a bundle for serving, with fields and calibrator")
    exporting.add_argument("--run", type=Path, required=True, help="run folder of train")
    exporting.add_argument("--members", type=Path, help="description whose [members] the bundle gets, if not the run's")
    add_bundle_arguments(exporting)
    table = commands.add_parser("table", help="train and measure the rows of a plan that are missing; write its page")
    table.add_argument("--plan", type=Path, required=True, help="TOML file, such as those of models/plans/impressions")
    table.add_argument("--row", action="append", help="only this row; may be given several times")
    table.add_argument("--page-only", action="store_true", help="train nothing, write the page of what there is")
    for command in (training, tuning, calibrating, evaluating, exporting, table):
        command.add_argument("--cache", type=Path, default=cache_folder(), help="prepared data (%(default)s)")
    return parser


def _run(options: argparse.Namespace) -> Any:
    """What the command prints as JSON; None in a process that is not the first."""
    if options.command == "train":
        config = config_file.read(options.config, ImpressionConfig)
        if options.seed is not None:
            config = config.with_seed(options.seed)
        with running(options) as how:
            record = train(
                options.description,
                config,
                options.output,
                how,
                cache=options.cache,
                resume=options.resume,
                start=start_of(options),
            )
            if not how.processes.first:
                return None
        shown = ("name", "dataset", "seed", "epochs", "best_epoch", "validation_logloss", "validation_auc")
        return {name: record[name] for name in shown}
    if options.command == "export":
        return {"bundle": str(_export(options))}
    if options.command == "tune":
        return _tune(options)
    if options.command == "table":
        return _table(options)
    if options.on is None:
        if options.members is not None:
            raise ConfigError("--members belongs to --on: the run's own data has the run's members")
        trained = TrainedRun.load(options.run, options.cache, options.description)
    else:
        needed: tuple[Part, ...] = ("validation",) if options.command == "calibrate" else ("validation", "test")
        trained = TrainedRun.load_on(options.on, options.run, options.cache, needed, members=_members(options))
    length = trained.config.training.validation_length if options.length is None else options.length
    if length < 1:
        raise ConfigError(f"length must be at least 1, not {length}")
    if options.command == "calibrate":
        return calibrate(trained, options.method, length).told()
    return evaluate(trained, length)


def _export(options: argparse.Namespace) -> Path:
    return export_run(
        options.run,
        options.output,
        options.name,
        options.version,
        options.state_dtype,
        events=options.events,
        members=_members(options),
    )


def _members(options: argparse.Namespace) -> MemberIndex | None:
    """The members that are served in place of the run's."""
    return None if options.members is None else new_members(options.run, options.members, options.cache)


def _table(options: argparse.Namespace) -> dict[str, Any]:
    plan = read_plan(options.plan)
    if not options.page_only:
        make(plan, options.cache, only=options.row, progress_bar=sys.stderr.isatty())
    done = read_results(Path(plan.results))  # as they are kept: rounded
    Path(plan.page).write_text(rendered(plan, done), "utf-8")
    return {"page": plan.page, "models": len(done)}


def _tune(options: argparse.Namespace) -> None:
    def trained(config: ImpressionConfig, folder: Path, running: Running, resume: bool) -> dict[str, Any]:
        return train(options.description, config, folder, running, cache=options.cache, resume=resume, parts=SEEN)

    base, space = config_file.read(options.config, ImpressionConfig), read_space(options.space, options.trials)
    end_search(Search(base, space, options.output, LabelledImpressions.measure, trained, sys.stderr.isatty()))


if __name__ == "__main__":
    sys.exit(main())
