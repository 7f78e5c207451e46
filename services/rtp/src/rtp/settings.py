"""All settings of the service: built once in `__main__` from the environment, frozen, and passed down by value.

A name is `RTP_<GROUP>__<FIELD>`, such as `RTP_REDIS__URL`. A group refuses unknown fields, so a typo fails at start.
The docstrings are the text of docs/settings.md.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from mimn.state import AHEAD_WITHIN_MS
from process.addresses import AddressesIfAny, Host
from process.setting_groups import Group, TlsListener
from process.setting_names import check_names
from process.store_url import check_store_url

MAX_DRAIN_S = 9.5
Port = Annotated[int, Field(ge=0, le=65535)]


class RedisSettings(Group):
    """Where the states are, and how long to try."""

    url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    """`redis://`, `rediss://` (TLS, to Sentinels too) or `unix://`. In mode `cluster` any node (see also `nodes`); in
    mode `sentinel` its user, password and database are used, its host is not. Secret: it may hold a password."""
    tls_ca_file: Path | None = None
    """CA of the servers' certificates, PEM; the system's own if unset."""
    tls_cert_file: Path | None = None
    """RTP's client certificate, PEM, for servers that require one."""
    tls_key_file: Path | None = None
    """Private key of the client certificate, PEM."""
    prefix: str = Field(default="uic", min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.-]+$")
    """First part of every key; the same as UIC's."""
    mode: Literal["single", "sentinel", "cluster"] = "single"
    """One server, a master that Sentinels watch, or a cluster."""
    nodes: AddressesIfAny = ""
    """`host:port`, several with commas; mode `cluster` only. More nodes that a start asks where the others are: of
    these and the one of `url` a single one has to answer."""
    sentinels: AddressesIfAny = ""
    """`host:port`, several with commas; mode `sentinel` only. They are asked over TLS if the URL begins with
    `rediss://`."""
    sentinel_service: str = "mymaster"
    """Name of the master that the Sentinels watch."""
    sentinel_username: str = ""
    """User at the Sentinels, if their password is that of a user other than `default`."""
    sentinel_password: SecretStr | None = None
    """Password of the Sentinels. That of `url` is the master's, and is not sent to them."""
    pool_size: int = Field(default=16, ge=1, le=1024)
    """Most connections that this process opens; in a cluster, to each node."""
    connect_timeout_ms: int = Field(default=250, ge=1)
    """A new connection takes at most this. A request waits for it as long as its deadline leaves; then the connection
    is made for the next one, for at most this."""
    background_timeout_ms: int = Field(default=1000, ge=1)
    """Reads outside of requests (progress, meta) take at most this."""
    failures_to_pause: int = Field(default=5, ge=1)
    """Late replies in a row after which requests stop asking the store, or the node of a cluster. One that was waited
    for less than 20 ms does not count; a failed connection counts as this many."""
    retry_every_ms: int = Field(default=100, ge=1)
    """While requests do not ask it, one of them tries this often."""

    @property
    def tls(self) -> bool:
        """Whether connections are encrypted."""
        return self.url.get_secret_value().startswith("rediss://")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.url.get_secret_value().startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("RTP_REDIS__URL must begin with redis://, rediss:// or unix://")
        try:
            check_store_url(self.url.get_secret_value())
        except ValueError as error:
            raise ValueError(f"RTP_REDIS__URL {error}") from None
        if (self.tls_ca_file or self.tls_cert_file or self.tls_key_file) and not self.tls:
            raise ValueError("TLS files, but RTP_REDIS__URL does not begin with rediss://")
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("tls_cert_file and tls_key_file belong together: set both")
        if self.sentinel_username and not self.sentinel_password:
            raise ValueError("sentinel_username has no sentinel_password: set it")
        if self.nodes and self.mode != "cluster":
            raise ValueError("nodes are those of a cluster: set RTP_REDIS__MODE=cluster, or unset RTP_REDIS__NODES")
        if self.mode == "sentinel" and not self.sentinels:
            raise ValueError("mode sentinel needs sentinels: set RTP_REDIS__SENTINELS, such as host1:26379,host2:26379")
        return self


class BundleSettings(Group):
    """Which model is served."""

    path: Path = Path("models/bundles/online-retail-ledger/2")
    """Directory of the bundle. May be a symbolic link to a `<name>/<version>`: point it elsewhere and send SIGHUP."""
    generation: int = Field(default=0, ge=0)
    """Part of the namespace, the same as UIC's: raised to build new states while the old ones are still served."""
    load_timeout_s: float = Field(default=60.0, gt=0)
    """A reload whose bundle has not loaded after this is given up, and the bundle before goes on serving."""
    least_coverage: float = Field(default=0.99, gt=0, le=1)
    """A reload onto another namespace is refused if fewer of the users with a state have one there, as a share of a
    sample."""


class BundlesSettings(Group):
    """The releases of a rollout record; without a record in the store, `bundle` alone is served."""

    folder: Path | None = None
    """Where their bundles are, as `<name>/<version>`; if unset, the folder two levels above the bundle of
    `RTP_BUNDLE__PATH`."""
    follow_every_s: float = Field(default=0.5, gt=0, le=1)
    """How often the rollout record is read."""
    retry_every_s: float = Field(default=5.0, gt=0)
    """How often a release that could not be loaded is tried again."""


class ShadowSettings(Group):
    """What releases that score in the background may take."""

    cpu_share: float = Field(default=0.2, ge=0, le=1)
    """Largest share of one core that their heads may take; beyond it, they do not score requests."""
    max_pending: int = Field(default=8, ge=0)
    """Most requests that wait to be scored by them."""


class HttpSettings(TlsListener):
    """The public listener."""

    host: Host = "127.0.0.1"
    """Address to listen on; one beyond loopback needs `RTP_ACCESS__KEYS_FILE`."""
    port: Port = 8000
    """0 picks a free port. Not used where the process inherits a socket (`--fd`)."""
    backlog: int = Field(default=2048, ge=1)
    """Most connections that wait in the kernel until RTP accepts them. The kernel may have a lower limit."""
    keep_alive_s: int = Field(default=75, ge=1)
    """Idle connections, and those whose client does not read its answers, are closed after this, or up to a second
    later."""
    max_body_bytes: int = Field(default=65536, ge=1024)
    """Largest body of a request; a larger one is refused with 413."""
    max_head_bytes: int = Field(default=16384, ge=1024)
    """Request line and headers together. This limit and `arrival_s` apply to the admin listener too."""
    arrival_s: float = Field(default=10.0, gt=0)
    """From a connection's beginning, or a request's first byte, to its last byte; slower ones are cut off. A request's
    own deadline is usually sooner."""


class AdminSettings(TlsListener):
    """The listener for metrics and admin calls. Not for callers: keep it on loopback or behind a network policy, with
    or without keys."""

    host: Host = "127.0.0.1"
    """Address to listen on; one beyond loopback needs `RTP_ACCESS__KEYS_FILE`."""
    port: Port = 8002
    """0 picks a free port."""


class AccessSettings(Group):
    """Who may call. Without a file of keys no authentication is required, so both ports must stay on loopback."""

    keys_file: Path | None = None
    """Written by `ctr keys make`. Both ports require a key from it; it is read again when it changes."""


class DeadlineSettings(Group):
    """How long a request may take, from its first byte to its answer."""

    default_ms: int = Field(default=250, ge=1)
    """How long a request without the header `X-Request-Deadline-Ms` may take; at most `max_ms`."""
    max_ms: int = Field(default=1000, ge=1)
    """The most that a request may take, whatever its header asks for."""

    @model_validator(mode="after")
    def _default_within_max(self) -> Self:
        if self.default_ms > self.max_ms:
            raise ValueError(
                f"default_ms ({self.default_ms}) is above max_ms ({self.max_ms}): lower the one or raise the other"
            )
        return self


class LoadSettings(Group):
    """How much work is accepted."""

    max_in_flight: int = Field(default=256, ge=1)
    """Most requests between acceptance and answer; others are refused with 503 at once."""
    slice_us: int = Field(default=100, ge=0, le=100_000)
    """Slices of processor time that the kernel is asked for (Linux 6.12 or newer), in microseconds: a process with
    short ones is woken sooner while others compute. 0: the kernel's own."""


class StateSettings(Group):
    """How a state's freshness is judged."""

    stale_after_s: float = Field(default=60.0, gt=0)
    """A partition whose as-of time is older is `stale`."""
    refresh_every_s: float = Field(default=2.0, gt=0)
    """How often all partitions' progress is read, outside of requests."""
    clock_ahead_s: float = Field(default=AHEAD_WITHIN_MS / 1000, ge=0)
    """An as-of time further ahead of the store's clock is not believed, and the states of its partition are `stale`:
    see `rtp_as_of_ahead_seconds`."""


class DrainSettings(Group):
    """What happens at SIGTERM. The three together are at most 9.5 s, so that the process ends within 10 s."""

    announce_s: float = Field(default=0.0, ge=0)
    """First /readyz answers 503 for this long while everything else goes on, for load balancers that poll it."""
    linger_s: float = Field(default=1.0, ge=0)
    """Then it stops accepting, and still answers on open connections for this long, telling each client to close, so
    that no request meets a closed connection."""
    finish_s: float = Field(default=8.0, gt=0)
    """Then idle connections are closed, and requests that are still running after this are cut off."""

    @model_validator(mode="after")
    def _within_ten_seconds(self) -> Self:
        if self.announce_s + self.linger_s + self.finish_s > MAX_DRAIN_S:
            raise ValueError(f"announce_s + linger_s + finish_s must be at most {MAX_DRAIN_S}: lower one")
        return self


class LogSettings(Group):
    """What is written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Lines below this level are not written."""
    format: Literal["json", "logfmt"] = "logfmt"
    """Form of a line: a JSON object, or `key=value` pairs."""
    request_sample: int = Field(default=0, ge=0)
    """Write a line for every n-th request; 0 writes none. Never a user id."""


class RtpSettings(BaseSettings):
    """All groups."""

    model_config = SettingsConfigDict(env_prefix="RTP_", env_nested_delimiter="__", frozen=True, extra="forbid")

    redis: RedisSettings = RedisSettings()
    bundle: BundleSettings = BundleSettings()
    bundles: BundlesSettings = BundlesSettings()
    shadow: ShadowSettings = ShadowSettings()
    http: HttpSettings = HttpSettings()
    admin: AdminSettings = AdminSettings()
    access: AccessSettings = AccessSettings()
    deadline: DeadlineSettings = DeadlineSettings()
    load: LoadSettings = LoadSettings()
    state: StateSettings = StateSettings()
    drain: DrainSettings = DrainSettings()
    log: LogSettings = LogSettings()

    @model_validator(mode="after")
    def _ports_differ(self) -> Self:
        if self.http.port and self.http.port == self.admin.port and self.http.host == self.admin.host:
            raise ValueError("RTP_HTTP__PORT and RTP_ADMIN__PORT are the same: give each its own")
        return self


def read_settings() -> RtpSettings:
    """The settings that the environment gives.

    Raises:
        ValueError: a variable is unknown, and the message names the nearest setting; or some have a bad value, and it
            names each. It shows no secret.
    """
    check_names("RTP", RtpSettings, os.environ)
    try:
        return RtpSettings()
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False, include_context=False)
        raise ValueError("; ".join(_fault(fault["loc"], fault["msg"]) for fault in faults)) from None


def _fault(location: tuple[int | str, ...], message: str) -> str:
    said = message.removeprefix("Value error, ")
    name = "RTP_" + "__".join(str(part).upper() for part in location)
    return f"{name}: {said}" if location else said  # groups that contradict each other: the message names the settings
