"""The members that a bundle gets in place of its run's (`export --members`), and whether they belong to the run.

A wrong table is not seen in a bundle: its candidates are scored as ones that stand for nothing else. So it is compared
with what the run knows: the ids of its items, among which all candidates of its own table are, and its own index.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mimn import config_file, run
from mimn.bundle.members import MemberIndex, MemberIndexError
from mimn.config import ConfigError
from mimn.data.description import read_description
from mimn.data.events import DataError
from mimn.data.member_reads import index_of
from mimn.data.members import Members
from mimn.data.preparation import prepare
from mimn.data.vocabulary import EmbeddingIds
from mimn.impressions.config import ImpressionConfig
from mimn.impressions.trained import RunFault
from mimn.run_files import DESCRIPTION
from mimn.state.ledger import Ledger

log = logging.getLogger("mimn.export")
FEW = 0.5
"""Below this share of ids that the run knows, a table may be another one than was meant."""


@dataclass(frozen=True)
class Known:
    """What a run knows of candidates and items."""

    ids: NDArray[np.uint64]
    """Items that training showed often enough, and candidates that have members."""
    index: MemberIndex
    ledger: Ledger

    @classmethod
    def load(cls, folder: Path, ledger: Ledger) -> Known:
        """Of the run in a folder.

        Raises:
            DataError, RunFault: a file of it is missing or damaged.
        """
        try:
            return cls(EmbeddingIds.load(folder).items.astype(np.uint64), MemberIndex.load(folder, ledger), ledger)
        except MemberIndexError as error:
            raise RunFault(f"{folder} holds no members ({error}): train it again") from error

    def match(self, members: Members) -> Match:
        """How much of a table the run knows."""
        candidates, items = (np.unique(of.astype(np.uint64)) for of in (members.key, members.item))
        by_id = np.isin(items, self.ids)
        # Its own members may be too rare for an id. By their keys a few foreign items are known by chance.
        known = by_id | np.isin(self.ledger.keys(items).numbers, self.index.keys)
        return Match(
            candidates=len(candidates),
            known_candidates=int(np.isin(candidates, np.union1d(self.ids, self.index.ids)).sum()),
            items=len(items),
            known_items=int(known.sum()),
            items_by_id=int(by_id.sum()),
        )


@dataclass(frozen=True)
class Match:
    """How many candidates and members of a table there are, and how many of them a run knows."""

    candidates: int
    known_candidates: int
    items: int
    known_items: int
    items_by_id: int
    """Those of `known_items` that are known for certain."""

    @property
    def foreign(self) -> bool:
        """Whether the members are not the run's items: a few may be known by chance."""
        return not self.items_by_id and self._few(self.known_items, self.items)

    @property
    def doubts(self) -> Iterator[str]:
        """What is known too little."""
        for what, known, of in (
            ("candidates", self.known_candidates, self.candidates),
            ("members", self.known_items, self.items),
        ):
            if self._few(known, of):
                yield f"{known} of {of} {what}"

    @staticmethod
    def _few(known: int, of: int) -> bool:
        return known < FEW * of


def new_members(folder: Path, description: Path, cache: Path) -> MemberIndex:
    """The index of the members that a description names, for a bundle of the run in `folder`.

    Warns if the run knows few of the candidates or of the members.

    Raises:
        ConfigError: the run reads no members, or the description has none or other `ids`.
        DataError: the data set cannot be used, or its `[members]` are not of the run's candidates and items.
        RunFault: a file of the run is missing or damaged.
    """
    ledger = config_file.read(folder / run.CONFIG, ImpressionConfig).architecture.ledger
    if ledger is None:
        raise ConfigError("--members: the run has no member_reads")
    described, trained = read_description(description), read_description(folder / DESCRIPTION)
    if described.members is None:
        raise ConfigError(
            f"--members: {description} has no `[members]`, so no candidate of the bundle would stand for others: name "
            "a description that has, or leave --members out to keep those of the run"
        )
    if described.ids != trained.ids:
        raise ConfigError(
            f'--members: {description} has `ids = "{described.ids}"`, and {folder} was trained with "{trained.ids}", '
            "so no id would match: name a description of the same ids"
        )
    prepared = prepare(description, cache)
    members, files = prepared.members, ", ".join(described.members.files)
    assert members is not None  # noqa: S101 (the description has the table)
    match = Known.load(folder, ledger).match(members)
    if match.foreign:
        raise DataError(
            f"--members: {match.known_items} of {match.items} members in column {described.members.item} of {files} "
            f"are items of {folder}: name the description of its shop, and in `members.item` the column whose values "
            "are those of `events.item`"
        )
    shown = prepared.impressions
    if not match.known_candidates and (shown is None or not np.isin(members.key, shown.item_id).any()):
        raise DataError(
            f"--members: none of {match.candidates} candidates in column {described.members.key} of {files} is one of "
            f"{folder}, and `[impressions]` of {description} shows none of them: name the description of its shop, and "
            "in `members.key` the column whose values are those of `impressions.item`"
        )
    if doubts := ", ".join(match.doubts):
        log.warning(
            "--members: %s has few that training knew (%s): check that it is the description of the shop of %s",
            description,
            doubts,
            folder,
        )
    return index_of(ledger, members)
