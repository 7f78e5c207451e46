"""Write docs/settings.md and docs/metrics.md from the code of the services: `make reference`.

What a setting does is its attribute's docstring, what a metric says is its own text. So each is written once, beside
what it describes. Needs neither a store nor a log nor torch.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from pydantic import BaseModel, SecretStr
from pydantic_settings import BaseSettings

import mimn.rows.library
import mimn.state.codec
import rtp.metrics
import rtp.settings
import uic.metrics
import uic.settings

SETTINGS: Final = """\
# Settings

Written by `make reference` from the code; a test compares the two. Do not edit.

UIC and RTP read their settings from environment variables when they start: `UIC_<GROUP>__<NAME>` and
`RTP_<GROUP>__<NAME>`. The repository's `.env.example` has those that most deployments set. A variable that begins with
`UIC_` or `RTP_` and is no setting stops the start, and the message names the nearest one. A whole group may also be
given as JSON: `UIC_REDIS='{"prefix": "shop"}'`.

`ctr` has no settings of its own. Some of its commands read variables. `ctr demo`, `up`, `load` and `budgets` read
`KAFKA_BOOTSTRAP_SERVERS`, `REDIS_URL` and `KAFKA_HOME`, which name servers to use
([the local stack](../deploy/README.md#on-one-machine)). `ctr load` and `ctr budgets` also read `LOADTEST_BUNDLE`, the
bundle to measure where no other is named ([load tests](../loadtest/README.md)). `ctr data`, `train`, `tune`, `evaluate`
and `impressions` read `CTR_CACHE`, the folder for prepared data. `ctr state` and `ctr erase` reach UIC through the
proxy that `grpc_proxy`, `https_proxy` or `http_proxy` names, except on this machine and on hosts in `NO_PROXY`; all
else is asked directly. The commands that operate a deployment read these of UIC's groups:
"""
METRICS: Final = """\
# Metrics

Written by `make reference` from the code; a test compares the two. Do not edit.

Each process answers `/metrics` on its admin port (`UIC_ADMIN__PORT`, `RTP_ADMIN__PORT`) with its own metrics. Where
keys are required, the key needs the scope `metrics` ([security](security.md)). `deploy/prometheus.yml` says what to
scrape, `deploy/alerts.yml` when to alert.

Counters begin at 0 with the process. RTP's series of an arm and bundle, or of a shadow, go half an hour after it was
last assigned to users, so `/metrics` does not grow with the releases. A histogram has the series `_bucket`, `_sum` and
`_count`. Some counters and histograms also have `_created`, the time at which they began. An info is a gauge that is
always 1 and tells something by its labels. Both services also have `process_cpu_seconds_total`,
`process_resident_memory_bytes`, `process_virtual_memory_bytes`, `process_start_time_seconds`, `process_open_fds` and
`process_max_fds` (on Linux).
"""
SWITCHES: Final = (mimn.rows.library, mimn.state.codec)
"""Modules whose `SWITCH` is a variable of the environment."""
UNITS: Final = {"ms": "milliseconds", "us": "microseconds", "s": "seconds", "bytes": "bytes", "mib": "MiB"}
"""By the last word of a setting's name."""
PATTERNS: Final = {
    r"^[A-Za-z0-9._-]{1,200}$": "1 to 200 letters, digits, `.`, `_`, `-`",
    r"^[A-Za-z0-9_.-]{1,64}$": "1 to 64 letters, digits, `.`, `_`, `-`",
    r"^[A-Za-z0-9_.-]+$": "letters, digits, `.`, `_`, `-`",
    r"^(rediss?|unix)://": "URL",
}
"""What a text must match, in words."""
FORMATS: Final = {
    "path": "path of a folder",
    "password": "text, secret",
    "addresses": "addresses",
    "host": "name or address; IPv6 as `::1` or `[::1]`",
}
"""What a text of a kind is, in words."""
KINDS: Final = {
    "Counter": "counter",
    "Counts": "counter",
    "CountedElsewhere": "counter",
    "Gauge": "gauge",
    "Histogram": "histogram",
    "Tallies": "histogram",
    "Info": "info",
}
"""What declares a metric, and the metric's kind."""
ENDINGS: Final = {"counter": "_total", "info": "_info"}
"""What Prometheus shows after the declared name."""
MEASURES: Final = {
    "_timestamp_seconds": "Unix time in seconds",
    "_seconds": "seconds",
    "_offset": "offset",
    "_revision": "number of the revision",
    "_difference": "probability",
    "_correlation": "-1 to 1",
}
"""The unit of a metric by the end of its name; others count something."""
HEADING: Final = re.compile(r" {8}# ([A-Z][a-z ]+)")
"""A line of a module of metrics: what those that follow are about."""


class NothingSaid(Exception):
    """A setting or a metric has no text; the message names it."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric as its module declares it."""

    name: str
    """As Prometheus shows it; a histogram has series with more at the end."""
    kind: str
    labels: tuple[str, ...]
    about: str
    heading: str

    @property
    def unit(self) -> str:
        """What its value is in."""
        if self.kind == "info":
            return "1"
        if self.about.startswith("1 "):
            return "0 or 1"
        return next((unit for end, unit in MEASURES.items() if self.name.endswith(end)), "count")


def docstrings(body: Sequence[ast.stmt]) -> dict[str, str]:
    """The attributes of a class or module that have a docstring, each on one line."""
    said = {}
    for node, after in pairwise(body):
        match node, after:
            case (
                ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                said[name] = " ".join(text.split())
    return said


def said_of(group: type[BaseModel]) -> dict[str, str]:
    """What each field of a group does, inherited ones included.

    Raises:
        NothingSaid: a field has no docstring.
    """
    said: dict[str, str] = {}
    for one in reversed(group.__mro__):
        if issubclass(one, BaseModel) and one is not BaseModel:
            (node,) = ast.parse(inspect.getsource(one)).body
            assert isinstance(node, ast.ClassDef)  # noqa: S101
            said |= docstrings(node.body)
    for name in group.model_fields:
        if name not in said:
            raise NothingSaid(f"{group.__module__}.{group.__name__}.{name} has no docstring")
    return {name: said[name] for name in group.model_fields}


def values(name: str, schema: dict[str, Any]) -> str:
    """What a setting may be: its kind, unit and bounds.

    Args:
        name:   of the setting.
        schema: JSON schema of its value.

    Raises:
        NothingSaid: its pattern has no words.
    """
    kind = next(one for one in schema.get("anyOf", [schema]) if one.get("type") != "null")
    if "enum" in kind:
        return ", ".join(f"`{value}`" if value else "empty" for value in kind["enum"])
    if kind["type"] == "string":
        if name.endswith("file"):
            return "path of a file"
        if "pattern" in kind:
            if kind["pattern"] not in PATTERNS:
                raise NothingSaid(f"{name}: PATTERNS has no words for {kind['pattern']}")
            most = f"at most {kind['maxLength']} " if "maxLength" in kind else ""
            return most + PATTERNS[kind["pattern"]]
        return FORMATS.get(kind.get("format", ""), "text")
    unit = UNITS.get(name.rpartition("_")[2])
    return ", ".join(filter(None, ("integer" if kind["type"] == "integer" else "number", unit, _bounds(kind))))


def _bounds(kind: dict[str, Any]) -> str:
    above, least, most = (kind.get(name) for name in ("exclusiveMinimum", "minimum", "maximum"))
    if least is not None and most is not None:
        return f"{_number(least)} to {_number(most)}"
    said = [(above, "above"), (least, "at least"), (most, "at most")]
    return ", ".join(f"{word} {_number(bound)}" for bound, word in said if bound is not None)


def _number(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else str(value)


def default(value: object) -> str:
    """A default, as it would be set."""
    if value is None or value == "":
        return "unset" if value is None else "empty"
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _groups(settings: type[BaseSettings]) -> Iterator[str]:
    for group, field in settings.model_fields.items():
        kind = field.annotation
        assert isinstance(kind, type) and issubclass(kind, BaseModel)  # noqa: S101, PT018
        variable = f"{settings.model_config['env_prefix']}{group}".upper()
        yield from (f"### {variable}", "", " ".join((kind.__doc__ or "").split()), "")
        yield from (_row("variable", "value", "default", "what it does"), "| --- | --- | --- | --- |")
        schema = kind.model_json_schema()["properties"]
        for name, text in said_of(kind).items():
            one = kind.model_fields[name]
            given = "required" if one.is_required() else default(one.default)
            yield _row(f"`{variable}__{name.upper()}`", values(name, schema[name]), given, text)
        yield ""


def _switches() -> Iterator[str]:
    yield from ("| variable | value | default | what it does |", "| --- | --- | --- | --- |")
    for module in SWITCHES:
        said = docstrings(ast.parse(inspect.getsource(module)).body)["SWITCH"]
        yield _row(f"`{module.SWITCH}`", "`off`", "unset", said.removeprefix("Environment variable; "))


def settings_page() -> str:
    """The content of docs/settings.md."""
    *most, last = (f"`{name}`" for name in uic.settings.ClientSettings.model_fields)
    parts = (
        f"{SETTINGS}{', '.join(most)} and {last}.",
        "",
        "## UIC",
        "",
        *_groups(uic.settings.UicSettings),
        "## RTP",
        "",
        *_groups(rtp.settings.RtpSettings),
        "## Compiled code and stored states",
        "",
        "Both services, the commands and training read these. Only the value `off` has an effect.",
        "",
        *_switches(),
    )
    return "\n".join(parts) + "\n"


def metrics_of(module: ModuleType) -> list[Metric]:
    """The metrics that a module declares, in its order.

    Raises:
        NothingSaid: a metric has no text.
        ValueError: a name, a text or labels are not written out.
    """
    source = inspect.getsource(module)
    lines = (HEADING.fullmatch(line) for line in source.splitlines())
    headings = {at: heading[1] for at, heading in enumerate(lines, 1) if heading}
    found = []
    for node in sorted(ast.walk(ast.parse(source)), key=lambda node: getattr(node, "lineno", 0)):
        match node:
            case ast.Call(func=ast.Name(id=declared), args=[name, about, *more]) if declared in KINDS:
                kind, called, text = KINDS[declared], ast.literal_eval(name), ast.literal_eval(about)
                if not text:
                    raise NothingSaid(f"{called} has no text")
                listed = more[0] if more and isinstance(more[0], ast.List) else None
                labels = () if listed is None else tuple(ast.literal_eval(listed))
                heading = headings[max(at for at in headings if at < node.lineno)]
                found.append(Metric(called + ENDINGS.get(kind, ""), kind, labels, text, heading))
    return found


def _metrics(module: ModuleType) -> Iterator[str]:
    service, heading = module.__name__.partition(".")[0].upper(), ""
    for one in metrics_of(module):
        if one.heading != heading:
            heading = one.heading
            yield from ("", f"### {service}: {heading.lower()}", "")
            yield from (_row("metric", "kind", "labels", "unit", "what it says"), "| --- | --- | --- | --- | --- |")
        yield _row(f"`{one.name}`", one.kind, ", ".join(f"`{label}`" for label in one.labels), one.unit, one.about)


def metrics_page() -> str:
    """The content of docs/metrics.md."""
    return "\n".join((METRICS, "## UIC", *_metrics(uic.metrics), "", "## RTP", *_metrics(rtp.metrics))) + "\n"


PAGES: Final = {Path("docs/settings.md"): settings_page, Path("docs/metrics.md"): metrics_page}
"""Path in the repository → what makes its content."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write both pages; exit status 1 if something has no text."""
    parser = argparse.ArgumentParser(
        prog="reference", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.parse_args(arguments)
    try:
        contents = {path: page() for path, page in PAGES.items()}
    except NothingSaid as missing:
        print(f"reference: {missing}", file=sys.stderr)
        return 1
    for path, content in contents.items():
        path.write_text(content, "utf-8")
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
