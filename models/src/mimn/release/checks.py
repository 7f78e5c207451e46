"""What a look at the gates of a rollout means: which are closed, what it waits for, which state that shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mimn.release.gates import Finding, Gate
from mimn.release.record import OPEN, Hold, Record, Refused, Rollout, State


class NotAllowed(Refused):
    """Not in this state, or not at all."""


class Conflict(Refused):
    """The record has changed since it was looked at."""


class GateClosed(Refused):
    """Gates are closed: `findings` names each, `view` shows what was looked at."""

    def __init__(self, findings: Sequence[Finding], view: Mapping[str, Any] | None = None) -> None:
        super().__init__("; ".join(f"{one.gate}: {one.reason}" for one in findings))
        self.findings = tuple(findings)
        self.view = dict(view or {})


@dataclass(frozen=True, slots=True)
class Checked:
    """What a look at the gates found, and the revision of the record that it looked for."""

    revision: int
    findings: tuple[Finding, ...]
    lineages: str = "0" * 16
    """A hash of the new namespace's lineages: a partition that started over makes another one."""
    steady_ms: int = 0
    """For how long the lag must have been within its allowance."""


def closed_gates(record: Record, identity: str, checked: Checked, *, now_ms: int) -> tuple[Finding, ...]:
    """Every closed gate of a rollout: those that a look found, and those that the record itself tells.

    Raises:
        NotAllowed: there is no such rollout.
    """
    return closed(record, found(record, identity), checked, now_ms)


def found(record: Record, identity: str) -> Rollout:
    """A rollout of the record.

    Raises:
        NotAllowed: there is no such rollout.
    """
    rollout = record.find(identity)
    if rollout is None:
        known = ", ".join(one.id for one in record.rollouts[-5:]) or "none"
        raise NotAllowed(f"there is no rollout {identity}; the latest are {known}")
    return rollout


def check_revision(record: Record, checked: Checked) -> None:
    """Whether the look was at this revision of the record.

    Raises:
        Conflict: it was not.
    """
    if checked.revision != record.revision:
        raise Conflict(
            f"the gates were looked at for revision {checked.revision}, and the record is at {record.revision} by now: "
            "look again"
        )


def passed(record: Record, identity: str, checked: Checked, now_ms: int) -> Rollout:
    """A rollout that is ready or a canary, and none of whose gates is closed.

    Raises:
        Conflict, GateClosed, NotAllowed: see each.
    """
    rollout = found(record, identity)
    check_revision(record, checked)
    if rollout.state not in OPEN:
        raise over(record, rollout)
    if findings := closed(record, rollout, checked, now_ms):
        raise GateClosed(findings)
    if rollout.state not in (State.READY, State.CANARY):
        raise NotAllowed(f"rollout {identity} is {rollout.state}, not ready: `rollout wait` looks at it")
    return rollout


def not_ready(record: Record, rollout: Rollout) -> Finding | None:
    """That no scoring process loads a rollout, because it is not ready: time alone does not make it so, `rollout wait`
    does. None of one that they load."""
    if rollout.release in record.held:
        return None
    return Finding(
        Gate.LOADED,
        f"scoring processes load what is ready, and {rollout.id} is {rollout.state} ({rollout.reason}): run "
        f"`ctr rollout wait {rollout.id}` first",
    )


def over(record: Record, rollout: Rollout) -> NotAllowed:
    """That a rollout is no longer on its way, and what can be done."""
    if rollout.state is State.SERVING:
        then = f"it serves all users; `rollout rollback {rollout.id}` takes it back"
    elif record.serving == rollout.release:
        then = "it serves all users, and the release before was given up; `rollout start BUNDLE` replaces it"
    else:
        then = "`rollout start BUNDLE` begins another, also of the same bundle"
    return NotAllowed(f"rollout {rollout.id} is {rollout.state} ({rollout.reason}): {then}")


def closed(record: Record, rollout: Rollout, checked: Checked, now_ms: int) -> tuple[Finding, ...]:
    """Every closed gate: those that the look found, and those that the record itself tells."""
    findings = list(checked.findings)
    hold = held(rollout, checked, now_ms)
    waited = 0 if hold is None else now_ms - hold.since_ms
    if hold is not None and waited < checked.steady_ms and not rollout.head_only:
        text = f"within the allowance for {waited / 1000:.0f} s of {checked.steady_ms / 1000:g} s"
        findings.append(Finding(Gate.STEADY, text, passes=True))
    if (conflict := _conflict(record, rollout)) is not None:
        findings.insert(0, conflict)
    return tuple(findings)


def _conflict(record: Record, rollout: Rollout) -> Finding | None:
    if rollout.state in OPEN and record.serving != rollout.replaces:
        return Finding(
            Gate.CONFLICT,
            f"{record.serving.bundle} serves, and this rollout set out to replace {rollout.replaces.bundle}: abort it "
            "and start again",
        )
    return None


def held(rollout: Rollout, checked: Checked, now_ms: int) -> Hold | None:
    """Since when the lag has been within its allowance; None while it is not. One that began in the future, because the
    store's clock was set back, starts again."""
    early = {Gate.LOG, Gate.BUILT, Gate.LAG}
    if any(one.gate in early for one in checked.findings):
        return None
    hold = rollout.hold
    if hold is not None and hold.lineages == checked.lineages and hold.since_ms <= now_ms:
        return hold
    return Hold(now_ms, checked.lineages)


def shown(findings: Sequence[Finding]) -> State:
    """The state that closed gates show: the first stage that is not done, or failing."""
    if any(not one.passes for one in findings):
        return State.FAILING
    gates = {one.gate for one in findings}
    if gates & {Gate.BUILT, Gate.LOG}:
        return State.BUILDING
    if gates & {Gate.LAG, Gate.STEADY}:
        return State.CATCHING_UP
    return State.VERIFYING if gates else State.READY
