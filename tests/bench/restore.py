"""How long a lost store takes to come back from a snapshot, for a number of users.

    PYTHONPATH=tests python -m bench.restore --users 1000000 [--bundle models/bundles/online-retail-sketch/1]

Some thousand users are folded by a backfill, and all others get a copy of such a state, scaled, under their own name:
that saves the time to fold them, and a state has one size whatever it was folded from. `ctr snapshot create` and
`verify` save them, the store is lost (it keeps nothing on disk, and starts again), and `ctr snapshot restore` brings
them back: commands as an operator runs them, each a process, with a real Valkey and a broker
(KAFKA_BOOTSTRAP_SERVERS, or the small one). In the end every value is the same bytes as before.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import redis
from msgspec.structs import replace

from loadtest.feeder import produce
from localstack.dev_broker import DevBroker
from localstack.stack import BUNDLE
from localstack.topics import create_topics, topics
from localstack.uic_and_rtp import Surroundings, uic_variables
from localstack.valkey import Valkey
from mimn.bundle import Bundle, load_bundle
from mimn.state import Keys, UserState, decode_state, encode_state, namespace, partition_of, user_hash
from mimn.state.codec import HEADER_BYTES

PARTITIONS = 64
FOLDED = 3000
AT_ONCE = 500


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one JSON document; 0 if every state came back."""
    parser = argparse.ArgumentParser(prog="python -m bench.restore", description=__doc__)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--bundle", type=Path, default=BUNDLE)
    parser.add_argument("--bytes-per-s", type=float, default=1e9, help="of the restore: nobody reads an empty store")
    options = parser.parse_args(arguments)
    with ExitStack() as ending:
        folder = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="restore-")))
        store = ending.enter_context(Valkey(folder / "valkey", appendfsync="off"))
        bootstrap = (
            os.environ.get("KAFKA_BOOTSTRAP_SERVERS") or ending.enter_context(DevBroker(folder / "broker")).address
        )
        topic = f"restore-{os.getpid()}"
        create_topics(bootstrap, topics(topic, PARTITIONS))
        told = Surroundings(bootstrap, store.address, options.bundle, topic=topic, partitions=PARTITIONS, prefix=topic)
        print(json.dumps(_measured(told, folder, store, options), indent=2))
    return 0


def _measured(told: Surroundings, folder: Path, store: Valkey, options: argparse.Namespace) -> dict[str, Any]:
    variables = {**os.environ, **uic_variables(told, grpc_port=1, admin_port=2)}
    client = redis.Redis.from_url(told.redis_url, protocol=2)
    at = str(folder / "snapshots")

    def timed(*arguments: str) -> dict[str, float]:
        began, cpu = time.monotonic(), psutil.Process().cpu_times()
        subprocess.run([sys.executable, "-m", "uic", *arguments], env=variables, check=True, stdout=subprocess.DEVNULL)
        used = psutil.Process().cpu_times()
        spent = used.children_user + used.children_system - cpu.children_user - cpu.children_system
        return {"minutes": round((time.monotonic() - began) / 60, 2), "cpu_s": round(spent, 1)}

    produce(told.bootstrap, told.topic, (f"crowd-{i % FOLDED}" for i in range(20 * FOLDED)), told.bundle)
    bundle = load_bundle(told.bundle)
    found: dict[str, Any] = {
        "users": options.users,
        "bytes_a_state": HEADER_BYTES + bundle.layout.stored_bytes,  # at most: zeros are left out
    }
    fast = ("--bytes-per-s", str(options.bytes_per_s))
    timed("backfill", "--work", str(folder / "work"), *fast)
    _copy(client, bundle, told.prefix, options.users)
    before = _hash(client)
    found["store_gib"] = round(client.info("memory")["used_memory"] / 2**30, 2)
    found["create"] = timed("snapshot", "create", "--to", at)
    found["snapshot_gib"] = round(sum(f.stat().st_size for f in Path(at).rglob("*") if f.is_file()) / 2**30, 2)
    found["verify"] = timed("snapshot", "verify", "--from", at)
    store.kill()
    store.start()
    found["restore"] = timed("snapshot", "restore", "--from", at, *fast)
    after = _hash(client)
    found["same_bytes"] = before == after
    if before != after:
        raise SystemExit(f"the states differ: {before} before, {after} after")
    return found


def _copy(client: Any, bundle: Bundle, prefix: str, users: int) -> None:
    """Give users beyond the folded ones the state of a folded one of their partition, scaled by a factor of their own:
    equal copies would take a fifth of a snapshot's place."""
    random = np.random.default_rng(0)
    keys = Keys(namespace(bundle.manifest.fingerprint), prefix)
    folded: list[list[UserState]] = []
    for p in range(PARTITIONS):
        names = [name.decode() for name in client.smembers(keys.users(p))]
        values = client.mget([keys.state(p, name) for name in names])
        folded.append(
            [
                decode_state(value, bundle.fingerprint, bundle.layout, user_hash(name))
                for name, value in zip(names, values, strict=True)
            ]
        )
    pipeline = client.pipeline(transaction=False)
    for i in range(FOLDED, users):
        name = f"crowd-{i}"
        p = partition_of(name.encode(), PARTITIONS)
        one = folded[p][i % len(folded[p])]
        tensors = bundle.layout.round(one.tensors * np.float32(random.uniform(0.9, 1.1)))
        state = UserState(replace(one.header, user=user_hash(name)), tensors)
        pipeline.set(keys.state(p, name), encode_state(state, bundle.fingerprint, bundle.layout))
        pipeline.sadd(keys.users(p), name)
        if i % AT_ONCE == 0:
            pipeline.execute()
    pipeline.execute()


def _hash(client: Any) -> tuple[int, str]:
    """How many states there are, and a hash of all of them that does not depend on their order."""
    count = total = 0
    names: list[bytes] = []

    def add() -> None:
        nonlocal count, total
        for name, value in zip(names, client.mget(names), strict=True):
            count += 1
            total ^= int.from_bytes(hashlib.blake2b(name + value, digest_size=16).digest())
        names.clear()

    for name in client.scan_iter(match="*}:s:*", count=1000):
        names.append(name)
        if len(names) == 500:
            add()
    if names:
        add()
    return count, f"{total:032x}"


if __name__ == "__main__":
    sys.exit(main())
