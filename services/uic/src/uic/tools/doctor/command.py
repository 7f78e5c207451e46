"""The command: gathers facts, and prints what the checks conclude from them. Exit status 1 when a check failed."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Final, TextIO

from mimn.options import positive
from mimn.state import Keys, namespace
from uic.core.deployment import Finding, Severity
from uic.settings import UicSettings, read_settings
from uic.tools.doctor.diagnosis import Facts, diagnose
from uic.tools.doctor.installation import gather_libraries, gather_model
from uic.tools.doctor.log_facts import gather_log
from uic.tools.doctor.store_facts import gather_store
from uic.tools.table import table

MARKS: Final = {Severity.OK: "ok  ", Severity.WARN: "WARN", Severity.FAIL: "FAIL"}


def main(arguments: Sequence[str] | None = None, out: TextIO | None = None) -> int:
    """Run the command. 0: no check failed; 1: one did; 2: called wrongly."""
    parser = argparse.ArgumentParser(prog="ctr doctor", description="Check a deployment and say what to fix.")
    parser.add_argument("--json", action="store_true", help="one JSON object: verdict and findings")
    parser.add_argument(
        "--timeout", type=positive, default=5.0, metavar="S", help="for each server (default %(default)s)"
    )
    options = parser.parse_args(arguments)
    settings = read_settings()
    found = list(diagnose(gather(settings, options.timeout), settings))
    verdict = worst(found)
    if options.json:
        print(json.dumps({"verdict": verdict, "findings": [asdict(f) for f in found]}, indent=2), file=out)
    else:
        for line in report(found):
            print(line, file=out)
    return 1 if verdict is Severity.FAIL else 0


def gather(settings: UicSettings, timeout_s: float) -> Facts:
    """Ask the store, the brokers, the bundle and the installation; each may fail by itself."""
    model = gather_model(settings)
    keys = None
    if model.fingerprint is not None:
        keys = Keys(namespace(model.fingerprint, settings.bundle.generation), settings.redis.prefix)
    store = gather_store(settings.redis, keys, settings.kafka.partitions, timeout_s)
    log = gather_log(settings.kafka, model.bundle, timeout_s)
    return Facts(
        now_ms=time.time_ns() // 1_000_000,  # not before the records are read, or they would be from the future
        store=store,
        log=log,
        model=model,
        libraries=gather_libraries(),
    )


def report(found: Sequence[Finding]) -> Iterator[str]:
    """The findings as lines for people."""
    rows = []
    for finding in found:
        rows.append((MARKS[finding.verdict], finding.check, finding.seen))
        if finding.fix:
            rows.append(("", "", f"→ {finding.fix}"))
    yield from table(("", "", ""), rows)
    counts = {verdict: sum(f.verdict is verdict for f in found) for verdict in Severity}
    yield f"{counts[Severity.OK]} ok, {counts[Severity.WARN]} to consider, {counts[Severity.FAIL]} to fix"


def worst(findings: Iterable[Finding]) -> Severity:
    """FAIL if any check failed, else WARN if any warned, else OK."""
    verdicts = {finding.verdict for finding in findings}
    return next((v for v in (Severity.FAIL, Severity.WARN) if v in verdicts), Severity.OK)
