"""One question to a chat model, repeated until its reply can be read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from noria.core.chat import Answer, ChatModel, ChatRequest, Message, Refusal, assistant, user
from noria.core.chat.json_replies import json_in
from noria.core.errors import DataError, ModelError

T = TypeVar("T")


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
    """Ask a model for JSON and read its reply; where reading fails, ask again with the reason.

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
            value = json_in(outcome.text)
            if value is None:
                raise DataError("no JSON in it", where="reply")
            return read(value)
        except DataError as error:
            if attempt == attempts:
                raise
            again = (
                f"That cannot be used ({error}). Reply with the JSON alone, in the form that was asked for."
            )
            request = replace(request, messages=(*messages, assistant(outcome.text[:8000]), user(again)))
    raise AssertionError("the last attempt ends it")
