"""A commit is sent as the wire protocol has it, whoever puts it together."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hiredis import pack_command

from mimn.rows.library import library
from mimn.rows.live import compiled_events
from mimn.state import HEADERS, Block, Keys, Staged, StateLayout
from support import skips
from uic import script
from uic.core.commit import ABSENT, Commit
from uic.core.staged_values import StagedValues, States
from uic.script import BY_NAME, BY_TEXT, SCRIPT, SCRIPT_NAME, Commands

RNG = np.random.default_rng(0)
COMMANDS = Commands(Keys("0011223344556677-0", "é"))
USERS = ["ann", "é {b}\r\n", "\0", "漢字" * 20, "x" * 128]


def states(n: int, half: int, floats: int) -> States:
    layout = StateLayout((*([Block("h", (half,), "float16")] if half else []), Block("f", (floats,))))
    tensors = layout.round(RNG.standard_normal((n + 3, layout.floats)).astype(np.float32))
    headers = np.frombuffer(RNG.bytes(n * HEADERS.itemsize), HEADERS).copy()
    headers["partial"] = RNG.random(n) > 0.5
    return States(Staged(headers, tensors, RNG.integers(0, n + 3, n), RNG.bytes(32), layout), compiled_events())


def drawn(n: int, of: States) -> Commit:
    """A commit of n values, some of them deletions."""
    keys = [f"{RNG.choice(USERS)}{i}".encode() for i in range(n)]
    rows = np.where(RNG.random(n) < 0.2, -2, RNG.integers(0, len(of.staged.place), n)).tolist()
    record, created = RNG.bytes(112), int(RNG.integers(0, n + 1))
    expected = ABSENT if RNG.random() < 0.5 else RNG.bytes(112)
    return Commit(int(RNG.integers(64)), expected, record, StagedValues(keys, rows, of), created, n - created, n == 0)


def plain(commit: Commit) -> Commit:
    return commit._replace(values=tuple(commit.values))


def packed(commits: list[Commit], *run: str) -> bytes:
    return b"".join(pack_command((*run, *COMMANDS.arguments(commit))) for commit in commits)


def without_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "library", lambda: None)


def with_library(monkeypatch: pytest.MonkeyPatch) -> None:
    if library() is None:
        pytest.skip(skips.NO_COMPILED_STEP)


@pytest.mark.parametrize("way", [with_library, without_library])
@pytest.mark.parametrize(("half", "floats"), [(0, 1), (6, 13), (22, 4), (2172, 390)])
def test_commits_are_framed_as_hiredis_packs_them(
    way: Callable[[pytest.MonkeyPatch], None], half: int, floats: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    way(monkeypatch)
    one, other = states(40, half, floats), states(1, half, floats)
    commits = [drawn(n, one) for n in (0, 1, 2, 9, 55, 300)]
    commits += [plain(drawn(5, one)), Commit(7, ABSENT, b"p", begins_lineage=True), drawn(4, other), drawn(3, one)]
    for run, words in (BY_NAME, ("EVALSHA", SCRIPT_NAME)), (BY_TEXT, ("EVAL", SCRIPT)):
        framed = b"".join(COMMANDS.framed(commits, run))
        assert framed == packed([plain(commit) for commit in commits], *words)
        assert framed == b"".join(COMMANDS.framed([plain(commit) for commit in commits], run))


def test_those_of_one_round_are_one_piece_and_so_are_those_without_states() -> None:
    one, other = states(4, 0, 3), states(4, 0, 3)
    rounds = [drawn(2, one), drawn(0, one), drawn(3, one), drawn(2, other), drawn(2, other)]
    assert len(COMMANDS.framed(rounds, BY_NAME)) == 2
    assert len(COMMANDS.framed([Commit(p, ABSENT, b"p") for p in range(9)], BY_NAME)) == 1
    assert COMMANDS.framed([], BY_NAME) == []


def test_columns_are_a_sequence_of_users_and_values() -> None:
    of = states(3, 2, 2)
    columns = StagedValues([b"ann", "é".encode(), b"bob"], [2, -2, 0], of)
    values = [("ann", of.staged.encoded()[2]), ("é", None), ("bob", of.staged.encoded()[0])]
    assert list(columns) == values
    assert list(columns[1:]) == values[1:]
    assert (columns[-1], len(columns[:2])) == (values[-1], 2)
