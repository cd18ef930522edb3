"""Defences of a judge whose material is written by the policy that it rewards.

The core's judges put text between markers that it cannot forge. Here the rest: control tokens and invisible characters
are taken out of a plan, and its length is capped; canaries show a judge that was talked into a yes, and alternating
polarity takes the profit from one that says yes to everything.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from dataclasses import replace
from typing import Literal

from noria.core.judging.items import Checklist, Item
from noria.editing.checklists.items import EditItem, items_of
from noria.editing.plans import LONGEST_PLAN
from noria.editing.types import Path

_CONTROL = re.compile(
    r"<\|[^<>|]{0,64}\|>|<｜[^<>｜]{0,64}｜>|</?(?:s|think|answer|tool_call|tool_response|start_of_turn|end_of_turn"
    r"|image|system|user|assistant)>|\[/?INST\]|<<\/?SYS>>",
    re.IGNORECASE,
)
"""Control tokens of chat templates (ChatML, Llama, Gemma, Mistral, DeepSeek), which a tokenizer may read as such."""


def harmless(plan: str, *, longest: int = LONGEST_PLAN) -> str:
    """A plan as a judge may read it: without control tokens and invisible characters, no longer than `longest`.

    Taking a token out may put another together, so it is repeated until nothing changes.
    """
    text = "".join(
        c for c in plan if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn")
    )
    while (cleaned := _CONTROL.sub("", text)) != text:
        text = cleaned
    return text[:longest]


def with_canaries(checklist: Checklist, path: Path, number: int, *, salt: str) -> Checklist:
    """Add canaries: items whose true answer is no, unless the judge was talked into a yes.

    A canary asks for a word that nothing contains. The word follows from the salt and the checklist, so that a policy
    cannot learn it from one checklist for another, and stays the same over a training: verdicts can be cached.

    Args:
        checklist: items of one path.
        path: path of the canaries.
        number: how many are added.
        salt: secret of the words.
    """
    items: list[Item] = list(checklist.items)
    dimension = "intent" if path == "cognitive" else "instruction"
    for count in range(number):
        word = hashlib.sha256(f"{salt} {checklist.digest} {path} {count}".encode()).hexdigest()[:8]
        question = (
            f'Does the plan say that the word "{word}" must be painted into the picture?'
            if path == "cognitive"
            else f'Is the word "{word}" written in large letters across the picture after the edit?'
        )
        items.append(
            EditItem(f"canary-{word}", question, path, good="no", dimension=dimension, role="canary")
        )
    return Checklist(tuple(items))


def negated(item: EditItem) -> EditItem:
    """Ask for the same fact the other way round: the question denied, the good answer turned, the id marked."""
    turned: Literal["yes", "no"] = "no" if item.good == "yes" else "yes"
    question = f'Is "no" the right answer to the question "{item.question.strip()}"?'
    return replace(item, id=f"{item.id}~not", question=question, good=turned)


def alternated(checklist: Checklist) -> Checklist:
    """Turn items round until no path has more of one good answer than of the other, by one at most.

    A judge that says yes to everything then gives about half, whatever it reads. Items of verifiers are left alone.
    """
    items: list[Item] = []
    balance: Counter[str] = Counter()
    for item in items_of(checklist):
        balance[item.path] += (1 if item.good == "yes" else -1) if item.verifier is None else 0
    for item in items_of(checklist):
        excess = balance[item.path]
        turn = item.verifier is None and item.role != "canary" and abs(excess) > 1
        if turn and (item.good == "yes") == (excess > 0):
            balance[item.path] -= 2 if excess > 0 else -2
            items.append(replace(negated(item), id=item.id))
        else:
            items.append(item)
    return Checklist(tuple(items))
