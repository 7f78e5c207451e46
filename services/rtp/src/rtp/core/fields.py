"""The fields of a request to the vector that the head of its model reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set

from mimn.bundle.request_fields import FieldFaults, RequestFields, RequestVector
from rtp.core.request import ScoreRequest
from rtp.errors import FieldFault, InvalidRequest

Names = Set[tuple[str, str]]
"""(`user` or `context`, field)"""
NONE: Names = frozenset()


def names_of(by_source: Mapping[str, Iterable[str]]) -> Names:
    """What a model reads of a request, as pairs of source and name."""
    return frozenset((source, name) for source, names in by_source.items() for name in names)


def request_vector(fields: RequestFields, request: ScoreRequest, of_others: Names = NONE) -> RequestVector:
    """The vector of `request` by the fields of the model that will score it.

    A field that is left out has its default, so that a bundle with a new field can be rolled out before callers send
    it. One that they send too early is refused, because nothing else shows that it has no effect. Those `of_others`,
    which another release of this or of an earlier rollout reads, are ignored instead: callers know neither a user's
    arm nor when there is a rollback.

    Raises:
        InvalidRequest: fields that the model does not read, or values that they cannot take.
    """
    user, context = request.user, request.context
    ignored: list[str] = []
    if of_others:
        ignored = [name for name in user if ("user", name) in of_others]
        ignored += [name for name in context if ("context", name) in of_others]
    if ignored:
        user = {name: value for name, value in user.items() if ("user", name) not in of_others}
        context = {name: value for name, value in context.items() if ("context", name) not in of_others}
    try:
        vector = fields.vector(user, context)
    except FieldFaults as error:
        raise InvalidRequest([FieldFault(*fault) for fault in error.faults]) from error
    vector.ignored = ignored
    return vector
