"""Records of the evidence ledger: sources, passages, facts, derived numbers. Ids are what writers may name.

```text
S12          a source: a page, a file, a table, an image
S12#p3       a passage of its text
S12#f7       a fact that was read out of the text
S12#r4c2     a cell of its table: row 4, column 2, both from 0
D5           a number derived from facts, with its formula
```
"""

from __future__ import annotations

import hashlib
import re
from decimal import Decimal
from typing import Any, Literal, TypeVar

import msgspec

from noria.core.errors import DataError
from noria.reports.evidence.quantities import MOST_PLACES, is_bounded

SourceKind = Literal["text", "table", "image"]
EVIDENCE_ID = re.compile(r"S\d+(?:#(?:p\d+|f\d+|r\d+c\d+))?|D\d+")
_T = TypeVar("_T")


class Source(msgspec.Struct, frozen=True):
    """Where evidence is from.

    Attributes:
        id: `S` and a number.
        kind: what it is.
        url: address, or a path in the corpus.
        title, publisher: words of the source itself; empty where it gives none.
        date: publication date, as much of `YYYY-MM-DD` as is known; empty where it is not.
        retrieved: day on which it was read.
        licence: licence of its content; empty where unknown.
        sha256: digest of the archived text.
        origin_sha256: digest of the bytes that the text was read from.
    """

    id: str
    kind: SourceKind
    url: str
    title: str
    publisher: str = ""
    date: str = ""
    retrieved: str = ""
    licence: str = ""
    sha256: str = ""
    origin_sha256: str = ""


class Passage(msgspec.Struct, frozen=True):
    """A piece of a source's archived text, from character `start` to `end`, under a heading."""

    id: str
    source: str
    start: int
    end: int
    text: str
    heading: str = ""


class Fact(msgspec.Struct, frozen=True):
    """A number that a source states.

    Attributes:
        id: id of the fact, or of the cell of a table.
        entity: what it is about.
        measure: what is measured.
        value: number.
        unit: unit as it is written.
        period: year or date; empty where the source gives none.
        raw: characters that the number was read from.
        passage: passage that holds them; empty for a cell.
        estimate: whether the source calls it an estimate.
    """

    id: str
    entity: str
    measure: str
    value: Decimal
    unit: str
    period: str
    raw: str
    passage: str = ""
    estimate: bool = False

    def __post_init__(self) -> None:
        _check(self.value)


class Derived(msgspec.Struct, frozen=True):
    """A number computed from facts, which can be computed again.

    Attributes:
        id: `D` and a number.
        operation: name of a formula of `noria.reports.evidence.derivation`.
        operands: ids of facts, in the order that the formula takes them.
        value: result.
        unit: unit of the result.
        label: description of the number in words.
    """

    id: str
    operation: str
    operands: tuple[str, ...]
    value: Decimal
    unit: str = ""
    label: str = ""

    def __post_init__(self) -> None:
        _check(self.value)


def _check(value: Decimal) -> None:
    """Refuse a value that is no number, or too long to be printed; `decode` says so in its line.

    Raises:
        ValueError: it is NaN, infinite, or has digits further than `MOST_PLACES` from the point.
    """
    if not is_bounded(value, MOST_PLACES):
        raise ValueError(f"a value that is no number of at most {MOST_PLACES:,} digits")


class Book(msgspec.Struct, dict=True):
    """The evidence of one report: what it names, and nothing else, each by id."""

    sources: dict[str, Source] = msgspec.field(default_factory=dict)
    passages: dict[str, Passage] = msgspec.field(default_factory=dict)
    facts: dict[str, Fact] = msgspec.field(default_factory=dict)
    derived: dict[str, Derived] = msgspec.field(default_factory=dict)

    def has(self, id: str) -> bool:
        """Whether the ledger holds an id."""
        return id in self.passages or id in self.facts or id in self.derived or id in self.sources

    def sources_of(self, id: str) -> list[str]:
        """Ids of the sources behind an id, in order, each once; of a derived number those of its operands."""
        if id in self.derived:
            found = [source for operand in self.derived[id].operands for source in self.sources_of(operand)]
            return list(dict.fromkeys(found))
        return [id.partition("#")[0]]

    def facts_of(self, id: str) -> list[Fact]:
        """Facts behind an id: the fact itself, or the operands of a derived number, down to what sources state."""
        if id in self.derived:
            return [fact for operand in self.derived[id].operands for fact in self.facts_of(operand)]
        return [self.facts[id]] if id in self.facts else []

    def add(self, *records: Source | Passage | Fact | Derived) -> None:
        """Put records into the ledger, under their ids."""
        for record in records:
            match record:
                case Source():
                    self.sources[record.id] = record
                case Passage():
                    self.passages[record.id] = record
                case Fact():
                    self.facts[record.id] = record
                case Derived():
                    self.derived[record.id] = record

    def derive(
        self, operation: str, operands: tuple[str, ...], value: Decimal, unit: str, label: str = ""
    ) -> Derived:
        """Enter a derived number; the same formula of the same facts has one id."""
        known: dict[tuple[str, tuple[str, ...]], Derived] = self.__dict__.setdefault("known", {})
        if len(known) != len(self.derived):  # a search through all entries for each would be quadratic
            known |= {(one.operation, one.operands): one for one in self.derived.values()}
        entry = known.get((operation, operands))
        if entry is None:
            entry = Derived(f"D{len(self.derived) + 1}", operation, operands, value, unit, label)
            known[operation, operands] = self.derived[entry.id] = entry
        return entry


def digest(data: bytes | str) -> str:
    """SHA-256 of bytes, or of a text in UTF-8."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def encode(value: Any, *, indent: int = 1) -> str:
    """JSON of a record or a collection of them, the same bytes for the same value."""
    return (
        msgspec.json.format(msgspec.json.encode(value, order="deterministic"), indent=indent).decode() + "\n"
    )


def decode(raw: bytes | str, kind: type[_T], where: str) -> _T:
    """Read a record from JSON.

    Raises:
        DataError: it is not JSON, or another record.
    """
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.MsgspecError as error:
        raise DataError(f"not {kind.__name__}: {error}", where=where) from None
    except (RecursionError, UnicodeDecodeError) as error:
        raise DataError(f"not {kind.__name__}: {type(error).__name__}", where=where) from None
