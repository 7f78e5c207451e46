"""What the namespace, its log and the rollout record say about each other, a function a check. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from mimn.release import Record, Release
from uic.core.deployment import Finding, fail, ok, warn
from uic.core.start_position import BrokenReason

BROKEN_PAGE = "docs/runbooks/broken-log.md"


def namespace_meta(
    stored: Mapping[str, str] | None,
    expected: Mapping[str, str],
    namespace: str,
    *,
    removed: bool = False,
    folded: int = 0,
) -> Finding:
    """The namespace in the store matches the settings, and no removal of it has begun.

    Args:
        stored: its meta; None before UIC's first start.
        expected: what the settings say.
        namespace: its name.
        removed: whether a removal of it has begun.
        folded: of how many partitions the store has progress.
    """
    check = f"namespace {namespace}"
    if removed:
        fix = f"wait until it is gone; if that was interrupted, ctr namespaces drop {namespace} finishes it"
        return fail(check, "is being removed, and no worker folds it meanwhile", fix)
    if not stored and folded:
        fix = (
            "find out who deleted its key, which ends in :meta, and start UIC; while it runs, it writes the key again "
            "within seconds (docs/runbooks/lost-states.md)"
        )
        return fail(check, f"its meta is gone from the store, and {folded} partitions have progress", fix)
    if not stored:
        return ok(check, "not in the store yet: UIC writes it at its first start")
    wrong = {k: (stored.get(k), v) for k, v in expected.items() if stored.get(k) != v}
    if wrong:
        return fail(
            check,
            "; ".join(f"{k} is {have!r} in the store, {want!r} by the settings" for k, (have, want) in wrong.items()),
            "correct the settings, or raise the generation (UIC and RTP both) to start a new namespace",
        )
    return ok(check, ", ".join(f"{k} {v}" for k, v in expected.items()))


def rollout_record(record: Record | None, error: str | None, configured: str | None, variables: str) -> Finding:
    """The settings name the namespace that users are answered from.

    Args:
        record: None if there is none, or if `error` says why it cannot be read.
        configured: the namespace of the settings; None if their bundle does not load.
        variables: what names the one in service.
    """
    check = "rollout record"
    if error is not None:
        fix = "RTPs that run go on by the last one that they read: restart none, and see docs/runbooks/roll-back.md"
        return fail(check, error, fix)
    if record is None:
        return ok(check, "none: RTP serves the bundle of its settings")
    serving = record.serving
    seen = f"revision {record.revision}: {serving.bundle} serves, from namespace {serving.namespace}"
    if configured in (None, serving.namespace):
        return ok(check, seen)
    return warn(
        check,
        f"{seen}; the settings name {configured}",
        f"UIC's other commands look at {configured}, too: with {variables} they look at what serves",
    )


def same_log(namespace: str, topic: str, broken: Mapping[int, BrokenReason]) -> Finding:
    """The topic can be the log from which a namespace was folded.

    Args:
        namespace: of which UIC would go on.
        topic: its name.
        broken: partition → why its log cannot be the one that was folded.
    """
    check = f"log of {namespace}"
    if not broken:
        return ok(check, f"nothing in {topic} contradicts what was folded")
    return fail(check, another_log(topic, broken), f"{BROKEN_PAGE} says what to decide")


def another_log(topic: str, broken: Mapping[int, BrokenReason]) -> str:
    """That partitions wait for an operator, by the reasons that UIC gives."""
    of = ", ".join(f"{n} by {reason}" for reason, n in sorted(Counter(broken.values()).items()))
    return f"{topic} is not the log that was folded, and UIC folds nothing of it until an operator decides: {of}"


def folded(release: Release, unfolded: str | None, variables: str, another: str = "") -> Finding:
    """Workers fold the namespace of a release that answers users.

    Args:
        release: it.
        unfolded: why RTP calls its states stale.
        variables: what its workers are started with.
        another: why none can fold it, if the topic is not its log.
    """
    check = f"workers of {release.namespace}"
    if another:
        return fail(check, f"{release.bundle} answers from it, and {another}", f"{BROKEN_PAGE} says what to decide")
    if unfolded is None:
        return ok(check, f"it is folded, {release.bundle} answers from it")
    fix = f"start UIC workers with {variables}, or see with these what keeps theirs: ctr partitions, ctr doctor"
    return fail(check, f"{release.bundle} answers from it, and its states are stale: {unfolded}", fix)
