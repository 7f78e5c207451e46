"""`python -m uic` or `uic`: the service, and the commands around it."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec

from pydantic import ValidationError

from process.interruption import ends_at_once, ends_in_order
from process.setting_names import UnknownSetting
from process.tls_causes import BadTlsFiles

NEVER_RUN = ("rich", "greenlet", "colorama", "opentelemetry")
"""Packages that structlog (for terminal colors and greenlets) and redis-py (for its own metrics) import if they are
installed. The service does not use them."""

USAGE = """usage: uic COMMAND ...

  serve         fold behavior events into user states (the default); settings are UIC_<GROUP>__<NAME>
  doctor        check a deployment and say what to fix
  verify        find users whose state is lost, and fold it again from the log
  dead-letters  list, show and replay records that could not be folded
  partitions    the partitions of a running process, or of all workers, and their status
  continue      accept the current log of a broken partition, and keep its states
  rebuild       fold a broken partition again from the log's beginning
  state         show one user's stored state, decoded
  erase         erase one user's state
  rollout       move traffic from one release to another, and back
  namespaces    the namespaces of a store: size, lag, who reads them; drop one

  archive       copy the log's raw records to Parquet files
  import        append history to the topic, from described files or from an archive
  backfill      fold a whole log or archive, and load the states
  snapshot      save, verify and restore the states of a namespace

The last four need the extra `bulk`, which UIC's image does not have. Run them from a checkout of the repository:
  make install && .venv/bin/pip install -e 'services/uic[bulk]'
`uic <command> --help` says more.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` (default: the process's) name, and return its exit status."""
    try:
        status = _run(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:  # `uic … | head`
        # Python flushes stdout once more when it exits, and needs something to write to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def _run(given: list[str]) -> int:
    verb = given.pop(0) if given and not given[0].startswith("-") else "serve"
    if verb not in COMMANDS or (verb == "serve" and given):
        asked = given[:1] in (["-h"], ["--help"])
        print(USAGE, file=sys.stdout if asked else sys.stderr, end="")
        return 0 if asked else 2
    try:
        return COMMANDS[verb](verb, given)
    except (UnknownSetting, BadTlsFiles) as error:
        print(f"uic: {error}", file=sys.stderr)
        return 2
    except ValidationError as error:
        for problem in error.errors():
            place = [*problem["loc"], *(["path"] if problem["loc"] == ("bundle",) else [])]
            name = "UIC_" + "__".join(str(part).upper() for part in place)
            print(f"uic: {name}: {problem['msg']}", file=sys.stderr)
        return 2


def _serve(verb: str, arguments: Sequence[str]) -> int:
    from process.memory import left_out, one_arena, opened_late
    from uic.settings import read_settings

    settings = read_settings()
    one_arena()
    opened_late("uvicorn", Config="uvicorn.config")  # its `__init__` imports its command line
    with left_out(*NEVER_RUN):
        from uic.app import serve

        return serve(settings)


def _without_retries() -> None:
    """Of each try to connect kafka-python has half a dozen lines. A command says once why none succeeded."""
    logging.getLogger("kafka").setLevel(logging.CRITICAL)


def _run_module(module: str, *arguments: object) -> int:
    with ends_at_once():
        main = import_module(module).main
    with ends_in_order():
        return int(main(*arguments))


def _tool(verb: str, arguments: Sequence[str]) -> int:
    _without_retries()
    return _run_module(TOOLS[verb], arguments)


def _of_partitions(verb: str, arguments: Sequence[str]) -> int:
    return _run_module("uic.tools.partitions", verb, arguments)


def _bulk(verb: str, arguments: Sequence[str]) -> int:
    _without_retries()
    try:
        return _run_module(BULK[verb], arguments)
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] in ("uic", "mimn"):
            raise
        if find_spec("pip") is not None:
            way = f"{sys.executable} -m pip install -e 'services/uic[bulk]'"
        else:  # as in the image, which has no sources either
            way = (
                "this installation has no pip. Run it on any machine that reaches the servers, from a checkout of the "
                "repository: make install && .venv/bin/pip install -e 'services/uic[bulk]'"
            )
        print(f"ctr {verb} needs {missing.name}: {way}", file=sys.stderr)
        return 1


TOOLS = {
    "doctor": "uic.tools.doctor.command",
    "verify": "uic.tools.verify",
    "dead-letters": "uic.tools.dead_letters",
    "state": "uic.tools.state",
    "erase": "uic.tools.erase",
    "rollout": "uic.rollout.main",
    "namespaces": "uic.bulk.commands.namespaces",
}
"""Command → the module whose `main` takes its arguments."""
BULK = {
    "archive": "uic.bulk.commands.archive",
    "import": "uic.bulk.commands.import_history",
    "backfill": "uic.bulk.commands.backfill",
    "snapshot": "uic.bulk.commands.snapshot",
}
"""The same, of those that need the extra `bulk`."""
COMMANDS: dict[str, Callable[[str, Sequence[str]], int]] = {
    "serve": _serve,
    **dict.fromkeys(TOOLS, _tool),
    **dict.fromkeys(("partitions", "continue", "rebuild"), _of_partitions),
    **dict.fromkeys(BULK, _bulk),
}

if __name__ == "__main__":
    sys.exit(main())
