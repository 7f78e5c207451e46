"""How late a process is woken on a machine that others use too, with the kernel's slices and with short ones, in turn.

    PYTHONPATH=tests python -m bench.wakeups [--slice-us 100] [--rounds 6]

A thread sleeps for 5 ms and computes for some 0.1 ms, as a process that answers requests does; what is counted is how
much later than asked for that is done. Run it beside what usually runs on the machine; alone it shows nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Sequence

import numpy as np

from rtp.slices import ask_for_slices, current_slice_us

SLEEP_S = 0.005
SLEEPS = 300
"""A round's."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slice-us", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=6)
    options = parser.parse_args(arguments)
    late: dict[int, list[list[float]]] = {}
    for _ in range(options.rounds):
        for slice_us in (0, options.slice_us):
            thread = threading.Thread(target=lambda us=slice_us: late.setdefault(us, []).append(_late_ms(us)))
            thread.start()
            thread.join()
    medians = {
        "the kernel's" if not us else f"{us} us": dict(
            zip(("p50_ms", "p95_ms", "p99_ms"), np.round(np.median(rounds, axis=0), 2).tolist(), strict=True)
        )
        for us, rounds in late.items()
    }
    about = {"nice": os.nice(0), "load_average": os.getloadavg()[0], "kernels_slice_us": current_slice_us()}
    print(json.dumps({**about, "medians_of_rounds": medians}))
    return 0


def _late_ms(slice_us: int) -> list[float]:
    """Median, 95th and 99th percentile of a round in this thread."""
    if slice_us and not ask_for_slices(slice_us):
        raise SystemExit("this kernel grants no slices: Linux 6.12 or newer is needed")
    late = []
    for _ in range(SLEEPS):
        due = time.perf_counter() + SLEEP_S
        time.sleep(SLEEP_S)
        sum(range(3000))
        late.append((time.perf_counter() - due) * 1000)
    found: list[float] = np.quantile(late, (0.5, 0.95, 0.99)).tolist()
    return found


if __name__ == "__main__":
    sys.exit(main())
