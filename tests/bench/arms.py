"""What several releases cost RTP: processor time for a request with one arm, with two, and with a shadow of all users.

    PYTHONPATH=tests python -m bench.arms [--rounds 8] [--requests 1500] [--candidates 100]

One RTP process on a real Valkey, and one client on one connection. The rollout record is changed between windows of
requests, in turn, so that whatever else the machine does meets all of them alike. `two arms` are two fingerprints with
half of the users each, compared with the mean of what each of the two costs alone: what is left is the routing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from functools import partial
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import psutil
import redis
from msgspec.structs import replace

from localstack.ports import LOOPBACK
from localstack.uic_and_rtp import RtpProcess, Surroundings
from localstack.valkey import Valkey
from localstack.wait import until
from mimn.bundle import load_bundle
from mimn.bundle.manifest import HEAD
from mimn.release import Arm, Record, Release, encode_record, record_key
from support.bundles import SKETCH, TINY
from support.stored import Stored, now_ms

USERS = [f"user-{i}" for i in range(2000)]
HALF = ((0, 5000),)
ALL = ((0, 10_000),)


def released(path: Path) -> Release:
    """The release of a bundle."""
    bundle = load_bundle(path)
    of = bundle.manifest
    return Release(of.name, of.version, bundle.sha256, of.files[HEAD], of.fingerprint, 0)


def main() -> int:
    """Measure, and print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--requests", type=int, default=1500, help="in each window")
    parser.add_argument("--candidates", type=int, default=100)
    options = parser.parse_args()
    old, new = released(TINY), released(SKETCH)
    one = Record(revision=1, salt="0123456789abcdef", serving=old)
    modes = {
        "one arm": one,
        "one arm, the other release": replace(one, serving=new),
        "two arms": replace(one, arms=(Arm("canary", new, HALF),)),
        "shadow": replace(one, shadows=(Arm("shadow", new, ALL),)),
    }
    candidates = [{"item_id": i + 1, "category_id": i % 9} for i in range(options.candidates)]
    bodies = [json.dumps({"user_id": user, "candidates": candidates}).encode() for user in USERS]
    spent: dict[str, list[float]] = {mode: [] for mode in modes}
    with tempfile.TemporaryDirectory(prefix="arms-") as made, Valkey(Path(made) / "valkey", appendfsync="no") as store:
        client = redis.Redis.from_url(store.address, protocol=2)
        for path in (TINY, SKETCH):
            stored = Stored(load_bundle(path), partitions=8)
            for user in USERS:
                stored.state(user)
            for partition in range(8):  # warm for as long as this runs
                stored.progress(partition, as_of_ms=now_ms())
            client.mset(stored.values)
        bundles = Path(made) / "bundles"
        for path in (TINY, SKETCH):
            (bundles / path.parent.name).mkdir(parents=True)
            (bundles / path.parent.name / path.name).symlink_to(path)
        told = {
            "RTP_BUNDLES__FOLDER": str(bundles),
            "RTP_SHADOW__CPU_SHARE": "1",
            "RTP_STATE__STALE_AFTER_S": "3600",
        }
        rtp = RtpProcess("rtp", Path(made) / "rtp", Surroundings("", store.address, TINY, rtp=told))
        rtp.start()
        try:
            assert rtp.child is not None
            process = psutil.Process(rtp.child.pid)
            connection = HTTPConnection(LOOPBACK, rtp.ports["http"], timeout=30)
            admin = HTTPConnection(LOOPBACK, rtp.ports["admin"], timeout=30)
            for turn in range(options.rounds + 1):
                for number, (mode, record) in enumerate(modes.items()):
                    revision = 1 + turn * len(modes) + number
                    now = replace(record, revision=revision)
                    client.set(record_key("uic"), encode_record(now))
                    until(partial(follows, admin, now), "it follows", within_s=60)
                    before = sum(process.cpu_times()[:2])
                    for at in range(options.requests):
                        ask(connection, bodies[at % len(bodies)])
                    took = (sum(process.cpu_times()[:2]) - before) / options.requests * 1000
                    if turn:  # the first round warms up
                        spent[mode].append(took)
            connection.close()
            shed = metrics(admin, "rtp_shadow_shed_total")
            scored = metrics(admin, "rtp_shadow_seconds_count")
        finally:
            rtp.stop()
    base = [(a + b) / 2 for a, b in zip(spent["one arm"], spent["one arm, the other release"], strict=True)]
    ratios = {mode: [a / b for a, b in zip(spent[mode], base, strict=True)] for mode in ("two arms", "shadow")}
    print(
        json.dumps(
            {
                "cpu_ms_per_request": {mode: summary(values) for mode, values in spent.items()},
                "two arms against one": summary(ratios["two arms"]),
                "shadow of every request against one arm of the same release": summary(
                    [a / b for a, b in zip(spent["shadow"], spent["one arm"], strict=True)]
                ),
                "shadow": {"scored": scored, "shed": shed},
                "candidates": options.candidates,
                "requests": options.requests * options.rounds * len(modes),
            },
            indent=2,
        )
    )
    return 0


def summary(values: list[float]) -> dict[str, float]:
    """Median and range."""
    return {
        "median": round(statistics.median(values), 3),
        "least": round(min(values), 3),
        "most": round(max(values), 3),
        "p25": round(float(np.quantile(values, 0.25)), 3),
        "p75": round(float(np.quantile(values, 0.75)), 3),
    }


def ask(connection: HTTPConnection, body: bytes) -> None:
    """One request; it must be answered."""
    connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    answer.read()
    if answer.status != 200:
        raise RuntimeError(f"answered {answer.status}")


def follows(admin: HTTPConnection, record: Record) -> bool:
    """Whether RTP serves by this record, with everything loaded that it names."""
    admin.request("GET", "/releases")
    told = json.loads(admin.getresponse().read())
    served = [one["bundle"] for one in (*told["arms"], *told["shadows"])]
    wanted = [record.serving, *(arm.release for arm in (*record.arms, *record.shadows))]
    return told["revision"] == record.revision and served == [release.bundle for release in wanted]


def metrics(admin: HTTPConnection, name: str) -> float:
    """The sum of a metric over its labels."""
    admin.request("GET", "/metrics")
    text = admin.getresponse().read().decode()
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))


if __name__ == "__main__":
    sys.exit(main())
