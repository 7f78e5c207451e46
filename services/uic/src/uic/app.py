"""The composition root: builds every part from the settings, runs them, and takes them down in order.

The main thread folds. Polling, questions to the brokers, the lease and dead letters have threads of their own, and the
two ports have one together. A signal only sets a flag.
"""

from __future__ import annotations

import gc
import logging
import math
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from access import BadKeys, BadTls, ClientCertificates, KeyRing, ListenerTls, is_loopback
from mimn.bundle import Bundle, BundleError, GoldenMismatch, load_bundle
from mimn.bundle.graph import proven_step
from mimn.state import Keys, namespace
from process.interruption import handled
from process.memory import give_back
from process.setting_groups import TlsListener
from process.tls_causes import BadTlsFiles
from uic.core.kafka_tools import KafkaTools
from uic.core.log_throttle import LogThrottle
from uic.core.ports import Ports, Step
from uic.core.topics import group_name
from uic.doors.admin import admin_app
from uic.doors.admin_server import AdminServer
from uic.doors.grpc import KEY_KINDS, GrpcServer
from uic.doors.guard import Guard
from uic.doors.loop import DoorLoop
from uic.doors.publisher import Publisher
from uic.doors.servicer import UserInterestCenter
from uic.errors import LogUnavailable, StartRefused, StoreUnavailable
from uic.fold.bundle_model import model_of
from uic.fold.lease_keeper import LeaseKeeper
from uic.fold.setup import Setup, Topic
from uic.fold.worker import FoldWorker
from uic.log.consumer import LogConsumer
from uic.log.dead_letter_topic import DeadLetterProducer
from uic.log.erasures import KafkaErasures
from uic.log.event_log import KafkaLog
from uic.log.observer import LogObserver
from uic.log.watched_log import WatchedLog
from uic.logs import configure, say
from uic.metrics import Metrics
from uic.preflight import check_store, check_topic
from uic.priority import give_way
from uic.progress_watch import PATIENCE_S, ProgressWatch
from uic.settings import FaultSettings, KafkaSettings, UicSettings
from uic.store import RedisStore

log = logging.getLogger("uic.app")

IDLE_S = 0.05
WAIT_S = 1.0
FOLD, POLL, DRAIN = "the fold", "the reader of the log", "the drain"
"""What the watch for lack of progress names."""
CALLS = 10
"""More calls to the store, each of which may take its whole timeout, than there are between two signs of the fold."""
DRAIN_MARGIN_S = 15.0
"""How much longer than its parts a drain may take."""
REFUSED, FAILED = 2, 1
"""Exit statuses: something must be corrected first; something went wrong."""


class App:
    """All parts of one process."""

    def __init__(self, settings: UicSettings) -> None:
        """Loads the bundle and binds the ports; connects to nothing.

        Raises:
            StartRefused: the bundle, the keys or a TLS file cannot be used, a port would be open to anyone, or one is
                taken.
        """
        self._settings = settings
        self._keys = _keys(settings)
        kafka = settings.kafka
        _check_files(kafka)
        bundle, step = _model(settings)
        self.namespace = namespace(bundle.manifest.fingerprint, settings.bundle.generation)
        self._stopping = threading.Event()
        self._metrics = Metrics()
        self._identity = ""
        """Of the store."""
        guard = None if self._keys is None else Guard(self._keys, self._metrics)
        self._store = RedisStore(settings.redis, Keys(self.namespace, settings.redis.prefix))
        self._observer = LogObserver(kafka)
        self._watch = ProgressWatch()
        folds = partial(self._watch.expect, FOLD, PATIENCE_S + CALLS * settings.redis.timeout_s)
        self._consumer = LogConsumer(
            kafka, settings.fold.queue_records, self._observer, partial(self._watch.expect, POLL)
        )
        timeout_s = kafka.request_timeout_ms / 1000
        self._dead_letters = DeadLetterProducer(
            kafka.client_options(), kafka.dead_letter_topic, max_bytes=kafka.max_request_bytes, timeout_s=timeout_s
        )
        setup = Setup(
            topic=Topic(kafka.topic, kafka.partitions, kafka.start),
            model=model_of(bundle, step),
            ports=Ports(
                log=self._consumer,
                store=self._store,
                dead_letters=self._dead_letters,
                erasures=KafkaErasures(
                    kafka.client_options(), kafka.topic, kafka.partitions, timeout_s=timeout_s, goes_on=folds
                ),
            ),
            settings=settings.fold,
            metrics=self._metrics,
            goes_on=folds,
            after=crash_after(settings.fault),
        )
        self._worker = FoldWorker(setup)
        self._lease = LeaseKeeper(
            f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}",
            settings.fold.lease_s,
            store=self._store,
            log=self._consumer,
            partitions=kafka.partitions,
            unfit=self._observer.unfit,
        )
        call_s = settings.grpc.timeout_s
        self._event_log = WatchedLog(
            KafkaLog(kafka.client_options(), timeout_s=call_s, max_request_bytes=kafka.max_request_bytes),
            kafka.partitions,
            call_s,
        )
        service = UserInterestCenter(
            publisher=Publisher(self._event_log, kafka.topic, kafka.partitions, KafkaTools.of(kafka.client_options())),
            states=self._store,
            bundle=bundle,
            partitions=kafka.partitions,
            metrics=self._metrics,
            settings=settings.grpc,
            ahead_ms=lambda: self._worker.status.ahead_ms,
        )
        tls = {"grpc": _tls(settings.grpc, "UIC_GRPC", KEY_KINDS), "admin": _tls(settings.admin, "UIC_ADMIN")}
        for listener, of_listener in tls.items():
            if of_listener is not None:
                self._metrics.certificate_expires.labels(listener).set(of_listener.validity().ends)
        self._client_certificates = ClientCertificates(
            {"kafka": kafka.ssl_certfile, "store": settings.redis.tls_cert_file},
            lambda server, ends: self._metrics.client_certificate_expires.labels(server).set(ends),
        )
        self._grpc = GrpcServer(service, settings.grpc, lambda: self._worker.status.serving, guard, tls["grpc"])
        self._admin = AdminServer(
            admin_app(self._worker, self._metrics, self._alive, guard=guard),
            settings.admin,
            tls["admin"],
        )
        self._doors = DoorLoop()
        name, _, version = bundle.name.rpartition("/")
        fingerprint = bundle.manifest.fingerprint[:16]
        self._metrics.bundle.info(
            {
                "name": name,
                "version": version,
                "fingerprint": fingerprint,
                "state_namespace": self.namespace,
                "prefix": settings.redis.prefix,
                "topic": kafka.topic,
            }
        )
        self._metrics.sentinels_up.set_function(lambda: _up(self._store.sentinels))
        self._metrics.watches.set_function(self._grpc.watches)
        say(log, logging.INFO, "bundle", name=bundle.name, namespace=self.namespace)

    def run(self) -> None:
        """Serve until `stop` is called, then drain.

        Raises:
            StartRefused: UIC would write wrong states to this deployment.
        """
        if self._keys is not None:
            keys = self._keys
            self._metrics.keys.set_function(lambda: len(keys))
            self._metrics.keys_refused.set_function(lambda: keys.refused)
            keys.watch(lambda taken_up: self._metrics.key_reads.labels("taken_up" if taken_up else "refused").inc())
        self._client_certificates.watch()
        self._watch.start()
        self._doors.start()
        self._doors.run(self._admin.start())
        port = self._doors.run(self._grpc.start())
        say(log, logging.INFO, "listening", grpc=port, admin=self._admin.port)
        try:
            self._wait_for(self._check_store, "store")
            self._wait_for(lambda: check_topic(self._settings.kafka), "log")
            if self._stopping.is_set():
                return  # a consumer that looks for a broker in vain would use up the time to drain
            self._consumer.start()
            self._lease.start()
            self._observer.begin(self._group())
            self._dead_letters.start()
            self._fold()
        finally:
            self.stop()  # so that the drain is watched if the fold ends by itself
            self._drain()

    def stop(self) -> None:
        """Begin to drain. May be called from a signal handler."""
        settings = self._settings
        self._watch.expect(DRAIN, settings.fold.drain_timeout_s + settings.grpc.timeout_s + DRAIN_MARGIN_S)
        self._stopping.set()

    def reload(self) -> None:
        """Read again what can be: the keys. May be called from a signal handler."""
        read = "nothing: there is no file of keys" if self._keys is None else "the keys"
        say(log, logging.INFO, "SIGHUP", read_again=read, needs_a_restart="bundle, settings, certificates")
        if self._keys is not None:
            self._keys.look_now()

    def _check_store(self) -> None:
        self._identity = check_store(self._store, self._settings.kafka)

    def _group(self) -> str:
        """The group that lag tools ask about: none of another topic, namespace or store has it."""
        settings = self._settings
        return group_name(settings.redis.prefix, settings.kafka.topic, self.namespace, self._identity)

    def _fold(self) -> None:
        busy = False
        while not self._stopping.is_set():
            messages = self._consumer.messages(0 if busy else IDLE_S) + self._event_log.messages()
            busy = self._worker.turn(messages, time.monotonic(), time.time_ns() // 1_000_000)

    def _drain(self) -> None:
        """The batch in hand is done. Stop accepting calls, report `draining`, and give the lease up."""
        began = time.monotonic()
        timeout_s = self._settings.fold.drain_timeout_s
        self._watch.rests(FOLD)
        self._worker.drain()
        calls = self._doors.begin(self._grpc.drain(timeout_s / 2))
        self._lease.leave(timeout_s)
        left = not self._consumer.is_alive() or self._consumer.leave(timeout_s)
        self._watch.rests(POLL)
        self._observer.leave(1.0)
        self._dead_letters.close()
        with suppress(TimeoutError):
            calls.result(max(0.0, timeout_s - (time.monotonic() - began)))
        self._doors.run(self._admin.stop())
        self._doors.close()
        if self._keys is not None:
            self._keys.close()
        self._client_certificates.close()
        self._event_log.close()
        self._store.close()
        say(log, logging.INFO, "drained", in_time=left, seconds=round(time.monotonic() - began, 2))

    def _wait_for(self, check: Callable[[], None], what: str) -> None:
        """Repeat `check` until the server answers. The status has the newest reason, the log those that are news."""
        logged = LogThrottle()
        while not self._stopping.is_set():
            try:
                check()
                if logged.detail:
                    say(log, logging.INFO, f"the {what} is there")
                return
            except (StoreUnavailable, LogUnavailable) as error:
                if isinstance(error, StoreUnavailable):
                    self._metrics.store_failures.labels("start").inc()
                if logged.is_news(error.kind, error.detail, time.monotonic()):
                    say(log, logging.WARNING, f"waiting for the {what}", detail=error.detail)
                self._worker.waits(f"waiting for the {what}: {error.detail}")
                self._stopping.wait(WAIT_S)

    def _alive(self) -> bool:
        """Whether the threads that folding needs run, or have not begun yet."""
        threads = (self._consumer, self._observer, self._lease, self._dead_letters)
        return all(t.ident is None or t.is_alive() for t in threads)


def _up(sentinels: str | None) -> float:
    """What `StateStore.sentinels` says, as a metric."""
    return math.nan if sentinels is None else float(not sentinels)


def serve(settings: UicSettings) -> int:
    """Run the service until SIGTERM or SIGINT, and return the exit status."""
    configure(settings.log.level, settings.log.format)
    give_way(settings.fold.nice)
    try:
        app = App(settings)
        settle_interpreter()
        give_back()
        calls = {signal.SIGTERM: app.stop, signal.SIGINT: app.stop, signal.SIGHUP: app.reload}
        with handled({sign: lambda *_, call=call: call() for sign, call in calls.items()}):
            app.run()
    except StartRefused as refusal:
        say(log, logging.CRITICAL, "start refused", detail=refusal.detail)
        return REFUSED
    except Exception:
        say(log, logging.CRITICAL, "failed", exc_info=True)
        return FAILED
    return 0


def settle_interpreter() -> None:
    """Set the interpreter up for one thread that polls and one that folds; call it once all is imported.

    The fold gives the interpreter away at every run of the step graph, and the poll thread, busy with a backlog, gives
    it back only after the switch interval. Measured: 22,400 events/s with the default of 5 ms, 27,400 with 1 ms.

    Records that wait look like a leak to the collector of reference cycles, which then visits all objects again and
    again: 2 us an event with the default thresholds, nothing with these. Cycles are few here and are still collected.
    """
    sys.setswitchinterval(0.001)
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


def crash_after(fault: FaultSettings) -> Callable[[str], None]:
    """What the worker calls after each step: nothing, or for crash tests the end of the process at the chosen one."""
    if not fault.crash_after:
        return lambda step: None
    passed = 0

    def maybe_crash(step: str) -> None:
        nonlocal passed
        if step == fault.crash_after:
            if passed >= fault.batches:
                os.kill(os.getpid(), signal.SIGKILL)
            passed += 1

    return maybe_crash


def _keys(settings: UicSettings) -> KeyRing | None:
    """The keys that both ports require; None if no authentication is required, which is allowed on loopback only."""
    if settings.access.keys_file is not None:
        try:
            return KeyRing(settings.access.keys_file)
        except BadKeys as error:
            raise StartRefused(f"{error}. UIC_ACCESS__KEYS_FILE names it") from error
    hosts = {"UIC_GRPC__HOST": settings.grpc.host, "UIC_ADMIN__HOST": settings.admin.host}
    if beyond := [f"{name}={host}" for name, host in hosts.items() if not is_loopback(host)]:
        raise StartRefused(
            f"{' and '.join(beyond)} would listen without authentication. Make a key with `ctr keys make FILE "
            "--scope publish --name NAME` and set UIC_ACCESS__KEYS_FILE to the file, or listen on 127.0.0.1"
        )
    return None


def _tls(listener: TlsListener, group: str, key_kinds: Sequence[str] = ()) -> ListenerTls | None:
    try:
        return ListenerTls.of(listener.tls_cert_file, listener.tls_key_file, listener.tls_client_ca_file, key_kinds)
    except BadTls as error:
        raise StartRefused(f"{group}__TLS_…: {error}") from error


def _check_files(kafka: KafkaSettings) -> None:
    try:
        kafka.check_files()
    except BadTlsFiles as error:
        raise StartRefused(str(error)) from error


def _model(settings: UicSettings) -> tuple[Bundle, Step]:
    """The bundle, and what folds events after it has folded the golden cases to the exporter's states."""
    try:
        bundle = load_bundle(settings.bundle.path)
        step = proven_step(bundle)
    except (BundleError, GoldenMismatch) as error:
        raise StartRefused(str(error)) from error
    return bundle, step
