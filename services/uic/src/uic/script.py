"""The commands that run the commit script, as they are sent: the script, keys of a partition and of states, what the
script must know, and values of the states, which are encoded where they stand.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha1
from importlib.resources import files
from itertools import groupby
from typing import Any, NamedTuple, cast

from hiredis import pack_command

from mimn.rows.library import library
from mimn.rows.stored import Command, frame
from mimn.state import Keys
from uic.core.commit import Commit
from uic.core.staged_values import StagedValues, States

SCRIPT = files("uic").joinpath("commit.lua").read_text()
SCRIPT_NAME = sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()
"""What the server calls the script once it has run it: sending the name spares both sides the text of each commit."""


class Names(NamedTuple):
    """The keys of a partition."""

    own: tuple[str, str, str]
    """Its progress, what was set aside, its list of users."""
    state: str
    """How its states' keys begin."""
    own_framed: bytes
    """`own`, as it is sent."""
    state_encoded: bytes


class Commands:
    """Commits of one namespace as commands."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._names: dict[int, Names] = {}

    def names(self, partition: int) -> Names:
        """Of a partition."""
        found = self._names.get(partition)
        if found is None:
            keys, state = self._keys, self._keys.state(partition, "")
            own = keys.progress(partition), keys.bad(partition), keys.users(partition)
            found = self._names[partition] = Names(own, state, _strings(*own), state.encode())
        return found

    def arguments(self, commit: Commit) -> list[Any]:
        """What follows the script or its name."""
        names, n = self.names(commit.partition), len(commit.values)
        return [
            3 + n,
            *names.own,
            *[names.state + user for user, _ in commit.values],
            *_told(commit, names),
            *[value or b"" for _, value in commit.values],
        ]

    def framed(self, commits: Iterable[Commit], run: bytes) -> list[bytes | memoryview]:
        """What is sent for commits, in few pieces. C encodes the states of a round into their places."""
        pieces: list[bytes | memoryview] = []
        for states, some in groupby(commits, _states_of):
            built = None if states is None else library()
            if states is None or built is None:
                pieces.append(b"".join(self._whole(commit, run) for commit in some))
            else:
                pieces.append(frame(built, states.staged, [self._in_parts(commit, run) for commit in some]))
        return pieces

    def _whole(self, commit: Commit, run: bytes) -> bytes:
        """One command. hiredis is slow with values: it writes into a buffer that grows."""
        names = self.names(commit.partition)
        before, between = _around(commit, names, run)
        keys = [(names.state + user).encode() for user, _ in commit.values]
        values = [value or b"" for _, value in commit.values]
        return b"".join((before, *map(_string, keys), between, *map(_string, values)))

    def _in_parts(self, commit: Commit, run: bytes) -> Command:
        """The same, for C: without states."""
        names, values = self.names(commit.partition), cast("StagedValues", commit.values)
        state = names.state_encoded
        return Command((*_around(commit, names, run), *[state + key for key in values.keys]), values.rows)


def _states_of(commit: Commit) -> States | None:
    return commit.values.states if isinstance(commit.values, StagedValues) else None


def _around(commit: Commit, names: Names, run: bytes) -> tuple[bytes, bytes]:
    """What is sent before the names of states, and what between names and values."""
    n = len(commit.values)
    before = b"*%d\r\n%b%b%b" % (12 + 2 * n, run, _string(b"%d" % (3 + n)), names.own_framed)
    return before, _strings(*_told(commit, names))


def _told(commit: Commit, names: Names) -> tuple[Any, ...]:
    """The arguments between names and values."""
    lineage = "1" if commit.begins_lineage else ""
    return commit.expected, commit.progress, commit.created, commit.listed, len(names.state), lineage


def _string(value: bytes) -> bytes:
    """As a part of a command."""
    return b"$%d\r\n%b\r\n" % (len(value), value)


def _strings(*values: Any) -> bytes:
    """As a part of a command."""
    packed: bytes = pack_command(values)
    return packed[packed.index(b"\n") + 1 :]


BY_NAME = _strings("EVALSHA", SCRIPT_NAME)
BY_TEXT = _strings("EVAL", SCRIPT)
"""How a command begins that runs the script."""
