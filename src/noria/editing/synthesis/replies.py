"""JSON in the reply of a chat model, and one question asked until the reply can be read."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from noria.core.chat import Answer, ChatModel, ChatRequest, Message, Refusal, assistant, user
from noria.core.errors import DataError, ModelError
from noria.core.judging.judges import LONGEST_REPLY
from noria.core.records import json_value

T = TypeVar("T")


def reply_json(reply: str, *, where: str = "reply") -> Any:
    """The first JSON object or list of a reply, after any thinking and inside any code fence.

    Raises:
        DataError: there is none.
    """
    text = reply[:LONGEST_REPLY].rpartition("</think>")[2]
    for at, character in enumerate(text):
        if character not in "{[":
            continue
        try:
            _, end = json.JSONDecoder().raw_decode(text[at:])
        except (ValueError, RecursionError):
            continue
        return json_value(text[at : at + end], where)
    raise DataError("no JSON in it", where=where)


async def ask_for(
    model: ChatModel,
    messages: tuple[Message, ...],
    read: Callable[[Any], T],
    *,
    attempts: int = 3,
    temperature: float = 0.0,
    max_tokens: int = 4096,
    sample: int = 0,
) -> T:
    """Ask a model for JSON, and read it; where that fails, it is told why and asked again.

    Args:
        model: chat model.
        messages: what it is asked.
        read: makes a value of the JSON; raises DataError where that cannot be.
        attempts: most replies.
        temperature, max_tokens, sample: settings of the requests.

    Raises:
        DataError: no reply could be read; its text is the last one's fault.
        ModelError: the model refused or did not answer.
    """
    request = ChatRequest(messages, temperature=temperature, max_tokens=max_tokens, sample=sample)
    for attempt in range(1, attempts + 1):
        outcome = await model.ask(request)
        if isinstance(outcome, Refusal):
            raise ModelError(f"the model refused: {outcome.text[:200]}")
        if not isinstance(outcome, Answer):
            raise ModelError(f"{outcome.kind}: {outcome.message}")
        try:
            return read(reply_json(outcome.text))
        except DataError as error:
            if attempt == attempts:
                raise
            again = (
                f"That cannot be used ({error}). Reply with the JSON alone, in the form that was asked for."
            )
            request = replace(request, messages=(*messages, assistant(outcome.text[:8000]), user(again)))
    raise AssertionError("the last attempt ends it")
