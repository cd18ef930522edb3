"""Messages of a trace as a page shows them: a role, and one text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def messages_of(given: Any) -> list[dict[str, str]]:
    """The messages of a chat's request."""
    messages = given.get("messages") if isinstance(given, Mapping) else None
    return [message_of(one) for one in messages or [] if isinstance(one, Mapping)]


def message_of(one: Any) -> dict[str, str]:
    """A message as its role and one text; what is no text is named."""
    if not isinstance(one, Mapping):
        return {"role": "", "text": ""}
    content = one.get("content")
    if isinstance(content, list):
        pieces = [
            str(part.get("text", "")) if part.get("type") == "text" else f"[{part.get('type')}]"
            for part in content
            if isinstance(part, Mapping)
        ]
        text = "\n".join(pieces)
    else:
        text = str(content or "")
    if one.get("refusal"):
        text += f"\n[refused] {one['refusal']}"
    for call in one.get("tool_calls") or []:
        function = call.get("function", {}) if isinstance(call, Mapping) else {}
        text += f"\n[calls {function.get('name')}] {function.get('arguments')}"
    return {"role": str(one.get("role", "")), "text": text.strip()}
