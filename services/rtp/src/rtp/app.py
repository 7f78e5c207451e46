"""The composition root: every part is made here, once, and given what it needs. `serve` is the process around it, from
its sockets to its end."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

import uvloop
from fastapi import FastAPI

from access import BadKeys, BadTls, KeyRing, ListenerTls, is_loopback
from mimn.bundle import BundleError, GoldenMismatch
from process.memory import give_back
from rtp.announcer import Announcer
from rtp.core.admission import Admission
from rtp.core.ports import Model, StateReader
from rtp.core.shadowing import ShadowBudget
from rtp.doors.admin import create_admin_app
from rtp.doors.guard import ADMIN_RULES, PUBLIC_RULES, Guard, check_routes
from rtp.doors.health import add_health
from rtp.doors.listeners import Lifecycle, Service, bind, inherited, run
from rtp.doors.openapi import describe
from rtp.doors.predict import HINT, PREDICT_PATHS, PredictApp, PredictDoor
from rtp.doors.problems import STATUS_TABLE, add_problems
from rtp.errors import RtpError, UnsuitableClient
from rtp.loader import Loader
from rtp.logs import configure
from rtp.metrics import Metrics
from rtp.progress_watcher import ProgressReader, ProgressWatcher
from rtp.release import InService, Release
from rtp.reload import Reloader, announce
from rtp.rollout_follower import Bundles, RolloutFollower
from rtp.runtime import load_model
from rtp.scorer import Scorer
from rtp.settings import RtpSettings, TlsListener
from rtp.slices import ask_for_slices
from rtp.store import open_store
from rtp.store_clock import StoreClock


def create_service(settings: RtpSettings, *, store: StateReader | None = None, runtime: Model | None = None) -> Service:
    """Everything, made from `settings`; a given store or model takes the place of the real one.

    Raises:
        BundleError, GoldenMismatch: the bundle cannot be served.
        BadKeys: the file of keys cannot be used.
        BadTls: the certificate files cannot be used.
        UnsuitableClient: the installed redis-py cannot be used.
    """
    keys = None if settings.access.keys_file is None else KeyRing(settings.access.keys_file)
    model = load_model(settings.bundle.path) if runtime is None else runtime
    reader = open_store(settings.redis) if store is None else store
    metrics = Metrics()
    in_service = InService(Release.of(model, prefix=settings.redis.prefix, generation=settings.bundle.generation))
    admission = Admission(settings.load.max_in_flight)
    metrics.in_flight.set_function(lambda: admission.in_flight)
    lifecycle = Lifecycle(admission)
    clock = StoreClock(reader, timeout_s=settings.redis.background_timeout_ms / 1000)
    stale_after_ms = settings.state.stale_after_s * 1000
    scorer = Scorer(
        in_service,
        reader,
        admission,
        metrics,
        stale_after_ms=stale_after_ms,
        store_ms=clock.now_ms,
        shadow_budget=ShadowBudget(settings.shadow.cpu_share, settings.shadow.max_pending),
    )
    progress_reader = ProgressReader(
        reader,
        clock,
        timeout_s=settings.redis.background_timeout_ms / 1000,
        ahead_within_ms=settings.state.clock_ahead_s * 1000,
    )
    watcher = ProgressWatcher(in_service, progress_reader, metrics, every_s=settings.state.refresh_every_s)
    loader = Loader(load_model, settings.bundle.load_timeout_s)
    path = settings.bundle.path
    follower = RolloutFollower(
        in_service,
        reader,
        progress_reader,
        metrics,
        loader,
        bundles=Bundles(settings.bundles.folder or path.resolve().parents[1], path),
        prefix=settings.redis.prefix,
        timeout_s=settings.redis.background_timeout_ms / 1000,
        every_s=settings.bundles.follow_every_s,
        retry_every_s=settings.bundles.retry_every_s,
    )
    announcer = Announcer(
        in_service,
        follower,
        reader,
        metrics,
        prefix=settings.redis.prefix,
        timeout_s=settings.redis.background_timeout_ms / 1000,
    )
    reloader = Reloader(
        in_service,
        reader,
        progress_reader,
        metrics,
        loader,
        path=path,
        generation=settings.bundle.generation,
        stale_after_ms=stale_after_ms,
        least_coverage=settings.bundle.least_coverage,
        governed=lambda: follower.governor,
    )
    metrics.hanging_loads.set_function(lambda: reloader.hanging)

    def unready() -> str | None:
        if lifecycle.draining:
            return "shutting down"
        if reason := follower.unready:
            return reason
        if in_service.current.progress is None:
            return f"the namespace was not found in the store yet: {watcher.trouble}"
        return None

    def details() -> str:
        progress = watcher.trouble and f"progress cannot be read: {watcher.trouble}"
        clock = watcher.no_time and f"the store does not tell its time: {watcher.no_time}"
        return "; ".join(filter(None, (follower.details, progress or clock)))

    def refused(error: RtpError) -> None:
        row = STATUS_TABLE[type(error)]
        metrics.answers.labels(str(row.status), row.code).inc()

    def keys_read(taken_up: bool) -> None:
        metrics.key_reads.labels("taken_up" if taken_up else "refused").inc()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        announce(in_service.current, metrics)
        loop = asyncio.get_running_loop()
        metrics.tasks.set_function(lambda: len(asyncio.all_tasks(loop)))
        await watcher.look()
        await follower.begin()
        background = [asyncio.create_task(one.run()) for one in (watcher, follower, announcer)]
        if keys is not None:
            keys.watch(keys_read)
        try:
            yield
        finally:
            if keys is not None:
                keys.close()
            follower.close()
            scorer.shadows.close()
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
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
    add_problems(app, "metrics are on the admin port", dict.fromkeys(PREDICT_PATHS, HINT))
    add_health(app, unready, details)
    describe(app, settings.deadline.max_ms, lambda: in_service.current.model.request)
    admin = create_admin_app(in_service, reloader, follower, metrics, unready=unready, details=details)
    for guarded, rules in ((app, PUBLIC_RULES), (admin, ADMIN_RULES)):
        check_routes(guarded.routes, rules)
        if keys is not None:
            guarded.guard = Guard(rules, keys, metrics)
    if keys is not None:
        metrics.keys.set_function(lambda: len(keys))
        metrics.keys_refused.set_function(lambda: keys.refused)
    return Service(
        app=app,
        admin=admin,
        tls=_tls(settings.http),
        admin_tls=_tls(settings.admin),
        refused=refused,
        out_of_files=metrics.out_of_files.inc,
        shed=door.shed,
        predict=app.answer,
        reloader=reloader,
        keys=keys,
        lifecycle=lifecycle,
    )


def _tls(listener: TlsListener) -> ListenerTls | None:
    return ListenerTls.of(listener.tls_cert_file, listener.tls_key_file, listener.tls_client_ca_file)


def serve(settings: RtpSettings, fd: int | None = None) -> int:
    """Serve until SIGTERM, on the inherited listening socket `fd` if there is one, and return the exit status: 0 after
    a drain, 2 if ports, keys or bundle must be corrected first."""
    configure(settings.log.level, settings.log.format)
    ask_for_slices(settings.load.slice_us)
    try:
        public = bind(settings.http.host, settings.http.port) if fd is None else inherited(fd)
        admin = bind(settings.admin.host, settings.admin.port)
    except OSError as error:
        where = f"{settings.http.host}:{settings.http.port}" if fd is None else f"descriptor {fd}"
        return _refuse(
            f"cannot listen on {where} and {settings.admin.host}:{settings.admin.port}: {error.strerror or error}. "
            "Set RTP_HTTP__PORT and RTP_ADMIN__PORT to free ports"
        )
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
    except UnsuitableClient as error:
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
