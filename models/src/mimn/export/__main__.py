"""The command; see `mimn.export`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from mimn.bundle import BundleError, check_name
from mimn.config import ConfigError
from mimn.export.parts import ExportError, RunFacts
from mimn.export.run import export_again, export_any, export_run, list_length
from mimn.export.sequence import EVENTS
from mimn.export.untrained import config_of, drawn_codes, drawn_members, drawn_table, specs_of, untrained_model
from mimn.nn.checkpoint import CheckpointError
from mimn.options import whole_number
from mimn.parity import ParityError
from mimn.state.layout import LayoutError

FAILURES = (ExportError, ParityError, BundleError, LayoutError, ConfigError, CheckpointError, OSError)


def add_bundle_arguments(parser: argparse.ArgumentParser) -> None:
    """What every export takes."""
    parser.add_argument("--output", type=Path, required=True, help="folder of all bundles")
    allowed = "letters, digits, '_', '-', '.'"
    parser.add_argument("--name", type=_named("name"), required=True, help=f"name of the bundle: {allowed}")
    parser.add_argument(
        "--version", type=_named("version"), required=True, help="version of the bundle, likewise; must not exist yet"
    )
    parser.add_argument("--state-dtype", choices=("float32", "float16"), default="float32", help="(default: float32)")
    parser.add_argument("--events", type=int, help=f"DIN and DIEN: last events that a list keeps (default: {EVENTS})")


def _named(what: str) -> Callable[[str], str]:
    """Refuses a name before the model is loaded and its graphs are made."""

    def checked(text: str) -> str:
        try:
            return check_name(what, text)
        except BundleError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return checked


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m mimn.export", description="Write a model as a bundle for serving.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", type=Path, help="folder of a training run")
    source.add_argument("--again", type=Path, metavar="BUNDLE", help="a bundle whose model is exported again")
    source.add_argument("--untrained", action="store_true", help="a model with random weights")
    add_bundle_arguments(parser)
    parser.add_argument("--weights", type=Path, help="with --again: the model.safetensors of the bundle's model")
    random = parser.add_argument_group("with --untrained")
    random.add_argument("--config", type=Path, help="TOML file with a [model] table (default: the default sizes)")
    random.add_argument("--fields", type=Path, help="JSON file of fields, such as a run's fields.json")
    random.add_argument("--items", type=whole_number(0), default=3600, help="ids 1 to ITEMS (default: 3600)")
    random.add_argument("--categories", type=whole_number(0), default=40, help="ids 1 to CATEGORIES (default: 40)")
    random.add_argument("--seed", type=whole_number(0), default=0, help="(default: 0)")
    args = parser.parse_args(arguments)
    if (args.again is None) != (args.weights is None):
        parser.error("--again and --weights go together: a bundle holds only graphs, not the weights")
    if args.again is not None and args.events is not None:
        parser.error("--again keeps how many events a list has: leave --events out")
    torch.set_num_threads(1)
    try:
        if args.run is not None:
            path = export_run(args.run, args.output, args.name, args.version, args.state_dtype, events=args.events)
        elif args.again is not None:
            path = export_again(
                args.again,
                args.weights,
                args.output,
                name=args.name,
                version=args.version,
                state_dtype=args.state_dtype,
            )
        else:
            specs, config = specs_of(args.fields), config_of(args.config)
            ids = np.arange(1, args.items + 1, dtype=np.uint64)
            model = untrained_model(config, args.items, args.categories, args.seed, specs)
            path = export_any(
                model,
                ids,
                np.arange(1, args.categories + 1, dtype=np.uint64),
                args.output,
                name=args.name,
                version=args.version,
                state_dtype=args.state_dtype,
                events=list_length(model, args.events),
                facts=RunFacts(
                    training={"untrained": True, "seed": args.seed},
                    codes=drawn_codes(specs),
                    table=drawn_table(config, ids, np.random.default_rng(args.seed)),
                    members=drawn_members(config, ids, np.random.default_rng(args.seed)),
                ),
            )
    except FAILURES as error:
        print(f"export: {error}", file=sys.stderr)
        return 1
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
