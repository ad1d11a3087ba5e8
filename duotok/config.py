"""Configuration: YAML files and `key=value` overrides into frozen dataclasses, with errors that name the dotted field."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the field, what was expected and what to do."""


def parse(cls: type[T], data: Any, source: str = "configuration") -> T:
    """Build a dataclass from nested mappings.

    Args:
        cls: a dataclass; its fields may be dataclasses in turn.
        data: nested mappings of plain values.
        source: where the data came from, for error messages.

    Raises:
        ConfigError: for an unknown key, a wrong type, or values that do not fit together.
    """
    _refuse_unknown(cls, data, source, "")
    try:
        return _adapter(cls).validate_python(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "values"
        message = first["msg"].removeprefix("Value error, ")
        if "; got " not in message:  # a class's own check says it all
            message = f"{_lower(message)}; got {first['input']!r}; correct this value"
        raise ConfigError(f"{source}: {field}: {message}") from None


def load(path: Path, cls: type[T], overrides: Iterable[str] = ()) -> T:
    """Read a YAML file, apply overrides such as `model.trunk.block.width=256`, and build the dataclass.

    Raises:
        ConfigError: if the file or an override cannot be read, or as `parse` does.
    """
    data = read(path)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"override: expected key=value; got {override!r}; write for example windows.batch_size=4")
        _assign(data, key.split("."), yaml.safe_load(text), override)
    return parse(cls, data, str(path))


def read(path: Path) -> Any:
    """Read a YAML file as plain values.

    Raises:
        ConfigError: if it cannot be read.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path}: expected YAML; got {reason}; correct the file") from None


def dump(config: Any) -> str:
    """Write a dataclass, complete with its defaults, as YAML that `load` reads back."""
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False)


@functools.cache
def _adapter(cls: type) -> TypeAdapter:
    return TypeAdapter(cls)


def _refuse_unknown(hint: Any, data: Any, source: str, prefix: str) -> None:
    """Refuse keys that are no fields, at any depth; other mismatches are left to pydantic."""
    for option in _options(hint):
        if dataclasses.is_dataclass(option) and isinstance(data, Mapping):
            hints, known = typing.get_type_hints(option), [field.name for field in dataclasses.fields(option)]
            for key, value in data.items():
                if key not in known:
                    raise ConfigError(
                        f"{source}: {prefix}{key}: expected one of {', '.join(known)}; got an unknown key; correct or remove it"
                    )
                _refuse_unknown(hints[key], value, source, f"{prefix}{key}.")
        elif typing.get_origin(option) is list and isinstance(data, list):
            for index, item in enumerate(data):
                _refuse_unknown(typing.get_args(option)[0], item, source, f"{prefix}{index}.")


def _options(hint: Any) -> tuple:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _assign(data: Any, keys: list[str], value: Any, override: str) -> None:
    for key in keys[:-1]:
        data = data.setdefault(key, {}) if isinstance(data, dict) else None
    if not isinstance(data, dict):
        raise ConfigError(f"override: expected the path to a field; got {override!r}; correct the key")
    data[keys[-1]] = value


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]
