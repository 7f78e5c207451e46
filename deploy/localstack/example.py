"""The request and the event that `up` prints, for the demo's shop and for a model of any other catalogue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from localstack import demo
from localstack.shoppers import Shopper
from localstack.web import web
from mimn.bundle import Bundle
from mimn.state.actions import NAMES

USER = "user-1"


@dataclass(frozen=True)
class Example:
    """A request, and an event that is folded."""

    request: dict[str, Any]
    """The body of `POST /predict`; its user is the event's."""
    scored: str
    """What the request asks for."""
    item_id: int
    category_id: int
    action: str
    """As the enum of the behavior event names it."""
    sent: str
    """What the event is."""


def of_shopper(shopper: Shopper) -> Example:
    """About one of the demo's users."""
    return Example(
        request=demo.request(shopper),
        scored=f"what user {shopper.user_id} bought next, and two other items",
        item_id=shopper.item_id,
        category_id=shopper.category_id,
        action="ACTION_PURCHASE",
        sent="that they bought it",
    )


def of_bundle(bundle: Bundle, predict: str) -> Example:
    """About items that the bundle knows, with the fields that it reads, as RTP at `predict` documents them.

    Raises:
        httpx.HTTPError: RTP does not answer.
    """
    answer = web().get(f"{predict}/openapi.json", timeout=10).raise_for_status()
    operation = answer.json()["paths"]["/predict"]["post"]
    documented = operation["requestBody"]["content"]["application/json"]["example"]
    fields = {source: documented[source] for source in ("user", "context") if source in documented}
    items, categories = bundle.items.ids[:2].tolist() or [1], bundle.categories.ids[:1].tolist() or [1]
    candidates = [{"item_id": item, "category_id": categories[0]} for item in items]
    return Example(
        request={"user_id": USER, "candidates": candidates, **fields},
        scored="items that the model knows, for a user who has no events yet",
        item_id=items[0],
        category_id=categories[0],
        action=f"ACTION_{_action(bundle).upper()}",
        sent=f"of this user and the item {items[0]}; from then on the user is not `cold`",
    )


def _action(bundle: Bundle) -> str:
    """The action with the highest number of those that the bundle folds: a purchase, mostly."""
    return "purchase" if bundle.actions is None else NAMES[int(np.flatnonzero(bundle.actions.folded)[-1])]
