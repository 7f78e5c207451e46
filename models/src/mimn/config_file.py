"""A configuration file, strictly read from TOML: what is unknown, missing or wrong is an error that names the field."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from mimn.baselines import ModelConfig
from mimn.config import ConfigError
from mimn.toml_text import NotToml, parsed


class HasArchitecture(Protocol):
    """A configuration file's value that describes a model."""

    @property
    def architecture(self) -> ModelConfig:
        """The model's configuration."""


class HasToml(HasArchitecture, Protocol):
    """A configuration that a run folder holds."""

    def to_toml(self) -> str:
        """The configuration with every field written out."""


C = TypeVar("C", bound=HasArchitecture)


def decode(text: str, source: str, kind: type[C]) -> C:
    """The configuration of type `kind` in `text`; `source` names it in errors.

    Raises:
        ConfigError: not TOML, or a field is unknown, missing, of the wrong type or out of range; the message names it.
    """
    try:
        config = msgspec.convert(parsed(text), kind)
    except NotToml as error:
        raise ConfigError(f"{source}: {error}") from error
    except msgspec.ValidationError as error:
        raise ConfigError(f"{source}: {with_allowed_values(str(error), kind)}") from error
    try:
        _ = config.architecture
    except ConfigError as error:
        raise ConfigError(f"{source}: [model] {error}") from error
    return config


def with_allowed_values(message: str, config: type) -> str:
    """msgspec's `message` on a value of the struct `config`; for a wrong literal, followed by the allowed ones.

    msgspec says "Invalid enum value 'x' - at `$.table.field`" and leaves them out.
    """
    path = re.fullmatch(r"Invalid enum value .* - at `\$\.(.+)`", message)
    if path is None:
        return message
    kind: Any = config
    for name in path[1].split("."):
        kind = get_type_hints(kind)[name.partition("[")[0]]
    return f"{message}; it must be one of {', '.join(_literals(kind))}"


def _literals(kind: Any) -> list[str]:
    """The values of all literals in a type."""
    if get_origin(kind) is Literal:
        return [str(value) for value in get_args(kind)]
    return ["a whole number"] * (kind is int) + [value for part in get_args(kind) for value in _literals(part)]


def read(path: Path, kind: type[C]) -> C:
    """The configuration of type `kind` in a file.

    Raises:
        ConfigError: the file cannot be read, or see `decode`.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    return decode(text, str(path), kind)
