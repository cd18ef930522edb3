"""The language of a router that writes: it thinks, asks a model by name, reads what came back, and answers.

    <think> … </think> <route> MODEL | STRATEGY: query </route>
    <information> … </information>                              written by the environment, never by the router
    <think> … </think> <answer> … </answer>

A turn is what the router writes between two blocks of information: thoughts, then one call or one answer. Names are
those of the pool, matched whole; what follows the first colon behind a name is the query, colons and all. Router-R1
(arXiv 2506.09033) has the same grammar with `search` for `route`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["Answer", "BrokenTurn", "Call", "Flaw", "Grammar", "Span", "Turn", "is_well_formed"]

Flaw = Literal[
    "no_action",
    "two_actions",
    "no_thought",
    "empty_thought",
    "nested",
    "unclosed",
    "outside",
    "forged_information",
    "unknown_name",
    "no_query",
    "empty_answer",
    "too_many_calls",
    "over_budget",
    "no_answer",
]
"""
no_action           neither a call nor an answer
two_actions         more than one of them, or something behind one
no_thought          the first turn starts without thinking
empty_thought       a thought that says nothing
nested, unclosed    a tag within another, or one without its partner
outside             words that stand in no tag
forged_information  the router wrote a block of information itself
unknown_name        nobody of that name in the pool
no_query            a call without a question
empty_answer        an answer that says nothing
too_many_calls      a call where none was left
over_budget         a call where the rollout's money was spent
no_answer           it ended without an answer
"""


@dataclass(frozen=True)
class Span:
    """Characters of a turn [start, stop) that serve something: `tag`, `name`, `query`, `thought` or `answer`."""

    kind: Literal["tag", "name", "query", "thought", "answer"]
    start: int
    stop: int


@dataclass(frozen=True)
class Call:
    """A turn in which the router asks `route`, a label of the pool."""

    route: str
    query: str
    spans: tuple[Span, ...] = ()


@dataclass(frozen=True)
class Answer:
    """A turn in which the router answers."""

    text: str
    spans: tuple[Span, ...] = ()


@dataclass(frozen=True)
class BrokenTurn:
    """A turn that breaks the grammar, and its flaw."""

    flaw: Flaw
    spans: tuple[Span, ...] = ()


Turn: TypeAlias = Call | Answer | BrokenTurn


@dataclass(frozen=True)
class Grammar:
    """The tags and the names of a pool.

    Attributes:
        routes: labels of the pool that may be called, such as `qwen-7b` and `qwen-7b | step by step`.
        think, call, information, answer: names of the tags.
        first_thought: whether the first turn must begin with a thought.
    """

    routes: tuple[str, ...]
    think: str = "think"
    call: str = "route"
    information: str = "information"
    answer: str = "answer"
    first_thought: bool = True

    @property
    def stops(self) -> tuple[str, str]:
        """Texts that end a turn."""
        return f"</{self.call}>", f"</{self.answer}>"

    def read(self, text: str, *, first: bool) -> Turn:
        """Read a turn.

        Args:
            text: all that the router wrote since the last block of information.
            first: whether it is the first turn.
        """
        tags = (self.think, self.call, self.information, self.answer)
        pattern = re.compile(rf"<(/?)({'|'.join(map(re.escape, tags))})>")
        marks = list(pattern.finditer(text))
        spans = [Span("tag", m.start(), m.end()) for m in marks]
        blocks: list[tuple[str, int, int]] = []  # tag, and where its content begins and ends
        at = 0
        for opening, closing in zip(marks[::2], marks[1::2], strict=False):
            if opening[2] == self.information or closing[2] == self.information:
                return BrokenTurn("forged_information", tuple(spans))
            if opening[1] or not closing[1] or opening[2] != closing[2]:
                nested = not opening[1] and not closing[1]
                return BrokenTurn("nested" if nested else "unclosed", tuple(spans))
            if text[at : opening.start()].strip():
                return BrokenTurn("outside", tuple(spans))
            blocks.append((opening[2], opening.end(), closing.start()))
            at = closing.end()
        if len(marks) % 2:
            forged = marks[-1][2] == self.information
            return BrokenTurn("forged_information" if forged else "unclosed", tuple(spans))
        if text[at:].strip():
            acted = any(tag != self.think for tag, _, _ in blocks)
            return BrokenTurn("two_actions" if acted else "outside", tuple(spans))
        return self._turn(text, blocks, spans, first)

    def _turn(
        self, text: str, blocks: Sequence[tuple[str, int, int]], spans: list[Span], first: bool
    ) -> Turn:
        if first and self.first_thought and (not blocks or blocks[0][0] != self.think):
            return BrokenTurn("no_thought", tuple(spans))
        for tag, start, stop in blocks:
            if tag == self.think:
                spans.append(Span("thought", start, stop))
                if not text[start:stop].strip(" .\n\t"):
                    return BrokenTurn("empty_thought", tuple(spans))
        actions = [block for block in blocks if block[0] != self.think]
        if len(actions) != 1 or blocks[-1] is not actions[0]:
            return BrokenTurn("no_action" if not actions else "two_actions", tuple(spans))
        tag, start, stop = actions[0]
        if tag == self.answer:
            spans.append(Span("answer", start, stop))
            words = text[start:stop].strip()
            return Answer(words, tuple(spans)) if words else BrokenTurn("empty_answer", tuple(spans))
        return self._call(text, start, stop, spans)

    def _call(self, text: str, start: int, stop: int, spans: list[Span]) -> Turn:
        content = text[start:stop]
        left = len(content) - len(content.lstrip())
        body = content.strip()
        # The longest name first: a name may begin with another one, and may hold a colon itself.
        for route in sorted(self.routes, key=len, reverse=True):
            rest = body[len(route) :]
            if body.startswith(route) and rest.lstrip().startswith(":"):
                name = start + left
                spans.append(Span("name", name, name + len(route)))
                query = rest.lstrip()[1:].strip()
                if not query:
                    return BrokenTurn("no_query", tuple(spans))
                at = start + content.rindex(query)
                spans.append(Span("query", at, at + len(query)))
                return Call(route, query, tuple(spans))
        return BrokenTurn("unknown_name" if body else "no_query", tuple(spans))

    def inform(self, text: str, *, most: int | None = None) -> str:
        """Write a block of information for the router. Tags within the text are defused: it is data.

        Args:
            text: words of a model.
            most: most characters of the words that are let in.
        """
        cut = text if most is None or len(text) <= most else text[:most].rstrip() + " …"
        tags = "|".join(map(re.escape, (self.think, self.call, self.information, self.answer)))
        calm = re.sub(rf"<(?=\s*/?\s*(?:{tags})\b)", "‹", cut, flags=re.IGNORECASE)
        return f"\n<{self.information}> {calm.strip()} </{self.information}>\n"

    def prompt(self, question: str, describe: Sequence[tuple[str, str]], *, calls: int) -> str:
        """Write the instruction and the question as one message of a user.

        Args:
            question: the question to answer.
            describe: (label, what it is good at and what it costs) of every route.
            calls: most calls that may be made.
        """
        names = "\n".join(f"- {label}: {words}" if words else f"- {label}" for label, words in describe)
        return (
            f"Answer the question. Think first, inside <{self.think}> and </{self.think}>. You may ask other "
            f"models, at most {calls} times, by <{self.call}> NAME: question </{self.call}>; what they say comes back "
            f"inside <{self.information}> and </{self.information}>. Write each NAME exactly as it stands here:\n"
            f"{names}\nEnd with <{self.answer}> the answer alone </{self.answer}>.\n\nQuestion: {question}\n"
        )


def is_well_formed(turns: Sequence[Turn]) -> bool:
    """Whether a rollout is calls, and then one answer."""
    return bool(turns) and isinstance(turns[-1], Answer) and all(isinstance(t, Call) for t in turns[:-1])
