"""The composition root: every part is made here, once, and handed what it needs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version

from fastapi import FastAPI

from access import KeyRing, ListenerTls
from rtp.core.admission import Admission
from rtp.core.ports import Model, StateReader
from rtp.doors.admin import create_admin_app
from rtp.doors.api import STATUS_TABLE, GuardedApp, Headers, PredictApp, PredictDoor, add_health, add_problems
from rtp.doors.guard import ADMIN_RULES, PUBLIC_RULES, Guard, check_routes
from rtp.doors.openapi import describe
from rtp.errors import RtpError
from rtp.metrics import Metrics
from rtp.reload import Reloader, announce
from rtp.runtime import load_model
from rtp.scorer import Scorer
from rtp.serving import Holder, Serving
from rtp.settings import RtpSettings, TlsListener
from rtp.store import open_store
from rtp.watcher import Watcher


@dataclass(frozen=True)
class Service:
    """The parts that the process itself deals with."""

    app: GuardedApp
    """The public door; its lifespan runs the background work."""
    admin: GuardedApp
    tls: ListenerTls | None
    """Of the public listener."""
    admin_tls: ListenerTls | None
    refused: Callable[[RtpError], None]
    """To be told of requests that reach no door."""
    shed: Callable[[Headers, float], RtpError | None]
    """Asked about each prediction as soon as its headers are there: why it is not worth reading now."""
    reloader: Reloader
    keys: KeyRing | None
    lifecycle: Lifecycle


@dataclass
class Lifecycle:
    """Where the process is between its start and its end."""

    admission: Admission
    draining: bool = False

    def announce_drain(self) -> None:
        """Not ready from now on; requests are still answered."""
        self.draining = True

    def refuse_requests(self) -> None:
        """Requests that begin after this get 503."""
        self.admission.draining = True


def create_service(settings: RtpSettings, *, store: StateReader | None = None, runtime: Model | None = None) -> Service:
    """Everything, made from `settings`; a store or a model that is given is used instead of the real one.

    Raises:
        BundleError, GoldenMismatch: the bundle cannot be served.
        BadKeys: there is a file of keys, and it cannot be used.
        BadTls: there are files of certificates, and they cannot be used.
    """
    keys = None if settings.access.keys_file is None else KeyRing(settings.access.keys_file)
    model = load_model(settings.bundle.path) if runtime is None else runtime
    reader = open_store(settings.redis) if store is None else store
    metrics = Metrics()
    holder = Holder(Serving.of(model, prefix=settings.redis.prefix, generation=settings.bundle.generation))
    admission = Admission(settings.load.max_in_flight)
    metrics.in_flight.set_function(lambda: admission.in_flight)
    lifecycle = Lifecycle(admission)
    background_timeout_s = settings.redis.background_timeout_ms / 1000
    scorer = Scorer(holder, reader, admission, metrics, stale_after_ms=settings.state.stale_after_s * 1000)
    watcher = Watcher(holder, reader, metrics, every_s=settings.state.refresh_every_s, timeout_s=background_timeout_s)
    reloader = Reloader(
        holder,
        reader,
        metrics,
        path=settings.bundle.path,
        generation=settings.bundle.generation,
        timeout_s=background_timeout_s,
        load=load_model,
    )

    def unready() -> str | None:
        if lifecycle.draining:
            return "shutting down"
        if holder.current.standing is None:
            return f"the namespace has not been seen in the store yet: {watcher.trouble}"
        return None

    def refused(error: RtpError) -> None:
        row = STATUS_TABLE[type(error)]
        metrics.answers.labels(str(row.status), row.code).inc()

    def reread(taken_up: bool) -> None:
        metrics.key_reads.labels("taken_up" if taken_up else "refused").inc()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        announce(holder.current, metrics)
        loop = asyncio.get_running_loop()
        metrics.tasks.set_function(lambda: len(asyncio.all_tasks(loop)))
        await watcher.look()
        watching = asyncio.create_task(watcher.run())
        if keys is not None:
            keys.watch(reread)
        try:
            yield
        finally:
            if keys is not None:
                keys.close()
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
            await reader.close()

    door = PredictDoor(
        scorer,
        metrics,
        default_deadline_ms=settings.deadline.default_ms,
        max_deadline_ms=settings.deadline.max_ms,
        max_body_bytes=settings.http.max_body_bytes,
        log_every=settings.log.request_sample,
    )
    app = PredictApp(
        door,
        title="Real-Time Prediction",
        description="How likely is this user to click each of these candidates?",
        version=version("rtp"),
        redirect_slashes=False,
        lifespan=lifespan,
    )
    add_problems(app)
    add_health(app, unready)
    describe(app, settings.deadline.max_ms, lambda: holder.current.model.context)
    admin = create_admin_app(holder, reloader, metrics, unready)
    for guarded, rules in ((app, PUBLIC_RULES), (admin, ADMIN_RULES)):
        check_routes(guarded.routes, rules)
        if keys is not None:
            guarded.guard = Guard(rules, keys, metrics)
    if keys is not None:
        metrics.keys.set_function(lambda: len(keys))
    return Service(app, admin, _tls(settings.http), _tls(settings.admin), refused, door.shed, reloader, keys, lifecycle)


def _tls(listener: TlsListener) -> ListenerTls | None:
    return ListenerTls.of(listener.tls_cert_file, listener.tls_key_file, listener.tls_client_ca_file)


def create_app(settings: RtpSettings, *, store: StateReader | None = None, runtime: Model | None = None) -> GuardedApp:
    """The public door alone, for an ASGI server of one's own or for tests; as `create_service`. That server decides
    where to listen, and must not do so off loopback without keys."""
    return create_service(settings, store=store, runtime=runtime).app
