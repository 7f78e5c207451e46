"""A connection of the commands to a running UIC's gRPC port, with the key and the CA that the settings name."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import grpc

from ctr.uic.v1.uic_service_pb2_grpc import UserInterestCenterStub
from process.addresses import bracketed, joined
from uic.settings import ClientSettings
from uic.tools.proxies import DIRECT, proxy_variable

TIMEOUT_S = 10.0
Answer = TypeVar("Answer")


class Refused(Exception):
    """UIC refused the call, or did not answer; the message says why and what to do."""

    def __init__(self, message: str, code: grpc.StatusCode | None = None) -> None:
        super().__init__(message)
        self.code = code


class UicClient:
    """Calls of the service, whose failures are `Refused`."""

    def __init__(self, channel: grpc.Channel, address: str, secret: str, *, tls: bool, proxy: str) -> None:
        self.stub = UserInterestCenterStub(channel)
        self._address = address
        self._tls = tls
        self._proxy = proxy
        """The variable that names the proxy; empty: none is asked."""
        self._metadata = (("authorization", f"Bearer {secret}"),) if secret else ()

    def call(self, method: Callable[..., Answer], request: object) -> Answer:
        """The answer of a method of `stub`.

        Raises:
            Refused: no answer, or an error.
        """
        try:
            return method(request, timeout=TIMEOUT_S, metadata=self._metadata)
        except grpc.RpcError as error:
            failed: Any = error
            code: grpc.StatusCode = failed.code()
            answered = any(
                name == "retriable" for name, _ in failed.trailing_metadata() or ()
            )  # by UIC, and not by the library
            asks = "with TLS? Set --grpc" if self._tls else "without TLS? Set --tls, --grpc"
            unreached = f": is UIC running at {self._address}, {asks} or UIC_GRPC__…"
            if self._proxy:
                unreached += f"; {self._proxy} is set: does that proxy reach it? NO_PROXY names hosts that need none"
            fix = {
                grpc.StatusCode.UNAVAILABLE: "; UIC is running: run the command again later" if answered else unreached,
                grpc.StatusCode.UNAUTHENTICATED: "; set UIC_ACCESS__SECRET_FILE",
                grpc.StatusCode.PERMISSION_DENIED: "; UIC_ACCESS__SECRET_FILE holds another key",
            }.get(code, "")
            raise Refused(f"{failed.details()} ({code.name}){fix}", code) from error


def user_id(text: str) -> str:
    """The user of an argument, as argparse's `type`."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise argparse.ArgumentTypeError("the id of a user is UTF-8") from error
    return text


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that say where UIC is."""
    parser.add_argument("--grpc", metavar="HOST:PORT", help="UIC's gRPC address (default: from UIC_GRPC__…)")
    parser.add_argument("--tls", action="store_true", help="use TLS (default: if UIC_GRPC__TLS_CERT_FILE is set)")


@contextmanager
def connected(options: argparse.Namespace, settings: ClientSettings) -> Iterator[UicClient]:
    """A client of the UIC that `options` and `settings` name.

    Raises:
        Refused: the files of secret or CA cannot be read.
    """
    address = bracketed(options.grpc) if options.grpc else joined(settings.grpc.host, settings.grpc.port)
    access = settings.access
    try:
        secret = access.secret_file.read_text("utf-8").strip() if access.secret_file else ""
        authority = access.ca_file.read_bytes() if access.ca_file else None
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"UIC_ACCESS__SECRET_FILE or UIC_ACCESS__CA_FILE cannot be read ({error})") from error
    tls = options.tls or settings.grpc.tls_cert_file is not None
    proxy = proxy_variable(address)
    options_of_channel = () if proxy else DIRECT
    if tls:
        channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(authority), options_of_channel)
    else:
        channel = grpc.insecure_channel(address, options_of_channel)
    with channel:
        yield UicClient(channel, address, secret, tls=tls, proxy=proxy)
