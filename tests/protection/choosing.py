"""Chooses commits that fixed something: by what they changed, and by what their own tests said then."""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from protection.tree import CODE, PRODUCT, Reverted, Tree, git

HOW_MANY, MOST_LINES = 48, 60
"""Commits, some of which may turn out to be no fix, and changed lines of product code in one."""
NO_FIX = re.compile(
    r"\bCPU\b|faster|as fast|µs|% (less|of)|Second reading|[Pp]lain words|One word|is called|^\w+ Tests?\b"
)
"""Subjects of changes of speed, of names or of words, and of tests."""
TEST = re.compile(r"^(?:\+|@@ .* @@ )(?:async )?def (test_\w+)", re.M)
ASSERTED = re.compile(r"^([+-])[ ]*((?:async )?def test_.*|assert .*|with pytest\.raises.*)$", re.M)


def choose() -> list[str]:
    """Of each part of the history, the candidate nearest to its middle that can be reverted. What is missing then,
    because much of the first days was rewritten, comes from what is left, evenly. Commits with their subjects."""
    with tempfile.TemporaryDirectory(prefix="ctr-protection-") as folder:
        tree = Tree(Path(folder).resolve())
        assert sound(tree, Reverted()), "the tree as it is does not pass"
        total, left, chosen = len(git("log", "--no-merges", "--format=%h").split()), [], list[tuple[int, str, str]]()
        for one in candidates():
            before = tree.revert(one[1]).before
            tree.write(before)
            left += [one] if before else []
        print(f"{len(left)} candidates of {total} commits", flush=True)

        def take(target: float, reach: float) -> None:
            for one in sorted(left, key=lambda one: abs(one[0] - target)):
                if abs(one[0] - target) <= reach:
                    left.remove(one)
                    reverted = tree.revert(one[1])
                    why = "" if sound(tree, reverted) else "does not fit into today's code"
                    tree.write(reverted.before)
                    print(*one, f"({why})" if why else "", flush=True)
                    if not why:
                        chosen.append(one)
                        return

        for k in range(HOW_MANY):
            take((k + 0.5) * total / HOW_MANY, total / HOW_MANY / 2)
        while left and len(chosen) < HOW_MANY:
            take(left[len(left) * len(chosen) // HOW_MANY][0], total)
        return [f"{commit} {subject}" for _, commit, subject in sorted(chosen)]


def candidates() -> Iterator[tuple[int, str, str]]:
    """Position, commit and subject of small changes of product code that came with new tests or assertions."""
    log = git("log", "--no-merges", "--reverse", "-M", "--numstat", "--format=@%h %s")
    for position, entry in enumerate(re.split(r"^@", log, flags=re.M)[1:]):
        head, *rows = entry.splitlines()
        counts = [row.split("\t") for row in rows if row.count("\t") == 2]
        lines = sum(int(added) + int(gone) for added, gone, path in counts if PRODUCT.match(path) and added != "-")
        if 1 <= lines <= MOST_LINES and not NO_FIX.search(head):
            commit, _, subject = head.partition(" ")
            said = ASSERTED.findall(git("show", "--format=", "-M", commit, "--", "tests"))
            if {line for sign, line in said if sign == "+"} - {line for sign, line in said if sign == "-"}:
                yield position, commit, subject


def sound(tree: Tree, reverted: Reverted) -> bool:
    """Whether the code is one that somebody could have written: it compiles, its names and types are right."""
    options = ["-std=c11", "-fsyntax-only", "-w", "-mavx2", "-mfma", "-mf16c", "-mpclmul", "-mavx512f"]
    checks = [["cc", *options, path] for path in reverted.before if path.endswith(".c")]
    checks += [[sys.executable, "-m", "ruff", "check", "--isolated", "--select", "E9,F821", *CODE]]
    checks += [[sys.executable, "-m", "mypy.dmypy", "run", "--timeout", "3600", "--", *CODE]]
    return all(tree.run(*check)[0] == 0 for check in checks)


def was_a_fix(commit: str, reverted: Reverted) -> bool:
    """Whether tests that came with the commit pass in its own tree, and do not without the hunks that were reverted."""
    shown = git("show", "--format=", commit, "--", "tests")
    files = re.findall(r"^\+\+\+ b/(.*/test_\w+\.py)$", shown, re.M)
    names = " or ".join(sorted(set(TEST.findall(shown))))
    with tempfile.TemporaryDirectory(prefix="ctr-protection-") as folder:
        then = Tree(Path(folder).resolve(), commit)
        if not files or then.tests(files, "-n0", "-k", names, seconds=400)[0] != 0:
            return False
        return all(then.unapply(*one) for one in reverted.done) and then.tests(files, "-n0", "-k", names)[0] in (1, 2)
