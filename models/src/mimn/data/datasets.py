"""The data sets that a configuration can name, and how each is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mimn.data import complete_journey, movielens, online_retail, synthetic
from mimn.data.events import DataError, Events

READERS: Mapping[str, Callable[[str], Events]] = {
    "online_retail": online_retail.read,
    "complete_journey": complete_journey.read,
    "movielens_100k": movielens.read,
    "synthetic": lambda _: synthetic.make(),
}
"""By name: from the folder with the data set's files to its events."""


def check_name(name: str) -> None:
    """Reads no file, so that a plan or a configuration can be checked before any work.

    Raises:
        DataError: there is no data set of that name; the message lists the names.
    """
    if name not in READERS:
        raise DataError(f"there is no data set {name!r}; the data sets are {', '.join(READERS)}")


def read_dataset(name: str, folder: str) -> Events:
    """The events of a data set.

    Raises:
        DataError: the name is unknown, or the files are missing or are not the data set's.
    """
    check_name(name)
    return READERS[name](folder)
