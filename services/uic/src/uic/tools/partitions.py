"""`ctr partitions`, `ctr continue` and `ctr rebuild`: an operator's view and decisions, through the admin ports.

`partitions` asks one process, or with several addresses all workers of a namespace: it then merges their views, and
says which partitions no worker owns, or more than one, and whether more workers hold a lease than were asked.
"""

from __future__ import annotations

import argparse
import http.client
import json
import ssl
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, TextIO
from urllib.parse import urlsplit

from process.addresses import joined
from uic.settings import AccessSettings, read_client_settings
from uic.tools.table import table

TIMEOUT_S: Final = 60.0
DENIED: Final = (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN)
COLUMNS: Final = ("partition", "phase", "next_offset", "end_offset", "lag", "as_of_age_s", "lineage", "era", "reason")


class Refused(Exception):
    """The admin port refused, or did not answer; the message says why."""


class NotNow(Refused):
    """It cannot now, and may later."""


class NoAnswer(NotNow):
    """It did not answer at all."""


def main(verb: str, arguments: Sequence[str] | None = None, out: TextIO | None = None) -> int:
    """Run the command `verb`. 0: done, nothing found; 1: refused, no answer, or (`partitions`) a worker that is not
    serving or degraded, or a partition without exactly one owner; 2: called wrongly."""
    options = _parser(verb).parse_args(arguments)
    settings = read_client_settings()
    admin, access = settings.admin, settings.access
    urls = [url for given in options.admin for url in given.split(",") if url]
    urls = urls or [f"http{'s' if admin.tls_cert_file else ''}://{joined(admin.host, admin.port)}"]
    if len(urls) > 1 and verb != "partitions":
        print(f"ctr {verb}: give one --admin, that of the worker that owns the partition", file=sys.stderr)
        return 2
    try:
        if verb == "partitions" and len(urls) > 1:
            views = {url: _ask(url, access) for url in urls}
            return _show_fleet(merged(views, options.total or settings.kafka.partitions), as_json=options.json, out=out)
        if verb == "partitions":
            return _show(call(urls[0], "GET", "/partitions", access), as_json=options.json, out=out)
        offset = "" if getattr(options, "offset", None) is None else f"?offset={options.offset}"
        stored = call(urls[0], "POST", f"/partitions/{options.partition}/{verb}{offset}", access)
    except Refused as refusal:
        where = " Set UIC_ADMIN__HOST and UIC_ADMIN__PORT, or --admin" if isinstance(refusal, NoAnswer) else ""
        print(f"ctr {verb}: {refusal}{where}", file=sys.stderr)
        return 1
    print(
        f"partition {stored['partition']} goes on at offset {stored['next_offset']}, "
        f"lineage {stored['lineage']}, era {stored['era']}",
        file=out,
    )
    return 0


def merged(views: Mapping[str, dict[str, Any] | str], total: int) -> dict[str, Any]:
    """One view of all workers of a namespace whose topic has `total` partitions.

    Args:
        views: by address what its `/partitions` answered, or why it did not answer.
    """
    answers = {url: view for url, view in views.items() if isinstance(view, dict)}
    rows = [row | {"worker": url} for url, view in answers.items() for row in view["partitions"]]
    owners = Counter(row["partition"] for row in rows)
    return {
        "serving": len(answers) == len(views) and all(view["serving"] for view in answers.values()),
        "workers": [
            {"worker": url, "serving": view["serving"], "reasons": view["reasons"]}
            if isinstance(view, dict)
            else {"worker": url, "serving": False, "reasons": [view]}
            for url, view in views.items()
        ],
        "leases": sorted({name for view in answers.values() for name in view["workers"]}),
        "partitions": sorted(rows, key=lambda row: row["partition"]),
        "unowned": [p for p in range(total) if p not in owners],
        "owned_twice": sorted(p for p, count in owners.items() if count > 1),
    }


def _ask(url: str, access: AccessSettings) -> dict[str, Any] | str:
    try:
        return call(url, "GET", "/partitions", access)
    except Refused as refusal:
        return str(refusal)


def call(url: str, method: str, target: str, access: AccessSettings) -> dict[str, Any]:
    """The answer's JSON. `access` has the secret to send, and the CA to trust.

    Raises:
        Refused: no answer (`NoAnswer`), or an error; `NotNow` if that may pass by itself.
    """
    try:
        address = urlsplit(url)
        host, port = address.hostname, address.port
    except ValueError:  # brackets without an end, a port that is no number or too large
        host = None
    if host is None or address.scheme not in ("http", "https"):
        raise Refused(f"{url!r} is not an address: give http://host:port or https://host:port")
    try:
        secret = access.secret_file.read_text("utf-8").strip() if access.secret_file else ""
        trusted = ssl.create_default_context(cafile=access.ca_file) if address.scheme == "https" else None
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"UIC_ACCESS__SECRET_FILE or UIC_ACCESS__CA_FILE cannot be read ({error})") from error
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
        raise NoAnswer(f"no answer from {url} ({error}): is it running there, and is this its admin port?") from error
    finally:
        connection.close()
    if response.status != http.HTTPStatus.OK:
        fix = "; set UIC_ACCESS__SECRET_FILE" if response.status in DENIED else ""
        kind = NotNow if response.status >= http.HTTPStatus.INTERNAL_SERVER_ERROR else Refused
        raise kind(f"{answer.get('detail', response.reason)} ({answer.get('code', response.status)}){fix}")
    return answer


def _show(view: dict[str, Any], *, as_json: bool, out: TextIO | None) -> int:
    if as_json:
        print(json.dumps(view, indent=2), file=out)
    else:
        for reason in view["reasons"]:
            print(f"! {reason}", file=out)
        for worker in view["workers"]:
            print(f"lease: {worker}", file=out)
        for line in table(COLUMNS, ([row[name] for name in COLUMNS] for row in view["partitions"])):
            print(line, file=out)
    return 0 if view["serving"] and not view["reasons"] else 1


def _show_fleet(view: dict[str, Any], *, as_json: bool, out: TextIO | None) -> int:
    if as_json:
        print(json.dumps(view, indent=2), file=out)
    else:
        for worker in view["workers"]:
            for reason in worker["reasons"]:
                print(f"! {worker['worker']}: {reason}", file=out)
        for worker in view["leases"]:
            print(f"lease: {worker}", file=out)
        if (more := len(view["leases"]) - len(view["workers"])) > 0:
            print(f"! {more} more workers hold a lease: give their addresses with --admin, too", file=out)
        for found, what in (("unowned", "no worker owns"), ("owned_twice", "more than one worker owns")):
            if view[found]:
                print(f"! {what} partition {', '.join(map(str, view[found]))}", file=out)
        columns = (*COLUMNS[:-1], "worker", COLUMNS[-1])
        for line in table(columns, ([row[name] for name in columns] for row in view["partitions"])):
            print(line, file=out)
    degraded = any(worker["reasons"] for worker in view["workers"])
    return 0 if view["serving"] and not (degraded or view["unowned"] or view["owned_twice"]) else 1


def _parser(verb: str) -> argparse.ArgumentParser:
    described = {
        "partitions": "The partitions that a UIC process owns and their status; with several --admin, those of all.",
        "continue": "Accept the current log of a broken partition: keep its states, go on in a new era.",
        "rebuild": "Discard a broken partition's states, and fold the log from its beginning in a new lineage.",
    }
    parser = argparse.ArgumentParser(
        prog=f"ctr {verb}",
        description=described[verb],
        epilog="Exit status: 0 done and nothing found, 1 a finding or a failure, 2 called wrongly.",
    )
    parser.add_argument(
        "--admin",
        metavar="URL",
        action="append",
        default=[],
        help="the process's admin address (default: from UIC_ADMIN__…)"
        + ("; give it several times, or several separated by commas, for all workers" if verb == "partitions" else ""),
    )
    if verb == "partitions":
        parser.add_argument("--json", action="store_true", help="as the admin port answers; of several, merged")
        parser.add_argument(
            "--total", type=int, metavar="N", help="partitions of the topic (default: UIC_KAFKA__PARTITIONS)"
        )
        return parser
    parser.add_argument("--partition", type=int, required=True)
    if verb == "continue":
        parser.add_argument(
            "--offset", type=int, help="where to go on (default: where the states end, or where the log lost its tail)"
        )
    return parser
