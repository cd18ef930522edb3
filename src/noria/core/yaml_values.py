"""YAML in JSON's types, bounded before anything is built: the one loader of every file, override and request.

A document is read event by event into null, booleans, numbers, text, lists and mappings with text as keys. Dates stay
text, and a tag of another type is refused, so nothing in a document can make an object. Its bytes, its depth and its
values with aliases followed are counted on the way; aliases share what they name, so a bomb costs only its text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeAlias

import yaml

from noria.core.errors import ConfigError
from noria.core.records import DEEPEST, MAX_DIGITS, has_surrogate

MAX_BYTES = 1_000_000
MAX_VALUES = 100_000
"""Most values, with aliases followed: nested aliases make billions of values in a few lines."""

Path: TypeAlias = tuple[Hashable, ...]

# libyaml is twenty times as fast; both parsers give the same events.
_PARSER: Any = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
_TAG = "tag:yaml.org,2002:"
_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_LINE_ENDS = re.compile("[\x85\u2028\u2029\ufeff]")
_PAIR = re.compile(r"\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")


@dataclass
class _Node:
    """A value, the place where it stands, and its parts, each with its key and line."""

    event: Any
    value: Any
    values: int = 1
    parts: list[tuple[Hashable, int, _Node]] = field(default_factory=list)
    key: Any = None


@dataclass(frozen=True)
class Document:
    """The value of a document; None where it is empty."""

    value: Any
    root: _Node | None

    def lines(self) -> Iterator[tuple[Path, int]]:
        """Yield the path of every value inside the document, and its line."""
        waiting: list[tuple[Path, _Node]] = [((), self.root)] if self.root is not None else []
        while waiting:
            path, node = waiting.pop()
            for key, line, part in node.parts:
                yield (*path, key), line
                waiting.append(((*path, key), part))


def parse_yaml(raw: bytes | str, where: str, *, places: bool = True) -> Document:
    """Parse one YAML 1.2 document; JSON is YAML.

    Args:
        raw: content of the document.
        where: name of the file, or of whatever else the text came from.
        places: whether errors name line and column; an option or an override has none.

    Raises:
        ConfigError: with line and column: it is not YAML, has other types than JSON, or is too large.
    """
    text = raw if isinstance(raw, str) else decode_yaml(raw, where)
    return _Builder(where if places else None, where).build(text)


def decode_yaml(raw: bytes, where: str) -> str:
    """Decode the bytes of a document.

    Raises:
        ConfigError: too many, or not UTF-8.
    """
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{len(raw):,} bytes is too long for settings (at most {MAX_BYTES:,})", where=where)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        column = error.start - raw.rfind(b"\n", 0, error.start)
        raise ConfigError(
            "not UTF-8", where=f"{where}:{line}:{column}", mend="save the file as UTF-8"
        ) from None


def yaml_text(value: Any) -> str:
    """Write JSON values as YAML that `parse_yaml`, and readers of YAML 1.1, read back as they were."""
    # PyYAML does not quote these as it should, unless it escapes all that is not ASCII.
    plain = not _LINE_ENDS.search(json.dumps(value, ensure_ascii=False))
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=plain)


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.2 would read as a number, such as `1e-5`, as well."""


_Dumper.add_implicit_resolver(f"{_TAG}float", re.compile(f"^(?:{_FLOAT.pattern})$"), list("-+.0123456789"))


class _Builder:
    def __init__(self, file: str | None, where: str) -> None:
        self.file, self.where = file, where
        self.root: _Node | None = None
        self.open: list[_Node] = []
        self.anchors: dict[str, _Node] = {}

    def build(self, text: str) -> Document:
        if odd := _UNPRINTABLE.search(text):
            line = text.count("\n", 0, odd.start())
            column = odd.start() - text.rfind("\n", 0, odd.start()) - 1
            self._refuse(f"the character {odd[0]!a} is not allowed", line, column)
        # JSON may write one character as two escapes, which YAML does not know.
        text = _PAIR.sub(lambda pair: chr(_joined(pair[1], pair[2])), text)
        try:
            for event in yaml.parse(text, Loader=_PARSER):
                self._take(event)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            what = f"not YAML: {error.problem or error.context}"
            self._refuse(what, *((0, 0) if mark is None else (mark.line, mark.column)))
        except yaml.YAMLError as error:
            raise ConfigError(f"not YAML: {error}", where=self.where) from None
        return Document(None if self.root is None else self.root.value, self.root)

    def _take(self, event: Any) -> None:
        if isinstance(event, yaml.DocumentStartEvent) and self.root is not None:
            self._fail("a second document begins", event, "keep one of them")
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            self._start(event)
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            node = self.open.pop()
            self._anchor(node.event, node)
            self._place(node.event, node)
        elif isinstance(event, yaml.AliasEvent):
            if any(node.event.anchor == event.anchor for node in self.open):
                self._fail("an alias that contains itself", event)
            if event.anchor not in self.anchors:
                self._fail(f"no anchor &{event.anchor} before this alias", event)
            self._place(event, self.anchors[event.anchor])
        elif isinstance(event, yaml.ScalarEvent):
            node = _Node(event, self._scalar(event))
            self._anchor(event, node)
            self._place(event, node)

    def _start(self, event: Any) -> None:
        own = "map" if isinstance(event, yaml.MappingStartEvent) else "seq"
        if event.tag not in (None, "!", f"{_TAG}{own}"):
            self._foreign(event)
        if len(self.open) >= DEEPEST:
            self._fail(f"nested more than {DEEPEST} deep", event)
        self.open.append(_Node(event, {} if own == "map" else []))

    def _anchor(self, event: Any, node: _Node) -> None:
        if event.anchor is not None:
            self.anchors[event.anchor] = node

    def _place(self, event: Any, node: _Node) -> None:
        """Put a value into the list or mapping that is open, or take it as a mapping's next key."""
        if not self.open:
            self.root = node
            return
        parent, line = self.open[-1], event.start_mark.line + 1
        if isinstance(parent.value, list):
            parent.parts.append((len(parent.value), line, node))
            parent.value.append(node.value)
        elif parent.key is None:
            parent.key = self._key(event, node, parent), line
            return
        else:
            key, line = parent.key
            parent.parts.append((key, line, node))
            parent.value[key], parent.key = node.value, None
        parent.values += node.values
        if parent.values > MAX_VALUES:
            self._fail(f"more than {MAX_VALUES:,} values", event)

    def _key(self, event: Any, node: _Node, parent: _Node) -> str:
        """Text of a key, as it is written."""
        if isinstance(node.value, dict | list):
            self._fail("a list or a mapping as a key", event, "write text before the colon")
        key = str(node.event.value)
        if key == "<<" and node.event.implicit[0]:  # plain, not quoted
            self._fail("merge keys are not read", event, "write the fields out")
        if key in parent.value:
            self._fail(f"{key!r} is given twice", event, "keep one of them")
        return key

    def _scalar(self, event: Any) -> Any:
        text, tag = event.value, event.tag
        if has_surrogate(text):
            self._fail("half of a surrogate pair, which is no character", event)
        if tag is None and not event.implicit[0]:  # quoted
            return text
        if tag in ("!", f"{_TAG}str"):
            return text
        if tag is None:
            kind = next((kind for kind, pattern in _KINDS.items() if pattern.fullmatch(text)), None)
            if kind is None:
                return text
        else:
            kind = tag.removeprefix(_TAG)
            if kind not in _KINDS:
                self._foreign(event)
            if not (_KINDS[kind].fullmatch(text) or (kind == "float" and _INT.fullmatch(text))):
                self._fail(f"{text[:40]!r} is no !!{kind}", event)
        if kind in ("int", "float") and len(text) > MAX_DIGITS:
            self._fail(f"a number of {len(text):,} characters (at most {MAX_DIGITS})", event)
        return _READ[kind](text)

    def _foreign(self, event: Any) -> NoReturn:
        tag = event.tag.replace(_TAG, "!!")
        self._fail(f"the tag {tag} is not read: values are of JSON's types", event, "leave the tag out")

    def _fail(self, what: str, event: Any, mend: str | None = None) -> NoReturn:
        self._refuse(what, event.start_mark.line, event.start_mark.column, mend)

    def _refuse(self, what: str, line: int, column: int, mend: str | None = None) -> NoReturn:
        where = self.where if self.file is None else f"{self.file}:{line + 1}:{column + 1}"
        raise ConfigError(what, where=where, mend=mend) from None


_KINDS = {"int": _INT, "float": _FLOAT, "null": _NULL, "bool": _BOOL}


def _number(text: str) -> float:
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


_READ: dict[str, Callable[[str], Any]] = {
    "int": int,
    "float": _number,
    "null": lambda text: None,
    "bool": lambda text: text.lower() == "true",
}


def _joined(high: str, low: str) -> int:
    return 0x10000 + ((int(high, 16) - 0xD800) << 10) + int(low, 16) - 0xDC00
