"""The values of a commit, as rows of a round: a state becomes bytes only when it is sent or read."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import overload

from mimn.state import Staged
from uic.core.ports import Compiled


class States:
    """All states of a round. One object a round: commits of the same round have the same."""

    def __init__(self, staged: Staged, compiled: Compiled | None) -> None:
        """`staged` is not changed any more."""
        self.staged = staged
        self._compiled = compiled

    @cached_property
    def encoded(self) -> list[bytes]:
        """The stored values, by row."""
        return self.staged.encoded() if self._compiled is None else self._compiled.encode_states(self.staged).apart()


class StagedValues(Sequence[tuple[str, bytes | None]]):
    """`Commit.values`: whose states are written, and which of a round's they are."""

    __slots__ = ("keys", "rows", "states")

    def __init__(self, keys: list[bytes], rows: list[int], states: States) -> None:
        """`keys`: user ids as bytes; `rows`: of the state of each in `states`, below 0 if it is deleted."""
        self.keys = keys
        self.rows = rows
        self.states = states

    def __len__(self) -> int:
        return len(self.keys)

    @overload
    def __getitem__(self, at: int) -> tuple[str, bytes | None]: ...
    @overload
    def __getitem__(self, at: slice) -> StagedValues: ...
    def __getitem__(self, at: int | slice) -> tuple[str, bytes | None] | StagedValues:
        if isinstance(at, slice):
            return StagedValues(self.keys[at], self.rows[at], self.states)
        row = self.rows[at]
        return self.keys[at].decode(), None if row < 0 else self.states.encoded[row]
