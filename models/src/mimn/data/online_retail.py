"""Online Retail: a year of purchases at a UK web shop; its prepared files are in this repository.

Chen, D. (2015), Online Retail, UCI Machine Learning Repository, DOI 10.24432/C5BW33, CC BY 4.0; changes are listed in
the README in the folder of the files.
"""

from __future__ import annotations

from pathlib import Path

from mimn.data.events import Events, read_events

EVENTS_SHA256 = "d52674a591a5744451a5a014cd2509911027555817462bccdc453553af4faa61"
ITEMS_SHA256 = "259baa14a55fbf4a4fba9f38cd63eadd2f8f347e4e5375b7a987bc0417393a32"


def read(folder: str | Path) -> Events:
    """The events in `folder`, their bytes checked.

    Raises:
        DataError: the file is missing or is not the published one.
    """
    return read_events(Path(folder) / "events.parquet", sha256=EVENTS_SHA256)
