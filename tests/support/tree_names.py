"""The names in the tree: modules and their members, files, make targets, settings and metrics. Imports nothing.

`Tree.missing` checks one name from prose. It recognizes a name by its form (a dotted name, a path, a make target, a
setting) and ignores what only looks like one: `cleanup.policy` is Kafka's, because no module or class here is named
`cleanup`.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

ROOTS = (
    "access/src", "cli/src", "models/src", "services/uic/src", "services/rtp/src", "deploy", "proto/gen", "tests", "."
)  # fmt: skip
"""Import roots, the inner ones first."""
DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
PATHS = re.compile(r"(?!/)[\w.*@-]+(/[\w.*@-]+)*/?")
ENDINGS = frozenset(
    ("py", "pyi", "md", "toml", "lua", "cpp", "sh", "yml", "yaml", "proto", "json", "onnx", "npy", "npz", "parquet",
     "csv", "png", "safetensors", "bin", "txt", "properties", "log")
)  # fmt: skip
"""File suffixes. A file named in prose is in the tree, or a program writes it: then its name is in the code."""
IDENTIFIER = re.compile(r"[A-Za-z_]\w*(_|[a-z][A-Z])\w*")
"""A word that cannot be an English word."""
VARIABLES = re.compile(r"\b(UIC|RTP|CTR|LOADTEST|BARE)_[A-Z][A-Z0-9_]*\b")


@dataclass
class Class:
    """The names of a class's members."""

    members: set[str] = field(default_factory=set)
    bases: list[str] = field(default_factory=list)


@dataclass
class Module:
    """A module's names; classes with their members."""

    names: dict[str, Class | None] = field(default_factory=dict)
    words: set[str] = field(default_factory=set)
    """Every identifier and every string except docstrings."""


class Tree:
    """The names of a checkout."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = self.listed(root)
        self.modules = {dotted_name(name): self._read(name) for name in self.files if name.endswith((".py", ".pyi"))}
        self.classes: dict[str, list[Class]] = defaultdict(list)
        for module in self.modules.values():
            for name, found in module.names.items():
                if found is not None:
                    self.classes[name].append(found)
        self._basenames = {name.rpartition(".")[2] for name in self.modules} | {
            n.partition(".")[0] for n in self.modules
        }

    @staticmethod
    def listed(root: Path) -> list[str]:
        """The checkout's files without ignored ones; paths from its root."""
        command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        found = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
        return sorted(name for name in found.stdout.splitlines() if (root / name).is_file())

    def _read(self, name: str) -> Module:
        parsed = ast.parse((self.root / name).read_text())
        module = Module(words=set(_words(parsed)))
        for node in _statements(parsed.body):
            for bound in _bound(node):
                module.names[bound] = _class(node) if isinstance(node, ast.ClassDef) else None
        return module

    def missing(self, said: str) -> str | None:
        """Why a name does not resolve; None if it resolves, or is not a name of this tree.

        Args:
            said: the text between backticks, or a command line.
        """
        for variable in VARIABLES.finditer(said):
            if not said[variable.end() :].startswith(("…", "...", "*", "<")) and not self._knows_variable(variable[0]):
                return f"no setting or variable {variable[0]}"
        for target in re.findall(r"(?:^|&& |; )make ((?:[a-z][a-z-]*\b ?)+)(?![\w=])", said):
            for one in target.split():
                if one not in self.targets:
                    return f"no make target {one}"
        for module in re.findall(r"python3? (?:-\w+ )*-m ([\w.]+)", said):
            if module.partition(".")[0] in self._tops and module not in self.modules and not module.endswith("."):
                return f"no module {module}"
        if metric := re.fullmatch(r"((?:uic|rtp)_[a-z_]+)(\{.*\})?", said):
            return None if self._knows_metric(metric[1]) else f"no metric {said}"
        bare = said.removesuffix("()")
        if DOTTED.fullmatch(bare) and bare.rpartition(".")[2] not in ENDINGS | {"example"}:
            return None if self._resolves(bare) else f"no {bare}"
        if IDENTIFIER.fullmatch(bare) and not VARIABLES.match(bare):
            return None if bare in self._words else f"nothing is called {bare}"
        path, _, name = said.partition("::")
        if PATHS.fullmatch(path):
            return self._missing_path(path, name)
        return None

    @cached_property
    def targets(self) -> set[str]:
        """Targets of the Makefile."""
        return set(re.findall(r"^([a-z][a-z-]*):", (self.root / "Makefile").read_text(), re.M))

    @cached_property
    def _tops(self) -> set[str]:
        return {name.partition(".")[0] for name in self.modules}

    @cached_property
    def _code(self) -> str:
        """All names and strings of code, and configuration; comments and docstrings are prose and do not count."""
        kinds = (".yml", ".yaml", ".sh", ".toml", ".lua", ".cpp", ".proto", ".json", "Makefile", ".ci/run", ".example")
        configured = [(self.root / name).read_text() for name in self.files if name.endswith(kinds)]
        return "\n".join([*configured, *(word for module in self.modules.values() for word in module.words)])

    @cached_property
    def _words(self) -> set[str]:
        return set(re.findall(r"\w+", self._code))

    @cached_property
    def _dotted(self) -> set[str]:
        """Words of the code with the points between them, as in names of files."""
        return set(re.findall(r"[\w.]+", self._code))

    @cached_property
    def _messages(self) -> set[str]:
        """Full names of protobuf's packages and messages."""
        names = set()
        for text in ((self.root / file).read_text() for file in self.files if file.endswith(".proto")):
            (package,) = re.findall(r"^package ([\w.]+);", text, re.M)
            names |= {package, *(f"{package}.{message}" for message in re.findall(r"^\s*message (\w+)", text, re.M))}
        return names

    def _knows_variable(self, name: str) -> bool:
        service, _, rest = name.partition("_")
        group, found, knob = rest.partition("__")
        if service in ("UIC", "RTP") and found:
            settings = self.modules[f"{service.lower()}.settings"]
            return any(
                not knob or knob.lower() in self._members(kind)
                for name, kind in settings.names.items()
                if kind is not None and name.lower().startswith(group.lower().replace("_", ""))
            )
        return name in self._words

    def _knows_metric(self, name: str) -> bool:
        stem = re.sub(r"_(total|bucket|count|sum|created|info)$", "", name)
        return bool({name, stem} & self._words)

    def _resolves(self, name: str) -> bool:
        """Whether a dotted name resolves; also true if its first part is not a module or class of this tree."""
        parts = name.split(".")
        if name in self._messages or not (parts[0] in self._basenames or parts[0] in self.classes):
            return True
        for i in range(len(parts), 0, -1):
            head, rest = ".".join(parts[:i]), parts[i:]
            found = [m for full, m in self.modules.items() if full == head or full.endswith(f".{head}")]
            if any(self._leads(module, rest) for module in found):
                return True
        return any(parts[1] in self._members(one) for one in self.classes.get(parts[0], []))

    def _leads(self, module: Module, rest: list[str]) -> bool:
        if not rest:
            return True
        if rest[0] not in module.names:
            return False
        inner = module.names[rest[0]]
        return len(rest) == 1 or inner is None or rest[1] in self._members(inner)

    def _members(self, one: Class) -> set[str]:
        members = set(one.members)
        for base in one.bases:
            for found in self.classes.get(base, []):
                if found is not one:
                    members |= self._members(found)
        return members

    def _missing_path(self, path: str, name: str) -> str | None:
        whole = path.rstrip("/")
        kind = whole.rpartition(".")[2] if "." in whole.rpartition("/")[2] else ""
        if kind not in ENDINGS and not (path.endswith("/") and whole in self.folders):
            dotted = re.fullmatch(r"((?:\w+/)+\w+)\.([A-Za-z_]\w*)(\.\w+)?", whole)  # `core/commit.judge`
            if dotted and (files := self.at(f"{dotted[1]}.py")):
                modules = [self.modules[dotted_name(file)] for file in files]
                return (
                    None
                    if any(dotted[2] in module.names for module in modules)
                    else f"no {dotted[2]} in {dotted[1]}.py"
                )
            top = whole.partition("/")[0]
            known = "/" not in whole or top not in self.folders or top in ("data", "ctr", "access")
            return None if known or self.at(whole) or whole in self.folders else f"no {path}"
        files = self.at(whole)
        if not files:
            return None if whole in self.folders or self._made(whole) else f"no file {path}"
        if name and not any(name in self.modules[dotted_name(file)].names for file in files):
            return f"no {name} in {path}"
        return None

    @cached_property
    def folders(self) -> set[str]:
        """Every folder of the tree, from its root."""
        return {str(parent) for name in self.files for parent in Path(name).parents} - {"."}

    def at(self, path: str) -> list[str]:
        """Files (for a folder: its contents) that a path may mean, relative to the root or to any folder."""
        pattern = re.escape(path.lstrip("./")).replace(r"\*", "[^/]*")
        found = re.compile(rf"(?:.*/)?{pattern}(?:/.*)?")
        return [name for name in self.files if found.fullmatch(name)]

    def _made(self, path: str) -> bool:
        """Whether a program writes this file, which is not in the tree: its name is in the code."""
        name = path.rpartition("/")[2]
        if re.fullmatch(r"[\w.]+", name):
            return name in self._dotted
        return re.search(rf"(?<![\w.]){re.escape(name)}(?![\w.])", self._code) is not None


@cache
def tree() -> Tree:
    """This checkout."""
    return Tree(Path(__file__).parents[2])


def dotted_name(file: str) -> str:
    """The import name of a Python file."""
    for root in ROOTS:
        if root == "." or file.startswith(f"{root}/"):
            inner = file if root == "." else file[len(root) + 1 :]
            return re.sub(r"\.pyi?$", "", inner).removesuffix("/__init__").replace("/", ".")
    raise AssertionError("the last root holds every file")


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of a module or class, including those within `if` and `try`."""
    for node in body:
        yield node
        for inner in ("body", "orelse", "handlers", "finalbody") if isinstance(node, ast.If | ast.Try) else ():
            yield from _statements(getattr(node, inner, []))


def _bound(node: ast.stmt) -> list[str]:
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.Assign(targets=targets):
            return [one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            return [alias.asname or alias.name for alias in names]
        case _:
            return []


def _class(node: ast.ClassDef) -> Class:
    found = Class(bases=[base.id for base in node.bases if isinstance(base, ast.Name)])
    for inner in _statements(node.body):
        found.members.update(_bound(inner))
    for one in ast.walk(node):
        if isinstance(one, ast.Attribute) and isinstance(one.value, ast.Name) and one.value.id == "self":
            found.members.add(one.attr)
    return found


def _words(parsed: ast.Module) -> Iterator[str]:
    nodes = list(ast.walk(parsed))
    prose = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        if id(node) not in prose:
            for _, value in ast.iter_fields(node):
                yield from (one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str))
