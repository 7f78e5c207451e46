"""What the facts about Redis or Valkey mean, a function a check. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from uic.core.deployment import NO_ANSWER_FIX, Finding, fail, ok, warn
from uic.tools.doctor.versions import version_numbers

OLDEST_STORE = (7, 2)
SEE_OUTAGE = "docs/runbooks/store-outage.md says for each answer what to do"


@dataclass(frozen=True, kw_only=True)
class StoreFacts:
    """What the store reports about itself."""

    server: str
    """"redis" or "valkey"."""
    version: str
    """The server's own version number."""
    policy: str | None
    """`maxmemory-policy`."""
    max_bytes: int
    """`maxmemory`; 0 is no limit."""
    used_bytes: int
    append_only: bool | None
    snapshots: str | None
    """The `save` setting; "" is off."""
    clustered: bool
    role: str
    """"master" or "slave"."""
    clock_ahead_s: float
    """The store's clock minus ours, corrected by half the round trip."""
    address: str = ""
    """Of one of a cluster's masters."""


def store_reachable(name: str, error: str | None, fix: str = "") -> Finding:
    """The store answers. `name`: its URL without credentials, or its master as the Sentinels name it; `fix` is empty if
    the error does not say what to do."""
    if error is None:
        return ok("store", f"{name} answers")
    return fail("store", f"{name}: {error}", fix or "start Redis or Valkey there, or correct UIC_REDIS__URL")


def store_version(facts: StoreFacts) -> Finding:
    """Redis or Valkey, 7.2 or newer."""
    seen = f"{facts.server} {facts.version}"
    numbers = version_numbers(facts.version)
    if len(numbers) < 2:
        return warn("store version", seen, "the version is unreadable: make sure that it is 7.2 or newer")
    if numbers[:2] < OLDEST_STORE:
        return fail("store version", seen, "upgrade to Redis 7.2 or Valkey 7.2, or newer")
    return ok("store version", seen)


def store_writable(facts: StoreFacts, mode: str) -> Finding:
    """The connection is to a master. `mode` as `store_mode`."""
    if facts.role != "master":
        fix = "wait until the Sentinels name its master" if mode == "sentinel" else "point UIC_REDIS__URL at the master"
        return fail("store role", f"connected to a {facts.role}", fix)
    return ok("store role", "master")


def store_writes(refused: Mapping[str, str]) -> Finding:
    """The masters take a commit, here and now, from the user that the settings name."""
    check = "store writes"
    if not refused:
        return ok(check, "a commit was written and deleted again")
    seen = "; ".join(f"{server}: {said}" for server, said in sorted(refused.items()))
    return fail(check, seen, SEE_OUTAGE)


def store_memory(facts: StoreFacts) -> Finding:
    """Under `noeviction` a full store refuses writes, and every partition pauses."""
    check = "store memory"
    mib = 1 << 20
    if not facts.max_bytes:
        return ok(check, f"{facts.used_bytes / mib:.0f} MiB used, no limit set")
    share = facts.used_bytes / facts.max_bytes
    seen = f"{facts.used_bytes / mib:.0f} of {facts.max_bytes / mib:.0f} MiB used ({share:.0%})"
    if share >= 0.98:
        return fail(check, seen, "raise maxmemory or add memory: a full store refuses every commit")
    if share >= 0.8:
        return warn(check, seen, "raise maxmemory before the store is full and refuses commits")
    return ok(check, seen)


def store_persistence(facts: StoreFacts) -> Finding:
    """Without persistence a restart loses all states, and every partition is folded again from the log."""
    check = "store persistence"
    if facts.append_only:
        return ok(check, "append-only file on")
    if facts.append_only is None and facts.snapshots is None:
        return warn(check, "the server does not report it", NO_ANSWER_FIX)
    if facts.snapshots:
        return warn(
            check,
            f"snapshots only ({facts.snapshots})",
            "appendonly yes: with snapshots a crash rewinds states by minutes, and they are folded again",
        )
    return warn(
        check,
        "off",
        "appendonly yes: without persistence a restart means folding the whole log again",
    )


def store_mode(facts: StoreFacts, mode: str) -> Finding:
    """The setting matches the server. `mode` is the setting: single, sentinel or cluster."""
    check = "store mode"
    if facts.clustered and mode != "cluster":
        return fail(check, f"the server runs in cluster mode, the setting says {mode}", "set UIC_REDIS__MODE=cluster")
    if mode == "cluster" and not facts.clustered:
        return fail(check, "the setting says cluster, the server is not in cluster mode", "set UIC_REDIS__MODE=single")
    return ok(check, mode)


def sentinels_quorum(trouble: str, untold: str) -> Finding:
    """The Sentinels are enough to replace the master. `trouble`: that they are not; `untold`: why they did not say."""
    check = "sentinel quorum"
    if trouble:
        fix = f"start the Sentinels that are missing, or see why the others do not reach them: {SEE_OUTAGE}"
        return fail(check, trouble, fix)
    if untold:
        return warn(check, f"not told: {untold}", "give the user at the Sentinels +sentinel|ckquorum, to be told")
    return ok(check, "enough Sentinels to replace the master")
