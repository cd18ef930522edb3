"""A scripted model behind a real server: it obeys sentences of the body, judges by a signature, and proposes edits."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.chat_server import Reply

SIGNED = "Your shop"
SAY = "End with 'Your shop'."


def respond(body: dict[str, Any], number: int) -> Reply:
    """A reply to any request that the package sends; who asks is told by the words of the system message."""
    system = str(body["messages"][0]["content"])
    said = str(body["messages"][-1]["content"])
    for phrase, make in JOBS.items():
        if phrase in system:
            value = make(system, said)
            return Reply(value if isinstance(value, str) else json.dumps(value))
    return Reply(f"Here you are. {SIGNED}" if "<skill>" in system and SAY in system else "Here you are.")


def _judge(system: str, said: str) -> dict[str, Any]:
    good = SIGNED in said.rpartition("Answer:")[2]
    points: dict[str, Any] = {"TCR": 9, "CQ": 18, "CA": 9 if good else 2}
    if '"gaps"' in system and not good:
        points["gaps"] = {"CA": ["the answer is not signed by the shop"]}
    return points


def _route(system: str, said: str) -> dict[str, Any]:
    words = {
        "returns": ("back", "return", "broken", "refund"),
        "sizes": ("size", "fit", "small"),
        "invoices": ("pay",),
    }
    found = next((name for name, own in words.items() if any(word in said for word in own)), None)
    return {"skill": found, "confidence": 0.9, "reason": "words"}


def _edit(system: str, said: str) -> dict[str, Any]:
    edit = {
        "operation": "append",
        "section": "Rules",
        "target": "",
        "text": f"- {SAY}",
        "support": [],
        "why": "CA",
    }
    return {"edits": [edit]}


JOBS: dict[str, Callable[[str, str], Any]] = {
    "You judge an answer": _judge,
    "You repair the body": _edit,
    "You redraw the boundary": lambda system, said: {
        "description": "Handles money. Use when the user asks: invoice; charged; pay; price; receipt; bill; taxes."
        if "skill invoices" in said
        else "Handles orders. Use when the user asks: send back; return; broken; refund; exchange; drop off."
        if "skill returns" in said
        else "Handles sizes. Use when the user asks: size; fit; small; large; tight; long; measurements; centimetres."
    },
    "You write a skill": lambda system, said: {
        "description": "Answers questions about gift cards. Use when the user asks: gift card; voucher; balance.",
        "body": f"# Gift cards\n\n## Rules\n\n- Say until when the card is valid.\n- {SAY}\n",
    },
    "went to the wrong skill": lambda system, said: {"cause": "boundary", "evidence": "words"},
    "You choose the skill": _route,
}
