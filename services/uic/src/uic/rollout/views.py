"""What the verbs show of rollouts, gates and processes: plain values, for tables and JSON."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from mimn import release as rollouts
from mimn.release import Announcement, Finding, Loaded, Record, Rollout
from uic.rollout.gates import Look


def summary(rollout: Rollout) -> dict[str, Any]:
    """A rollout's line in a list."""
    return {
        "id": rollout.id,
        "bundle": rollout.release.bundle,
        "state": rollout.state.value,
        "since": iso_time(rollout.changed_ms),
        "namespace": rollout.release.namespace,
        "reason": rollout.reason,
    }


def process_view(told: Announcement, record: Record | None) -> dict[str, Any]:
    """An RTP process, by what it has announced. A bundle that it has loaded under the name of another one of the record
    is told apart from that."""
    held = {} if record is None else {release.bundle: release.manifest for release in record.held}

    def role(one: Loaded) -> str:
        same = held.get(one.bundle, one.manifest) == one.manifest
        return one.role if same else f"{one.role}, another bundle than the record's: {one.manifest[:12]}…"

    return {
        "instance": told.instance,
        "revision": told.revision,
        "unread": told.unread or "",
        "loaded": ", ".join(f"{one.bundle} ({role(one)})" for one in told.loaded),
        "refused": "; ".join(f"{one.bundle}: {one.reason}" for one in told.refused),
    }


def rollout_view(record: Record, rollout: Rollout) -> dict[str, Any]:
    """A rollout and what its record says beside it."""
    shares = {arm.name: rollouts.size(arm.buckets) / rollouts.BUCKETS for arm in (*record.arms, *record.shadows)}
    return {
        **summary(rollout),
        "replaces": rollout.replaces.bundle,
        "head_only": rollout.head_only,
        "from": rollout.origin,
        "kept_until": iso_time(rollout.keep_until_ms) if rollout.keep_until_ms else None,
        "shares": shares,
        **_compares(record),
        "serving": record.serving.bundle,
        "revision": record.revision,
    }


def _compares(record: Record) -> dict[str, str]:
    """What a shadow compares, if that is less than its share: requests that its own release answers say nothing."""
    same = {arm.release for arm in record.shadows}
    answered = rollouts.table(arm.buckets for arm in record.arms if arm.release in same)
    scored = rollouts.table(arm.buckets for arm in record.shadows)
    wanted, left_out = sum(map(bool, scored)), sum(map(bool, map(min, answered, scored)))
    if not left_out:
        return {}
    compared, share = (f"{count / rollouts.BUCKETS:.2%}" for count in (wanted - left_out, wanted))
    return {
        "compares": f"{compared} of the users in the place of {share}: the canary answers the others by the shadow's "
        "own release. If the two have at most 100 % together, set the shadow's share again to compare all of it"
    }


def counted(look: Look) -> dict[str, Any]:
    """What a look at the states counted; nothing if it did not count."""
    if look.seen is None:
        return {}
    return {"users": look.seen.users, "compared": look.seen.compared, "whole_partitions": list(look.seen.whole)}


def finding_view(finding: Finding) -> dict[str, Any]:
    """A closed gate, for programs."""
    return {"gate": finding.gate.value, "reason": finding.reason, "time_may_open_it": finding.passes}


def iso_time(at_ms: int) -> str:
    """UTC, to the second; of milliseconds since 1970."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="seconds")
