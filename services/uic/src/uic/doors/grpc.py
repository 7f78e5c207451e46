"""The gRPC server: the service of `uic.doors.servicer`, with health, reflection, keys, TLS and bounds."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from access import Door, ListenerTls, check_rules
from ctr.uic.v1 import uic_service_pb2 as pb
from ctr.uic.v1.uic_service_pb2_grpc import add_UserInterestCenterServicer_to_server
from process.addresses import joined
from uic.doors.arrival import ArrivalLimits
from uic.doors.guard import GRPC_RULES, Guard
from uic.doors.health import SERVICE_NAME as HEALTH
from uic.doors.health import HealthService
from uic.doors.listening import cannot_listen, why_not
from uic.doors.servicer import SERVICE, UserInterestCenter, status_of
from uic.doors.trailers import refuse
from uic.errors import StartRefused, UicError
from uic.settings import GrpcSettings

MAX_METADATA_BYTES: Final = 16 << 10
IDLE_MS: Final = 300_000
"""A connection without a call is closed after this; clients open another one when they next call."""
FILES_SHARE: Final = 0.75
"""Of the files that the process may open, what connections may take: no key is needed to open one, and the rest is for
the admin port, the brokers and the store."""
KEY_KINDS: Final = ("RSA", "P-256", "P-384")
"""Of the key of a certificate. The gRPC library takes P-521 and Ed25519 as well, but none of its own clients connects
then: they offer no such signature. Clients in Go and Java have other libraries."""
HEALTH_INTERVAL_S: Final = 0.2
LAST_WORDS_S: Final = 0.2
"""For the last health to reach the streams, before they are ended."""
HEALTH_CALLS: Final = 16
"""How many calls of health may wait for their request at once; see `uic.doors.arrival`."""
REST_CALLS: Final = 2
"""The same of reflection."""


def methods() -> list[str]:
    """The full name of every method that the server has, including health and reflection."""
    served = (pb.DESCRIPTOR, health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR)
    return [
        f"/{service.full_name}/{method.name}"
        for file in served
        for service in file.services_by_name.values()
        for method in service.methods
    ]


def most_connections() -> int:
    """How many may be open at a time."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    most = 2**31 - 1
    return most if limit == resource.RLIM_INFINITY else min(most, int(limit * FILES_SHARE))


class GrpcGuard(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """Rejects a call that is not allowed, before a byte of its request is read."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """The handler of the call, or one that refuses it. An unknown method needs a key of any scope."""
        rule = GRPC_RULES.get(handler_call_details.method, Door.ANY_KEY)
        brought = [str(value) for name, value in handler_call_details.invocation_metadata if name == "authorization"]
        try:
            self._guard.check(",".join(brought) if brought else None, rule)
        except UicError as refusal:
            return _refusing(refusal)
        return await continuation(handler_call_details)


def _refusing(error: UicError) -> Any:
    """A handler that refuses a call of any kind; as a streaming handler it does not wait for the request."""

    async def handler(_: Any, context: Any) -> None:
        refuse(context, status_of(error), error)

    return grpc.stream_stream_rpc_method_handler(handler)


class GrpcServer:
    """The listening server: the service, its health and reflection. Its coroutines run on one event loop.

    Health is SERVING while `serving()` is true, for the whole server ("") and for the service by name, and stays
    NOT_SERVING once `drain` has begun.
    """

    def __init__(
        self,
        service: UserInterestCenter,
        settings: GrpcSettings,
        serving: Callable[[], bool],
        guard: Guard | None = None,
        tls: ListenerTls | None = None,
    ) -> None:
        """Does not listen yet. Without a `guard` no authentication is required."""
        check_rules(methods(), GRPC_RULES, "uic.doors.guard")
        self._service = service
        self._settings = settings
        self._serving = serving
        self._guard = guard
        self._tls = tls
        self._health = HealthService(settings.max_watches)

    async def start(self) -> int:
        """Listen, and return the port.

        Raises:
            StartRefused: the address is taken or not this machine's, or the library cannot use the files of TLS.
        """
        await self._health.show(self._serving())
        self._server = self._made()
        try:
            port = self._listen()
        except RuntimeError as error:
            raise StartRefused(self._why_not(error)) from error
        await self._server.start()
        self._follower = asyncio.create_task(self._follow())
        return port

    def _made(self) -> grpc.aio.Server:
        settings = self._settings
        numbers = (settings.max_calls, HEALTH_CALLS, REST_CALLS)
        ours, health_calls, rest = map(asyncio.Semaphore, numbers)

        def at_once(method: str) -> asyncio.Semaphore:
            return {SERVICE: ours, HEALTH: health_calls}.get(method.split("/")[1], rest)

        limits = ArrivalLimits(at_once, self._service.count_refused, self._service.count_malformed)
        server = grpc.aio.server(
            interceptors=[*([] if self._guard is None else [GrpcGuard(self._guard)]), limits],
            options=[
                ("grpc.max_receive_message_length", settings.max_message_bytes),
                ("grpc.max_metadata_size", MAX_METADATA_BYTES),
                ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
                ("grpc.max_concurrent_streams", 8 * sum(numbers)),
                ("grpc.server_handshake_timeout_ms", 10_000),
                ("grpc.max_connection_idle_ms", IDLE_MS),
                ("grpc.max_allowed_incoming_connections", most_connections()),
                # Otherwise a second process on the port would silently take half of the calls.
                ("grpc.so_reuseport", 0),
            ],
        )
        add_UserInterestCenterServicer_to_server(self._service, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((SERVICE, HEALTH, reflection.SERVICE_NAME), server)
        return server

    def _listen(self) -> int:
        address = joined(self._settings.host, self._settings.port)
        if self._tls is None:
            return self._server.add_insecure_port(address)
        key, chain, authority = self._tls.pem()
        credentials = grpc.ssl_server_credentials(
            [(key, chain)], root_certificates=authority, require_client_auth=authority is not None
        )
        return self._server.add_secure_port(address, credentials)

    def _why_not(self, error: RuntimeError) -> str:
        """Why the library does not listen; it says no more than that."""
        cause = why_not(self._settings.host, self._settings.port)
        if cause is None and self._tls is not None:  # OpenSSL takes more than the library does
            files = {"CERT": self._tls.cert_file, "KEY": self._tls.key_file, "CLIENT_CA": self._tls.client_ca_file}
            named = ", ".join(f"UIC_GRPC__TLS_{name}_FILE={file}" for name, file in files.items() if file is not None)
            return (
                f"the gRPC library cannot use one of {named}: the key must be one of {', '.join(KEY_KINDS)} (not "
                "RSA-PSS), no file may begin with a byte order mark, and the certificate must be no TRUSTED CERTIFICATE"
            )
        return cannot_listen(self._settings.host, self._settings.port, cause or error, "UIC_GRPC")

    def watches(self) -> int:
        """How many streams follow the health."""
        return len(self._health)

    async def drain(self, grace_s: float) -> None:
        """Report NOT_SERVING, and answer all calls for the time that is set for this. Then accept no new ones, answer
        those that have begun within `grace_s` seconds, and close.

        The gRPC library cancels calls that arrive as the port closes, before their handler runs. Clients that follow
        the health leave in the time before; then their streams are ended.
        """
        self._follower.cancel()
        await self._health.enter_graceful_shutdown()
        await asyncio.sleep(max(self._settings.announce_s, min(grace_s, LAST_WORDS_S)))
        self._health.end_streams()
        await self._server.stop(grace_s)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(HEALTH_INTERVAL_S)
            await self._health.show(self._serving())
