"""Why TLS to the store fails is told by both services, with the setting or the file to correct."""

from __future__ import annotations

import asyncio
import datetime
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import trustme

from localstack.uic_and_rtp import RtpProcess, Surroundings, UicWorker
from mimn.state import Keys
from rtp.errors import StoreAway
from rtp.settings import RedisSettings as RtpRedis
from rtp.store import open_store
from support.certificates import Certificates, TlsFront
from support.for_test import RedisForTest
from support.uic_running import BUNDLE
from uic.errors import StoreUnavailable
from uic.settings import RedisSettings as UicRedis
from uic.store import RedisStore

pytestmark = pytest.mark.servers

KEYS = Keys("0123456789abcdef-0", "tls")
NOWHERE = "localhost:1"


@dataclass(frozen=True)
class Pki:
    """Certificates that fit the store, some of another authority, an expired one, and one of another name."""

    ours: Certificates
    foreign: Certificates
    expired: Certificates
    elsewhere: Certificates


def served(issued: Certificates, folder: Path, name: str, *, ends: datetime.datetime | None = None) -> Certificates:
    """`issued` with another server's certificate, of an authority of its own."""
    authority = trustme.CA()
    folder.mkdir()
    certificate = authority.issue_cert(name, not_before=ends and ends - datetime.timedelta(days=30), not_after=ends)
    chain, key, ca = folder / "server.pem", folder / "server.key", folder / "ca.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    certificate.private_key_pem.write_to_path(str(key))
    authority.cert_pem.write_to_path(str(ca))
    return replace(issued, server=chain, server_key=key, ca=ca)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    folder = tmp_path_factory.mktemp("pki")
    ours = Certificates.issue(folder / "ours")
    return Pki(
        ours,
        Certificates.issue(folder / "foreign"),
        served(ours, folder / "expired", "localhost", ends=datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)),
        served(ours, folder / "elsewhere", "elsewhere.example"),
    )


@contextmanager
def front(server: Certificates, valkey: RedisForTest, *, ask_clients: bool = False) -> Iterator[int]:
    """The port of a store that speaks TLS with a server's certificate."""
    with TlsFront(server, valkey.client.connection_pool.connection_kwargs["port"], ask_clients=ask_clients) as made:
        yield made.port


def said_by_rtp(told: dict[str, Any]) -> str:
    """Why a request's read and one in the background fail: the same."""

    async def reading() -> str:
        reader = open_store(RtpRedis.model_validate(told | {"connect_timeout_ms": 60_000}))
        with pytest.raises(StoreAway) as by_request:
            await reader.read("a", 60)
        with pytest.raises(StoreAway):
            await reader.read_many(["a"], 60)
        assert str(by_request.value) in reader.troubles[0]
        await reader.close()
        return str(by_request.value)

    return asyncio.run(reading())


def said_by_uic(told: dict[str, Any]) -> str:
    store = RedisStore(UicRedis.model_validate(told | {"timeout_s": 60}), KEYS)
    try:
        with pytest.raises(StoreUnavailable) as failed:
            store.read_progress([3])
    finally:
        store.close()
    return failed.value.detail


def files(ca: Path, client: Certificates | None) -> dict[str, Any]:
    shown = {} if client is None else {"tls_cert_file": client.client, "tls_key_file": client.client_key}
    return {"tls_ca_file": ca, **shown}


Cause = Callable[[ExitStack, Pki, RedisForTest], dict[str, Any]]


def expired(stack: ExitStack, pki: Pki, valkey: RedisForTest) -> dict[str, Any]:
    port = stack.enter_context(front(pki.expired, valkey))
    return {"url": f"rediss://localhost:{port}/0", **files(pki.expired.ca, None)}


def foreign_ca(stack: ExitStack, pki: Pki, valkey: RedisForTest) -> dict[str, Any]:
    port = stack.enter_context(front(pki.ours, valkey))
    return {"url": f"rediss://localhost:{port}/0", **files(pki.foreign.ca, None)}


def no_client(stack: ExitStack, pki: Pki, valkey: RedisForTest) -> dict[str, Any]:
    port = stack.enter_context(front(pki.ours, valkey, ask_clients=True))
    return {"url": f"rediss://localhost:{port}/0", **files(pki.ours.ca, None)}


def sentinels(stack: ExitStack, pki: Pki, valkey: RedisForTest) -> dict[str, Any]:
    port = stack.enter_context(front(pki.expired, valkey))
    told = {"url": "rediss://not-used:1/0", "mode": "sentinel", "sentinels": f"localhost:{port},{NOWHERE}"}
    return told | files(pki.expired.ca, None)


@pytest.mark.parametrize(
    ("cause", "words", "fix"),
    [
        (expired, "certificate has expired", "valid now"),
        (foreign_ca, "certificate verify failed: ", "_REDIS__TLS_CA_FILE must name the CA"),
        # The server's refusal is lost if it closes before our first command has arrived.
        (no_client, "(?i)ALERT_CERTIFICATE_REQUIRED|reset|unknown error|EOF", "refuses the certificate of"),
        (
            sentinels,
            r"localhost:\d+ \(certificate verify failed: certificate has expired; .*\); localhost:1 \(",
            "valid",
        ),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_why_there_is_no_connection_is_told_with_what_to_correct(
    cause: Cause, words: str, fix: str, pki: Pki, valkey: RedisForTest
) -> None:
    with ExitStack() as stack:
        told = cause(stack, pki, valkey)
        for said in (said_by_rtp(told), said_by_uic(told)):
            assert re.search(words, said), said
            assert fix in said


def test_a_ca_file_that_is_gone_while_the_services_run_is_told_with_its_setting(
    pki: Pki, valkey: RedisForTest, tmp_path: Path
) -> None:
    ca = tmp_path / "ca.pem"
    with front(pki.ours, valkey) as port:
        told = {"url": f"rediss://localhost:{port}/0", **files(ca, None)}
        ca.write_bytes(pki.ours.ca.read_bytes())
        store = RedisStore(UicRedis.model_validate(told | {"timeout_s": 60}), KEYS)
        assert store.client is not None
        reader = open_store(RtpRedis.model_validate(told | {"connect_timeout_ms": 60_000}))
        ca.unlink()

        async def read() -> None:
            with pytest.raises(StoreAway, match="No such file or directory; see the files of RTP_REDIS__TLS_CA_FILE"):
                await reader.read("a", 60)
            await reader.close()

        asyncio.run(read())
        with pytest.raises(StoreUnavailable, match="see the files of UIC_REDIS__TLS_CA_FILE") as failed:
            store.read_progress([3])
        assert "No such file or directory" in failed.value.detail
        store.close()


FILES = {
    "a CA that is not there": {"TLS_CA_FILE": "/no/such/ca.pem"},
    "a key of another certificate": {"TLS_CERT_FILE": "ours.client", "TLS_KEY_FILE": "foreign.client_key"},
}


@pytest.mark.parametrize("given", FILES.values(), ids=FILES)
def test_a_start_with_files_that_cannot_be_used_is_refused_by_their_names(
    given: dict[str, str], pki: Pki, tmp_path: Path
) -> None:
    told = {name: file if file.startswith("/") else str(attrgetter(file)(pki)) for name, file in given.items()}
    around = Surroundings(
        NOWHERE, f"rediss://{NOWHERE}/0", BUNDLE,
        uic={f"UIC_REDIS__{name}": value for name, value in told.items()},
        rtp={f"RTP_REDIS__{name}": value for name, value in told.items()},
    )  # fmt: skip
    name, value = list(told.items())[-1]
    for service, process in (
        ("UIC", UicWorker("uic", tmp_path / "uic", around)),
        ("RTP", RtpProcess("rtp", tmp_path / "rtp", around)),
    ):
        done = subprocess.run(
            process.command(), env=process.environment(), capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 2
        assert f"{service}_REDIS__{name}={value}" in done.stderr


def test_the_doctor_says_which_setting_to_correct(pki: Pki, valkey: RedisForTest) -> None:
    with front(pki.ours, valkey) as port:
        around = Surroundings(
            NOWHERE, f"rediss://localhost:{port}/0", BUNDLE, uic={"UIC_REDIS__TLS_CA_FILE": str(pki.foreign.ca)}
        )
        environment = UicWorker("uic", pki.ours.ca.parent, around).environment()
        command = [sys.executable, "-m", "uic", "doctor", "--timeout", "10"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert "UIC_REDIS__TLS_CA_FILE must name the CA that issued that server's certificate" in done.stdout
    assert "start Redis or Valkey there" not in done.stdout
