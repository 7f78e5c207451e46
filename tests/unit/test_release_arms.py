"""Which users an arm has: published vectors, and that an arm's growth moves no user between the others."""

from __future__ import annotations

import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from mimn.release import BUCKETS, bucket_of, resized, size, table
from mimn.release.arms import Buckets

DOCUMENT = Path(__file__).parents[2] / "docs/formats/rollout.md"
VECTORS = re.findall(r"^\| `([0-9a-f]{16})` \| `([^`]+)` \| (\d+) \|$", DOCUMENT.read_text(), re.MULTILINE)


def test_the_documented_vectors_are_what_is_computed() -> None:
    assert len(VECTORS) >= 6
    for salt, user, bucket in VECTORS:
        assert bucket_of(salt.encode(), user) == int(bucket), user


def test_users_spread_evenly_and_salts_are_independent() -> None:
    users = [f"user-{i}" for i in range(40_000)]
    first = [bucket_of(b"0123456789abcdef", user) < BUCKETS // 20 for user in users]
    second = [bucket_of(b"fedcba9876543210", user) < BUCKETS // 20 for user in users]
    assert 1_800 < sum(first) < 2_200
    assert 70 < sum(a and b for a, b in zip(first, second, strict=True)) < 130


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, BUCKETS)), max_size=12))
def test_resizing_one_arm_moves_users_only_between_it_and_the_rest(steps: list[tuple[int, int]]) -> None:
    arms: list[Buckets] = [(), (), (), ()]
    for which, count in steps:
        others = [buckets for number, buckets in enumerate(arms) if number != which]
        before = table(arms)
        if count > BUCKETS - sum(map(size, others)):
            continue
        arms[which] = resized(arms[which], others, count)
        assert [size(buckets) for buckets in arms] == [
            count if number == which else size(buckets) for number, buckets in enumerate(arms)
        ]
        moved = {(old, new) for old, new in zip(before, table(arms), strict=True) if old != new}
        assert moved <= {(0, which + 1), (which + 1, 0)}
        assert len(moved) <= 1
