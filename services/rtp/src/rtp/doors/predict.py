"""`POST /predict`: HTTP to `Scorer` and back.

No framework is between, because a general one's request object, dependency injection and response validation would
cost more than everything else that is not the model.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from time import monotonic
from typing import Any

import structlog
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from rtp import errors
from rtp.core.request import ScoreRequest
from rtp.doors import request_id
from rtp.doors.answer_body import encode_answer
from rtp.doors.guard import GuardedApp
from rtp.doors.problems import INTERNAL, STATUS_TABLE, Answer, Headers, Row, headers_of, problem, send_answer
from rtp.doors.request_body import decode_request
from rtp.errors import FieldFault, InvalidRequest, RtpError
from rtp.logs import Throttle
from rtp.metrics import Metrics
from rtp.scorer import Scored, Scorer

log = structlog.stdlib.get_logger(__name__)

PREDICT_PATHS = ("/predict", "/v1/predict")
DEADLINE_HEADER = "X-Request-Deadline-Ms"
_DEADLINE = DEADLINE_HEADER.lower().encode()
_REQUEST_ID = request_id.NAME
ARRIVED = "rtp.arrived"
"""Where the ASGI scope says when a request's first byte was seen, in seconds of `time.monotonic`."""
HINT = (
    'send POST with Content-Type: application/json and a body such as {"user_id": "17850", "candidates": [{"item_id": '
    '85123, "category_id": 7}]}; /openapi.json describes it'
)
"""What to do instead of GET /predict."""
_JSON_HEADER = (b"content-type", b"application/json")


class ClientGone(Exception):
    """The client closed its connection before its request was complete; an answer would not be read."""


class PredictDoor:
    """`POST /predict`: as a bare ASGI application, and as a function for the protocol that has the whole request."""

    def __init__(
        self,
        scorer: Scorer,
        metrics: Metrics,
        *,
        default_deadline_ms: int,
        max_deadline_ms: int,
        max_body_bytes: int,
        log_every: int = 0,
    ) -> None:
        self._scorer = scorer
        self._metrics = metrics
        self._default_deadline_s = default_deadline_ms / 1000
        self._max_deadline_ms = max_deadline_ms
        self._max_body_bytes = max_body_bytes
        self._log_every = log_every
        self._count = itertools.count(1)
        self._boot = secrets.token_hex(6)
        self._tracebacks = Throttle()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        try:
            answer = await self.answer(scope["headers"], scope.get(ARRIVED) or monotonic(), receive)
        except ClientGone:
            return
        await send_answer(scope, send, *answer)

    async def answer(self, headers: Headers, arrived: float, body: bytes | Receive) -> Answer:
        """The answer to one request, which is counted and sampled for the log.

        Args:
            headers: of the request.
            arrived: when its first byte was seen, in seconds of `time.monotonic`.
            body: of the request, or where it comes from.

        Raises:
            ClientGone: before the body was complete.
        """
        number = next(self._count)
        status, about = 200, [_JSON_HEADER]
        given: str | None = None
        request: ScoreRequest | None = None
        scored: Scored | None = None
        try:
            deadline, declared_bytes, given = self._head(headers, arrived)
            if not isinstance(body, bytes):
                body = await self._received(body, declared_bytes, deadline)
            elif len(body) > self._max_body_bytes:
                raise _too_large(self._max_body_bytes)
            request = decode_request(body)
            scored = await self._scorer.score(request, deadline)
            known_as = self._known_as(given, request, number)
            answer = encode_answer(
                request.request_id or known_as,
                scored.model.name,
                scored.model.version,
                scored.scores,
                scored.report,
                arm=scored.arm,
                calibrated=scored.model.calibrated,
            )
            self._metrics.ok.inc()
        except ClientGone:
            raise
        except Exception as error:
            known_as = self._known_as(given or request_id.given_id(headers), request, number)
            row, answer = self._failed(error, known_as)
            status, about = row.status, headers_of(row)
        took_s = monotonic() - arrived
        about += [server_timing(took_s), (_REQUEST_ID, known_as.encode())]
        self._metrics.seconds_of[status // 100].observe(took_s)
        if self._log_every and number % self._log_every == 0:
            log.info(
                "predict",
                request_id=known_as,
                status=status,
                ms=round(took_s * 1000, 2),
                candidates=len(scored.scores) if scored else None,
                state=scored.report.status.value if scored else None,
                model=f"{scored.model.name}/{scored.model.version}" if scored else None,
                arm=scored.arm if scored else None,
            )
        return status, about, answer

    def _known_as(self, given: str | None, request: ScoreRequest | None, number: int) -> str:
        """The id of the answer's header and of log lines; see `rtp.doors.request_id`."""
        if given is not None:
            return given
        if request is not None and request.request_id is not None and request_id.is_plain(request.request_id):
            return request.request_id
        return f"{self._boot}-{number:x}"

    def _failed(self, error: Exception, known_as: str) -> tuple[Row, bytes]:
        """How an error is answered; counted, and logged if it is a fault of the service."""
        known = error if isinstance(error, RtpError) else None
        row = INTERNAL if known is None else STATUS_TABLE[type(known)]
        if row.status == 500:
            # Every failed request can be found by its id; the traceback is the same for all of them.
            name = type(error).__name__
            traceback = self._tracebacks(name) is not None
            log.error("request failed", request_id=known_as, error=name, exc_info=error if traceback else None)
        self._metrics.answers.labels(str(row.status), row.code).inc()
        return row, problem(row, known)

    def shed(self, headers: Headers, arrived: float) -> RtpError | None:
        """Why a request with these headers is not worth reading now; None if it is, or if a header has a fault."""
        try:
            self._scorer.expect(self._deadline(headers, arrived))
        except errors.Overloaded as overloaded:
            return overloaded
        except RtpError:
            return None
        return None

    def _deadline(self, headers: Headers, arrived: float) -> float:
        for name, value in headers:
            if name == _DEADLINE:
                return arrived + self._deadline_ms(value) / 1000
        return arrived + self._default_deadline_s

    def _head(self, headers: Headers, arrived: float) -> tuple[float, int | None, str | None]:
        """When the answer is due, how many bytes the body has (None if the client does not say), and the request's id
        (None without a usable one)."""
        deadline = arrived + self._default_deadline_s
        declared_bytes = known_as = None
        for name, value in headers:
            if name == b"content-length":
                declared_bytes = int(value)
            elif name == b"content-type":
                if value != b"application/json":
                    _check_media_type(value)
            elif name == _DEADLINE:
                deadline = arrived + self._deadline_ms(value) / 1000
            elif name == _REQUEST_ID:
                known_as = request_id.plain(value)
            elif name == b"content-encoding" and value.lower() not in (b"identity", b""):
                raise errors.UnsupportedMediaType("the body is compressed: send it plain, without Content-Encoding")
        return deadline, declared_bytes, known_as

    def _deadline_ms(self, value: bytes) -> int:
        digits = value.lstrip(b"0")
        if not digits.isdigit():
            raise InvalidRequest(
                [FieldFault(f"header {DEADLINE_HEADER}", "must be a whole number of milliseconds, at least 1")]
            )
        return min(int(digits[:10]), self._max_deadline_ms)

    async def _received(self, receive: Receive, declared_bytes: int | None, deadline: float) -> bytes:
        """The whole body; at most the limit and one read of the socket are in memory."""
        limit = self._max_body_bytes
        if declared_bytes is not None and declared_bytes > limit:
            raise _too_large(limit)
        chunks: list[bytes] = []
        received = 0
        try:
            async with asyncio.timeout(deadline - monotonic()):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGone
                    chunk: bytes = message.get("body", b"")
                    received += len(chunk)
                    if received > limit:
                        raise _too_large(limit)
                    chunks.append(chunk)
                    more = message.get("more_body", False)
        except TimeoutError as error:
            raise errors.SlowBody(f"only {received} bytes of the body arrived within the deadline") from error
        return b"".join(chunks)


def _too_large(limit: int) -> errors.BodyTooLarge:
    return errors.BodyTooLarge(f"the body is larger than {limit} bytes: send fewer candidates")


def _check_media_type(value: bytes) -> None:
    kind, _, parameters = value.decode("latin-1").lower().partition(";")
    charset = parameters.strip().removeprefix("charset=").strip('"')
    if kind.strip() != "application/json" or charset not in ("", "utf-8"):
        raise errors.UnsupportedMediaType("send Content-Type: application/json, in UTF-8")


def server_timing(took_s: float) -> tuple[bytes, bytes]:
    """The header that says how long an answer took by this process's clock, from the request's first byte."""
    return b"server-timing", b"rtp;dur=%.2f" % (took_s * 1000)


class PredictApp(GuardedApp):
    """An app with `/predict` and `/v1/predict` in front of its middleware and router, which take 50 µs a request.

    Middleware therefore does not see predictions: the door does all that they need. `openapi` documents the paths.
    """

    def __init__(self, door: PredictDoor, **options: Any) -> None:
        super().__init__(**options)
        self._door = door
        # For the other methods' 405, and as the door of an application that this one is mounted in.
        self.router.routes[:0] = [
            Route(path, door, methods=["POST"], include_in_schema=False) for path in PREDICT_PATHS
        ]

    async def answer(self, path: str, headers: Headers, arrived: float, body: bytes) -> Answer:
        """The answer to a prediction whose body is there, without ASGI; see `PredictDoor.answer`."""
        return self.denial(path, headers) or await self._door.answer(headers, arrived, body)

    async def admitted(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See `GuardedApp`."""
        if scope["type"] == "http" and scope["path"] in PREDICT_PATHS and scope["method"] == "POST":
            await self._door(scope, receive, send)
        else:
            await super().admitted(scope, receive, send)
