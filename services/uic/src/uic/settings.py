"""UIC's settings: environment variables `UIC_<GROUP>__<NAME>`, read once by `__main__`, frozen, passed down by value.

An unknown name stops the start instead of being ignored, so a typo cannot go unnoticed. Hyper-parameters of the model
are not here: they come with the bundle. The docstrings are the text of docs/settings.md.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from process.addresses import Addresses, AddressesIfAny, Host
from process.setting_groups import Group, TlsListener
from process.setting_names import check_names
from process.store_url import check_store_url
from process.tls_causes import TlsSettings, check_tls_files
from uic.core.topics import dead_letter_topic

MAX_BATCH_BYTES: Final = 16 << 20
"""Default of `KafkaSettings.max_batch_bytes`."""
KAFKA_TLS: Final = TlsSettings(
    ca_file="UIC_KAFKA__SSL_CAFILE",
    cert_file="UIC_KAFKA__SSL_CERTFILE",
    key_file="UIC_KAFKA__SSL_KEYFILE",
    address="UIC_KAFKA__SECURITY_PROTOCOL",
)
"""The names of the settings of TLS to the brokers."""


SCHEMES = r"^(rediss?|unix)://"
"""How the URL of a store begins."""


class KafkaSettings(Group):
    """The log: Kafka, which has the behavior events."""

    bootstrap_servers: Addresses = "127.0.0.1:9092"
    """Brokers that a start asks for all others: `host:port`, several separated by commas."""
    topic: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,200}$")] = "behavior-events"
    """The topic of behavior events. Records that cannot be folded go to the topic of this name with `.dlq` at its end,
    erasures to the one with `.erased`."""
    partitions: Annotated[int, Field(ge=1, le=100_000)] = 64
    """N: the topic's partition count. Keys in the store depend on it, so it never changes within a namespace."""
    start: Literal["earliest", "latest"] = "earliest"
    """Where a partition without stored progress begins."""
    request_timeout_ms: Annotated[int, Field(ge=1_000)] = 10_000
    """How long a broker may take to answer a request, and how long the delivery of a dead letter may take."""
    reconnect_backoff_max_ms: Annotated[int, Field(ge=50)] = 1_000
    """Longest pause before UIC connects again to a broker that cannot be reached."""
    max_poll_records: Annotated[int, Field(ge=1)] = 4_000
    """About how many records of one partition a poll returns, in whole batches. Each poll looks at all partitions and
    asks for the topic's id, so many small ones cost much."""
    fetch_min_bytes: Annotated[int, Field(ge=1)] = 4 << 10
    """A broker collects this much, or waits `fetch_max_wait_ms`, before it answers a fetch: records that arrive
    together are folded together, at a fraction of the cost."""
    fetch_max_wait_ms: Annotated[int, Field(ge=1)] = 50
    """How long a broker may hold a fetch open: bounds what collecting costs in freshness, and the delay of a seek and
    of a resumed partition."""
    max_partition_fetch_bytes: Annotated[int, Field(ge=1 << 10)] = 256 << 10
    """Most bytes of one partition in the answer to a fetch. A batch of records that is larger comes whole."""
    max_batch_bytes: Annotated[int, Field(ge=1 << 20, le=1 << 30)] = MAX_BATCH_BYTES
    """Largest batch of records that is read, decompressed; a larger one stops its partition. Java's producer fills a
    batch until it is `batch.size` long when compressed, so one of 1 MB may hold twenty times as much and more."""
    max_request_bytes: Annotated[int, Field(ge=1 << 10)] = 1 << 20
    """Largest record that UIC's own producers send; a larger dead letter is cut to fit."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """How UIC talks to the brokers: the two that end with `SSL` use TLS, the two with `SASL` need `sasl_mechanism`."""
    ssl_cafile: str | None = None
    """CA of the brokers' certificates, PEM; the system's CAs if unset."""
    ssl_certfile: str | None = None
    """UIC's client certificate, PEM, for brokers that require one."""
    ssl_keyfile: str | None = None
    """Private key of the client certificate, PEM."""
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    """How UIC logs in to the brokers; needs `sasl_username` and `sasl_password`."""
    sasl_username: str | None = None
    """The brokers' user that UIC logs in as."""
    sasl_password: SecretStr | None = None
    """Password of `sasl_username`; never shown."""

    @property
    def dead_letter_topic(self) -> str:
        """Where records that cannot be folded go."""
        return dead_letter_topic(self.topic)

    def check_files(self) -> None:
        """Make sure that the TLS files can be used: at a start, because a client would only wait for a broker.

        Raises:
            BadTlsFiles: one cannot be read, is no PEM, or they do not fit together.
        """
        check_tls_files(KAFKA_TLS, self.ssl_cafile, self.ssl_certfile, self.ssl_keyfile)

    def client_options(self) -> dict[str, Any]:
        """What every kafka-python client of this process is built with: addresses, security, timeouts."""
        options: dict[str, Any] = {
            "bootstrap_servers": self.bootstrap_servers.split(","),
            "security_protocol": self.security_protocol,
            "request_timeout_ms": self.request_timeout_ms,
            "reconnect_backoff_max_ms": self.reconnect_backoff_max_ms,
            "metadata_max_age_ms": 30_000,
        }
        files = {"ssl_cafile": self.ssl_cafile, "ssl_certfile": self.ssl_certfile, "ssl_keyfile": self.ssl_keyfile}
        options |= {name: file for name, file in files.items() if file is not None}
        if self.sasl_mechanism is not None:
            options["sasl_mechanism"] = self.sasl_mechanism
            options["sasl_plain_username"] = self.sasl_username
            options["sasl_plain_password"] = self.sasl_password.get_secret_value() if self.sasl_password else None
        return options

    def consumer_options(self) -> dict[str, Any]:
        """What the consumer of the event topic is built with. It is in no group."""
        return self.client_options() | {
            "group_id": None,
            "auto_offset_reset": "none",
            "enable_auto_commit": False,
            "isolation_level": "read_committed",
            "max_poll_records": self.max_poll_records,
            "fetch_min_bytes": self.fetch_min_bytes,
            "fetch_max_wait_ms": self.fetch_max_wait_ms,
            "max_partition_fetch_bytes": self.max_partition_fetch_bytes,
            "bootstrap_timeout_ms": self.request_timeout_ms,
            "allow_auto_create_topics": False,
            "metrics_enabled": False,
        }

    @model_validator(mode="after")
    def _check(self) -> KafkaSettings:
        if self.sasl_mechanism is not None and (self.sasl_username is None or self.sasl_password is None):
            raise ValueError("sasl_mechanism needs sasl_username and sasl_password")
        if self.security_protocol.startswith("SASL") and self.sasl_mechanism is None:
            raise ValueError(f"security_protocol {self.security_protocol} needs sasl_mechanism")
        if (self.ssl_cafile or self.ssl_certfile or self.ssl_keyfile) and not self.security_protocol.endswith("SSL"):
            raise ValueError(f"ssl files with security_protocol {self.security_protocol}: set it to SSL or SASL_SSL")
        if (self.ssl_certfile is None) != (self.ssl_keyfile is None):
            raise ValueError("ssl_certfile and ssl_keyfile belong together: set both")
        return self


class RedisSettings(Group):
    """The state store, Redis or Valkey."""

    url: Annotated[str, Field(pattern=SCHEMES, repr=False)] = "redis://127.0.0.1:6379/0"
    """`redis://`, `rediss://` (TLS, to Sentinels too) or `unix://`. In mode `cluster` any node (see also `nodes`); in
    mode `sentinel` its user, password and database are used, and its host is not. Never shown, because it may hold a
    password."""
    tls_ca_file: Path | None = None
    """CA of the servers' certificates, PEM; the system's CAs if unset."""
    tls_cert_file: Path | None = None
    """UIC's client certificate, PEM, for servers that require one."""
    tls_key_file: Path | None = None
    """Private key of the client certificate, PEM."""
    prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] = "uic"
    """First part of every key; RTP needs the same. Unique per Kafka cluster: consumer groups are named by it."""
    mode: Literal["single", "sentinel", "cluster"] = "single"
    """One server, a master that Sentinels watch, or a cluster."""
    nodes: AddressesIfAny = ""
    """`host:port`, several separated by commas; mode `cluster` only. More nodes that a start asks where the others are:
    of these and the one of `url` a single one has to answer."""
    sentinels: AddressesIfAny = ""
    """`host:port`, several separated by commas; mode `sentinel` only. They are asked over TLS if the URL begins with
    `rediss://`."""
    sentinel_service: str = "mymaster"
    """Name of the master that the Sentinels watch."""
    sentinel_username: str = ""
    """User at the Sentinels, if their password is that of a user other than `default`."""
    sentinel_password: SecretStr | None = None
    """Password of the Sentinels. That of `url` is the master's, and is not sent to them."""
    timeout_s: Annotated[float, Field(gt=0, le=60)] = 1.0
    """For connecting and for each call. The outcome of an unanswered call is unknown, so progress is read again."""
    bad_values_kept: Annotated[int, Field(ge=1, le=100_000)] = 100
    """Unreadable values kept for inspection, per partition."""

    @model_validator(mode="after")
    def _check(self) -> RedisSettings:
        try:
            check_store_url(self.url)
        except ValueError as error:
            raise ValueError(f"UIC_REDIS__URL {error}") from None
        if self.nodes and self.mode != "cluster":
            raise ValueError("nodes are those of a cluster: set UIC_REDIS__MODE=cluster, or unset UIC_REDIS__NODES")
        if self.mode == "sentinel" and not self.sentinels:
            raise ValueError("mode sentinel needs sentinels, for example UIC_REDIS__SENTINELS=host1:26379,host2:26379")
        if self.sentinel_username and not self.sentinel_password:
            raise ValueError("sentinel_username has no sentinel_password: set it")
        if (self.tls_ca_file or self.tls_cert_file or self.tls_key_file) and not self.url.startswith("rediss://"):
            raise ValueError("TLS files, but UIC_REDIS__URL does not begin with rediss://")
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("tls_cert_file and tls_key_file belong together: set both")
        return self


class BundleSettings(Group):
    """The model. `path` has no default: which model runs is always a decision."""

    path: Path
    """Directory `<name>/<version>`."""
    generation: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    """Part of the namespace: a higher one starts all states from nothing and keeps the old ones. RTP needs the same."""


class GrpcSettings(TlsListener):
    """The port for publishing events, reading states and erasing users."""

    host: Host = "127.0.0.1"
    """Address to listen on; one beyond loopback needs `UIC_ACCESS__KEYS_FILE`."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8001
    """0 picks a free port."""
    timeout_s: Annotated[float, Field(gt=0, le=60)] = 5.0
    """How long a call that publishes may take; a caller's shorter deadline takes precedence. Its records are tried for
    four fifths of this, so that the call can say what became of them."""
    max_calls: Annotated[int, Field(ge=1, le=1024)] = 16
    """Concurrent calls; more are refused with RESOURCE_EXHAUSTED."""
    max_watches: Annotated[int, Field(ge=1, le=4096)] = 1024
    """Streams that follow the health at once (`Watch`), one for each connection of a client that does; more are refused
    with RESOURCE_EXHAUSTED. Each takes about 42 KiB, its connection included."""
    max_message_bytes: Annotated[int, Field(ge=1 << 10, le=1 << 26)] = 1 << 18
    """Largest request: fits 1,000 events with the longest ids. Parsed, it may take forty times its size in memory."""
    announce_s: Annotated[float, Field(ge=0)] = 0.0
    """After SIGTERM calls are still answered for this long, while /readyz answers 503 and gRPC's health NOT_SERVING,
    for balancers and clients that ask. At most half of `UIC_FOLD__DRAIN_TIMEOUT_S`."""


class AdminSettings(TlsListener):
    """The port for metrics, health and operators. Keep it on loopback or a private network, with keys or without."""

    host: Host = "127.0.0.1"
    """Address to listen on; one beyond loopback needs `UIC_ACCESS__KEYS_FILE`."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8003
    """0 picks a free port."""


class AccessSettings(Group):
    """API keys. Without a key file no authentication is required, and both ports must stay on loopback."""

    keys_file: Path | None = None
    """As `ctr keys make` writes it. Both ports require one of its keys; it is read again when it changes."""
    secret_file: Path | None = None
    """Holds the secret that the commands `partitions`, `continue`, `rebuild`, `state`, `erase` and `rollout --rtp`
    send."""
    ca_file: Path | None = None
    """For the same commands: CA of the server's certificate, PEM; the system's CAs if unset."""


class FoldSettings(Group):
    """Limits of the fold and of its memory, and its intervals."""

    max_states: Annotated[int, Field(ge=1, le=4096)] = 256
    """Most states that one commit writes. The store serves no other client while it writes them."""
    max_waves: Annotated[int, Field(ge=1, le=4096)] = 1024
    """Most events of one user in a batch: bounds how many runs of the step graph a batch needs. A graph that is not
    compiled runs at most 64 times for a batch while another partition is nearly caught up."""
    max_records: Annotated[int, Field(ge=1)] = 8192
    """Most records in one round over all partitions, give or take one batch."""
    misrouted_share: Annotated[float, Field(ge=0, le=1)] = 0.01
    """A partition stops when more than this share of the last 10,000 records is not in its key's partition. 1: off."""
    queue_records: Annotated[int, Field(ge=1)] = 50_000
    """Fetched records that may wait to be folded, per process; above it partitions are paused."""
    cache_mib: Annotated[int, Field(ge=1)] = 256
    """Memory for states between batches, per process: their stored values, and 400 bytes more for each user."""
    nice: Annotated[int, Field(ge=0, le=19)] = 0
    """Added to the process's niceness: above 0, a backlog yields to other programs on the machine."""
    read_back_interval_s: Annotated[float, Field(gt=0)] = 5.0
    """How often each partition's stored progress is compared with ours."""
    as_of_interval_s: Annotated[float, Field(gt=0)] = 5.0
    """How often a partition that is caught up records that in the store. `ctr rollout rollback` waits 10 s for it."""
    retry_interval_s: Annotated[float, Field(gt=0)] = 0.5
    """Pause before a retry when the store, the log or the dead-letter topic is unavailable."""
    lease_s: Annotated[float, Field(ge=1, le=300)] = 5.0
    """How long a worker that was killed keeps its partitions. Its lease in the store lasts as long, and is renewed five
    times in it."""
    drain_timeout_s: Annotated[float, Field(gt=0)] = 8.0
    """After SIGTERM: time limit for the current batch, its commit and the end of reading, together; and, meanwhile, for
    the end of the gRPC port."""


class LogSettings(Group):
    """Log lines on stderr."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Lines below this level are not written."""
    format: Literal["json", "logfmt"] = "logfmt"
    """Form of a line: a JSON object, or `key=value` pairs."""


class FaultSettings(Group):
    """For crash tests: kill the process with SIGKILL just after a step. Off by default, and in production."""

    crash_after: Literal["", "poll", "decode", "load", "fold", "commit", "advise"] = ""
    """The step of the commit protocol after which the process is killed; empty: none."""
    batches: Annotated[int, Field(ge=0)] = 0
    """Batches to let pass first."""


class UicSettings(BaseSettings):
    """All settings. `UicSettings()` reads the environment; tests give fields by keyword."""

    model_config = SettingsConfigDict(env_prefix="UIC_", env_nested_delimiter="__", frozen=True, extra="forbid")

    kafka: KafkaSettings = KafkaSettings()
    redis: RedisSettings = RedisSettings()
    bundle: BundleSettings
    grpc: GrpcSettings = GrpcSettings()
    admin: AdminSettings = AdminSettings()
    access: AccessSettings = AccessSettings()
    fold: FoldSettings = FoldSettings()
    log: LogSettings = LogSettings()
    fault: FaultSettings = FaultSettings()

    @model_validator(mode="after")
    def _calls_have_time_to_end(self) -> UicSettings:
        if self.grpc.announce_s > self.fold.drain_timeout_s / 2:
            raise ValueError(
                f"UIC_GRPC__ANNOUNCE_S is {self.grpc.announce_s:g} s, more than half of UIC_FOLD__DRAIN_TIMEOUT_S "
                f"({self.fold.drain_timeout_s:g} s): the other half is for calls that are under way"
            )
        return self


class ClientSettings(BaseSettings):
    """The groups that the commands around the service need, which run without a bundle."""

    model_config = SettingsConfigDict(env_prefix="UIC_", env_nested_delimiter="__", frozen=True, extra="ignore")

    kafka: KafkaSettings = KafkaSettings()
    redis: RedisSettings = RedisSettings()
    bundle: BundleSettings | None = None
    grpc: GrpcSettings = GrpcSettings()
    admin: AdminSettings = AdminSettings()
    access: AccessSettings = AccessSettings()


def read_settings() -> UicSettings:
    """The service's settings, from the environment.

    Raises:
        UnknownSetting: a variable is not a setting.
        pydantic.ValidationError: a value is missing or out of bounds; it names the field.
    """
    check_names("UIC", UicSettings, os.environ)
    return UicSettings()  # type: ignore[call-arg]  # pydantic-settings fills `bundle` from the environment


def read_client_settings() -> ClientSettings:
    """The commands' settings, from the environment.

    Raises:
        UnknownSetting, pydantic.ValidationError: as `read_settings`.
    """
    check_names("UIC", UicSettings, os.environ)
    return ClientSettings()
