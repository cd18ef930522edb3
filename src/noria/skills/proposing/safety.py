"""What no proposal may do, whoever makes it: the checks before any gate.

Text of queries, pictures, tools and judges reaches a proposer as data, and may try to steer it. A proposal therefore
may not name a host or a tool that the skill did not have, ask for permissions, hide characters, address the model over
its user's head, or copy what a user wrote.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from noria.skills.bank.editing import Edit
from noria.skills.bank.skill import Skill
from noria.skills.bank.text import addresses, commands, hidden_characters, words

COPY = 8
"""Words in a row that are a copy of a query."""
LONGEST_EDIT = 600
_PERMISSION = re.compile(
    r"(?i)\ballowed-tools\b|\bsudo\b|\bchmod\b|\b(?:grant|disable|bypass|skip)\b.{0,30}\b(?:permission|approval|safety|"
    r"confirmation|check)s?\b|\brm -rf\b|\bcurl\b|\bwget\b|\bapi[ _-]?key\b|\bpassword\b"
)
_MARKUP = re.compile(r"[<>]")
_ID = re.compile(r"\b(?=\w*\d)(?=\w*[a-zA-Z])[\w-]{6,}\b|\b\d{5,}\b")


def proposal_faults(
    before: str,
    after: str,
    *,
    allowed_tools: Iterable[str],
    known_tools: Iterable[str],
    queries: Sequence[str],
) -> list[str]:
    """What a new text does that no proposal may do, against the text before it.

    Args:
        before, after: the texts.
        allowed_tools: tools that the skill has.
        known_tools: every tool that there is.
        queries: what users wrote, which may not be copied.
    """
    faults = []
    if hidden_characters(after) and not hidden_characters(before):
        faults.append("it hides characters")
    if new := addresses(after) - addresses(before):
        faults.append(f"it names the host {sorted(new)[0][:60]}")
    if set(map(str.lower, commands(after))) - set(map(str.lower, commands(before))):
        faults.append("it addresses the model over its user's head")
    if len(_PERMISSION.findall(after)) > len(_PERMISSION.findall(before)):
        faults.append("it is about permissions")
    present = set(re.findall(r"[\w-]+", after)) - set(re.findall(r"[\w-]+", before))
    foreign = {t for t in set(known_tools) - set(allowed_tools) if t in present and ("_" in t or "-" in t)}
    if foreign:
        faults.append(f"it names the tool {sorted(foreign)[0]}, which the skill does not have")
    if new_ids := set(_ID.findall(after)) - set(_ID.findall(before)):
        own = {i for i in new_ids if any(i in query for query in queries)}
        if own:
            faults.append(f"it holds {sorted(own)[0][:40]!r} of a single request")
    if copied := copied_words(after, queries, but=before):
        faults.append(f"it copies a request: {copied[:60]!r}")
    return faults


def description_faults(skill: Skill, text: str, **more: Iterable[str] | Sequence[str]) -> list[str]:
    """Why a description may not take the place of a skill's."""
    faults = proposal_faults(skill.description, text, allowed_tools=skill.tools, **more)  # type: ignore[arg-type]
    if not 1 <= len(text.strip()) <= 1024:
        faults.append(f"{len(text):,} characters, 1 to 1,024 allowed")
    if _MARKUP.search(text):
        faults.append("it holds < or >")
    return faults


def edit_faults(
    skill: Skill, edits: Sequence[Edit], body: str, **more: Iterable[str] | Sequence[str]
) -> list[str]:
    """Why edits may not be applied to a skill's body."""
    faults = proposal_faults(skill.body, body, allowed_tools=skill.tools, **more)  # type: ignore[arg-type]
    if any(len(edit.text) > LONGEST_EDIT for edit in edits):
        faults.append(f"an edit of more than {LONGEST_EDIT} characters")
    if any(edit.text.strip() == "---" or edit.text.lstrip().startswith("---\n") for edit in edits):
        faults.append("it forges a frontmatter")
    if len(body) > max(1.25 * len(skill.body), len(skill.body) + 1500):
        faults.append("the body grows by more than a quarter and 1,500 characters")
    return faults


def copied_words(text: str, queries: Sequence[str], *, but: str = "", length: int = COPY) -> str:
    """The first run of `length` words that a text shares with a query and had not before; empty where there is none."""
    own, before = words(text), " ".join(words(but))
    grams = {" ".join(own[n : n + length]) for n in range(len(own) - length + 1)}
    for query in queries:
        theirs = words(query)
        for n in range(len(theirs) - length + 1):
            gram = " ".join(theirs[n : n + length])
            if gram in grams and gram not in before:
                return gram
    return ""
