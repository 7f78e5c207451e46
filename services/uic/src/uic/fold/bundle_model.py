"""The model that a bundle is."""

from __future__ import annotations

from mimn.bundle import Bundle
from mimn.rows.live import compiled_events
from uic.core.model import Model
from uic.core.ports import Step


def model_of(bundle: Bundle, step: Step) -> Model:
    """What a bundle and its step make of events."""
    return Model(
        step,
        bundle.events,
        bundle.forget,
        bundle.initial_state,
        bundle.layout,
        bundle.fingerprint,
        bundle.sketch,
        bundle.actions,
        bundle.ledger,
        compiled_events(),
        bundle.text_ids,
    )
