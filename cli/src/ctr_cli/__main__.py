"""`ctr`: one command for ctr-serving.

It imports nothing but typer until a subcommand runs, and then only that subcommand's part: a serving installation has
no torch, and `ctr --help` is quick.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module, util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctr_cli.commands import COMMANDS, LOCAL_MODULE, Command
from ctr_cli.signals import ending_at_once, raising

if TYPE_CHECKING:
    import typer

EXIT_CODES = (
    "Exit codes: 0 done; 1 a finding or a failure, and a line that says what to do; 2 wrong usage; 128 + n ended by "
    "signal n: 130 Ctrl-C, 143 SIGTERM, 141 closed pipe; `rollout` says in its help what 3 to 5 mean. Commands with "
    "--json print one document on stdout, `verify` and `dead-letters list` one object a line."
)
STACK = Path(".stack")
"""Where `ctr up` keeps its data, unless told otherwise."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `ctr` and return its exit status; see `EXIT_CODES`."""
    try:
        try:
            with ending_at_once():
                _app()(args=None if arguments is None else list(arguments), prog_name="ctr")
        except SystemExit as left:
            status = left.code if isinstance(left.code, int) else int(left.code is not None)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        return _pipe_closed()
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _app() -> typer.Typer:
    import typer
    from typer.core import TyperCommand

    class Passed(TyperCommand):
        """A command whose module reads its own arguments: all of them as they are, `--help` and `--` included."""

        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            super().parse_args(ctx, [])
            ctx.args = list(args)
            return args

    app = typer.Typer(
        help="ctr-serving: click scores from long user histories, at constant latency.",
        epilog=EXIT_CODES,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )

    def root(
        context: typer.Context,
        folder: Path = typer.Option(STACK, help="Data, logs and pids of the stack on this machine."),  # noqa: B008
    ) -> None:
        context.obj = folder

    def runner(command: Command) -> Callable[[typer.Context], None]:
        def run(context: typer.Context) -> None:
            raise SystemExit(_run(command, context.args, folder=context.obj))

        return run

    # typer reads annotations by evaluating them in the module, where typer is not imported.
    root.__annotations__ |= {"context": typer.Context, "folder": Path}
    app.callback()(root)
    for command in COMMANDS:
        run = runner(command)
        run.__annotations__ |= {"context": typer.Context}
        named = app.command(command.name, cls=Passed, help=command.help, rich_help_panel=command.group)
        named(run)
    return app


def _run(command: Command, arguments: list[str], *, folder: Path) -> int:
    """Run the command's module, and turn what ends it into an exit status."""
    try:
        leading = list(command.leading)
        if command.module == LOCAL_MODULE:
            leading = ["--folder", str(folder), *leading]
        elif command.of_stack and not {"-h", "--help"} & set(arguments):
            _work_on_stack(command, folder)
        named = {"prog": command.prog} if command.prog else {}
        entry = _entry(command.module)
        with raising():
            status = int(entry([*leading, *arguments], **named) or 0)
            sys.stdout.flush()
        if status == 2 and command.of_stack and not any(name.upper().startswith("UIC_") for name in os.environ):
            hint = f"no stack runs in {folder}: `ctr up` starts one, and UIC_... variables name a deployment"
            print(hint, file=sys.stderr)
        return status
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        return _pipe_closed()
    except ModuleNotFoundError as missing:
        package, _, inside = (missing.name or "").partition(".")
        if not package or (inside and util.find_spec(package)):
            raise  # a mistake in an installed package
        print(f"ctr {command.name} needs {package}, which is not installed: {command.install}", file=sys.stderr)
        return 1


def _work_on_stack(command: Command, folder: Path) -> None:
    """Point the command at the stack in the folder, if one runs there and no variable names another system.

    Raises:
        SystemExit: where the stack is reached cannot be read.
    """
    if not (folder / "stack.json").is_file():
        return
    local = import_module(LOCAL_MODULE)
    try:
        told = local.tool_variables(folder)
    except local.StackError as damaged:
        print(f"ctr {command.name}: {damaged}", file=sys.stderr)
        raise SystemExit(1) from None
    if told:
        os.environ.update(told)
        print(f"ctr {command.name} works on the stack in {folder}", file=sys.stderr)


def _entry(module: str) -> Callable[..., Any]:
    """The `main` of a module, or of a package's `__main__`."""
    here = str(Path.cwd())
    if here not in sys.path:  # as `python -m` does: the load tests are a folder of the repository
        sys.path.insert(0, here)
    found = import_module(module)
    if not hasattr(found, "main"):
        found = import_module(f"{module}.__main__")
    entry: Callable[..., Any] = found.main
    return entry


def _pipe_closed() -> int:
    # Python flushes stdout once more when it exits, and needs something to write to.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + signal.SIGPIPE


if __name__ == "__main__":
    sys.exit(main())
