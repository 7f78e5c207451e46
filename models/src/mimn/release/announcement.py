"""What a scoring process says of itself in the store, each second or so, so that a rollout knows whom to wait for.

A set (`<prefix>:{rtp}`) has the names of the processes, and a key each (`<prefix>:{rtp}:<instance>`) that expires soon
after its process has ended holds a JSON document, `Announcement`. All of it is in one slot. No secrets, no addresses.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from mimn.release.gates import Finding, Gate
from mimn.release.record import Release

EVERY_S: Final = 1.0
LASTS_S: Final = 5.0
"""After the last announcement."""
MAX_BYTES: Final = 1 << 14
SERVING: Final = "serving"
"""The name of the arm that has every user whom no other arm has."""
STANDBY: Final = "standby"
"""The role of a release that is loaded and not asked."""
SHADOW_OF: Final = "shadow:"
"""Begins the role of a release that scores without answering."""
_Short = Annotated[str, Meta(max_length=400)]


class Loaded(Struct, frozen=True):
    """A release that the process has loaded."""

    bundle: _Short
    manifest: _Short
    namespace: _Short
    role: _Short
    """`serving`, another arm's name, `shadow:<name>` or `standby`."""


class NotLoaded(Struct, frozen=True):
    """A release that the process was to load and could not."""

    bundle: _Short
    reason: _Short
    passes: bool = False
    """The process tries again by itself, and time alone may bring it: the store did not answer. Earlier versions do not
    say it."""


class Announcement(Struct, frozen=True, kw_only=True):
    """One process. A reader leaves out fields that it does not know."""

    instance: _Short
    """`<host name>:<process id>:<random digits>`."""
    revision: int | None
    """Of the rollout record that it follows; None without one."""
    unread: _Short | None = None
    """Why it cannot read the record that the store has; None if it can, or is of a version that does not say it. It
    goes on by `revision` meanwhile. A record that it reads and does not obey, because it is older, is not unread."""
    loaded: tuple[Loaded, ...] = ()
    refused: tuple[NotLoaded, ...] = ()


def instances_key(prefix: str) -> str:
    """Where the set of processes is."""
    return f"{prefix}:{{rtp}}"


def announcement_key(prefix: str, instance: str) -> str:
    """Where one process's announcement is."""
    return f"{prefix}:{{rtp}}:{instance}"


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Announcement).decode


def encode_announcement(told: Announcement) -> bytes:
    """The stored value."""
    return _encode(told)


def decode_announcement(value: bytes) -> Announcement:
    """What a process says.

    Raises:
        ValueError: the bytes are no announcement.
    """
    if len(value) > MAX_BYTES:
        raise ValueError(f"{len(value)} bytes are no announcement")
    return _decode(value)


def serves_another(told: Announcement, release: Release) -> Finding | None:
    """Whether a process answers by another release than `release`. One that does not say what serves is not judged."""
    for one in told.loaded:
        if one.role == SERVING and (one.manifest, one.namespace) != (release.manifest, release.namespace):
            return Finding(
                Gate.CONFLICT,
                f"{told.instance} serves {one.bundle} ({one.manifest[:12]}…) of namespace {one.namespace}, and not "
                f"{release.bundle} ({release.manifest[:12]}…) of {release.namespace}: set UIC_BUNDLE__PATH and "
                "UIC_BUNDLE__GENERATION to what RTP serves, or have every RTP serve the same first",
            )
    return None


def answers(told: Announcement, release: Release) -> bool:
    """Whether a process says that it answers users by `release`."""
    return any(
        (one.manifest, one.namespace) == (release.manifest, release.namespace)
        and one.role != STANDBY
        and not one.role.startswith(SHADOW_OF)
        for one in told.loaded
    )


def not_loaded(told: Announcement, release: Release, revision: int) -> Finding | None:
    """Whether a process does not follow the record, or lacks `release`.

    One that follows a newer revision than the store has is judged by what it has loaded: after the store came back with
    older data it waits for a command that changes the record, and what it has loaded serves at once when one does.
    """
    if (late := lags(told, revision)) is not None:
        return late
    missing = lacks(told, release)
    if missing is None or told.revision == revision:
        return missing
    return Finding(
        Gate.LOADED,
        f"{told.instance} has not loaded {release.bundle}, because it goes on by revision {told.revision}, which is "
        f"newer than {revision} of the store: repeat what was done since, or let it follow the store's record by a "
        "command that changes it, such as `rollout shadow ID --percent 1`",
    )


def lags(told: Announcement, revision: int) -> Finding | None:
    """Whether a process cannot read the record, or follows an older revision of it."""
    if told.unread is not None:
        text = f"{told.instance} cannot read the rollout record ({told.unread})"
    elif told.revision is None or told.revision < revision:
        text = f"{told.instance} follows revision {told.revision} of the record, not {revision}"
    else:
        return None
    return Finding(Gate.LOADED, text, passes=True)


def lacks(told: Announcement, release: Release) -> Finding | None:
    """Whether a process has not loaded `release`."""
    if (release.manifest, release.namespace) in [(one.manifest, one.namespace) for one in told.loaded]:
        return None
    refused = next((one for one in told.refused if one.bundle == release.bundle), None)
    text = f"{told.instance} has not loaded {release.bundle}: {'not yet' if refused is None else refused.reason}"
    return Finding(Gate.LOADED, text, passes=refused is None or refused.passes)
