"""Defences of a judge whose material is written by the policy that it rewards.

The core's judges put text between markers that it cannot forge. Here the rest: control tokens and invisible characters
are taken out of a plan, and its length is capped.
"""

from __future__ import annotations

import re
import unicodedata

from noria.editing.plans import LONGEST_PLAN

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
