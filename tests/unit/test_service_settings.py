"""What both services make of their environment: names, values and addresses, and how a mistake is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import rtp.__main__ as rtp
import uic.__main__ as uic
from rtp.settings import RedisSettings as RtpRedis
from rtp.settings import read_settings as read_rtp
from support.store_urls import QUERIES, UNREADABLE
from uic.settings import RedisSettings as UicRedis
from uic.settings import read_settings as read_uic

TINY = Path(__file__).resolve().parent.parent / "fixtures/bundle_tiny/tiny/1"
READ: dict[str, Callable[[], Any]] = {"UIC": read_uic, "RTP": read_rtp}
REDIS: dict[str, Any] = {"UIC": UicRedis, "RTP": RtpRedis}


@pytest.fixture(params=["UIC", "RTP"])
def service(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Its name, and with it the prefix of its variables."""
    name = str(request.param)
    monkeypatch.setenv(f"{name}_BUNDLE__PATH", str(TINY))
    for port in {"UIC": ("GRPC", "ADMIN"), "RTP": ("HTTP", "ADMIN")}[name]:
        monkeypatch.setenv(f"{name}_{port}__PORT", "0")
    return name


@pytest.fixture
def refused(service: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Starts the service, or gives another command, with these variables; what it says when it refuses."""

    def start(*command: str, **variables: str) -> str:
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(f"{service}_{name}", value)
            status = uic.main([*command] or ["serve"]) if service == "UIC" else rtp.main([])
        assert status == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        return said

    return start


@pytest.mark.parametrize("url", UNREADABLE)
def test_a_url_that_cannot_be_read_is_told_without_its_password(
    service: str, refused: Callable[..., str], url: str
) -> None:
    said = refused(REDIS__URL=url)
    assert f"{service}_REDIS__URL " in said
    assert "hunter2" not in said
    if service == "UIC":
        assert "hunter2" not in refused("doctor", REDIS__URL=url)


@pytest.mark.parametrize("query", QUERIES)
def test_a_url_may_have_the_options_of_the_client(service: str, monkeypatch: pytest.MonkeyPatch, query: str) -> None:
    monkeypatch.setenv(f"{service}_REDIS__URL", f"rediss://user:secret@host:1/2{query}")
    settings = READ[service]()
    url = settings.redis.url if service == "UIC" else settings.redis.url.get_secret_value()
    assert url.endswith(f"/2{query}")
    assert "secret@" not in repr(settings)


VALUES = [
    ("REDIS__URL", "host:6379"),
    ("REDIS__MODE", "replica"),
    ("REDIS__MODE", "sentinel"),
    ("ADMIN__PORT", "70000"),
]
OF_UIC = [
    ("KAFKA__PARTITIONS", "0"),
    ("KAFKA__TOPIC", "no spaces"),
    ("KAFKA__BOOTSTRAP_SERVERS", "a:1,,b:2"),
    ("FOLD__LEASE_S", "0.5"),
    ("KAFKA__SECURITY_PROTOCOL", "SASL_SSL"),
    ("FOLD__MISROUTED_SHARE", "1.1"),
    ("FOLD__DRAIN_TIMEOUT_S", "inf"),
    ("GRPC__ANNOUNCE_S", "nan"),
    ("GRPC__HOST", "[127.0.0.1]"),
    ("FAULT__CRASH_AFTER", "lunch"),
]
OF_RTP = [
    ("REDIS__POOL_SIZE", "0"),
    ("STATE__STALE_AFTER_S", "-1"),
    ("STATE__REFRESH_EVERY_S", "inf"),
    ("DRAIN__LINGER_S", "1e999"),
    ("HTTP__PORT", "70000"),
]
ALL = [*(("UIC", *one) for one in VALUES + OF_UIC), *(("RTP", *one) for one in VALUES + OF_RTP)]


@pytest.mark.parametrize(("service", "name", "value"), ALL, indirect=["service"])
def test_a_value_that_is_none_ends_the_start_and_is_named(
    service: str, refused: Callable[..., str], name: str, value: str
) -> None:
    group = name.split("__", maxsplit=1)[0]
    assert f"{service}_{group}" in refused(**{name: value})


@pytest.mark.parametrize(
    ("name", "nearest"), [("REDIS__URLL", "REDIS__URL"), ("ADMIN_PORT", "ADMIN__PORT"), ("REDSI__URL", "REDIS__URL")]
)
def test_an_unknown_variable_is_refused_with_the_nearest_setting(
    service: str, refused: Callable[..., str], name: str, nearest: str
) -> None:
    commands = [["serve"], ["doctor"], ["dead-letters", "list"], ["rebuild", "--partition", "1"]]
    for command in commands if service == "UIC" else [[]]:
        said = refused(*command, **{name: "hush"})
        assert f"did you mean {service}_{nearest}?" in said
        assert "hush" not in said


def test_a_service_link_of_kubernetes_is_named_with_the_remedy(refused: Callable[..., str]) -> None:
    said = refused(PORT="tcp://10.96.0.7:8001", SERVICE_HOST="10.96.0.7")
    assert "enableServiceLinks: false" in said
    assert "10.96" not in said


@pytest.mark.parametrize("address", ["127.0.0.1:99999", "a:\u0661", "a", "a:1;b:2"])
def test_an_address_that_is_none_is_shown_with_its_setting(
    service: str, refused: Callable[..., str], address: str
) -> None:
    for mode, name in (("sentinel", "SENTINELS"), ("cluster", "NODES")):
        said = refused(REDIS__MODE=mode, **{f"REDIS__{name}": address})
        assert f"{service}_REDIS" in said
        assert repr(address) in said
    if service == "UIC":
        assert repr(address) in refused(KAFKA__BOOTSTRAP_SERVERS=address)


def test_nodes_are_those_of_a_cluster(service: str, refused: Callable[..., str]) -> None:
    assert f"{service}_REDIS__MODE=cluster" in refused(REDIS__NODES="a:6379, b:6379")
    assert REDIS[service](mode="cluster", nodes="a:6379, b:6379").nodes == "a:6379, b:6379"


def test_a_user_of_the_sentinels_has_a_password_which_is_not_shown(service: str) -> None:
    told = {"mode": "sentinel", "sentinels": "a:26379", "sentinel_username": "u"}
    with pytest.raises(ValueError, match="sentinel_password"):
        REDIS[service].model_validate(told)
    assert "hush" not in repr(REDIS[service].model_validate(told | {"sentinel_password": "hush"}))


def test_tls_files_for_a_store_without_tls_are_a_mistake(service: str) -> None:
    with pytest.raises(ValueError, match="rediss://"):
        REDIS[service](tls_ca_file=Path("ca.pem"))
    with pytest.raises(ValueError, match="set both"):
        REDIS[service](url="rediss://h:1/0", tls_cert_file=Path("c.pem"))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "[::]"])  # noqa: S104 (refused)
@pytest.mark.parametrize(
    ("service", "door"),
    [("UIC", "ADMIN"), ("UIC", "GRPC"), ("RTP", "ADMIN"), ("RTP", "HTTP")],
    indirect=["service"],
)
def test_a_door_beyond_loopback_needs_keys(service: str, refused: Callable[..., str], door: str, host: str) -> None:
    said = refused(**{f"{door}__HOST": host})
    assert f"{service}_{door}__HOST" in said
    assert f"{service}_ACCESS__KEYS_FILE" in said
    assert "/nowhere/keys" in refused(**{f"{door}__HOST": host, "ACCESS__KEYS_FILE": "/nowhere/keys"})
