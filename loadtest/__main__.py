"""`python -m loadtest`: requests to a running RTP by a schedule, each timed from when it was due.

    python -m loadtest fixed --rate 500 --seconds 20
    python -m loadtest step --rates 100,200,400 --seconds 10
    python -m loadtest spike --rate 100 --peak 500 --seconds 60
    python -m loadtest knee --limit-ms 50
    python -m loadtest soak --rate 100 --seconds 3600

The exit status is 0 if every phase kept up without an error, 1 if not, 2 if nothing could be sent, 130 if it was ended
(Ctrl-C, SIGTERM).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import httpx

from loadtest import knee
from loadtest.generator import PATIENCE_S, USERS, Asking, Generator, headers
from loadtest.population import Population
from loadtest.result import Run
from loadtest.schedule import Schedule, fixed, soak, spike, steps
from mimn.bundle import BundleError

BODIES = 1000
WARM_PER_S, WARM_S = 20, 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Send, print and write the results."""
    given = parser().parse_args(arguments)
    try:
        asking = asking_of(given)
        schedule = schedule_of(given)
        greet(given.host, asking)
        generator = Generator(
            given.host, asking, users=given.users, patience_s=given.patience_s, server_pids=given.server_pid
        )
    except (BundleError, ValueError, OSError, httpx.HTTPError, httpx.InvalidURL) as error:
        print(f"loadtest: {error}", file=sys.stderr)
        return 2
    with generator:
        generator.run(Schedule(fixed(WARM_PER_S, WARM_S)))
        if schedule is None:
            found = find_knee(generator, given)
            runs, held = [tried.run for tried in found], knee.knee(found) is not None
        else:
            runs = [generator.run(schedule)]
            held = runs[0].trusted
            print(runs[0])
    if given.json:
        given.json.write_text(json.dumps({"mode": given.mode, "runs": [run.to_json() for run in runs]}) + "\n", "utf-8")
    if runs[-1].cut:
        return 130
    return 0 if held else 1


def asking_of(given: argparse.Namespace) -> Asking:
    """What is asked: requests of a population, or those of a file.

    Raises:
        BundleError: the population's bundle cannot be used.
        ValueError, OSError: a file or a variable of the population cannot be used.
    """
    told = headers(given.key_file, given.deadline_ms)
    if given.requests is None:
        return Asking(Population.from_environment().bodies(BODIES), given.path, told)
    asking = Asking.read(given.requests)
    return Asking(asking.bodies, asking.path, {**told, **asking.headers})


def find_knee(generator: Generator, given: argparse.Namespace) -> list[knee.Tried]:
    """Search, and print each rate as it was tried."""

    def measure(per_s: float) -> Run:
        seconds = min(max(given.seconds, given.least / per_s), 6 * given.seconds)
        return generator.run(Schedule(fixed(per_s, seconds), given.gaps, given.seed))

    found = []
    limits = knee.Limits(given.limit_ms)
    for tried in knee.search(measure, given.start, given.most, limits, factor=given.factor, halvings=given.halvings):
        found.append(tried)
        print(tried.run, "holds" if tried.holds else "does not hold", sep="\n", flush=True)
        if tried.run.cut:
            return found
    highest = knee.knee(found)
    if highest is None:
        print(f"not even {given.start:g}/s holds: choose a lower --start")
    elif all(tried.holds for tried in found):
        print(f"{highest:.1f}/s holds, and no higher rate was tried (--most {given.most:g})")
    else:
        print(f"knee: {highest:.1f} requests/s")
    return found


def schedule_of(given: argparse.Namespace) -> Schedule | None:
    """The schedule of a mode; None for the search.

    Raises:
        ValueError: nothing would ever be due.
    """
    match given.mode:
        case "fixed":
            phases = fixed(given.rate, given.seconds)
        case "step":
            phases = steps(given.rates, given.seconds)
        case "spike":
            phases = spike(given.rate, given.peak, given.seconds)
        case "soak":
            phases = soak(given.rate, given.seconds)
        case _:
            return None
    return Schedule(phases, given.gaps, given.seed)


def greet(host: str, asking: Asking) -> None:
    """One request, so that a wrong address or key is one error and not thousands.

    Raises:
        ValueError: the answer is not a score.
        httpx.HTTPError, httpx.InvalidURL: there is no answer.
    """
    # A transport of its own is asked directly, as the load is sent: no proxy of the environment is asked for either.
    with httpx.Client(transport=httpx.HTTPTransport(), timeout=10) as client:
        answer = client.post(f"{host}{asking.path}", content=asking.bodies[0], headers=dict(asking.headers))
    if answer.status_code in (401, 403):
        raise ValueError(
            f"{host} answered {answer.status_code}: name a file with a key that has the scope `predict` (--key-file)"
        )
    if answer.status_code != httpx.codes.OK:
        raise ValueError(f"{host}{asking.path} answered {answer.status_code}: {answer.text[:200]}")


def parser() -> argparse.ArgumentParser:
    """The command line; every default is small enough to be sent by accident."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--host", default="http://127.0.0.1:8000", help="http(s)://host:port (default %(default)s)")
    common.add_argument("--path", default="/predict")
    common.add_argument("--requests", type=Path, help="file of requests in another protocol, in place of a population")
    common.add_argument("--key-file", type=Path, help="file whose first line is a key with the scope `predict`")
    common.add_argument("--deadline-ms", type=int, help="sent with each request (default: the server's own)")
    common.add_argument("--gaps", choices=["constant", "poisson"], default="constant", help="between requests")
    common.add_argument("--seed", type=int, default=0, help="of Poisson gaps")
    common.add_argument("--users", type=int, default=USERS, help="requests under way at once (default %(default)s)")
    common.add_argument(
        "--patience-s", type=float, default=PATIENCE_S, help="how long a request waits for one of them (%(default)s)"
    )
    common.add_argument(
        "--server-pid",
        type=int,
        action="append",
        default=[],
        help="local process whose CPU time is reported; repeatable",
    )
    common.add_argument("--json", type=Path, help="file for all figures and raw histograms")
    modes = parser.add_subparsers(dest="mode", required=True)

    def mode(name: str, text: str, seconds: float) -> argparse.ArgumentParser:
        added = modes.add_parser(name, help=text, parents=[common])
        added.add_argument("--seconds", type=float, default=seconds, help="default %(default)s")
        return added

    added = mode("fixed", "one rate", 20.0)
    added.add_argument("--rate", type=float, default=100.0, help="requests a second (default %(default)s)")
    added = mode("step", "rates one after the other, --seconds each", 10.0)
    added.add_argument("--rates", type=_rates, default=[50.0, 100.0, 200.0], help="with commas (default 50,100,200)")
    added = mode("spike", "a rate, a fifth of the time at the peak, the rate again", 60.0)
    added.add_argument("--rate", type=float, default=50.0)
    added.add_argument("--peak", type=float, default=250.0)
    added = mode("knee", "raise the rate until it does not hold, then narrow down; --seconds each", 10.0)
    added.add_argument("--start", type=float, default=50.0, help="first rate (default %(default)s)")
    added.add_argument("--most", type=float, default=1000.0, help="never more than this (default %(default)s)")
    added.add_argument("--factor", type=float, default=1.5, help="from one rate to the next (default %(default)s)")
    added.add_argument("--halvings", type=int, default=3, help="steps to narrow down (default %(default)s)")
    added.add_argument("--limit-ms", type=float, help="a rate holds only if its p99 is at most this")
    added.add_argument("--least", type=int, default=50, help="requests at each rate, if six times --seconds suffice")
    added = mode("soak", "one rate for long, reported in ten parts", 600.0)
    added.add_argument("--rate", type=float, default=100.0)
    return parser


def _rates(text: str) -> list[float]:
    return [float(rate) for rate in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
