"""Fields where positives are events and negatives are drawn (`mimn.train`); impressions have `mimn.impressions.data`.

What values mean is fitted on the train users' events, each as an impression that was taken up. A drawn negative is
offered in the context of its target, to the same user: only the item's fields tell the two apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mimn.baselines import ModelConfig
from mimn.data.events import Events
from mimn.data.fields import EncodedFields, FittedFields, encode_fields, fit_fields
from mimn.data.labelled import Labelled
from mimn.data.prepared import Impressions, Prepared
from mimn.data.split import LEFT_OUT, PARTS
from mimn.data.vocabulary import EmbeddingIds, KnownIds, Vocabulary, places
from mimn.impressions.data import field_values
from mimn.nn.checkpoint import model_fields
from mimn.nn.fields import FieldValues, ModelFields

Ints = NDArray[np.int64]
RequestOf = Callable[[Ints], FieldValues]
"""Rows of events, [...], to the values of user and context fields at them."""


@dataclass(frozen=True)
class EventFields:
    """The fields of a data set whose positives are events."""

    fitted: FittedFields
    _encoded: EncodedFields

    @classmethod
    def of(cls, data: Prepared, train_users: NDArray[np.bool_], fitted: FittedFields) -> EventFields:
        """The values of a data set by their meanings. [U]"""
        return cls(fitted, encode_fields(data, events_as_impressions(data, train_users), fitted))

    def request(self, rows: Ints) -> FieldValues:
        """The values of user and context fields at some events. [...] rows → [..., ...]"""
        return field_values(self._encoded.of(rows.reshape(-1)), rows.shape)

    def model(self, config: ModelConfig, known: KnownIds) -> ModelFields:
        """Untrained tables for a model of `config`, with the items' values by row; row 0 has none."""
        none = len(self._encoded.item_key)
        at = places(self._encoded.item_key, known.ids.items)
        rows = np.append([none], np.where(at >= 0, at, none))
        values = field_values([self._encoded.items.at(rows)], rows.shape)
        return model_fields(config, self.fitted.specs, values, torch.from_numpy(known.embedding_rows))


def fit_event_fields(data: Prepared, train_users: NDArray[np.bool_]) -> FittedFields:
    """The meaning of the fields by the events of the train users; none for a data set without fields. [U]

    Raises:
        DataError: a field has no usable value there.
    """
    if not data.description.fields:
        return FittedFields((), {})
    return fit_fields(data, events_as_impressions(data, train_users))


def known_ids(vocabulary: Vocabulary, data: Prepared, min_users: int) -> KnownIds:
    """The ids that have rows: items that at least `min_users` train users touched, with an embedding of their own.

    If items have fields, the other ones of `[items]` have a row as well, for their values, and share the unknown item's
    embedding.
    """
    often = vocabulary.embedding_ids(min_users)
    keys = data.side("item").key if data.description.fields.item else np.empty(0, np.int64)
    ids = EmbeddingIds.of(np.concatenate([often.items, keys]), often.categories)
    return KnownIds.of(ids, places(often.items, ids.items) >= 0)


def events_as_impressions(data: Prepared, train_users: NDArray[np.bool_]) -> Labelled:
    """Every event as an impression that was taken up, those of the train users in the train part. [U]"""
    events: Events = data.events
    n = len(events)
    impressions = Impressions(
        user_id=events.user_id,
        item_id=events.item_id,
        category_id=events.category_id,
        time_ms=events.timestamp * events.unit_ms,
        label=np.ones(n, np.uint8),
        known_ms=events.timestamp * events.unit_ms,
        seen_ms=events.timestamp * events.unit_ms,
        request=np.arange(n),
        weight=np.ones(n, np.float32),
        position=np.full(n, np.nan, np.float32),
        context=data.event_context,
        slices={},
    )
    part = np.where(train_users[events.user_index], PARTS.index("train"), LEFT_OUT).astype(np.int8)
    return Labelled(events, impressions, part)
