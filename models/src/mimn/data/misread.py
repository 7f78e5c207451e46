"""Texts of ids and fields that may mean something else where they were written: numbers, truth, or no value.

They are no fault: what they mean, and what a request sends, is for the data's owner to know.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from mimn.arrow import pa, pc
from mimn.data.column_values import bytes_of
from mimn.data.ids import xxh64
from mimn.data.tallies import Tally

_MISREAD = (
    (re.compile(r"-?[0-9](\.[0-9]+)?[Ee]\+[0-9]+"), "texts, of numbers that a spreadsheet or R may have rounded"),
    # `mimn.bundle.fields.text_of` makes 21 of JSON's 21.0, and 1 of its true.
    (re.compile(r"-?[0-9]+\.0+|[Tt]rue|[Ff]alse|TRUE|FALSE"), "texts, which a request has to send as texts"),
    (
        re.compile(
            r"\s*(-|\?|#n/a|\(null\)|<na>|missing|n/a|na|nan|nil|none|null|undefined|unknown)\s*", re.IGNORECASE
        ),
        "values, not missing, unless `nulls` names them",
    ),
)
"""What they look like, and what they are here."""
_WHOLE = re.compile(r"(-?[0-9]+)\.0+")
_TRUTH = {"true": "1", "false": "0"}
"""What `mimn.bundle.fields.text_of` makes of true and false that are no texts."""


def misread_values(texts: Iterable[str]) -> Iterator[tuple[str, str, int]]:
    """Of the different texts of a field: one, what such texts are here, and how many there are."""
    values = sorted(texts)
    for misread, meaning in _MISREAD:
        like = [text for text in values if misread.fullmatch(text)]
        if like:
            yield like[0], meaning, len(like)


def written_twice(texts: Iterable[str]) -> list[list[str]]:
    """Of the different texts of a field: those that are most likely one value, such as 21 and 21.0, or true and 1."""
    there = set(texts)
    ways: dict[str, list[str]] = {}
    for text in sorted(there):
        if text.lower() in _TRUTH:
            ways.setdefault(_TRUTH[text.lower()], []).append(text)
        elif whole := _WHOLE.fullmatch(text):
            ways.setdefault(whole[1], []).append(text)
    found = [[value, *others] if value in there else others for value, others in ways.items()]
    return [same for same in found if len(same) > 1]


class MisreadIds:
    """Counts such texts among ids, by column."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, int], tuple[str, Tally]] = {}

    def add(self, column: str, texts: pa.Array) -> None:
        """Note texts, repeated or not. [n]"""
        for at, (misread, _) in enumerate(_MISREAD):
            pattern, ignore_case = rf"\A(?:{misread.pattern})\z", bool(misread.flags & re.IGNORECASE)
            like = texts.filter(pc.match_substring_regex(texts, pattern, ignore_case=ignore_case))
            if len(like):
                _, tally = self._seen.setdefault((column, at), (like[0].as_py(), Tally()))
                tally.add(xxh64(*bytes_of(like)))

    @property
    def found(self) -> Iterator[tuple[str, str, str, int]]:
        """Column, one of its texts, what such texts are here, and how many different ones there are."""
        for (column, at), (first, tally) in self._seen.items():
            yield column, first, _MISREAD[at][1], len(tally.ids)
