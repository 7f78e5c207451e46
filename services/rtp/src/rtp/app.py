"""The composition root. RTP is three things: the releases in service, which `Background` keeps up to date; the path of
a request through door and scorer, which reads them; and two doors with their listeners. `create_service` makes every
part once, in this order, and gives it what it needs. `serve` is the process around it, from its sockets to its end.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvloop
from fastapi import FastAPI

from access import BadKeys, BadTls, ClientCertificates, KeyRing, ListenerTls, is_loopback
from mimn.bundle import BundleError, GoldenMismatch
from process.addresses import joined
from process.listening import bind
from process.memory import give_back
from process.setting_groups import TlsListener
from process.tls_causes import BadTlsFiles
from rtp.background import Background
from rtp.core.admission import Admission
from rtp.core.ports import Model, StateReader
from rtp.core.shadowing import ShadowBudget
from rtp.doors.admin import create_admin_app
from rtp.doors.guard import ADMIN_RULES, PUBLIC_RULES, protect
from rtp.doors.health import Readiness
from rtp.doors.listeners import Lifecycle, Service, inherited, run
from rtp.doors.predict import PredictDoor
from rtp.doors.problems import STATUS_TABLE
from rtp.doors.public import create_public_app
from rtp.errors import RtpError, UnsuitableClient
from rtp.loader import Loader
from rtp.logs import configure
from rtp.metrics import Metrics
from rtp.release import InService, Release
from rtp.reload import announce
from rtp.runtime import load_model
from rtp.scorer import Scorer
from rtp.settings import RtpSettings
from rtp.slices import ask_for_slices
from rtp.store import open_store
from rtp.store_clock import StoreClock


def create_service(settings: RtpSettings, *, store: StateReader | None = None, runtime: Model | None = None) -> Service:
    """Everything, made from `settings`; a given store or model takes the place of the real one.

    Raises:
        BundleError, GoldenMismatch: the bundle cannot be served.
        BadKeys: the file of keys cannot be used.
        BadTls: the certificate files cannot be used.
        BadTlsFiles: those of connections to the store cannot be used.
        UnsuitableClient: the installed redis-py cannot be used.
    """
    keys = None if settings.access.keys_file is None else KeyRing(settings.access.keys_file)
    model = load_model(settings.bundle.path) if runtime is None else runtime
    reader = open_store(settings.redis) if store is None else store
    metrics = Metrics()
    clock = StoreClock(reader, timeout_s=settings.redis.background_timeout_ms / 1000)

    # The releases in service: requests read them, the background changes them.
    in_service = InService(Release.of(model, prefix=settings.redis.prefix, generation=settings.bundle.generation))
    loader = Loader(load_model, settings.bundle.load_timeout_s)
    background = Background(in_service, reader, clock, loader, metrics, settings=settings)

    # The path of a request.
    admission = Admission(settings.load.max_in_flight)
    scorer = Scorer(
        in_service,
        reader,
        admission,
        metrics,
        stale_after_ms=settings.state.stale_after_s * 1000,
        store_ms=clock.now_ms,
        shadow_budget=ShadowBudget(settings.shadow.cpu_share, settings.shadow.max_pending),
    )
    door = PredictDoor(
        scorer,
        metrics,
        default_deadline_ms=settings.deadline.default_ms,
        max_deadline_ms=settings.deadline.max_ms,
        max_body_bytes=settings.http.max_body_bytes,
        log_every=settings.log.request_sample,
    )

    client_certificates = ClientCertificates(
        {"store": settings.redis.tls_cert_file},
        lambda server, ends: metrics.client_certificate_expires.labels(server).set(ends),
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        announce(in_service.current, metrics)
        loop = asyncio.get_running_loop()
        metrics.tasks.set_function(lambda: len(asyncio.all_tasks(loop)))
        try:
            await background.begin()
            lifecycle.announce_start()
            if keys is not None:
                keys.watch(metrics.count_key_read)
            client_certificates.watch()
            yield
        finally:
            client_certificates.close()
            if keys is not None:
                keys.close()
            scorer.shadows.close()
            await background.end()
            await reader.close()

    # The two doors, each with its listener.
    lifecycle = Lifecycle(admission)
    readiness = Readiness(lifecycle, in_service, reader, background)
    app = create_public_app(door, in_service, readiness, max_deadline_ms=settings.deadline.max_ms, lifespan=lifespan)
    admin = create_admin_app(in_service, background.reloader, background.follower, metrics, readiness)
    protect(app, PUBLIC_RULES, keys, metrics)
    protect(admin, ADMIN_RULES, keys, metrics)

    tls = {"http": _tls(settings.http), "admin": _tls(settings.admin)}
    for listener, of_listener in tls.items():
        if of_listener is not None:
            metrics.certificate_expires.labels(listener).set(of_listener.validity().ends)

    metrics.sentinels_up.set_function(lambda: _up(reader.sentinels))
    metrics.in_flight.set_function(lambda: admission.in_flight)
    metrics.hanging_loads.set_function(lambda: loader.hanging)
    if keys is not None:
        metrics.keys.set_function(lambda: len(keys))
        metrics.keys_refused.set_function(lambda: keys.refused)

    def refused(error: RtpError) -> None:
        row = STATUS_TABLE[type(error)]
        metrics.answers.labels(str(row.status), row.code).inc()

    return Service(
        app=app,
        admin=admin,
        tls=tls["http"],
        admin_tls=tls["admin"],
        refused=refused,
        out_of_files=metrics.out_of_files.inc,
        shed=door.shed,
        predict=app.answer,
        reloader=background.reloader,
        keys=keys,
        lifecycle=lifecycle,
    )


def _up(sentinels: str | None) -> float:
    """What `StateReader.sentinels` says, as a metric."""
    return math.nan if sentinels is None else float(not sentinels)


def _tls(listener: TlsListener) -> ListenerTls | None:
    return ListenerTls.of(listener.tls_cert_file, listener.tls_key_file, listener.tls_client_ca_file)


def serve(settings: RtpSettings, fd: int | None = None) -> int:
    """Serve until SIGTERM, on the inherited listening socket `fd` if there is one, and return the exit status: 0 after
    a drain, 2 if ports, keys or bundle must be corrected first."""
    configure(settings.log.level, settings.log.format)
    ask_for_slices(settings.load.slice_us)
    where, setting = (
        joined(settings.http.host, settings.http.port) if fd is None else f"descriptor {fd}",
        "RTP_HTTP__PORT",
    )
    try:
        public = bind(settings.http.host, settings.http.port) if fd is None else inherited(fd)
        where, setting = joined(settings.admin.host, settings.admin.port), "RTP_ADMIN__PORT"
        admin = bind(settings.admin.host, settings.admin.port)
    except OSError as error:
        return _refuse(f"cannot listen on {where}: {error.strerror or error}. Set {setting} to a free port")
    if settings.access.keys_file is None and (open_to := [where for where in map(_beyond, (public, admin)) if where]):
        return _refuse(
            f"{' and '.join(open_to)} needs authentication, and no keys are set. Make one with `ctr keys make "
            "FILE --scope predict --name NAME` and set RTP_ACCESS__KEYS_FILE to the file, or set RTP_HTTP__HOST and "
            "RTP_ADMIN__HOST to 127.0.0.1"
        )
    try:
        service = create_service(settings)
    except BadKeys as error:
        return _refuse(f"{error}. RTP_ACCESS__KEYS_FILE names it")
    except BadTls as error:
        return _refuse(f"{error}. RTP_HTTP__TLS_… and RTP_ADMIN__TLS_… name them")
    except (BadTlsFiles, UnsuitableClient) as error:
        return _refuse(str(error))
    except (BundleError, GoldenMismatch) as error:
        return _refuse(f"{error}. RTP_BUNDLE__PATH is {settings.bundle.path}")
    # What exists now lives as long as the process: the garbage collector need not visit it during requests.
    gc.collect()
    gc.freeze()
    give_back()
    uvloop.run(run(service, settings, public, admin, shared=fd is not None))
    if service.reloader.hanging:
        # An abandoned thread may be inside a graph: the libraries' clean-up at exit would take the graph away from it.
        logging.shutdown()
        os._exit(0)
    return 0


def _beyond(bound: socket.socket) -> str | None:
    """The address of a socket that other machines can reach; None for others. What it is bound to counts, not the
    settings: a launcher may have passed it on."""
    name = bound.getsockname()
    if bound.family == socket.AF_UNIX or is_loopback(name[0]):
        return None
    return f"listening on {name[0]}"


def _refuse(message: str) -> int:
    print(f"rtp: {message}", file=sys.stderr)
    return 2
