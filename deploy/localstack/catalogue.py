"""Does a bundle know the demo's shop? A model of another catalogue would score these items as unknown, or as others.

Online Retail numbers its items from 1 on, as other data sets do. So equal ids prove nothing when the bundle names the
data set it was trained on, and that name is compared first.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from localstack.shoppers import DATA, Shopper
from mimn.bundle import Bundle, load_bundle
from mimn.data.description import read_description
from mimn.data.events import Events

LEAST_KNOWN = 0.9
"""Share of the replayed events whose item the bundle must know; the shipped bundles know 0.99."""


class OtherCatalogue(RuntimeError):
    """The bundle is for other items than the demo's; the message has the share it knows and what to do."""


def known_share(bundle: Bundle, events: Events, people: Iterable[Shopper]) -> float:
    """Share of the histories' events whose item is in the bundle's vocabulary."""
    rows = np.concatenate([np.arange(shopper.rows.start, shopper.rows.stop) for shopper in people])
    return float((bundle.items.rows(events.item_id[rows].astype(np.uint64)) > 0).mean())


def check_catalogue(path: Path, events: Events, people: list[Shopper]) -> float:
    """The share of the histories' events whose item the bundle in `path` knows.

    Raises:
        OtherCatalogue: it was trained on another data set, or knows too few items.
        BundleError: it cannot be loaded.
    """
    bundle = load_bundle(path)
    share = known_share(bundle, events, people)
    shop = read_description(DATA).name
    trained_on = bundle.manifest.training.get("dataset", shop)
    if trained_on == shop and share >= LEAST_KNOWN:
        return share
    reason = f"{path} was trained on {trained_on}" if trained_on != shop else f"{path} is for another catalogue"
    raise OtherCatalogue(
        f"{reason}: {share:.0%} of the demo's events have an item id that it knows, and the demo replays {shop}. "
        "Use a bundle trained on that data set (the default is one), or `up --empty` and your own events"
    )
