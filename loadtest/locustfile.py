"""RTP under locust: `locust -f loadtest/locustfile.py --host http://127.0.0.1:8000`, with its web page or `--headless`.

A schedule says when users send; their number is how many requests can be under way at once.
locust's page and tables count from when a request was due, as everything here does, but round their percentiles; the
exact ones are printed when the schedule has ended. `python -m loadtest` is the same without the page, with more
schedules. LOADTEST_* set the population (see `loadtest.population`), LOADTEST_KEY_FILE names the file with the key.
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser
from pathlib import Path

import gevent
from locust import events
from locust.env import Environment
from locust.runners import STATE_RUNNING, LocalRunner

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from loadtest.arrivals import Arrivals
from loadtest.generator import AdServer, Asking, headers, hold
from loadtest.population import Population
from loadtest.schedule import Schedule, fixed
from mimn.bundle import BundleError

__all__ = ["AdServer"]  # where locust finds its users


@events.init_command_line_parser.add_listener
def _options(parser: ArgumentParser) -> None:
    """Fields of the web page as well."""
    parser.add_argument("--rate", type=float, default=100.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long they come")
    parser.add_argument("--gaps", choices=["constant", "poisson"], default="constant", help="between requests")


@events.init.add_listener
def _prepare(environment: Environment, **_: object) -> None:
    if not isinstance(environment.runner, LocalRunner):
        sys.exit("loadtest: a schedule belongs to one process: run locust without --master, --worker and --processes")
    key_file = os.environ.get("LOADTEST_KEY_FILE")
    try:
        told = headers(Path(key_file) if key_file else None)
        asking = Asking(Population.from_environment().bodies(1000), headers=told)
    except (BundleError, ValueError, OSError) as error:
        sys.exit(f"loadtest: {error}")
    hold(environment, asking, Arrivals())


@events.test_start.add_listener
def _begin(environment: Environment, **_: object) -> None:
    arrivals = Arrivals()  # those of a test that was stopped half way are forgotten
    hold(environment, environment.asking, arrivals)  # type: ignore[attr-defined]
    driver = gevent.spawn(_drive, environment, arrivals)
    environment.events.test_stop.add_listener(lambda **_: driver.kill())


def _drive(environment: Environment, arrivals: Arrivals) -> None:
    runner, told = environment.runner, environment.parsed_options
    assert runner is not None and told is not None  # noqa: S101, PT018 - locust has made both before a test starts
    while runner.state != STATE_RUNNING:
        gevent.sleep(0.05)  # until every user has started
    try:
        schedule = Schedule(fixed(told.rate, told.seconds), told.gaps)
    except ValueError as error:
        print(f"loadtest: {error}", file=sys.stderr, flush=True)
        environment.process_exit_code = 1
    else:
        print(arrivals.drive(schedule), flush=True)
    # In a greenlet of its own, because the end of a test ends this one.
    gevent.spawn(runner.quit if environment.web_ui is None else runner.stop)
