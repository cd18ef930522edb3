"""Settings: a frozen, closed pydantic model, filled from a YAML file, `key.sub=value` overrides and options.

A field declares its name, type, bounds, default and `description` once. The same class is the file format, the
override, the Python argument and, through `noria.verbs.command`, the command-line option. An error is one line that
names the file and line, the override or the option; the field; and the closest known name for a misspelt one.
"""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from noria.core.errors import ConfigError

_MAX_BYTES = 1_000_000
_MAX_VALUES = 100_000  # counted with aliases followed: nested aliases make billions of values in a few lines
_Path = tuple[Hashable, ...]


_C = TypeVar("_C", bound="Config")


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
    return _parse(text, where)[1]


# --- reading ------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core types only: `1e-5` is a float; `on`, `yes`, `12:30` and `2026-01-01` are strings."""

    yaml_implicit_resolvers = {}  # noqa: RUF012  (PyYAML keeps its tables on the class)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), "tTfF"
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$"), "-+0123456789"
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    "-+.0123456789",
)


def _construct_float(loader: _Loader, node: yaml.ScalarNode) -> float:
    text = str(loader.construct_scalar(node)).lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


_Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)


def _read_file(file: Path, origins: dict[_Path, str]) -> dict[str, Any]:
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read it: {error.strerror}", where=str(file)) from None
    return _read_text(raw, str(file), origins)


def _read_text(raw: bytes, where: str, origins: dict[_Path, str]) -> dict[str, Any]:
    if len(raw) > _MAX_BYTES:
        raise ConfigError(f"{len(raw)} bytes is too long for settings (at most {_MAX_BYTES})", where=where)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError("not UTF-8", where=f"{where}:{line}", mend="save the file as UTF-8") from None
    node, value = _parse(text, where)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError("expected `field: value` lines", where=f"{where}:1")
    for count, (path, line) in enumerate(_lines(node, where)):
        if count >= _MAX_VALUES:
            raise ConfigError(f"more than {_MAX_VALUES} values", where=where)
        origins[path] = f"{where}:{line}"
    return value


def _parse_override(text: str) -> tuple[_Path, Any]:
    key, equals, value = text.partition("=")
    path: _Path = tuple(part.strip() for part in key.split("."))
    if not equals or not all(path):
        raise ConfigError("expected key.sub=value", where=f"override {text!r}")
    return path, _parse(value, f"override {text!r}")[1]


def _parse(text: str, where: str) -> tuple[yaml.Node | None, Any]:
    """Node tree of a document, which knows the lines, and the document's value."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        return node, None if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        if mark is not None and not where.startswith(("override", "-")):  # only a file has lines
            where = f"{where}:{mark.line + 1}"
        raise ConfigError(f"not YAML: {error.problem or error.context}", where=where) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"not YAML: {error or 'nested too deep'}", where=where) from None
    finally:
        loader.dispose()


def _lines(
    node: yaml.Node | None, where: str, path: _Path = (), parents: tuple[int, ...] = ()
) -> Iterable[tuple[_Path, int]]:
    """Yield every path in the document with its line. A duplicate key, or a node inside itself, is an error."""
    if id(node) in parents:
        raise ConfigError("an alias that contains itself", where=where)
    parents = (*parents, id(node))
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.value in seen:
                raise ConfigError(
                    f"{key.value!r} is given twice", where=f"{where}:{line}", mend="keep one of them"
                )
            seen.add(key.value)
            yield (*path, key.value), line
            yield from _lines(value, where, (*path, key.value), parents)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*path, index), value.start_mark.line + 1
            yield from _lines(value, where, (*path, index), parents)


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
