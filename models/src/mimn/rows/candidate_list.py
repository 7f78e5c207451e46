"""Ids of a request's candidates from its JSON, compiled (candidate_list.c): a general decoder makes an object of each
candidate first, which takes several times as long."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mimn.rows.library import library


class Plain(NamedTuple):
    """A request in the plain form."""

    item_ids: NDArray[np.uint64]
    """[C], from 1 on."""
    category_ids: NDArray[np.uint64]
    """[C]"""
    rest: bytes
    """The text with `null` in the place of the candidates. It is JSON if and only if the text is."""


class CandidateList:
    """Reads candidates from JSON. Not for two threads at once: it has one array of ids."""

    def __init__(self, most: int, built: ctypes.CDLL) -> None:
        """`most`: candidates of a request."""
        self._most = most
        self._ids, self._span = np.zeros((2, most), np.uint64), (ctypes.c_int64 * 2)()
        self._into = self._ids.ctypes.data, ctypes.addressof(self._span)
        self._parse = built.candidates_parse

    def read(self, text: bytes) -> Plain | None:
        """The candidates of an object in JSON, if they are in the plain form that candidate_list.c knows, and 1 to
        `most`; None says nothing of the text, not even that it is JSON."""
        count = self._parse(text, len(text), self._most, *self._into)
        if not count:
            return None
        item_ids, category_ids = self._ids[:, :count].copy()
        begin, end = self._span
        return Plain(item_ids, category_ids, text[:begin] + b"null" + text[end:])


@cache
def candidate_list(most: int) -> CandidateList | None:
    """For a number of candidates; None as `library`."""
    built = library()
    return None if built is None else CandidateList(most, built)
