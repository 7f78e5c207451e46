"""A run folder while it is trained in: whether a run may start or go on there, its log, its curves."""

from __future__ import annotations

import logging
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from mimn import config_file, run
from mimn.config_file import HasToml
from mimn.file_lock import hold
from mimn.nn.model import ClickModel
from mimn.training.schedule import Schedule

log = logging.getLogger("mimn.train")


class TrainingFailed(Exception):
    """Training cannot start, go on or resume; the message says why and what to do."""


def check_place(folder: Path) -> None:
    """Whether there can be a folder at this place: found before data is read, which may take hours.

    Raises:
        TrainingFailed: a file is there, or on the way to it.
    """
    there = next((one for one in (folder, *folder.parents) if one.exists()), folder)
    if there.exists() and not there.is_dir():
        raise TrainingFailed(f"{folder} cannot be a folder, because {there} is a file: choose another --output")


def check_folder(folder: Path, config: HasToml, *, resume: bool) -> None:
    """Whether a run of `config` may start in `folder`, or be resumed there.

    Raises:
        TrainingFailed: the folder is taken or cannot be made, or there is nothing to resume.
        ConfigError: the configuration in the folder cannot be read.
    """
    check_place(folder)
    stored = folder / run.CONFIG
    if not resume:
        if stored.exists():
            raise TrainingFailed(f"{folder} already holds a run: continue it with --resume, or choose another folder")
        return
    if not stored.exists():
        raise TrainingFailed(f"{folder} holds no run to resume: start without --resume")
    # Both with today's defaults: the run may have started before a field was added.
    if config_file.read(stored, type(config)).to_toml() != config.to_toml():
        raise TrainingFailed(f"{stored} is another configuration: resume with the one that the run started with")
    if (folder / run.METRICS).exists():
        raise TrainingFailed(f"{folder} holds a finished run: there is nothing to resume; choose another folder")


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other trainings out of the folder meanwhile.

    Raises:
        TrainingFailed: another process trains there.
    """
    with (folder / run.LOG).open("a", encoding="utf-8") as file:
        if not hold(file):
            raise TrainingFailed(
                f"another process is training in {folder}: wait until it has ended, or choose another folder"
            )
        yield


class _Lines(logging.FileHandler):
    """The log, whose errors end the training: logging prints a traceback for each line and goes on."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        """Raise it."""
        error = sys.exc_info()[1]
        if error is not None:
            raise error


@contextmanager
def logged(folder: Path, *, file: bool = True) -> Iterator[None]:
    """Meanwhile, write what `log` says into the run folder's log, and warnings to standard error as well.

    `file`: False in processes that do not write, which say nothing either.
    """
    if not file:
        silent = logging.NullHandler()  # without a handler, warnings go to standard error
        log.addHandler(silent)
        try:
            yield
        finally:
            log.removeHandler(silent)
        return
    lines, warnings = _Lines(folder / run.LOG, encoding="utf-8"), logging.StreamHandler()
    lines.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    warnings.setFormatter(logging.Formatter("warning: %(message)s"))
    warnings.setLevel(logging.WARNING)
    log.setLevel(logging.INFO)
    log.addHandler(lines)
    log.addHandler(warnings)
    try:
        yield
    finally:
        log.removeHandler(warnings)
        log.removeHandler(lines)
        lines.close()


def draw_curves(schedule: Schedule, path: Path, title: str) -> None:
    """Loss and the measure by epoch, as a PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    name, curve, validations = schedule.measure.name, schedule.curve, schedule.validations
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    left.plot(range(1, len(curve) + 1), [epoch.loss for epoch in curve], marker=".")
    left.set(title=title, xlabel="epoch", ylabel="click loss (nats)")
    right.plot(list(validations), [found[name] for found in validations.values()], marker=".", color="tab:orange")
    right.set(xlabel="epoch", ylabel=f"validation {name}")
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def machine(model: ClickModel) -> str:
    """What a model was trained on, for its record."""
    device = model.items.weight.device
    used = "one thread" if device.type == "cpu" else torch.cuda.get_device_name(device)
    return f"{platform.machine()}, {used}, torch {torch.__version__}"
