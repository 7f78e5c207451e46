"""A commit is sent as the wire protocol has it, whoever puts it together."""

from __future__ import annotations

from itertools import chain
from typing import Any, cast

import numpy as np
import pytest
from hiredis import Reader, pack_command

from mimn.rows.live import compiled_events
from mimn.state import HEADERS, Block, Keys, Staged, StateLayout
from support.scripted_store import ScriptedStore
from uic import transaction
from uic.core.commit import ABSENT, Commit, NoAnswer
from uic.core.staged_values import StagedValues, States
from uic.settings import RedisSettings
from uic.store import RedisStore
from uic.transaction import Sent, Transactions, followed

RNG = np.random.default_rng(0)
KEYS = Keys("0011223344556677-0", "é")
TRANSACTIONS = Transactions(KEYS)
USERS = ["ann", "é {b}\r\n", "\0", "漢字" * 20, "x" * 128]


def states(n: int, half: int, floats: int) -> States:
    layout = StateLayout((*([Block("h", (half,), "float16")] if half else []), Block("f", (floats,))))
    tensors = layout.round(RNG.standard_normal((n + 3, layout.floats)).astype(np.float32))
    headers = np.frombuffer(RNG.bytes(n * HEADERS.itemsize), HEADERS).copy()
    headers["partial"] = RNG.random(n) > 0.5
    return States(Staged(headers, tensors, RNG.integers(0, n + 3, n), RNG.bytes(32), layout), compiled_events())


def drawn(partition: int, n: int, of: States) -> Commit:
    """A commit of n values, some of them deletions."""
    keys = [f"{RNG.choice(USERS)}{i}".encode() for i in range(n)]
    rows = np.where(RNG.random(n) < 0.2, -2, RNG.integers(0, len(of.staged.place), n)).tolist()
    created = int(RNG.integers(0, n + 1))
    listed = int(RNG.integers(0, n - created + 1))
    expected = ABSENT if RNG.random() < 0.5 else RNG.bytes(112)
    return Commit(
        partition, expected, RNG.bytes(112), StagedValues(keys, rows, of), created, listed, n == 0, n % 2 == 0
    )


def plain(commit: Commit) -> Commit:
    return commit._replace(values=tuple(commit.values))


def packed(words: list[bytes]) -> bytes:
    whole: bytes = pack_command(cast("Any", tuple(words)))
    return whole


def commands(sent: Sent) -> list[list[bytes]]:
    """What a server reads: an array of strings is read like an answer of that form."""
    reader = Reader()
    for piece in sent.pieces:
        reader.feed(bytes(piece))
    found = []
    while (command := reader.gets()) is not False:
        found.append(command)
    assert len(found) == sent.replies
    return found


@pytest.mark.parametrize(("half", "floats"), [(0, 1), (6, 13), (22, 4), (2172, 390)])
def test_a_transaction_writes_states_in_one_command_and_lists_users(half: int, floats: int) -> None:
    one, other = states(40, half, floats), states(1, half, floats)
    commits = [drawn(p, n, one) for p, n in enumerate((0, 1, 2, 9, 55, 300))]
    commits += [plain(drawn(6, 5, one)), Commit(7, ABSENT, b"p", begins_lineage=True)]
    commits += [drawn(8, 4, other), drawn(9, 3, one)]
    written = commands(TRANSACTIONS.write(commits))
    assert written == commands(TRANSACTIONS.write([plain(commit) for commit in commits]))
    assert b"".join(TRANSACTIONS.write(commits).pieces) == b"".join(map(packed, written))

    lists: dict[bytes, list[list[bytes]]] = {}
    for name, key, *rest in (words for words in written if words[0] != b"MSET"):
        lists.setdefault(name, []).append([key, *rest])
    values = [(KEYS.state(c.partition, u).encode(), v) for c in commits for u, v in c.values]
    records = [(KEYS.progress(c.partition).encode(), c.progress) for c in commits]
    stored = [pair for pair in values if pair[1] is not None]
    assert [words[1:] for words in written if words[0] == b"MSET"] == [list(chain(*records, *stored))]
    assert lists[b"UNLINK"] == [
        [key(c.partition).encode() for key in (KEYS.users, KEYS.staged, KEYS.loading)]
        for c in commits
        if c.begins_lineage
    ]
    firsts = [(c, [user.encode() for user, _ in c.values[: c.created + c.listed]]) for c in commits]
    added = [[KEYS.users(c.partition).encode(), *users] for c, users in firsts if users]
    assert lists[b"SADD"] == added
    gone = [(c.partition, [user for user, value in c.values if value is None]) for c in commits]
    states_of = [[KEYS.state(p, user).encode() for user in users] for p, users in gone]
    bad = [[KEYS.bad(c.partition).encode()] if c.erases else [] for c in commits]
    assert lists[b"DEL"] == [words for both in zip(states_of, bad, strict=True) for words in both if words]
    assert lists[b"SREM"] == [[KEYS.users(p).encode(), *map(str.encode, users)] for p, users in gone if users]

    watched, read, *asked = commands(TRANSACTIONS.look(commits))
    assert watched[1:] == read[1:] == [key for key, _ in records]
    assert [words[1:] for words in asked] == added


def test_what_follows_is_in_the_last_piece_and_its_replies_count() -> None:
    sent = TRANSACTIONS.write([drawn(0, 2, states(4, 0, 3))])
    both = followed(sent, transaction.commands(("EXEC",)))
    assert len(both.pieces) == len(sent.pieces)
    assert commands(both) == [*commands(sent), [b"EXEC"]]


def test_a_server_that_refuses_multi_is_sent_no_write() -> None:
    keys = Keys("0011223344556677-0", "nil and")  # so every MGET says that there is nothing
    with ScriptedStore() as server:
        server.refuses = b"MULTI"
        store = RedisStore(RedisSettings(url=f"redis://127.0.0.1:{server.port}/0"), keys)
        for partition in range(2):
            [answer] = store.commit([Commit(partition, ABSENT, b"p1", (("ann", b"s1"),), begins_lineage=True)])
            assert isinstance(answer, NoAnswer)
            assert "MULTI" in answer.detail
        assert b"MULTI" in server.others
        assert {b"UNLINK", b"MSET", b"EXEC"}.isdisjoint(server.others)
        store.close()


def test_columns_are_a_sequence_of_users_and_values() -> None:
    of = states(3, 2, 2)
    columns = StagedValues([b"ann", "é".encode(), b"bob"], [2, -2, 0], of)
    values = [("ann", of.staged.encoded()[2]), ("é", None), ("bob", of.staged.encoded()[0])]
    assert list(columns) == values
    assert list(columns[1:]) == values[1:]
    assert (columns[-1], len(columns[:2])) == (values[-1], 2)
