"""The fields of a request to the vector that the head of its model reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any, Final

from mimn.bundle.fields import FieldSpec
from mimn.bundle.request_fields import FieldFaults, RequestFields, RequestVector, asked_for
from rtp.core.request import ScoreRequest
from rtp.errors import FieldFault, InvalidRequest

Fields = Set[tuple[str, str, str]]
"""(`user` or `context`, field, kind)"""
Name = tuple[str, str]
"""(`user` or `context`, field)"""
FORMS: Final[Mapping[str, Set[str]]] = {
    "numeric": {"whole", "fraction"},
    "categorical": {"whole", "truth", "text"},
    "multi": {"whole", "truth", "text", "list"},
}
"""Which forms of values a field of each kind reads."""


@dataclass(frozen=True, slots=True)
class OfOthers:
    """What other releases of this or of an earlier rollout read of a request, and a model does not."""

    names: Set[Name] = frozenset()
    """Fields that it does not read."""
    forms: Mapping[Name, Set[str]] = field(default_factory=dict)
    """Of fields that it reads as another kind: the forms of values that only the other kind reads."""

    def among(self, source: str, given: Mapping[str, Any]) -> list[str]:
        """The names of those among the fields that a request gives under `source`."""
        return [
            name
            for name, value in given.items()
            if (source, name) in self.names or form(value) in self.forms.get((source, name), ())
        ]


NONE: Final = OfOthers()


def form(value: Any) -> str:
    """What `FORMS` calls a value; empty for none."""
    if isinstance(value, bool):
        return "truth"
    if isinstance(value, float):
        return "whole" if value.is_integer() else "fraction"
    return {int: "whole", str: "text", list: "list"}.get(type(value), "")


def fields_of(specs: Iterable[FieldSpec]) -> Fields:
    """What a model reads of a request."""
    return frozenset((spec.source, spec.name, spec.kind) for spec in specs if spec.source != "item" and asked_for(spec))


def of_others(known: Fields, own: Fields) -> OfOthers:
    """What a model that reads `own` leaves to other releases, all of which read `known`."""
    kinds = {(source, name): kind for source, name, kind in own}
    forms: dict[Name, Set[str]] = {}
    for source, name, kind in known:
        if (source, name) in kinds and (only := FORMS[kind] - FORMS[kinds[source, name]]):
            forms[source, name] = forms.get((source, name), frozenset()) | only
    names = frozenset((source, name) for source, name, _ in known) - kinds.keys()
    return OfOthers(names, forms) if names or forms else NONE


def request_vector(fields: RequestFields, request: ScoreRequest, of_others: OfOthers = NONE) -> RequestVector:
    """The vector of `request` by the fields of the model that will score it.

    A field that is left out has its default, so that a bundle with a new field can be rolled out before callers send
    it. One that they send too early is refused, because nothing else shows that it has no effect. Those `of_others`
    are ignored instead, and so are values of the kind that only others read: callers know neither a user's arm nor when
    there is a rollback.

    Raises:
        InvalidRequest: fields that the model does not read, or values that they cannot take.
    """
    user, context = request.user, request.context
    ignored: list[str] = []
    if of_others is not NONE:
        of_user, of_context = of_others.among("user", user), of_others.among("context", context)
        if ignored := [*of_user, *of_context]:
            user = {name: value for name, value in user.items() if name not in of_user}
            context = {name: value for name, value in context.items() if name not in of_context}
    try:
        vector = fields.vector(user, context)
    except FieldFaults as error:
        raise InvalidRequest([FieldFault(*fault) for fault in error.faults]) from error
    vector.ignored = ignored
    return vector
