"""Where the states of a new namespace come from.

`start` only says what to run: whatever builds the states, the same gates prove them. A new way of building them is one
more entry here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mimn.release import ORIGIN, NotAllowed, Release


@dataclass(frozen=True, slots=True)
class Origin:
    """One way of building a namespace."""

    reads_log: bool
    """Folds the log from its beginning, which must reach back as far as the states in service."""
    instruction: Callable[[Release, Release, Path, str], str]
    """What to run next, from the release, what it replaces, its bundle, and what follows the colon of `--from`."""
    other_log: bool = False
    """What follows the colon is a topic that the new namespace is made of, in place of that in service."""


def _variables(release: Release, path: Path) -> str:
    return f"UIC_BUNDLE__PATH={path} UIC_BUNDLE__GENERATION={release.generation}"


def _log(release: Release, _: Release, path: Path, __: str) -> str:
    return f"start UIC workers with {_variables(release, path)}"


def _backfill(release: Release, _: Release, path: Path, __: str) -> str:
    keeping = "--keep-ledgers SNAPSHOT --of-bundle OLD, if the log no longer reaches back (docs/runbooks/migrate.md)"
    return f"with {_variables(release, path)}: ctr backfill --work FOLDER (and {keeping}), then start UIC workers"


def _snapshot(release: Release, replaces: Release, path: Path, name: str) -> str:
    of = f" --of-namespace {replaces.namespace}" if release.fingerprint == replaces.fingerprint else ""
    command = f"ctr snapshot restore --from FOLDER --id {name}{of}"
    return f"with {_variables(release, path)}: {command}, then start UIC workers"


def _topic(release: Release, _: Release, path: Path, name: str) -> str:
    where = f"UIC_KAFKA__TOPIC={name}, its UIC_KAFKA__PARTITIONS, {_variables(release, path)}"
    return f"with {where}: ctr backfill --work FOLDER, then start UIC workers"


ORIGINS: Final[Mapping[str, Origin]] = {
    "log": Origin(True, _log),
    "backfill": Origin(False, _backfill),
    "snapshot": Origin(False, _snapshot),
    "topic": Origin(False, _topic, other_log=True),
}


def origin_of(text: str) -> tuple[Origin, str]:
    """The origin that `--from` names, and what follows its colon.

    Raises:
        NotAllowed: there is no such origin, or a snapshot without an id, or a topic without a name, that the record can
            hold.
    """
    kind, _, name = text.partition(":")
    if kind not in ORIGINS or re.search(ORIGIN, text) is None:
        raise NotAllowed(
            f"--from {text}: give log, backfill, snapshot:ID with the id that `ctr snapshot list` shows, or topic:NAME "
            "with the event topic that new states are made of"
        )
    return ORIGINS[kind], name
