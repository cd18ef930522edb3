"""Settings: a frozen, closed pydantic model, filled from a YAML file, `key.sub=value` overrides and options.

A field declares its name, type, bounds, default and `description` once. The same class is the file format, the
override, the Python argument and, through `noria.verbs.command`, the command-line option. An error is one line that
names the file and line, the override or the option; the field; and the closest known name for a misspelt one.
"""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from noria.core.errors import ConfigError, DataError
from noria.core.files import read_bytes
from noria.core.yaml_values import MAX_BYTES, Path as _Path, parse_yaml

_C = TypeVar("_C", bound="Config")
ENVIRONMENT = r"^[A-Za-z_][A-Za-z0-9_]{0,99}$"
"""Pattern of the name of an environment variable, for fields that name the one that holds a key."""


class Config(BaseModel):
    """The base of every settings object: frozen, no unknown field, no NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def part(self, cls: type[_C]) -> _C:
        """Copy the fields that this class inherits from `cls` into an object of `cls`."""
        values = {name: getattr(self, name) for name in cls.model_fields}
        return cast("_C", cls.model_construct(self.model_fields_set & values.keys(), **values))


T = TypeVar("T", bound=BaseModel)


class Option:
    """The spelling of a field on the command line, in an `Annotated` type.

    Args:
        names: short names such as `-n`, or a long name in the place of the field's own.
        metavar: placeholder of the value in the help.
        was: earlier long names, which still work and warn.
        split: whether the value of a list is parted at its commas; texts and paths may hold one.
    """

    def __init__(
        self, *names: str, metavar: str | None = None, was: Sequence[str] = (), split: bool = True
    ) -> None:
        self.names, self.metavar, self.was, self.split = names, metavar, tuple(was), split


class Argument:
    """A field, in an `Annotated` type, that the command line takes by its position."""

    def __init__(self, metavar: str | None = None) -> None:
        self.metavar = metavar


def load_config(
    cls: type[T],
    *,
    file: Path | None = None,
    overrides: Sequence[str] = (),
    base: Mapping[str, Any] | None = None,
    options: Mapping[str, tuple[str, Any]] | None = None,
) -> T:
    """Read settings. Later sources win field by field: `base`, the YAML `file`, `overrides`, `options`.

    Args:
        cls: class of the settings.
        file: a YAML 1.2 mapping. Unlike PyYAML's default, `1e-5` is a number and `on` is a word.
        overrides: strings `key.sub=value`, where the value is a YAML scalar, list or mapping.
        base: values below all others, such as a preset.
        options: spelling of the option (for errors) and its value, by field.

    Raises:
        ConfigError: an unreadable file, an unknown field, a value out of its range.
    """
    origins: dict[_Path, str] = {}
    values: dict[str, Any] = {}
    _merge(values, base or {})
    if file is not None:
        _merge(values, _read_file(file, origins))
    for text in overrides:
        path, value = _parse_override(text)
        _claim(origins, path, value, f"override {text!r}")
        nested = value
        for key in reversed(path):
            nested = {key: nested}
        _merge(values, nested)
    for field, (spelling, value) in (options or {}).items():
        _claim(origins, (field,), value, spelling)
        _merge(values, {field: value})
    return _validated(cls, values, origins, None if file is None else str(file))


def parse_config(cls: type[T], raw: bytes, *, where: str) -> T:
    """Read settings from the text of a YAML file; JSON is YAML.

    Raises:
        ConfigError: what `load_config` refuses; `where` stands for the name of the file.
    """
    origins: dict[_Path, str] = {}
    return _validated(cls, _read_text(raw, where, origins), origins, where)


def parse_value(text: str, where: str) -> Any:
    """Parse `text` as a YAML 1.2 value: a number, a word, a list, a mapping.

    Raises:
        ConfigError: it is not YAML.
    """
    return parse_yaml(text, where, places=False).value


# --- reading ------------------------------------------------------------------------------------------------


def _read_file(file: Path, origins: dict[_Path, str]) -> dict[str, Any]:
    try:
        raw = read_bytes(file, limit=MAX_BYTES)
    except DataError as error:
        raise ConfigError(error.what, where=error.where, mend=error.mend) from None
    return _read_text(raw, str(file), origins)


def _read_text(raw: bytes, where: str, origins: dict[_Path, str]) -> dict[str, Any]:
    document = parse_yaml(raw, where)
    if document.value is None:
        return {}
    if not isinstance(document.value, dict):
        raise ConfigError("expected `field: value` lines", where=f"{where}:1")
    origins.update((path, f"{where}:{line}") for path, line in document.lines())
    return document.value


def _parse_override(text: str) -> tuple[_Path, Any]:
    key, equals, value = text.partition("=")
    path: _Path = tuple(part.strip() for part in key.split("."))
    if not equals or not all(path):
        raise ConfigError("expected key.sub=value", where=f"override {text!r}")
    return path, parse_value(value, f"override {text!r}")


def _claim(origins: dict[_Path, str], path: _Path, value: Any, origin: str) -> None:
    """Record that `value` at `path` comes from `origin`; the origins of what it replaces are dropped."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _claim(origins, (*path, key), inner, origin)
    else:
        for replaced in [other for other in origins if other[: len(path)] == path]:
            del origins[replaced]
    origins[path] = origin


def _merge(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Lay `values` over `into`: mappings field by field, anything else as a whole. `values` stays as it is."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            old = into.get(key)
            into[key] = dict(old) if isinstance(old, dict) else {}
            _merge(into[key], value)
        else:
            into[key] = value


# --- validation ---------------------------------------------------------------------------------------------


def _validated(cls: type[T], values: Mapping[str, Any], origins: Mapping[_Path, str], file: str | None) -> T:
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        raise _explain(error, cls, origins, file) from None


def _explain(
    error: ValidationError, cls: type[BaseModel], origins: Mapping[_Path, str], file: str | None
) -> ConfigError:
    """The first of pydantic's errors as one line: what is wrong, where it came from, and what mends it."""
    # An unknown field first: a misspelt name is also reported as a missing one, and explains it.
    details = sorted(error.errors(include_url=False), key=lambda d: d["type"] != "extra_forbidden")
    detail = details[0]
    path: _Path = detail["loc"]
    name = ".".join(str(part) for part in path)
    where = _origin(path, origins) or file
    mend: str | None = None
    if detail["type"] == "extra_forbidden":
        known = _fields_at(cls, path[:-1])
        what = f"unknown field {name!r}"
        mend = _near_miss(str(path[-1]), known) or (
            f"choose from {', '.join(sorted(known))}" if known else None
        )
    elif detail["type"] == "missing":
        what = f"{name} is missing"
    else:
        message = detail["msg"].removeprefix("Value error, ")
        what = (
            message[:1].lower() + message[1:] if message[:1].isupper() and message[1:2].islower() else message
        )
        is_option = where is not None and where.startswith("-")  # an option already names its field
        what = f"{name}: {what}" if name and not is_option else what
        if detail["type"] in ("literal_error", "enum"):
            choices = re.findall(r"'([^']*)'", detail.get("ctx", {}).get("expected", ""))
            mend = _near_miss(str(detail["input"]), choices)
        if detail["type"] != "value_error":
            what = f"{what}, got {_short(detail['input'])}"
    if len(details) > 1:
        what = f"{what} (and {len(details) - 1} more)"
    return ConfigError(what, where=where, mend=mend)


def _origin(path: _Path, origins: Mapping[_Path, str]) -> str | None:
    """Origin of the value at `path`: its own, else that of a value inside it, else its parent's."""
    for length in range(len(path), 0, -1):
        prefix = path[:length]
        if prefix in origins:
            return origins[prefix]
        inner = [origin for other, origin in origins.items() if other[:length] == prefix]
        if inner:
            return inner[-1]
    return None


def _fields_at(cls: type[BaseModel], path: _Path) -> set[str]:
    """Field names of every model that `path` can lead to from `cls` (a union can lead to several)."""
    models = [cls]
    for part in path:
        if any(part in model.model_fields for model in models):
            annotations = [m.model_fields[part].annotation for m in models if part in m.model_fields]
            models = [model for annotation in annotations for model in _models_in(annotation)]
        # else: an index into a list, or the tag pydantic adds for a union's member: the models stay the same.
    return {field for model in models for field in model.model_fields}


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in typing.get_args(annotation) for model in _models_in(argument)]


def _near_miss(word: str, known: Iterable[str]) -> str | None:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
