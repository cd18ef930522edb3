"""Samples of traffic: what a user asked, where it went, what came back. One JSON object a line.

```json
{"id": "q1", "query": "what is this?", "images": ["sha256…"], "group": "product-7", "expected": ["encyclopedia"],
 "cards": false, "route": "encyclopedia", "response": "…", "calls": [{"name": "kb", "arguments": {}, "ok": true}]}
```

`expected` names every skill that is acceptable (`none` for no skill); a sample without it has no label, which is not
`none`. `needs` names skills that are all needed. `group` is the leakage group: samples of one group lie in one pool.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import msgspec

from noria.core.errors import DataError
from noria.core.records import Record, read_records

NO_SKILL = "none"


@dataclass(frozen=True)
class Turn:
    """An earlier turn of the conversation."""

    role: Literal["user", "assistant"]
    text: str


@dataclass(frozen=True)
class Call:
    """A call of a tool: its name, its arguments, whether it worked, and what it gave or why it failed."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    ok: bool = True
    result: Any = None
    error: str = ""


@dataclass(frozen=True)
class Response:
    """The assistant's answer to a sample, with its calls, cards and cost.

    Attributes:
        text: words of the answer.
        calls: calls of tools, in order.
        cards: product cards, as JSON objects.
        error: what kept the assistant from answering: `timeout`, `refused`, …; empty where it answered.
        skill: skill whose body was in force.
        tokens: tokens in and out; None where not counted.
        cost: what it cost; None where not known.
    """

    text: str = ""
    calls: tuple[Call, ...] = ()
    cards: tuple[Mapping[str, Any], ...] = ()
    error: str = ""
    skill: str | None = None
    tokens: int | None = None
    cost: float | None = None


@dataclass(frozen=True)
class Sample:
    """A request to an assistant.

    Attributes:
        id: name of the request, unique.
        query: words of the user.
        group: leakage group.
        expected: skills of which any is right; empty where nobody labelled it.
        needs: skills that are all needed.
        images: digests of the pictures.
        turns: the conversation before.
        in_force: skill that was in force in the turn before.
        cards: whether the answer should have product cards; None where not known.
        route: where the traffic sent it: a skill, `none` or `error`; empty where not known.
        response: the answer that was given, if any.
        episode: name of the time or condition.
        evidence: what the tools and the picture say, by name, for rules that compare.
        human: score by a person per dimension.
        user: whom the request is from, as a key.
    """

    id: str
    query: str
    group: str
    expected: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    turns: tuple[Turn, ...] = ()
    in_force: str | None = None
    cards: bool | None = None
    route: str = ""
    response: Response | None = None
    episode: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    human: Mapping[str, float] = field(default_factory=dict)
    user: str = ""

    @property
    def text(self) -> str:
        """Text that routers by embedding read: the query, after the last words of the user before it."""
        last = next((turn.text for turn in reversed(self.turns) if turn.role == "user"), "")
        return f"{last}\n{self.query}" if last and len(self.query) < 40 else self.query


_FIELDS = set(Sample.__dataclass_fields__) | {"calls", "shown_cards", "error", "skill", "tokens", "cost"}


def read_samples(path: Path) -> list[Sample]:
    """Read samples of a `.jsonl` or `.parquet` file.

    Raises:
        DataError: with file and line: a record is no sample, or an id is there twice.
    """
    return list(checked(map(_sample, read_records(path, "samples")), str(path)))


def checked(samples: Iterable[Sample], where: str) -> Iterator[Sample]:
    """Yield samples, and refuse an id that is there twice."""
    seen: set[str] = set()
    for sample in samples:
        if sample.id in seen:
            raise DataError(
                f"the id {sample.id[:60]!r} is there twice", where=where, mend="give each its own"
            )
        seen.add(sample.id)
        yield sample


def _sample(record: Record) -> Sample:
    where, values = record
    fields = dict(values)
    if not isinstance(fields.get("query"), str):
        raise DataError("a sample without a query", where=where, mend='write {"query": "…"}')
    unknown = fields.keys() - _FIELDS
    if unknown:
        raise DataError(f"a sample has no field {sorted(unknown)[0]!r}", where=where)
    expected = fields.get("expected")
    fields["expected"] = [expected] if isinstance(expected, str) else expected or []
    fields.setdefault("id", hashlib.sha256(f"{where}{fields['query']}".encode()).hexdigest()[:16])
    grouped = "group" in fields
    fields.setdefault("group", "")
    answer: dict[str, Any] = {
        key: fields.pop(key) for key in ("calls", "error", "skill", "tokens", "cost") if key in fields
    }
    if "shown_cards" in fields:
        answer["cards"] = fields.pop("shown_cards")
    if isinstance(fields.get("response"), str):
        answer["text"] = fields.pop("response")
    if answer:
        fields["response"] = answer
    try:
        sample = msgspec.convert(fields, Sample)
    except msgspec.ValidationError as error:
        raise DataError(f"no sample: {error}", where=where) from None
    cost = None if sample.response is None else sample.response.cost
    for name, value in {**{f"human.{name}": v for name, v in sample.human.items()}, "cost": cost}.items():
        if value is not None and not math.isfinite(value):
            raise DataError(f"no sample: {name} is {value}", where=where, mend="leave out what is not known")
    return sample if grouped else replace(sample, group=group_of(sample.query, sample.images))


def to_json(sample: Sample) -> dict[str, Any]:
    """JSON values of a sample, without what is empty; `read_samples` reads them back."""
    values: dict[str, Any] = msgspec.to_builtins(sample)
    answer = values.pop("response", None)
    kept = {key: value for key, value in values.items() if value not in (None, "", [], {})}
    if answer is not None:
        kept["response"] = answer.pop("text", "")
        kept |= {
            "shown_cards" if key == "cards" else key: value
            for key, value in answer.items()
            if value not in (None, "", [], ())
        }
    return kept


def group_of(query: str, images: Sequence[str] = ()) -> str:
    """Leakage group of a request that names none: its first picture, or its words without numbers."""
    if images:
        return f"image:{images[0]}"
    shape = re.sub(r"\d+", "#", " ".join(query.lower().split()))
    return "words:" + hashlib.sha256(shape.encode("utf-8", "surrogatepass")).hexdigest()[:16]
