"""Questions that are answered with yes or no, checklists of them, and the verdicts of a judge."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from noria.core.chat import Part
from noria.core.errors import DataError

Value: TypeAlias = Literal["yes", "no", "invalid"]


@dataclass(frozen=True)
class Item:
    """One question that a judge answers with yes or no.

    Attributes:
        id: name of the item, unique in its checklist.
        question: question about one fact.
        path: name of the part of the subject that the item is about (its text, its picture), which has its own score.
        weight: weight in the score of its path; positive.
        good: answer that speaks for the subject.
    """

    id: str
    question: str
    path: str = ""
    weight: float = 1.0
    good: Literal["yes", "no"] = "yes"

    def __post_init__(self) -> None:
        texts = isinstance(self.id, str) and isinstance(self.question, str)
        if not (texts and self.id and self.question.strip()):
            raise DataError("an item without an id or a question", where=f"item {str(self.id)[:80]!r}")
        if not 0 < self.weight < math.inf:
            raise DataError(
                f"a weight of {self.weight}", where=f"item {self.id!r}", mend="give a positive one"
            )
        if self.good not in ("yes", "no"):
            raise DataError(f"good: {self.good!r}", where=f"item {self.id!r}", mend="write yes or no")


@dataclass(frozen=True)
class Checklist:
    """Items that are judged together, each with an id of its own.

    Raises:
        DataError: two items have the same id.
    """

    items: tuple[Item, ...]

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for item in self.items:
            if item.id in seen:
                raise DataError("an id is there twice", where=f"item {item.id!r}", mend="give each its own")
            seen.add(item.id)

    def __len__(self) -> int:
        return len(self.items)

    @property
    def paths(self) -> list[str]:
        """Names of the paths, in the order of their first items."""
        return list(dict.fromkeys(item.path for item in self.items))

    @property
    def digest(self) -> str:
        """SHA-256 of the items: what a judgement names its checklist by."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def to_json(self) -> list[dict[str, Any]]:
        """The items as JSON values, which `from_json` reads."""
        return [vars(item).copy() for item in self.items]

    @classmethod
    def from_json(cls, entries: Any, *, where: str = "checklist") -> Checklist:
        """Make a checklist of a list of mappings.

        Raises:
            DataError: `entries` is not such a list, or one is not an item.
        """
        if not isinstance(entries, list):
            raise DataError("a checklist is a list of items", where=where)
        try:
            return cls(tuple(Item(**entry) for entry in entries))
        except TypeError as error:
            raise DataError(f"not an item: {error}", where=where) from None


@dataclass(frozen=True)
class Verdict:
    """A judge's answer to one item, with its reason, or why it is invalid."""

    item: str
    value: Value
    reason: str = ""
    judge: str = ""


class Judge(Protocol):
    """A judge of subjects. What goes wrong with one subject makes its verdicts invalid; it does not raise."""

    name: str

    async def verdicts(self, checklist: Checklist, subject: Sequence[Part]) -> list[Verdict]:
        """Judge the subject: one verdict an item, in the checklist's order."""
        ...


@runtime_checkable
class CostedJudge(Judge, Protocol):
    """A judge that knows what a judgement cost."""

    async def verdicts_with_cost(
        self, checklist: Checklist, subject: Sequence[Part]
    ) -> tuple[list[Verdict], float | None]:
        """Judge as `verdicts` does, and say what it cost; None where that is not known."""
        ...


@dataclass(frozen=True)
class Judgement:
    """Verdicts of one judge on one subject, and what they took.

    Attributes:
        subject: id of the subject, such as a trace's.
        checklist: digest of the checklist.
        verdicts: one an item, invalid ones included.
        judge: name of the judge.
        version: version of the judge, such as a digest of its instruction.
        path: path of the judging: `rule`, `judge`, `grounding`, …
        cost: cost in the currency of the prices; None where it is not known.
        seconds: time that it took.
    """

    subject: str
    checklist: str
    verdicts: tuple[Verdict, ...]
    judge: str
    version: str
    path: str
    cost: float | None
    seconds: float

    @property
    def invalid(self) -> int:
        """Number of items without a verdict that can be used."""
        return sum(verdict.value == "invalid" for verdict in self.verdicts)
