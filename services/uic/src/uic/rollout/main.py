"""`ctr rollout`: arguments, output, and exit codes.

0 done    1 refused, or no answer    2 called wrongly    3 a gate is closed    4 changed by another command meanwhile
5 not ready within --timeout
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, TextIO

from mimn.bundle import BundleError, GoldenMismatch
from mimn.options import not_negative, positive, whole_number
from mimn.release import Conflict, CorruptRecord, Finding, GateClosed, Refused
from uic.errors import StartRefused, StoreUnavailable
from uic.redis_client import FAILURES, open_client
from uic.rollout.comparison import Extent
from uic.rollout.gates import Demands
from uic.rollout.planning import RATE
from uic.rollout.verbs import ALL_THE_SAME, Answer, TimedOut, Verbs
from uic.rollout.views import finding_view
from uic.settings import read_client_settings
from uic.store_failures import no_answer
from uic.tools.interrupted import says_if_interrupted
from uic.tools.table import table

REFUSED, CLOSED, RACED, LATE = 1, 3, 4, 5
UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
LONGEST_S: Final = 36_500 * UNITS["d"]
"""The time that it ends at can be written as a date."""
EPILOG: Final = (
    "Exit codes: 0 done; 1 refused (gc: at least one namespace), or no answer; 2 called wrongly; 3 a gate is closed, "
    "or the rollout is failing; 4 another command changed the record meanwhile: look again; 5 not ready within "
    "--timeout. Every subcommand may be run again."
)


def main(arguments: Sequence[str] | None = None, out: TextIO | None = None) -> int:
    """Run a subcommand; see `EPILOG` for what it returns."""
    options = build_parser().parse_args(arguments)
    settings = read_client_settings()
    settings.kafka.check_files()
    client = None
    try:
        client = open_client(settings.redis)
        answer = _run(Verbs(client, settings, _demands(options), tell=_tell), options)
    except GateClosed as closed:
        _show_closed(closed, as_json=options.json, out=out)
        return CLOSED
    except Conflict as conflict:
        return _failed(conflict, RACED, as_json=options.json, out=out)
    except TimedOut as late:
        return _failed(late, LATE, as_json=options.json, out=out)
    except (Refused, CorruptRecord, BundleError, GoldenMismatch, StoreUnavailable, StartRefused) as refused:
        return _failed(refused, REFUSED, as_json=options.json, out=out)
    except FAILURES as error:
        return _failed(Refused(no_answer(error)), REFUSED, as_json=options.json, out=out)
    finally:
        if client is not None:
            client.close()
    _show(answer, as_json=options.json, out=out)
    return REFUSED if answer.refused else 0


def seconds(text: str) -> float:
    """A duration such as `30s`, `5m`, `24h`, up to a century; a plain number is seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?", text)
    if match is None or (value := float(match[1]) * UNITS[match[2] or "s"]) > LONGEST_S:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a duration such as 30s, 5m or 24h, up to 36500d")
    return value


def _run(verbs: Verbs, options: argparse.Namespace) -> Answer:
    match options.verb:
        case "plan":
            return verbs.plan(options.bundle, options.origin, options.generation, options.rate)
        case "start":
            return verbs.start(options.bundle, options.origin, options.generation, options.rate)
        case "wait":
            return verbs.wait(options.id, options.timeout)
        case "canary":
            return verbs.canary(options.id, options.percent)
        case "shadow":
            return verbs.shadow(options.id, options.percent)
        case "promote":
            return verbs.promote(options.id, options.keep_for, dry_run=options.dry_run)
        case "abort":
            return verbs.abort(options.id, options.reason)
        case "rollback":
            return verbs.rollback(options.id, options.reason, force=options.force)
        case "list":
            return verbs.listing()
        case "describe":
            return verbs.describe(options.id)
        case "log":
            return verbs.log(options.id)
        case _:
            with says_if_interrupted("ctr rollout gc", "run it again, and it goes on"):
                return verbs.gc()


def build_parser() -> argparse.ArgumentParser:
    """The arguments of every subcommand."""
    parser = argparse.ArgumentParser(
        prog="ctr rollout", description="Move traffic from one release to another, and back.", epilog=EPILOG
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="verb")

    def verb(name: str, text: str, *, rollout: str = "", gates: bool = False) -> argparse.ArgumentParser:
        one = verbs.add_parser(name, help=text, description=text, epilog=EPILOG)
        if rollout:
            one.add_argument("id", nargs="?" if rollout == "?" else None, help="as `list` shows it, such as r3")
        one.add_argument("--json", action="store_true", help="one JSON document")
        if gates:
            _add_gates(one)
        return one

    for name, text in (
        ("plan", "What a rollout would take, before anything is written."),
        ("start", "Begin a rollout."),
    ):
        one = verb(name, text)
        one.add_argument("bundle", type=Path, help="folder …/<name>/<version>")
        one.add_argument(
            "--from", dest="origin", default="log", metavar="ORIGIN",
            help="where new states come from: log (default), backfill, snapshot:ID, or topic:NAME, another event topic",
        )  # fmt: skip
        one.add_argument(
            "--generation",
            type=whole_number(0),
            help="of the namespace (default: that in service, that of an earlier rollout, or the first free one)",
        )
        one.add_argument(
            "--rate", type=positive, default=RATE, help="events a second to count on (default %(default)s)"
        )
    verb("wait", "Look at a rollout until it is ready.", rollout="1", gates=True).add_argument(
        "--timeout",
        type=seconds,
        default=seconds("24h"),
        help="such as 10m (default 24h); no comparison of users outlasts it",
    )
    canary = verb("canary", "Answer a share of users with the new release.", rollout="1", gates=True)
    canary.add_argument("--percent", type=positive, required=True, help="of the users, from 0.01 to 100")
    shadow = verb(
        "shadow", "Score a share of users' requests with the new release as well, without answering.", rollout="1"
    )
    shadow.add_argument("--percent", type=not_negative, required=True, help="of the users; 0 ends it")
    promote = verb("promote", "Answer all users with the new release, if every gate is open.", rollout="1", gates=True)
    promote.add_argument(
        "--keep-for", type=seconds, default=seconds("24h"), help="how long the previous release is kept (default 24h)"
    )
    promote.add_argument("--dry-run", action="store_true", help="look at the gates, change nothing")
    verb("abort", "Give up a rollout that does not serve everybody.", rollout="1").add_argument(
        "--reason", default="aborted by the operator"
    )
    rollback = verb("rollback", "Answer all users with the previous release again.", rollout="?")
    rollback.add_argument("--reason", default="rolled back by the operator")
    rollback.add_argument(
        ALL_THE_SAME,
        dest="force",
        action="store_true",
        help="although partitions of its namespace are lost: their users are answered without their states (cold)",
    )
    verb("list", "All rollouts.")
    verb("describe", "One rollout, and every gate as it is now.", rollout="1", gates=True)
    verb("log", "What happened, oldest first.", rollout="?")
    verb("gc", "Remove namespaces that nothing needs any more.")
    return parser


def _add_gates(parser: argparse.ArgumentParser) -> None:
    given = Demands()
    parser.add_argument(
        "--allowed-lag", type=seconds, default=given.allowed_lag_ms / 1000, help="of every partition (default 30s)"
    )
    parser.add_argument(
        "--steady-for",
        type=seconds,
        default=given.steady_ms / 1000,
        help="how long the lag must be allowed (default 5m)",
    )
    parser.add_argument(
        "--whole", type=whole_number(0), default=given.extent.whole, metavar="K",
        help="partitions of which every user is compared (default %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--sample", type=whole_number(0), default=given.extent.sample, metavar="N",
        help="users of the other partitions that are compared (default %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--other-events",
        action="store_true",
        help="the new states are rightly made of other events: those in service lack some or are spoiled, or the "
        "bundle folds other actions. Does not ask for equal users and digests (prove it by backfill --verify)",
    )
    parser.add_argument(
        "--accept-partial",
        action="store_true",
        help="more states may lack events than in service: for ledgers that were kept (ctr backfill --keep-ledgers)",
    )
    parser.add_argument(
        "--rtp",
        action="append",
        default=[],
        metavar="URL",
        help="an RTP's admin address that must have it loaded (default: all RTPs that announce themselves)",
    )


def _demands(options: argparse.Namespace) -> Demands:
    if not hasattr(options, "allowed_lag"):
        return Demands()
    return Demands(
        allowed_lag_ms=round(options.allowed_lag * 1000),
        steady_ms=round(options.steady_for * 1000),
        extent=Extent(options.whole, options.sample),
        other_events=options.other_events,
        accept_partial=options.accept_partial,
        rtp=tuple(options.rtp),
    )


# Output


def _show(answer: Answer, *, as_json: bool, out: TextIO | None) -> None:
    for reason in answer.refused or ():
        print(f"rollout: {reason}", file=sys.stderr)
    if as_json:
        refused = {} if answer.refused is None else {"refused": list(answer.refused)}
        print(json.dumps({**answer.view, **refused, "notes": list(answer.notes)}, indent=2), file=out)
        return
    for line in _lines(answer.view):
        print(line, file=out)
    for note in answer.notes:
        print(f"→ {note}", file=out)


def _lines(view: dict[str, Any]) -> list[str]:
    lines = []
    rows = {
        name: value for name, value in view.items() if isinstance(value, list) and value and isinstance(value[0], dict)
    }
    plain = {name: value for name, value in view.items() if name not in rows and value not in (None, [], {})}
    cells = [cell for name, value in plain.items() for cell in _cells(name, value)]
    lines += table(("", ""), cells)
    for found in rows.values():
        lines += table(tuple(found[0]), [tuple(row.values()) for row in found])
    return lines


def _cells(name: str, value: Any) -> list[tuple[str, Any]]:
    """A value's row; of a list of texts, a row each, and the name in the first."""
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        return [(name, value)]
    return [(name if i == 0 else "", one) for i, one in enumerate(value)]


def _tell(line: str) -> None:
    print(f"rollout: {line}", file=sys.stderr, flush=True)


def _show_closed(closed: GateClosed, *, as_json: bool, out: TextIO | None) -> None:
    if as_json:
        gates = [finding_view(one) for one in closed.findings]
        print(json.dumps({**closed.view, "gates": gates}, indent=2), file=out)
        return
    for line in _lines(closed.view):
        print(line, file=out)
    for one in closed.findings:
        print(_closed_line(one), file=sys.stderr)


def _closed_line(finding: Finding) -> str:
    return f"rollout: gate {finding.gate} is closed: {finding.reason}{' (time may open it)' if finding.passes else ''}"


def _failed(error: Exception, status: int, *, as_json: bool, out: TextIO | None) -> int:
    if as_json:
        print(json.dumps({"error": str(error)}), file=out)
    print(f"rollout: {error}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
