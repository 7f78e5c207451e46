"""`ctr licenses`: the license of every installed package, from its own metadata; exit status 1 if one names none."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata

UNKNOWN = "unknown"
OURS = frozenset({"ctr-proto", "ctr-access", "ctr-serving", "mimn", "uic", "rtp", "localstack"})
LONGEST = 60
"""Characters of a license field that are still a name; longer ones are the license's text."""


@dataclass(frozen=True)
class Package:
    """An installed package and the license that its metadata names."""

    name: str
    version: str
    license: str


def license_of(fields: metadata.PackageMetadata) -> str:
    """The license by its SPDX expression, else by its classifiers, else by the free text of its license field."""
    if expressions := fields.get_all("License-Expression"):
        return str(expressions[0])
    classifiers = [text.split(" :: ") for text in fields.get_all("Classifier") or []]
    names = [parts[-1] for parts in classifiers if parts[0] == "License" and parts[-1] != "OSI Approved"]
    if names:
        return ", ".join(names)
    text = "".join(fields.get_all("License") or []).strip()
    first = text.splitlines()[0].strip() if text else ""
    return first if 0 < len(first) <= LONGEST and first.upper() != "UNKNOWN" else UNKNOWN


def installed(distributions: Iterable[metadata.Distribution]) -> list[Package]:
    """All of them but our own, by name."""
    found = {
        d.metadata["Name"].lower(): Package(d.metadata["Name"], d.version, license_of(d.metadata))
        for d in distributions
    }
    return [found[name] for name in sorted(found) if name.replace("_", "-") not in OURS]


def main(arguments: Sequence[str]) -> int:
    """Print them; see the module's text."""
    parser = argparse.ArgumentParser(prog="ctr licenses", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON list")
    asked = parser.parse_args(arguments)
    packages = installed(metadata.distributions())
    unknown = [package.name for package in packages if package.license == UNKNOWN]
    if asked.json:
        print(json.dumps([asdict(package) for package in packages], indent=1))
    else:
        width = max(len(f"{package.name} {package.version}") for package in packages)
        for package in packages:
            print(f"{package.name} {package.version}".ljust(width), "", package.license)
        print(f"\n{len(packages)} packages; no license named by: {', '.join(unknown) or 'none of them'}")
    return 1 if unknown else 0
