"""How the rollout record may change. Every function takes a record and returns the next one, or refuses.

    planned → building → catching_up → verifying → ready → canary → serving → retired → collected
                 └──────────┴─────────────┴──────────┴─→ failing          └→ rolled_back → collected
              any of these, and canary → aborted → collected

Three mistakes that published blue/green controllers have made are ruled out by shape. A check carries the revision that
it was made of, and a record of any other revision does not accept it. What a rollout waits for (`hold`,
`keep_until_ms`) is part of the rollout and is cleared by every end. The namespace of an aborted rollout is not used
again while the record remembers it: the next rollout of the same bundle gets another generation.
"""

from __future__ import annotations

from collections.abc import Collection

from msgspec.structs import replace

from mimn.release import checks
from mimn.release.arms import BUCKETS, resized, size
from mimn.release.checks import Checked, NotAllowed
from mimn.release.gates import Finding, Gate
from mimn.release.record import (
    MAX_ENTRIES,
    MAX_REASON,
    MAX_ROLLOUTS,
    OPEN,
    Arm,
    Entry,
    Hold,
    Record,
    Release,
    Rollout,
    State,
)

CANARY = "canary"
SHADOW = "shadow"
LOADING = "every other gate is open; scoring processes load what is ready"
"""It does not say which have: the record is not written again when they have."""
_ENDED = frozenset({State.COLLECTED, State.ABORTED, State.ROLLED_BACK, State.RETIRED})
_KEEPS = frozenset({State.SERVING, State.ROLLED_BACK, State.RETIRED})
"""There is a namespace that does not serve and that another rollout may go on in."""


def begin(
    record: Record | None,
    release: Release,
    *,
    serving: Release,
    origin: str,
    salt: str,
    now_ms: int,
    by: str = "",
) -> Record:
    """A rollout of `release`. `serving` is what serves if there is no record yet.

    The same release again, while it is on its way, changes nothing, so that a tool that was killed can be run again.

    Raises:
        NotAllowed: another rollout is on its way, or as `check_new`.
    """
    if record is None:
        record = Record(revision=0, salt=salt, serving=serving)
    if (going := record.open) is not None:
        if going.release == release:
            return record
        raise NotAllowed(
            f"rollout {going.id} of {going.release.bundle} is {going.state}: promote or abort it before another begins"
        )
    check_new(record, release, serving=serving)
    number = record.begun + 1
    rollout = Rollout(
        id=f"r{number}",
        release=release,
        replaces=record.serving,
        origin="none" if release.namespace == record.serving.namespace else origin,
        state=State.PLANNED,
        reason="begun",
        begun_ms=now_ms,
        changed_ms=now_ms,
    )
    kept = record.rollouts
    while len(kept) >= MAX_ROLLOUTS:
        oldest = next((one for one in kept if one.state is State.COLLECTED), None)
        if oldest is None:
            raise NotAllowed(f"{len(kept)} rollouts have namespaces that are not needed: `rollout gc` removes them")
        kept = tuple(one for one in kept if one is not oldest)
    begun = replace(record, rollouts=(*kept, rollout), begun=number, salt=salt, arms=(), shadows=())
    return _noted(begun, rollout, now_ms, by)


def check_new(record: Record | None, release: Release, *, serving: Release) -> None:
    """Whether a rollout of `release` may begin, whatever else is on its way. `serving` is as of `begin`.

    Raises:
        NotAllowed: it serves already, its name and version are those of another bundle that scoring processes hold, or
            its namespace is that of an aborted rollout.
    """
    held_now = (serving,) if record is None else record.held
    if release == held_now[0]:
        raise NotAllowed(f"{release.bundle} serves already")
    for held in held_now:
        if held.bundle == release.bundle and held.manifest != release.manifest:
            raise NotAllowed(
                f"{release.bundle} is already the name of another bundle, which RTPs hold (its manifest is "
                f"{held.manifest[:12]}…, not {release.manifest[:12]}…) and look for in the same folder: export this "
                "one under another version"
            )
    if record is not None and release.namespace in spoiled(record):
        raise NotAllowed(
            f"namespace {release.namespace} is that of an aborted rollout: begin with generation "
            f"{free_generation(record, release.fingerprint)}"
        )


def spoiled(record: Record) -> frozenset[str]:
    """Namespaces of aborted rollouts, as long as the record remembers them: what was wrong with one must not come back
    by its states. Also of those that were collected, because a worker of one that was paused meanwhile builds it again
    when it goes on. What serves is none of them."""
    aborted = {one.release.namespace for one in record.rollouts if was_aborted(one) and not one.head_only}
    return frozenset(aborted - {record.serving.namespace})


def was_aborted(rollout: Rollout) -> bool:
    """Whether a rollout ended by an abort, also once its namespace was removed."""
    collected = rollout.state is State.COLLECTED and rollout.reason.startswith(f"{State.ABORTED};")  # see `collect`
    return rollout.state is State.ABORTED or collected


def free_generation(record: Record | None, fingerprint: str, occupied: Collection[str] = ()) -> int:
    """The lowest generation whose namespace is not an aborted rollout's, and not `occupied`."""
    taken = {*occupied, *(() if record is None else spoiled(record))}
    generation = 0
    while f"{fingerprint[:16]}-{generation}" in taken:
        generation += 1
    return generation


def kept_generation(record: Record | None, fingerprint: str, there: Collection[str]) -> int | None:
    """The generation of the namespace that earlier rollouts have left of this fingerprint: one that is `there` and not
    an aborted rollout's, and of several the latest. None if there is none."""
    if record is None:
        return None
    usable = set(there) - spoiled(record)
    kept = (_left(one) for one in reversed(record.rollouts) if one.state in _KEEPS)
    of_it = (one for one in kept if one.fingerprint == fingerprint and one.namespace in usable)
    return next((one.generation for one in of_it), None)


def observe(
    record: Record, identity: str, checked: Checked, *, now_ms: int, by: str = ""
) -> tuple[Record, tuple[Finding, ...]]:
    """Move a rollout to the state that a look at its gates shows; returns the gates that are closed still.

    For a canary, only `hold` changes. A rollout that serves everybody or has ended does not change.

    Raises:
        Conflict: the record has another revision than the one that was looked at.
        NotAllowed: there is no such rollout.
    """
    rollout = checks.found(record, identity)
    checks.check_revision(record, checked)
    hold = checks.held(rollout, checked, now_ms)
    closed = checks.closed(record, rollout, checked, now_ms)
    if rollout.state not in OPEN:
        return record, closed
    if rollout.state is State.CANARY:
        return _holding(record, rollout, hold, now_ms, by), closed
    shown = [one for one in closed if one.gate is not Gate.LOADED]  # processes load what is ready
    state = checks.shown(shown)
    reason = "; ".join(f"{one.gate}: {one.reason}" for one in shown)[:MAX_REASON]
    reason = reason or (LOADING if closed else "every gate is open")
    failing_anew = (
        state is State.FAILING and reason != rollout.reason
    )  # of other states the numbers change all the time
    if state is rollout.state and hold == rollout.hold and not failing_anew:
        return record, closed
    return _moved(record, rollout, state, reason, now_ms=now_ms, by=by, hold=hold), closed


def looked(record: Record, identity: str, checked: Checked, *, now_ms: int, by: str = "") -> Record:
    """Note for `steady` a look that closed a gate: a lag ends the wait, and the next look without one begins it
    again.

    Raises:
        NotAllowed: there is no such rollout.
    """
    rollout = checks.found(record, identity)
    return (
        _holding(record, rollout, checks.held(rollout, checked, now_ms), now_ms, by)
        if rollout.state in OPEN
        else record
    )


def _holding(record: Record, rollout: Rollout, hold: Hold | None, now_ms: int, by: str) -> Record:
    if hold == rollout.hold:
        return record
    return _moved(record, rollout, rollout.state, rollout.reason, now_ms=now_ms, by=by, hold=hold)


def canary(record: Record, identity: str, checked: Checked, *, percent: float, now_ms: int, by: str = "") -> Record:
    """Serve `percent` of the users by a rollout that is ready; growing takes no user from another arm.

    Raises:
        Conflict, GateClosed, NotAllowed: as `promote`; or the share is not from 0.01 to 100.
    """
    return _tried(record, checks.passed(record, identity, checked, now_ms), percent, now_ms, by)


def smaller(record: Record, identity: str, percent: float) -> bool:
    """Whether `percent` is fewer users than this rollout's canary serves.

    Raises:
        NotAllowed: there is no such rollout.
    """
    if checks.found(record, identity).state is not State.CANARY:
        return False
    return percent / 100 * BUCKETS < sum(size(arm.buckets) for arm in record.arms if arm.name == CANARY)


def shrink(record: Record, identity: str, *, percent: float, now_ms: int, by: str = "") -> Record:
    """Serve fewer users by a canary, whatever the gates say: they keep no user from going back to what serves.

    Raises:
        NotAllowed: it is no canary, the share is not `smaller`, or it is below 0.01.
    """
    if not smaller(record, identity, percent):
        raise NotAllowed(f"rollout {identity} is no canary of more than {percent:g} % of the users")
    return _tried(record, checks.found(record, identity), percent, now_ms, by)


def _tried(record: Record, rollout: Rollout, percent: float, now_ms: int, by: str) -> Record:
    arms = _with_canary(record.arms, rollout.release, percent)
    if arms == record.arms and rollout.state is State.CANARY:
        return record
    moved = _moved(
        record, rollout, State.CANARY, f"serves {percent:g} % of the users", now_ms=now_ms, by=by, hold=rollout.hold
    )
    return replace(moved, arms=arms)


def shadow(record: Record, identity: str, *, percent: float, now_ms: int, by: str = "") -> Record:
    """Score the requests of `percent` of the users by this rollout too, without answering with it; 0 ends that.

    They are users whom its canary does not answer, as far as there are so many: scores are compared with those of the
    release that answered.

    Raises:
        NotAllowed: it is neither ready nor a canary (to end one, not on its way), or the share is not from 0 to 100.
    """
    rollout = checks.found(record, identity)
    if rollout.state not in OPEN:
        raise checks.over(record, rollout)
    if percent and rollout.state not in (State.READY, State.CANARY):
        raise NotAllowed(f"rollout {identity} is {rollout.state}: only one that is ready or a canary can be a shadow")
    # The users whom a canary that grows takes last, whatever the shadow had before: it answers none of them.
    shadows = (Arm(SHADOW, rollout.release, ((BUCKETS - _count(percent), BUCKETS),)),) if percent else ()
    if shadows == record.shadows:
        return record
    moved = _moved(record, rollout, rollout.state, f"shadow of {percent:g} %", now_ms=now_ms, by=by, hold=rollout.hold)
    return replace(moved, shadows=shadows)


def promote(record: Record, identity: str, checked: Checked, *, keep_ms: int, now_ms: int, by: str = "") -> Record:
    """Serve everybody by a rollout; the release that served until now is kept for `keep_ms`.

    Raises:
        Conflict: the gates were looked at for another revision of the record.
        GateClosed: a gate is closed.
        NotAllowed: it is neither ready nor a canary.
    """
    if (served := record.find(identity)) is not None and served.state is State.SERVING:
        return record
    rollout = checks.passed(record, identity, checked, now_ms)
    if (before := record.served_by) is not None:
        record = _moved(
            record, before, State.RETIRED, f"{rollout.id} was promoted", now_ms=now_ms, by=by, counted=False
        )
    moved = _moved(
        record, rollout, State.SERVING, "every gate is open", now_ms=now_ms, by=by, keep_until_ms=now_ms + keep_ms
    )
    return replace(moved, serving=rollout.release, arms=(), shadows=())


def abort(record: Record, identity: str, *, reason: str, now_ms: int, by: str = "") -> Record:
    """Give up a rollout that does not serve everybody yet. Its users go back to the release in service.

    Raises:
        NotAllowed: it serves everybody (roll it back), or has ended.
    """
    rollout = checks.found(record, identity)
    if rollout.state is State.ABORTED:
        return record
    if rollout.state not in OPEN:
        raise checks.over(record, rollout)
    moved = _moved(record, rollout, State.ABORTED, reason, now_ms=now_ms, by=by)
    return replace(moved, arms=(), shadows=())


def rollback(record: Record, identity: str, *, reason: str, now_ms: int, by: str = "") -> Record:
    """Serve everybody by the release that served before this rollout.

    A rollout that is on its way meanwhile fails its gate `conflict` from then on.

    Raises:
        NotAllowed: it does not serve, or the release before was given up.
    """
    rollout = checks.found(record, identity)
    if rollout.state is State.ROLLED_BACK:
        return record
    if rollout.state is not State.SERVING:
        if rollout.state not in OPEN:
            raise checks.over(record, rollout)
        raise NotAllowed(f"rollout {identity} is {rollout.state}: use abort {identity}")
    if (going := record.open) is not None:
        lost = f"{rollout.id}, which it set out to replace, was rolled back: abort it and start again"
        record = _moved(record, going, State.FAILING, lost, now_ms=now_ms, by=by, counted=False)
    moved = _moved(record, rollout, State.ROLLED_BACK, reason, now_ms=now_ms, by=by)
    return replace(moved, serving=rollout.replaces, arms=(), shadows=())


def to_roll_back(record: Record) -> str:
    """The rollout that `rollback` is about where none is named: the one that serves. So that the command can be run
    again, also the one that was rolled back, as long as no other has begun since.

    Raises:
        NotAllowed: there is neither.
    """
    if (served := record.served_by) is not None:
        return served.id
    for entry in reversed(record.log):
        if entry.state is State.PLANNED:
            break
        last = record.find(entry.rollout)
        if entry.state is State.ROLLED_BACK and last is not None and last.state is State.ROLLED_BACK:
            return last.id
    if (going := record.open) is not None:
        then = f"{going.id} of {going.release.bundle} is {going.state}; `rollout abort {going.id}` gives it up"
    else:
        then = f"{record.serving.bundle} serves; `rollout start BUNDLE` replaces it, also by a bundle of before"
    raise NotAllowed(f"no rollout serves that could be rolled back: {then}")


def retire(record: Record, *, now_ms: int, by: str = "") -> Record:
    """Give up the release before the one that serves, once it was kept for long enough; otherwise nothing changes."""
    served = record.served_by
    if served is None or now_ms < served.keep_until_ms:
        return record
    return _moved(record, served, State.RETIRED, "the release before was kept for long enough", now_ms=now_ms, by=by)


def collect(record: Record, identity: str, *, now_ms: int, by: str = "") -> Record:
    """Note that the namespace which an ended rollout left behind was removed. The reason begins with the state that it
    ended in.

    Raises:
        NotAllowed: it has not ended.
    """
    rollout = checks.found(record, identity)
    if rollout.state is State.COLLECTED:
        return record
    if rollout.state not in _ENDED:
        raise NotAllowed(f"rollout {identity} is {rollout.state}")
    gone = _left(rollout)
    what = f"namespace {gone.namespace} of {gone.bundle} was removed"
    if rollout.head_only:
        what = "it had no namespace of its own"
    return _moved(record, rollout, State.COLLECTED, f"{rollout.state}; {what}", now_ms=now_ms, by=by)


def left_behind(record: Record, rollout: Rollout) -> str | None:
    """The namespace that an ended rollout leaves in the store, None if something may still read it."""
    if rollout.state not in _ENDED - {State.COLLECTED}:
        return None
    name = _left(rollout).namespace
    needed = {one.namespace for one in record.held}
    if record.open is not None:
        needed |= {record.open.release.namespace, record.open.replaces.namespace}
    return None if name in needed else name


def _left(rollout: Rollout) -> Release:
    """What a rollout leaves behind: the release before of one that was promoted, else its own."""
    return rollout.replaces if rollout.state in (State.SERVING, State.RETIRED) else rollout.release


def leaves_nothing(rollout: Rollout) -> bool:
    """Whether a rollout has ended and never had a namespace of its own."""
    return rollout.head_only and rollout.state in _ENDED - {State.COLLECTED}


def _count(percent: float) -> int:
    """How many buckets a share is."""
    count = round(percent / 100 * BUCKETS)
    if not 1 <= count <= BUCKETS:
        raise NotAllowed(f"a share of {percent:g} % is not from 0.01 to 100")
    return count


def _with_canary(arms: tuple[Arm, ...], release: Release, percent: float) -> tuple[Arm, ...]:
    count = _count(percent)
    own = next((arm.buckets for arm in arms if arm.name == CANARY), ())
    others = [arm for arm in arms if arm.name != CANARY]
    try:
        buckets = resized(own, [arm.buckets for arm in others], count)
    except ValueError as error:
        raise NotAllowed(str(error)) from error
    return (*others, Arm(CANARY, release, buckets))


def _moved(
    record: Record,
    rollout: Rollout,
    state: State,
    reason: str,
    *,
    now_ms: int,
    by: str,
    hold: Hold | None = None,
    keep_until_ms: int = 0,
    counted: bool = True,
) -> Record:
    """The next record, with this rollout changed. What it waits for is cleared unless it is given again."""
    moved = replace(
        rollout,
        state=state,
        reason=reason[:MAX_REASON],
        changed_ms=now_ms if state is not rollout.state else rollout.changed_ms,
        hold=hold,
        keep_until_ms=keep_until_ms,
    )
    rollouts = tuple(moved if one.id == rollout.id else one for one in record.rollouts)
    return _noted(replace(record, rollouts=rollouts), moved, now_ms, by, counted=counted)


def _noted(record: Record, rollout: Rollout, now_ms: int, by: str, *, counted: bool = True) -> Record:
    revision = record.revision + 1
    entry = Entry(now_ms, revision, rollout.id, rollout.state, rollout.reason, by[:MAX_REASON])
    return replace(record, revision=revision if counted else record.revision, log=(*record.log, entry)[-MAX_ENTRIES:])
