"""`uic partitions`, `uic continue` and `uic rebuild`: an operator's view and word, through a process's admin port."""

from __future__ import annotations

import argparse
import http.client
import json
import ssl
import sys
from collections.abc import Sequence
from typing import Any, Final, TextIO
from urllib.parse import urlsplit

from pydantic_settings import BaseSettings, SettingsConfigDict

from uic.settings import AccessSettings, AdminSettings

TIMEOUT_S: Final = 60.0
DENIED: Final = (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN)
COLUMNS: Final = ("partition", "phase", "next_offset", "end_offset", "lag", "as_of_age_s", "lineage", "era", "reason")


class _Environment(BaseSettings):
    """The groups that these commands need, so that they run without a bundle."""

    model_config = SettingsConfigDict(env_prefix="UIC_", env_nested_delimiter="__", frozen=True, extra="ignore")

    admin: AdminSettings = AdminSettings()
    access: AccessSettings = AccessSettings()


class Refused(Exception):
    """The admin port refused, or did not answer; the message says what it said."""


def main(verb: str, arguments: Sequence[str] | None = None, out: TextIO | None = None) -> int:
    """Run the command `verb`. 0: done; 1: refused or no answer, or (`partitions`) not serving; 2: called wrongly."""
    options = _parser(verb).parse_args(arguments)
    environment = _Environment()
    admin, access = environment.admin, environment.access
    url = options.admin or f"http{'s' if admin.tls_cert_file else ''}://{admin.host}:{admin.port}"
    try:
        if verb == "partitions":
            return _show(call(url, "GET", "/partitions", access), as_json=options.json, out=out)
        offset = "" if getattr(options, "offset", None) is None else f"?offset={options.offset}"
        stored = call(url, "POST", f"/partitions/{options.partition}/{verb}{offset}", access)
    except Refused as refusal:
        print(f"uic {verb}: {refusal}", file=sys.stderr)
        return 1
    print(
        f"partition {stored['partition']} goes on at offset {stored['next_offset']}, "
        f"lineage {stored['lineage']}, era {stored['era']}",
        file=out,
    )
    return 0


def call(url: str, method: str, target: str, access: AccessSettings) -> dict[str, Any]:
    """The answer's JSON. `access` has the secret to show, and the authority to trust.

    Raises:
        Refused: no answer, or an error.
    """
    address = urlsplit(url)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise Refused(f"{url!r} is no address: give http://host:port or https://host:port")
    try:
        secret = access.secret_file.read_text().strip() if access.secret_file else ""
        trusted = ssl.create_default_context(cafile=access.ca_file) if address.scheme == "https" else None
    except OSError as error:
        raise Refused(f"UIC_ACCESS__SECRET_FILE or UIC_ACCESS__CA_FILE cannot be read ({error})") from error
    host, port = address.hostname, address.port
    connection = (
        http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
        if trusted is None
        else http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=trusted)
    )
    try:
        connection.request(method, target, headers={"Authorization": f"Bearer {secret}"} if secret else {})
        response = connection.getresponse()
        answer: dict[str, Any] = json.loads(response.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Refused(
            f"no answer from {url} ({error}): is UIC running there? Set UIC_ADMIN__HOST and UIC_ADMIN__PORT, or --admin"
        ) from error
    finally:
        connection.close()
    if response.status != http.HTTPStatus.OK:
        fix = "; set UIC_ACCESS__SECRET_FILE" if response.status in DENIED else ""
        raise Refused(f"{answer.get('detail', response.reason)} ({answer.get('code', response.status)}){fix}")
    return answer


def _show(view: dict[str, Any], *, as_json: bool, out: TextIO | None) -> int:
    if as_json:
        print(json.dumps(view, indent=2), file=out)
    else:
        for reason in view["reasons"]:
            print(f"! {reason}", file=out)
        rows = [COLUMNS, *(tuple(_cell(row[name]) for name in COLUMNS) for row in view["partitions"])]
        widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip(), file=out)
    return 0 if view["serving"] else 1


def _cell(value: object) -> str:
    return "-" if value is None else str(value)


def _parser(verb: str) -> argparse.ArgumentParser:
    described = {
        "partitions": "The partitions that a UIC process has, and how each stands.",
        "continue": "Accept the log that a broken partition has now: keep its states, go on in a new era.",
        "rebuild": "Give up a broken partition's states, and fold the log from its beginning in a new lineage.",
    }
    parser = argparse.ArgumentParser(prog=f"uic {verb}", description=described[verb])
    parser.add_argument("--admin", metavar="URL", help="the process's admin address (default: from UIC_ADMIN__…)")
    if verb == "partitions":
        parser.add_argument("--json", action="store_true", help="as the admin port answers")
        return parser
    parser.add_argument("--partition", type=int, required=True)
    if verb == "continue":
        parser.add_argument(
            "--offset", type=int, help="where to go on (default: where the states end, or the log does)"
        )
    return parser
