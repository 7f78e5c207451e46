"""The fields of a request to the vector that the head of its model reads."""

from __future__ import annotations

from mimn.bundle.request_fields import FieldFaults, RequestFields, RequestVector
from rtp.core.request import ScoreRequest
from rtp.errors import FieldFault, InvalidRequest


def request_vector(fields: RequestFields, request: ScoreRequest) -> RequestVector:
    """The vector of `request` by the fields of the model that will score it.

    A field that is left out has its default, so that a bundle with a new field can be rolled out before callers send
    it. One that they send too early is refused, because nothing else shows that it has no effect.

    Raises:
        InvalidRequest: fields that the model does not read, or values that they cannot take.
    """
    try:
        return fields.vector(request.user, request.context)
    except FieldFaults as error:
        raise InvalidRequest([FieldFault(*fault) for fault in error.faults]) from error
