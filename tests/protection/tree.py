"""A copy of the tree in which changes are taken back and tests run."""

from __future__ import annotations

import ast
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
CODE = ["access/src", "models/src", "services/uic/src", "services/rtp/src", "deploy/localstack", "cli/src"]
IMPORTS = ["proto/gen", *CODE[:4], "deploy", "cli/src", "tests", "."]
PRODUCT = re.compile(r"(services|access|cli|deploy|models/src)/.*\.(py|c|h|cpp|lua)$")
WHERE = """
import access, ctr_cli, localstack, mimn, process, rtp, uic
print(*(one.__path__[0] for one in (access, ctr_cli, localstack, mimn, process, rtp, uic)))
"""


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def meaning(path: str, text: str) -> str:
    """What a file does, whatever its texts, comments, imports and annotations of functions. SyntaxError: no code."""
    if not path.endswith(".py"):
        return "".join(re.sub(r'/\*.*?\*/|//[^\n]*|--[ ][^\n]*|"[^"\n]*"', "", text, flags=re.S).split())
    tree = ast.parse(text)
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str() | bytes()):
                node.value = ""
            case ast.JoinedStr():
                node.values = []
            case ast.arg():
                node.annotation = None
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                node.returns = None
        body = getattr(node, "body", None)
        if isinstance(body, list):
            body[:] = [one for one in body if not isinstance(one, ast.Import | ast.ImportFrom) and not _is_text(one)]
    return ast.dump(tree)


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


@dataclass
class Reverted:
    """What of a commit could be taken back."""

    hunks: int = 0
    done: list[tuple[str, str]] = field(default_factory=list)
    """Paths as they were then, and hunks."""
    before: dict[str, str] = field(default_factory=dict)
    """The files' contents before."""
    after: dict[str, str] = field(default_factory=dict)


class Tree:
    """A copy of the working tree, uncommitted work included, or of a commit. Its code is what runs in it."""

    def __init__(self, folder: Path, commit: str = "") -> None:
        self.folder = folder
        self.environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(str(folder / one) for one in IMPORTS),
            "GIT_CEILING_DIRECTORIES": str(folder.parent),
        }
        if commit:
            archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True).stdout
            subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)
            return
        self.files = [n for n in git("ls-files", "-co", "--exclude-standard").splitlines() if (ROOT / n).is_file()]
        for name in self.files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
        _, said = self.run(sys.executable, "-c", WHERE)
        assert all(one.startswith(f"{folder}/") for one in said.split()), said

    def run(self, *command: str, given: str = "", seconds: float = 1800) -> tuple[int, str]:
        """Status and output. What takes too long is interrupted, so that tests end the servers that they started."""
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            command, cwd=self.folder, env=self.environment, text=True, start_new_session=True,
            stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT,
        )  # fmt: skip
        for patience, then in ((seconds, signal.SIGINT), (60, signal.SIGKILL), (60, signal.SIGKILL)):
            try:
                said, _ = process.communicate(given, timeout=patience)
                return process.returncode, said
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, then)
            except KeyboardInterrupt:
                os.killpg(process.pid, signal.SIGINT)
                raise
        raise TimeoutError(command)

    def unapply(self, path: str, hunk: str) -> bool:
        """Take a hunk back, if it applies."""
        return self.run("git", "apply", "-R", "-", given=f"--- a/{path}\n+++ b/{path}\n{hunk}")[0] == 0

    def revert(self, commit: str) -> Reverted:
        """Take those hunks of product code back that apply. A file that does the same without them stays as it is."""
        found = Reverted()
        diff = git("show", "--format=", "--no-renames", "--diff-filter=M", commit)
        for section in re.split(r"^diff --git a/", diff, flags=re.M)[1:]:
            then = section.partition(" b/")[0]
            if not PRODUCT.match(then):
                continue
            hunks = re.split(r"^(?=@@ )", section, flags=re.M)[1:]
            found.hunks += len(hunks)
            if not (now := self.today(then)):
                continue
            here = self.folder / now
            text = here.read_text()
            done = [hunk for hunk in reversed(hunks) if self.unapply(now, hunk)]
            try:
                same = meaning(now, here.read_text()) == meaning(now, text)
            except SyntaxError:
                same = True
            if same:
                here.write_text(text)
            else:
                found.before[now], found.after[now] = text, here.read_text()
                found.done += [(then, hunk) for hunk in done]
        return found

    def write(self, contents: dict[str, str]) -> None:
        """Of files."""
        for path, text in contents.items():
            (self.folder / path).write_text(text)

    def today(self, path: str) -> str | None:
        """Where a file of the past is now: there, or where the only file of its name is in its part of the tree."""
        if (self.folder / path).exists():
            return path
        top, _, rest = path.partition("/")
        named = [one for one in self.files if one.startswith(f"{top}/") and one.endswith(f"/{rest.rpartition('/')[2]}")]
        return named[0] if len(named) == 1 else None

    def tests(self, names: list[str], *options: str, seconds: float = 900) -> tuple[int, str | None]:
        """pytest's status; and the first test that failed, or the file that could not be imported."""
        command = [sys.executable, "-m", "pytest", "-qx", "-rfE", "--tb=no", "-p", "no:cacheprovider"]
        status, said = self.run(*command, *options, *names, seconds=max(seconds, 1))
        found = re.search(r"^(?:FAILED|ERROR) (tests/[^\s\[]+)", said, re.M)
        return status, found[1] if found else None
