"""Outputs of a planner: `<think>…</think><answer>…</answer>`; the answer is the plan that the editor gets."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

LONGEST_PLAN = 2000
"""Most characters of a plan; the text interface asks for 120 words."""
LONGEST_OUTPUT = 200_000
"""Most characters of an output that are looked at."""
_TAG = re.compile(r"<(/?)(think|answer)>")


@dataclass(frozen=True)
class Plan:
    """A planner's output, parsed.

    Attributes:
        text: the plan, which the editor gets; empty where the output has none.
        thinking: what is between the think tags; no reward reads it.
        problem: why there is no plan; empty where there is one.
    """

    text: str
    thinking: str = ""
    problem: str = ""

    @property
    def ok(self) -> bool:
        """Whether the output has a plan."""
        return not self.problem


def parse_plan(output: str, *, longest: int = LONGEST_PLAN, need_thinking: bool = True) -> Plan:
    """Parse an output strictly: one think block, then one answer block, nothing but blanks around them.

    A template that opens the think block in the prompt leaves the opening tag out; so may the output.

    Args:
        output: text that the planner wrote.
        longest: most characters of the plan.
        need_thinking: whether an output without a think block has a problem.
    """
    if len(output) > LONGEST_OUTPUT:
        return Plan("", problem="too long")
    tags = [(match[1] + match[2], match.start(), match.end()) for match in _TAG.finditer(output)]
    names = [name for name, _, _ in tags]
    if names == ["/think", "answer", "/answer"]:
        tags.insert(0, ("think", 0, 0))
    elif names == ["answer", "/answer"] and not need_thinking:
        at = tags[0][1]
        tags = [("think", 0, 0), ("/think", at, at), *tags]
        if output[:at].strip():
            return Plan("", problem="text outside of the tags")
    elif names != ["think", "/think", "answer", "/answer"]:
        return Plan("", problem=_tag_problem(names, need_thinking))
    (_, begin, open_think), (_, close_think, after), (_, answer, open_answer), (_, close_answer, end) = tags
    if (output[:begin] + output[after:answer] + output[end:]).strip():
        return Plan("", problem="text outside of the tags")
    thinking, text = output[open_think:close_think].strip(), output[open_answer:close_answer].strip()
    if not text:
        return Plan("", thinking, "empty plan")
    if len(text) > longest:
        return Plan("", thinking, "plan too long")
    return Plan(text, thinking)


def _tag_problem(names: list[str], need_thinking: bool) -> str:
    wanted = ["think", "/think", "answer", "/answer"] if need_thinking else ["answer", "/answer"]
    if missing := [name for name in wanted if name not in names]:
        return f"missing <{missing[0]}>"
    if any(names.count(name) > 1 for name in names):
        return "a tag is there twice"
    return "tags out of order"


def format_output(thinking: str, plan: str) -> str:
    """Write an output that `parse_plan` reads."""
    return f"<think>\n{thinking.strip()}\n</think>\n<answer>\n{plan.strip()}\n</answer>"


def normalised(plan: str) -> str:
    """A plan's text up to blanks and Unicode form: what the render cache knows it by."""
    return " ".join(unicodedata.normalize("NFC", plan).split())
