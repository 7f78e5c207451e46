"""Another generator for one point: wrk, whose figures must agree with ours where both measure the same thing.

wrk sends the next request as soon as it has an answer, so the two are compared where that makes no difference: one
connection, one request at a time. It is Debian's package `wrk`.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MISSING = "wrk is not installed, so no other generator has checked these figures: install Debian's package wrk"
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


@dataclass(frozen=True)
class Wrk:
    """What wrk says."""

    p50_ms: float
    p99_ms: float
    per_s: float
    failed: int


def installed() -> bool:
    """Whether wrk is on the path."""
    return shutil.which("wrk") is not None


def ask(url: str, bodies: Sequence[bytes], seconds: int, connections: int = 1) -> Wrk:
    """Post `bodies` in turn for `seconds`, one at a time over each of `connections`.

    Raises:
        subprocess.CalledProcessError: wrk failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "post.lua"
        # A JSON string of ASCII is a Lua string as well.
        listed = ",\n".join(json.dumps(body.decode()) for body in bodies)
        script.write_text(
            f"local bodies = {{\n{listed}\n}}\nlocal number = 0\n"
            'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\n'
            "function request()\n  number = number % #bodies + 1\n"
            "  return wrk.format(nil, nil, nil, bodies[number])\nend\n",
            "utf-8",
        )
        command = ["wrk", "--latency", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), url]
        return read(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def read(said: str) -> Wrk:
    """What wrk wrote with `--latency`.

    Raises:
        ValueError: something else.
    """
    percentiles = dict(re.findall(r"^\s+(50|99)%\s+(\S+)$", said, re.MULTILINE))
    rate = re.search(r"^Requests/sec:\s+([\d.]+)$", said, re.MULTILINE)
    if percentiles.keys() != {"50", "99"} or rate is None:
        raise ValueError(f"this is not what wrk writes: {said[:200]!r}")
    statuses = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    sockets = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", said)
    failed = sum(int(number) for found in (statuses, sockets) if found for number in found.groups())
    return Wrk(1000 * _seconds(percentiles["50"]), 1000 * _seconds(percentiles["99"]), float(rate[1]), failed)


def _seconds(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)([a-z]+)", text).groups()  # type: ignore[union-attr] # wrk's own format
    return float(number) * _UNITS[unit]
