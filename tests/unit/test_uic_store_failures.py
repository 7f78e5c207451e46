"""What is told of a store's long reply ends where its sense does."""

from __future__ import annotations

import pytest
from redis.exceptions import ResponseError

from uic.store_failures import MOST_OF_REPLY, describe

MISCONF = (
    "MISCONF Valkey is configured to save RDB snapshots, but it's currently unable to persist to disk. Commands that "
    "may modify the data set are disabled, because this instance is configured to report errors during writes if RDB "
    "snapshotting fails (stop-writes-on-bgsave-error option). Please check the Valkey logs for details about the RDB "
    "error."
)


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        ("NOREPLICAS Not enough good replicas to write.", "NOREPLICAS Not enough good replicas to write."),
        (MISCONF, MISCONF.partition(" Commands")[0]),
        ("ERR No. " + "word " * 40, "ERR No. " + "word " * 21 + "word…"),
        ("x" * 200, "x" * (MOST_OF_REPLY - 1) + "…"),
        ("x" * MOST_OF_REPLY, "x" * MOST_OF_REPLY),
    ],
)
def test_a_reply_that_is_too_long_is_told_up_to_the_end_of_a_sentence_or_a_word(reply: str, told: str) -> None:
    assert describe(ResponseError(reply)) == f"ResponseError: {told}"
    assert len(told) <= MOST_OF_REPLY
