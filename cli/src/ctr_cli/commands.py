"""The subcommands of `ctr`: which module runs each, and what must be installed for it. Pure data."""

from __future__ import annotations

from dataclasses import dataclass

BULK = ".venv/bin/pip install -e 'services/uic[bulk]', or make install-dev"
SERVING = ".venv/bin/pip install -e proto -e access -e 'models[serve]' -e services/uic"
LOCAL = "make install"
TRAINING = ".venv/bin/pip install -e 'models[serve,train]', or make install-dev"
SEARCHING = ".venv/bin/pip install -e 'models[serve,train,tune]', or make install-dev"
MEASURING = "make install-load, and run `ctr` at the repository's root"
ACCESS = ".venv/bin/pip install -e access"

RUN = "Run it on this machine"
TRAIN = "Train a model"
OPERATE = "Operate a deployment"
MEASURE = "Measure"


@dataclass(frozen=True)
class Command:
    """One subcommand: everything after its name goes to the module's `main`, `--help` included."""

    name: str
    group: str
    help: str
    module: str
    """Its `main(arguments) -> int` runs the command; of a package, `<package>.__main__` may have it."""
    install: str
    """What to run when a package that it imports is missing."""
    leading: tuple[str, ...] = ()
    """Arguments in front of the user's."""
    prog: str = ""
    """Passed to `main` where it takes a program name for its usage line."""
    of_stack: bool = False
    """Where no `UIC_...` variable names a system it works on the stack that `ctr up` started."""


LOCAL_MODULE = "localstack.__main__"
"""Runs the stack on this machine; it takes `--folder` in front of its command."""


def _local(name: str, text: str) -> Command:
    return Command(name, RUN, text, LOCAL_MODULE, LOCAL, leading=(name,), prog="ctr")


def _uic(name: str, group: str, text: str, install: str = SERVING) -> Command:
    return Command(name, group, text, "uic.__main__", install, leading=(name,), of_stack=True)


COMMANDS = (
    _local("demo", "Replay real shop events, score them, print the results; nothing keeps running."),
    _local("up", "Start the stack and keep it running; prints addresses and commands to paste."),
    _local("down", "Stop the stack by pid; its data stays."),
    _local("status", "What of the stack runs, and whether it is ready."),
    _uic("doctor", RUN, "Check the running stack, or the deployment that UIC_... variables name."),
    Command("data", TRAIN, "Check, prepare, sample or convert a data set.", "ctr_cli.data", TRAINING),
    Command("train", TRAIN, "Train one model.", "mimn.train", TRAINING),
    Command("tune", TRAIN, "Search for settings of a model, on validation alone.", "mimn.tune", SEARCHING),
    Command("evaluate", TRAIN, "Evaluate a trained run.", "mimn.evaluate", TRAINING),
    Command(
        "impressions",
        TRAIN,
        "Train, tune, calibrate and evaluate on labelled impressions.",
        "mimn.impressions.__main__",
        TRAINING,
    ),
    Command("export", TRAIN, "Write a trained run as a bundle for serving.", "mimn.export.__main__", TRAINING),
    _uic("state", OPERATE, "Show what is stored for one user."),
    _uic("erase", OPERATE, "Erase one user, or one item of a user."),
    _uic("verify", OPERATE, "Find users whose state is lost, and fold it again from the log."),
    _uic("rollout", OPERATE, "Move traffic from one release to another, and back."),
    _uic("dead-letters", OPERATE, "List, show and replay records that could not be folded."),
    _uic("partitions", OPERATE, "How each partition stands, over all workers that --admin names."),
    _uic("continue", OPERATE, "Accept the log that a broken partition has now, and keep its states."),
    _uic("rebuild", OPERATE, "Fold a broken partition again from the log's beginning."),
    _uic("archive", OPERATE, "Copy the log's raw records to Parquet files.", BULK),
    _uic("import", OPERATE, "Append history to the topic, from described files or from an archive.", BULK),
    _uic("backfill", OPERATE, "Fold a whole log or archive, and load the states.", BULK),
    _uic("snapshot", OPERATE, "Save, verify and restore the states of a namespace.", BULK),
    _uic("namespaces", OPERATE, "The namespaces of a store: size, lag, who reads them; drop one."),
    Command("keys", OPERATE, "Make, list and revoke API keys.", "access.__main__", ACCESS, prog="ctr keys"),
    Command("licenses", OPERATE, "List the license of every installed package.", "ctr_cli.licenses", LOCAL),
    Command(
        "load", MEASURE, "Latency against history length and rate: report and plots.", "loadtest.comparison", MEASURING
    ),
    Command("budgets", MEASURE, "Measure each latency and throughput budget.", "loadtest.budgets", MEASURING),
    Command("capacity", MEASURE, "How many cores and how much memory a load needs.", "loadtest.capacity", MEASURING),
)
