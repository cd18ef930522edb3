"""A reply without what its model thinks before it answers, between tags of many kinds.

Nothing but the standard library is imported here: task folders for other harnesses hold a copy of this module.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

THINKING = (
    "think",
    "thinking",
    "thought",
    "thoughts",
    "reasoning",
    "reason",
    "reflection",
    "analysis",
    "scratchpad",
    "rationale",
    "inner_monologue",
)
"""Names of tags around what a model thinks, as `<think>`, `[THINK]`, `<|think|>` or `◁think▷`."""
_CHANNEL = re.compile(
    r"<\|channel\|>(?:analysis|commentary)\b.*?(?:<\|end\|>|(?=<\|channel\|>)|\Z)", re.DOTALL
)
_FINAL_CHANNEL = re.compile(r"\Aanalysis(?=[A-Z\W]).*\bassistant\s?final(?=\W|[A-Z])", re.DOTALL)


@functools.lru_cache(maxsize=16)
def _tag_pattern(tags: tuple[str, ...]) -> re.Pattern[str]:
    names = "|".join(re.escape(name) for name in (*THINKING, *tags))
    return re.compile(
        rf"(?:[<◁]\|?|\[)(/|end_(?:of_)?)?(?:begin_(?:of_)?|start_(?:of_)?|seed:)?({names})(?:\s[^<>\[\]]{{0,60}})?(?:\|?[>▷]|\])",
        re.IGNORECASE,
    )


def bare_text(text: str, tags: Sequence[str] = ()) -> str:
    """A reply without reasoning: what stands between tags, before a tag that only closes, behind one that only opens.

    One pass over the tags, for a model that is stuck may write thousands. `[Analysis]` may be a heading: a word in
    square brackets that is never closed is none of ours, unless it is `[THINK]`.

    Args:
        text: the reply.
        tags: names of reasoning tags besides the usual ones.
    """
    if "<|channel|>" in text:
        text = _CHANNEL.sub("", text)
    elif text.startswith("analysis"):
        text = _FINAL_CHANNEL.sub("", text)
    pattern = _tag_pattern(tuple(tags))
    marks = list(pattern.finditer(text))
    closed = {mark[2].lower() for mark in marks if mark[1]}
    kept: list[str] = []
    place, inside = 0, ""
    for mark in marks:
        closes, name = bool(mark[1]), mark[2].lower()
        heading = mark[0][0] == "[" and not name.startswith("think") and name not in closed
        if heading or (not closes and inside):
            continue
        if not closes:
            kept.append(text[place : mark.start()])
            inside = name
        elif not inside:  # the opening tag was eaten
            kept.clear()
            place = mark.end()
        elif inside == name:
            place, inside = mark.end(), ""
    return "".join(kept) if inside else "".join([*kept, text[place:]])
