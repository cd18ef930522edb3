r"""The rule path: deterministic checks of an answer, each for a dimension, hard or soft.

```yaml
rules:
  - {id: cites, dimension: CQ, severity: hard, kind: must_match, pattern: '\[\d+\]',
     say: End each fact with its source as [n].}
  - {id: searched, dimension: TCR, kind: tool_called, tool: image_search,
     skills: [exact-match], say: Call image_search first.}
```

`say` is the sentence that a body would state; a repair by templates writes it, and the check never asks for words that
`say` does not disclose. A rule that cannot be tried (a pattern too slow, no cards in the record) is missing, not kept.
"""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, model_validator

from noria.core.config import Config
from noria.skills.traffic.samples import Response, Sample

Kind = Literal[
    "must_match", "must_not_match", "section_order", "max_chars", "json_schema", "cards", "tool_called",
    "tool_not_called", "tool_order", "arg_equals", "cites_evidence",
]  # fmt: skip
LONGEST = 50_000
"""Characters of an answer that patterns are tried on; a longer one is missing."""
_RISKY = re.compile(r"\([^()]*[+*{][^()]*\)\s*[+*{]|\\[1-9]|\(\?P=")
"""Repeats of repeats and back references, which can take exponential time."""
NEEDS: Mapping[str, tuple[str, ...]] = {
    "must_match": ("pattern",),
    "must_not_match": ("pattern",),
    "section_order": ("sections",),
    "max_chars": ("most",),
    "json_schema": ("json_schema",),
    "tool_called": ("tool",),
    "tool_not_called": ("tool",),
    "tool_order": ("tools",),
    "arg_equals": ("tool", "argument"),
}


class Rule(Config):
    """One check of an answer."""

    id: str = Field(pattern=r"^[\w.-]{1,60}$", description="Name of the rule.")
    dimension: Literal["TCR", "CCC", "CQ", "CA"] = Field(description="Dimension that the rule is about.")
    kind: Kind = Field(description="Kind of check.")
    severity: Literal["hard", "soft"] = Field(
        "soft", description="A hard violation makes the dimension Poor."
    )
    say: str = Field(min_length=3, max_length=400, description="Sentence that a body states to have it kept.")
    section: str = Field("Rules", description="Section of the body where the sentence belongs.")
    skills: tuple[str, ...] = Field((), description="Skills that the rule is for; all by default.")
    only_with_cards: bool = Field(False, description="Try the rule only where cards are due.")
    safety: bool = Field(False, description="Violations are errors of safety, which may never rise.")
    pattern: str = Field("", max_length=500, description="Regular expression, without nested repeats.")
    sections: tuple[str, ...] = Field((), description="Texts that must appear in this order.")
    most: int = Field(0, ge=0, description="Most characters, or most cards.")
    least: int = Field(0, ge=0, description="Fewest cards of an answer.")
    fields: tuple[str, ...] = Field((), description="Fields that every card must have.")
    tool: str = Field("", description="Name of a tool.")
    tools: tuple[str, ...] = Field((), description="Names of tools, in their order.")
    argument: str = Field("", description="Name of an argument.")
    value: Any = Field(None, description="Value that the argument must have.")
    evidence: str = Field("", description="Name of the evidence that the answer must name.")
    json_schema: Mapping[str, Any] = Field(default_factory=dict, description="JSON Schema of the answer.")

    @model_validator(mode="after")
    def _possible(self) -> Rule:
        for name in NEEDS.get(self.kind, ()):
            if not getattr(self, name):
                raise ValueError(f"the rule {self.id} of kind {self.kind} needs {name}")
        if self.pattern:
            if _RISKY.search(self.pattern):
                raise ValueError(f"the pattern of {self.id} nests repeats or refers back; write it without")
            try:
                re.compile(self.pattern)
            except re.error as error:
                raise ValueError(f"the pattern of {self.id} is none: {error}") from None
        return self


@dataclass(frozen=True)
class Violation:
    """A rule that an answer breaks."""

    rule: str
    dimension: str
    severity: Literal["hard", "soft"]
    say: str
    safety: bool = False


@dataclass(frozen=True)
class RuleResult:
    """Result of the rule path: rules that apply, those broken, and those that could not be tried, by id."""

    applied: tuple[str, ...]
    violations: tuple[Violation, ...]
    missing: Mapping[str, str]


def check_rules(
    rules: Sequence[Rule], sample: Sample, response: Response, *, skill: str | None
) -> RuleResult:
    """Try every rule that applies to an answer."""
    applied, broken, missing = [], [], {}
    for rule in rules:
        if rule.skills and skill not in rule.skills:
            continue
        if rule.only_with_cards and not sample.cards:
            continue
        kept = _kept(rule, sample, response)
        if isinstance(kept, str):
            missing[rule.id] = kept
            continue
        applied.append(rule.id)
        if not kept:
            broken.append(Violation(rule.id, rule.dimension, rule.severity, rule.say, rule.safety))
    return RuleResult(tuple(applied), tuple(broken), missing)


def _kept(rule: Rule, sample: Sample, response: Response) -> bool | str:
    """Whether a rule is kept; why it cannot be tried, as a text."""
    text, names = response.text, [call.name for call in response.calls]
    if rule.kind in ("must_match", "must_not_match"):
        if len(text) > LONGEST:
            return "the answer is too long"
        found = re.search(rule.pattern, text) is not None
        return found if rule.kind == "must_match" else not found
    if rule.kind == "section_order":
        places = [text.find(part) for part in rule.sections]
        return min(places) >= 0 and places == sorted(places)
    if rule.kind == "max_chars":
        return len(text) <= rule.most
    if rule.kind == "cards":
        n = len(response.cards)
        whole = all(card.get(name) not in (None, "") for card in response.cards for name in rule.fields)
        return rule.least <= n <= (rule.most or n) and whole
    if rule.kind == "tool_called":
        return rule.tool in names
    if rule.kind == "tool_not_called":
        return rule.tool not in names
    if rule.kind == "tool_order":
        order = iter(names)
        return all(tool in order for tool in rule.tools)
    if rule.kind == "arg_equals":
        calls = [call for call in response.calls if call.name == rule.tool]
        return bool(calls) and all(call.arguments.get(rule.argument) == rule.value for call in calls)
    if rule.kind == "cites_evidence":
        return _cites(rule, sample, response)
    return _fits(rule.json_schema, text)


def _cites(rule: Rule, sample: Sample, response: Response) -> bool | str:
    source = sample.evidence.get(rule.evidence) if rule.evidence else None
    if source is None:
        return f"no evidence {rule.evidence!r} in the record"
    wanted = source if isinstance(source, list) else [source]
    return any(str(one).casefold() in response.text.casefold() for one in wanted)


def _fits(schema: Mapping[str, Any], text: str) -> bool | str:
    from noria.core.chat.json_replies import json_in
    from noria.core.errors import require

    value = json_in(text)
    if value is None:
        return False
    jsonschema = require("jsonschema", "skills")
    with time_limit(1.0) as late:
        try:
            jsonschema.validate(value, dict(schema))
        except jsonschema.ValidationError:
            return False
        except jsonschema.SchemaError:
            return "the schema is none"
    return "the schema took too long" if late else True


@contextmanager
def time_limit(seconds: float) -> Iterator[list[bool]]:
    """Stop the block after this time, in the main thread of a process; the list is then not empty."""
    late: list[bool] = []
    if threading.current_thread() is not threading.main_thread():
        yield late
        return

    def stop(signum: int, frame: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield late
    except TimeoutError:
        late.append(True)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def soft_points(points: int, applied: int, violations: Sequence[Violation]) -> float | None:
    """Points that the rule path alone gives a dimension: none after a hard violation, else the share that is kept.

    Args:
        points: most points of the dimension.
        applied: rules of the dimension that were tried.
        violations: rules of the dimension that are broken.

    Returns:
        The points; None where no rule was tried.
    """
    if any(v.severity == "hard" for v in violations):
        return 0.0
    return points * (1 - len(violations) / applied) if applied else None
