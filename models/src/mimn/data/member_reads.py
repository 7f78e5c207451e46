"""How often and how recently each user touched the members of each candidate, as of every impression.

Histories are folded into ledgers with the code that UIC folds with, and read with the code that RTP reads with
(`mimn.bundle.members`). The numbers depend on the history alone and on no weight, so each is computed once a run.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mimn.bundle.members import MemberIndex, MemberIndexError
from mimn.bundle.reads import Reads
from mimn.data.events import DataError
from mimn.data.labelled import Labelled
from mimn.data.ledger_reads import LedgerReader, Questions
from mimn.data.members import NO_MEMBERS, Members, spans
from mimn.state.ledger import Ledger

Ints = NDArray[np.int64]


def index_of(ledger: Ledger, members: Members | None) -> MemberIndex:
    """The index of a data set's members by the keys of a ledger.

    Raises:
        DataError: an item belongs to too many candidates (`mimn.bundle.members.MOST_CANDIDATES`), or there are too many
            pairs.
    """
    pairs = NO_MEMBERS if members is None else members
    try:
        return MemberIndex.of(ledger, pairs.key.astype(np.uint64), pairs.item.astype(np.uint64))
    except MemberIndexError as error:
        raise DataError(f"`[members]`: {error}") from error


class ImpressionReads:
    """The reads of a data set's impressions over ledgers of the latest `length` events before each."""

    def __init__(self, labelled: Labelled, reads: Reads, length: int) -> None:
        self._labelled, self._length = labelled, length
        self._reader = LedgerReader([reads], labelled.events)
        shown = labelled.impressions
        order = np.lexsort((shown.time_ms, shown.user_id))
        columns = shown.user_id[order], shown.time_ms[order]
        new = np.ones(len(order), np.bool_)
        new[1:] = np.any([column[1:] != column[:-1] for column in columns], axis=0)
        self._order, self._first = order, np.append(np.flatnonzero(new), len(order))
        self._moment = np.empty(len(order), np.int64)
        self._moment[order] = np.cumsum(new) - 1
        self._known = np.zeros(len(self._first) - 1, np.bool_)
        self._values = np.zeros((len(order), self._reader.width), np.float32)

    def of(self, impressions: Ints) -> NDArray[np.float32]:
        """The reads of some impressions. [n] → [n, R]"""
        moments = np.unique(self._moment[impressions])
        if len(missing := moments[~self._known[moments]]):
            self._compute(missing)
        return self._values[impressions]

    def _compute(self, moments: Ints) -> None:
        """Read all impressions of one user at one time together, and fold histories that begin alike only once."""
        _, places = spans(self._first[moments], self._first[moments + 1])
        rows, data = self._order[places], self._labelled
        begin = np.maximum(data.begin[rows], data.end[rows] - self._length)
        start, history = np.unique(begin, return_inverse=True)
        position = data.end[rows] - begin
        length = np.zeros(len(start), np.int64)
        np.maximum.at(length, history, position)
        shown = data.impressions
        asked = Questions(history, position, shown.item_id[rows, np.newaxis], shown.time_ms[rows])
        self._values[rows] = self._reader.read(start, length, asked)[:, 0]
        self._known[moments] = True
