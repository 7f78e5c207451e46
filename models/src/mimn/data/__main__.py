"""Commands about a data set that `dataset.toml` describes.

python -m mimn.data check dataset.toml [--json]      counts, spans, label rates, refused rows; exit 1 with findings
python -m mimn.data prepare dataset.toml             read the files once; training reads the result
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from mimn.data.check import Report, check
from mimn.data.events import DataError
from mimn.data.prepared import prepare

SHOWN_DAYS = 14


def cache_folder() -> Path:
    """Where prepared data sets are kept: `$CTR_CACHE`, else `ctr-serving` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("CTR_CACHE") or Path(base) / "ctr-serving") / "data"


def main(arguments: list[str] | None = None) -> int:
    """Run a command; see the module's text. Exit status 1: findings, or the data set cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m mimn.data", description="Data sets by description.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("check", "what a data set holds, and what to fix"),
        ("prepare", "read its files once"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("description", type=Path, help="dataset.toml")
        command.add_argument("--json", action="store_true", help="print JSON")
        if name == "prepare":
            command.add_argument("--cache", type=Path, default=cache_folder(), help="where to keep it (%(default)s)")
    options = parser.parse_args(arguments)
    try:
        if options.command == "check":
            report = check(options.description)
            print(json.dumps(asdict(report), indent=2) if options.json else rendered(report))
            return 1 if report.findings else 0
        prepared = prepare(options.description, options.cache)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    found = {"folder": str(prepared.folder), "rows": prepared.meta.rows, "refused": prepared.meta.refused}
    lines = [f"{name}: {value}" for name, value in found.items()]
    print(json.dumps(found, indent=2) if options.json else "\n".join(lines))
    return 0


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
