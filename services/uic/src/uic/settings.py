"""UIC's settings: environment variables `UIC_<GROUP>__<NAME>`, read once by `__main__`, frozen, passed down by value.

Every knob lies in a group and a group forbids unknown names, so that a typo stops the start instead of being ignored.
Hyper-parameters of the model are not here: they come with the bundle.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from uic.core.topics import dead_letter_topic, erased_topic


class Group(BaseModel):
    """A group of settings: frozen, unknown names refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TlsListener(Group):
    """TLS of a listener; plain text without a certificate."""

    tls_cert_file: Path | None = None
    """Certificate and those that lead to its authority, PEM."""
    tls_key_file: Path | None = None
    """Its private key, PEM, without a passphrase."""
    tls_client_ca_file: Path | None = None
    """Who connects must show a certificate of this authority (mTLS); it needs a key all the same."""


class KafkaSettings(Group):
    """The log."""

    bootstrap_servers: str = "127.0.0.1:9092"
    """`host:port`, several with commas."""
    topic: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,200}$")] = "behavior-events"
    partitions: Annotated[int, Field(ge=1, le=100_000)] = 64
    """N: the topic's partition count. Users' keys in the store depend on it, so it never changes in a namespace."""
    start: Literal["earliest", "latest"] = "earliest"
    """Where a partition without progress begins."""
    session_timeout_ms: Annotated[int, Field(ge=1_000)] = 10_000
    heartbeat_interval_ms: Annotated[int, Field(ge=100)] = 1_000
    max_poll_interval_ms: Annotated[int, Field(ge=1_000)] = 30_000
    request_timeout_ms: Annotated[int, Field(ge=1_000)] = 10_000
    reconnect_backoff_max_ms: Annotated[int, Field(ge=50)] = 1_000
    max_poll_records: Annotated[int, Field(ge=1)] = 1_000
    """Records that one poll may return."""
    fetch_min_bytes: Annotated[int, Field(ge=1)] = 16 << 10
    """A broker gathers so much, or waits `fetch_max_wait_ms`, before it answers a fetch: what comes together is folded
    together, at a fraction of the cost."""
    fetch_max_wait_ms: Annotated[int, Field(ge=1)] = 10
    """How long a broker may hold a fetch open: bounds what gathering costs in freshness, and the delay of a seek and of
    a resumed partition."""
    max_partition_fetch_bytes: Annotated[int, Field(ge=1 << 10)] = 256 << 10
    max_request_bytes: Annotated[int, Field(ge=1 << 10)] = 1 << 20
    """Largest record that UIC's own producers send; a larger dead letter is cut to fit."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    ssl_cafile: str | None = None
    """Authority of the brokers' certificates, PEM; the system's own if unset."""
    ssl_certfile: str | None = None
    """Our certificate, PEM, for brokers that ask for one."""
    ssl_keyfile: str | None = None
    """Its private key, PEM."""
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None

    @property
    def dead_letter_topic(self) -> str:
        """Where records that cannot be folded go."""
        return dead_letter_topic(self.topic)

    @property
    def erased_topic(self) -> str:
        """The compacted topic that remembers erasures."""
        return erased_topic(self.topic)

    def client_options(self) -> dict[str, Any]:
        """What every kafka-python client of this process is built with: addresses, security, timeouts."""
        options: dict[str, Any] = {
            "bootstrap_servers": self.bootstrap_servers.split(","),
            "security_protocol": self.security_protocol,
            "request_timeout_ms": self.request_timeout_ms,
            "reconnect_backoff_max_ms": self.reconnect_backoff_max_ms,
        }
        files = {"ssl_cafile": self.ssl_cafile, "ssl_certfile": self.ssl_certfile, "ssl_keyfile": self.ssl_keyfile}
        options |= {name: file for name, file in files.items() if file is not None}
        if self.sasl_mechanism is not None:
            options["sasl_mechanism"] = self.sasl_mechanism
            options["sasl_plain_username"] = self.sasl_username
            options["sasl_plain_password"] = self.sasl_password.get_secret_value() if self.sasl_password else None
        return options

    @model_validator(mode="after")
    def _check(self) -> KafkaSettings:
        if self.heartbeat_interval_ms * 3 > self.session_timeout_ms:
            raise ValueError("heartbeat_interval_ms must be at most a third of session_timeout_ms")
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

    url: Annotated[str, Field(pattern=r"^(rediss?|unix)://", repr=False)] = "redis://127.0.0.1:6379/0"
    """`redis://`, `rediss://` (TLS, towards Sentinels too) or `unix://`. In mode `cluster` any node; in mode `sentinel`
    its user, password and database are used, its host is not. Not shown, because it may hold a password."""
    tls_ca_file: Path | None = None
    """Authority of the servers' certificates, PEM; the system's own if unset."""
    tls_cert_file: Path | None = None
    """Our certificate, PEM, for servers that ask for one."""
    tls_key_file: Path | None = None
    """Its private key, PEM."""
    prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] = "uic"
    """First part of every key. RTP needs the same."""
    mode: Literal["single", "sentinel", "cluster"] = "single"
    sentinels: str = ""
    """`host:port`, several with commas; mode `sentinel` only."""
    sentinel_service: str = "mymaster"
    timeout_s: Annotated[float, Field(gt=0, le=60)] = 1.0
    """For connecting and for each call. A call without answer by then counts as unknown, and progress is read."""
    bad_values_kept: Annotated[int, Field(ge=1, le=100_000)] = 100
    """Unreadable values kept for inspection, a partition."""

    @model_validator(mode="after")
    def _check(self) -> RedisSettings:
        if self.mode == "sentinel" and not self.sentinels:
            raise ValueError("mode sentinel needs sentinels, for example UIC_REDIS__SENTINELS=host1:26379,host2:26379")
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
    """Part of the namespace: a higher one starts all states anew beside the old ones. RTP needs the same."""


class GrpcSettings(TlsListener):
    """The door for publishing, inspection and erasure."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8001
    """0 takes a free one."""
    timeout_s: Annotated[float, Field(gt=0, le=60)] = 5.0
    """How long a published record may be on its way to the log; a caller's shorter deadline counts before it."""
    max_calls: Annotated[int, Field(ge=1, le=1024)] = 16
    """Calls at once; more are refused with RESOURCE_EXHAUSTED."""
    max_message_bytes: Annotated[int, Field(ge=1 << 10, le=1 << 26)] = 1 << 18
    """Largest request: room for 1,000 events of the longest ids. Parsed, it may take forty times its size in memory."""


class AdminSettings(TlsListener):
    """Metrics, health and operator's calls. Keep it on loopback or a private network, keys or not."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8003
    """0 takes a free one."""


class AccessSettings(Group):
    """Who may call. Without a file of keys everybody may who reaches a door, so that doors stay on loopback then."""

    keys_file: Path | None = None
    """As `ctr-keys make` writes it. Both doors ask for a key of it; it is read again when it changes."""
    secret_file: Path | None = None
    """For the commands `partitions`, `continue` and `rebuild`: holds the secret that they show to the admin door."""
    ca_file: Path | None = None
    """For the same commands: authority of the admin door's certificate, PEM; the system's own if unset."""


class FoldSettings(Group):
    """Bounds of the fold and of its memory, and its clocks."""

    max_states: Annotated[int, Field(ge=1, le=4096)] = 256
    """States that one commit writes: bounds how long the script holds the store."""
    max_waves: Annotated[int, Field(ge=1, le=4096)] = 256
    """Events of one user in a batch: bounds how many runs of the step graph a batch needs. While another partition is
    nearly caught up, 64 at most."""
    max_records: Annotated[int, Field(ge=1)] = 8192
    """Records that one round over all partitions takes at most, give or take one batch."""
    misrouted_share: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Of the last 10,000 records: when more lie in another partition than their key's, consumption stops. 1: never."""
    queue_records: Annotated[int, Field(ge=1)] = 50_000
    """Fetched records that wait for the fold, a process; beyond it partitions are paused."""
    cache_mib: Annotated[int, Field(ge=1)] = 256
    """States kept in memory between batches, a process."""
    nice: Annotated[int, Field(ge=0, le=19)] = 0
    """Added to the process's niceness: above 0, a backlog gives way to what else runs on the machine."""
    read_back_interval_s: Annotated[float, Field(gt=0)] = 5.0
    """How often each partition's stored progress is compared with ours."""
    as_of_interval_s: Annotated[float, Field(gt=0)] = 5.0
    """How often a partition that is caught up says so in the store."""
    retry_interval_s: Annotated[float, Field(gt=0)] = 0.5
    """How soon what failed for want of the store, the log or the dead-letter topic is tried again."""
    drain_timeout_s: Annotated[float, Field(gt=0)] = 8.0
    """After SIGTERM: how long the batch in hand, the commit and leaving the group may take together."""


class LogSettings(Group):
    """Log lines on stderr."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "logfmt"] = "logfmt"


class FaultSettings(Group):
    """For crash tests: end the process by SIGKILL just after a step. Off in production, that is, by default."""

    crash_after: Literal["", "poll", "decode", "load", "fold", "commit", "advise"] = ""
    batches: Annotated[int, Field(ge=0)] = 0
    """Batches that pass unharmed first."""


class UicSettings(BaseSettings):
    """All of it. `UicSettings()` reads the environment; every field can be given by keyword in tests."""

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


def read_settings() -> UicSettings:
    """The settings that the environment gives.

    Raises:
        pydantic.ValidationError: a value is missing, unknown or out of bounds; it names the field.
    """
    return UicSettings()  # type: ignore[call-arg]  # pydantic-settings fills `bundle` from the environment
