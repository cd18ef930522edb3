"""Who a plan is for: a small expression language over columns, parsed once and evaluated column by column.

```text
expression  := any of  `and`, `or`, `not`, ( … )
test        := value (== != < <= > >=) value …       chains as in 3 <= age < 7
             | column [not] in [literal, …]          one of these names or numbers
             | "name" [not] in column                of a column of lists, such as tags
             | column is [not] missing
             | column                                of flags
             | true
literal     := 12.5 | "name" | 'name' | true | false
```

A test on a missing value is neither true nor false (Kleene's logic, as in SQL): nobody is targeted on what is not
known, whether by a test or by its negation. Nothing is ever handed to Python's own evaluation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from noria.blending.columns import LARGEST_WHOLE
from noria.core.errors import ConfigError

MAX_LENGTH = 2000
"""Most characters of an expression."""
MAX_DEPTH = 40
"""Most brackets and `not`s inside each other."""

Literal: TypeAlias = "float | str | bool"


@dataclass(frozen=True)
class Name:
    """The name of a column."""

    name: str


Operand: TypeAlias = "Name | float | str | bool"


@dataclass(frozen=True)
class Compare:
    """column operator value, or another column."""

    column: str
    operator: str
    other: Operand


@dataclass(frozen=True)
class OneOf:
    """The column has one of the values."""

    column: str
    values: tuple[float | str, ...]


@dataclass(frozen=True)
class Has:
    """The column's list has the name."""

    column: str
    name: str


@dataclass(frozen=True)
class Missing:
    """The column has no value."""

    column: str


@dataclass(frozen=True)
class Flag:
    """The column itself, or a constant."""

    operand: Operand


@dataclass(frozen=True)
class Not:
    """Negation in Kleene's logic."""

    inner: Expression


@dataclass(frozen=True)
class Both:
    """Conjunction in Kleene's logic; with `either`, disjunction."""

    parts: tuple[Expression, ...]
    either: bool = False


Expression: TypeAlias = "Compare | OneOf | Has | Missing | Flag | Not | Both"


# -- reading ----------------------------------------------------------------------------------------------------------

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?![\w.])"
    r"|(?P<text>\"[^\"\n]*\"|'[^'\n]*')"
    r"|(?P<name>[^\W\d]\w*(?:\.\w+)*)"
    r"|(?P<sign>==|!=|<=|>=|<|>|\(|\)|\[|\]|,|-))"
)
_WORDS = {"and", "or", "not", "in", "is", "missing", "true", "false"}
_COMPARE = ("==", "!=", "<=", ">=", "<", ">")
_TURNED = str.maketrans("<>", "><")


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    place: int


def parse(text: str) -> Expression:
    """Read an expression.

    Raises:
        ConfigError: it is none, with the character where that shows.
    """
    if len(text) > MAX_LENGTH:
        raise ConfigError(
            f"{len(text):,} characters is too long for an expression",
            mend=f"at most {MAX_LENGTH:,} are let in",
        )
    return _Reader(text).whole()


def _tokens(text: str) -> Iterator[_Token]:
    place = 0
    end = len(text.rstrip())
    while place < end:
        result = _TOKEN.match(text, place)
        if result is None:
            start = place + len(text[place:]) - len(text[place:].lstrip())
            raise _wrong(f"{text[start]!r} is not understood", start)
        kind = result.lastgroup or ""
        word = result[kind]
        yield _Token("word" if kind == "name" and word in _WORDS else kind, word, result.start(kind))
        place = result.end()
    yield _Token("end", "the end", end)


def _wrong(what: str, place: int) -> ConfigError:
    return ConfigError(
        f"{what} at character {place + 1}", mend='write it as: source == "live" and age_hours < 48'
    )


class _Reader:
    """A cursor over the tokens; each method reads one rule of the grammar."""

    def __init__(self, text: str) -> None:
        self.tokens = list(_tokens(text))
        self.at = 0
        self.depth = 0

    @property
    def next(self) -> _Token:
        return self.tokens[self.at]

    def take(self, *texts: str) -> bool:
        """Go past the next token if it is one of these."""
        if self.next.kind in ("word", "sign") and self.next.text in texts:
            self.at += 1
            return True
        return False

    def need(self, text: str) -> None:
        if not self.take(text):
            raise _wrong(f"expected {text!r}, found {self.next.text!r}", self.next.place)

    def whole(self) -> Expression:
        result = self.either()
        if self.next.kind != "end":
            raise _wrong(f"did not expect {self.next.text!r}", self.next.place)
        return result

    def either(self) -> Expression:
        parts = [self.both()]
        while self.take("or"):
            parts.append(self.both())
        return parts[0] if len(parts) == 1 else Both(tuple(parts), either=True)

    def both(self) -> Expression:
        parts = [self.negated()]
        while self.take("and"):
            parts.append(self.negated())
        return parts[0] if len(parts) == 1 else Both(tuple(parts))

    def negated(self) -> Expression:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _wrong("nested too deep", self.next.place)
        try:
            if self.take("not"):
                return Not(self.negated())
            if self.take("("):
                inner = self.either()
                self.need(")")
                return inner
            return self.test()
        finally:
            self.depth -= 1

    def test(self) -> Expression:
        place = self.next.place
        left = self.operand()
        if self.take("is"):
            negative = self.take("not")
            self.need("missing")
            result: Expression = Missing(self.column(left, place))
            return Not(result) if negative else result
        negative = self.take("not")
        if negative or (self.next.kind == "word" and self.next.text == "in"):
            self.need("in")
            result = self.member(left, place)
            return Not(result) if negative else result
        chain: list[Expression] = []
        while self.next.kind == "sign" and self.next.text in _COMPARE:
            operator = self.next.text
            self.at += 1
            right = self.operand()
            if isinstance(left, Name):
                chain.append(Compare(left.name, operator, right))
            elif isinstance(right, Name):
                chain.append(Compare(right.name, operator.translate(_TURNED), left))
            else:
                raise _wrong("neither side is a column", place)
            left = right
        if chain:
            return chain[0] if len(chain) == 1 else Both(tuple(chain))
        if isinstance(left, Name | bool):
            return Flag(left)
        raise _wrong("a value alone is no test", place)

    def member(self, left: Operand, place: int) -> Expression:
        if not self.take("["):
            if not isinstance(left, str):
                raise _wrong('expected "name" in column, or column in [...]', place)
            where = self.next.place
            return Has(self.column(self.operand(), where), left)
        column = self.column(left, place)
        values: list[float | str] = []
        while not self.take("]"):
            where = self.next.place
            value = self.operand()
            if isinstance(value, Name | bool):
                raise _wrong("expected a name in quotes or a number", where)
            values.append(value)
            if not self.take(","):
                self.need("]")
                break
        if not values or len({type(value) for value in values}) > 1:
            raise _wrong("expected names, or numbers, in the brackets", place)
        return OneOf(column, tuple(values))

    def column(self, operand: Operand, place: int) -> str:
        if not isinstance(operand, Name):
            raise _wrong("expected a column", place)
        return operand.name

    def operand(self) -> Operand:
        token = self.next
        negative = self.take("-")
        number = self.next
        if number.kind == "number":
            self.at += 1
            value = float(number.text)
            if value in (float("inf"),):
                raise _wrong("a number that no float holds", number.place)
            if value >= LARGEST_WHOLE and number.text.isdigit() and int(number.text) > LARGEST_WHOLE:
                raise ConfigError(
                    f"a whole number above 2^53 at character {number.place + 1}, not told from its neighbours",
                    mend="send such ids as text, and put it in quotes",
                )
            return -value if negative else value
        if negative:
            raise _wrong("expected a number after '-'", number.place)
        if token.kind == "text":
            self.at += 1
            return token.text[1:-1]
        if token.kind == "word" and token.text in ("true", "false"):
            self.at += 1
            return token.text == "true"
        if token.kind == "name":
            self.at += 1
            return Name(token.text)
        raise _wrong(f"expected a column or a value, found {token.text!r}", token.place)


def columns_of(expression: Expression) -> set[str]:
    """The columns that an expression reads."""
    if isinstance(expression, Compare):
        other = {expression.other.name} if isinstance(expression.other, Name) else set()
        return {expression.column} | other
    if isinstance(expression, OneOf | Has | Missing):
        return {expression.column}
    if isinstance(expression, Flag):
        return {expression.operand.name} if isinstance(expression.operand, Name) else set()
    if isinstance(expression, Not):
        return columns_of(expression.inner)
    return set().union(*(columns_of(part) for part in expression.parts))
