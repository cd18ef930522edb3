"""The server of the shop's chat models: `python -m noria.assistant.world.model_server`, an OpenAI-compatible API.

Requests that wait are answered together, in one batch of each model. A dialogue is read from its last question on; what
was said before it is not.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import sys
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from noria.assistant.world.chat_model import ChatModel, Turn
from noria.core.chat.messages import ToolCall
from noria.core.chat.outcomes import Answer, Usage
from noria.core.completions.answers import DONE, ChunkWriter, completion
from noria.core.completions.requests import CompletionRequest, read_completion
from noria.core.service.batching import Batching
from noria.core.service.hosting import serve
from noria.core.service.responses import HttpError, json_response
from noria.core.service.serving import Request, Response, Service, route

ASSETS = Path(__file__).parents[1] / "assets"
"""Folder of the models that ship."""
TOGETHER = 32
"""Most dialogues of a batch."""
WAITING = 4096
"""Most dialogues that may wait; the gateway lets far fewer in."""
_MARKERS = ("<<<material", "material>>>")
_PRODUCT = re.compile(r"^\[[^\]]+\] ")


class ModelServer:
    """Answers chat completions by the shop's models.

    Args:
        folder: folder with a folder of each model.
    """

    def __init__(self, folder: Path = ASSETS) -> None:
        self.models = {
            one.name: ChatModel(one) for one in sorted(folder.iterdir()) if (one / "config.json").exists()
        }
        self._cores = threading.Lock()  # the models share them
        self._batching: dict[str, Batching[Turn, tuple[str, int, int]]] = {
            name: Batching(functools.partial(self._speak, one), size=TOGETHER, waiting=WAITING)
            for name, one in self.models.items()
        }

    def _speak(self, model: ChatModel, turns: Sequence[Turn]) -> list[tuple[str, int, int]]:
        with self._cores:
            return model.speak(turns)

    @contextlib.asynccontextmanager
    async def around(self, service: Service | None = None) -> AsyncIterator[None]:
        """Answer what waits while the service runs."""
        async with contextlib.AsyncExitStack() as stack:
            for batching in self._batching.values():
                await stack.enter_async_context(batching.running())
            yield

    async def chat(self, request: Request) -> Response:
        """Answer a chat completion."""
        query = read_completion(await request.body())
        if query.model not in self.models:
            raise HttpError(404, "model_not_found", f"models: {', '.join(self.models)}", param="model")
        answer = await self.answer(query, query.model)
        if not query.stream:
            return json_response(completion(query.model, answer))
        writer = ChunkWriter(query.model)  # the answer is whole before the first event
        events = [writer.chunk({"role": "assistant", "content": answer.text}), writer.last(answer)]
        if query.include_usage:
            events.append(writer.usage(answer.usage))
        return Response(b"".join([*events, DONE]), 200, {"content-type": "text/event-stream"})

    async def answer(self, query: CompletionRequest, model: str) -> Answer:
        """What a model answers to a request, in a batch with those that wait beside it."""
        ((text, read, written),) = await self._batching[model].ask([read_turn(query)])
        return spoken(text, query.content.get("tools") or [], Usage(read, written))


def read_turn(query: CompletionRequest) -> Turn:
    """The last question of a request, with the call that followed it and its result.

    Raises:
        HttpError: 400, nobody asks anything.
    """
    system = " ".join(_text(one) for one in query.messages if one.get("role") == "system")
    places = [n for n, one in enumerate(query.messages) if one.get("role") == "user"]
    if not places:
        raise HttpError(400, "no_question", "a message of the user is needed", param="messages")
    last = query.messages[places[-1]]
    pictured = any(
        isinstance(one.get("content"), list) and any(p.get("type") == "image_url" for p in one["content"])
        for one in query.messages
    )
    call, result = "", ""
    for one in query.messages[places[-1] + 1 :]:
        if one.get("role") == "assistant" and one.get("tool_calls"):
            function = one["tool_calls"][0]["function"]
            call = f"{function['name']} : {_said(function['arguments'])}"
        elif one.get("role") == "tool":
            result = listed(_text(one))
    tools = tuple(str(one.get("function", {}).get("name")) for one in query.content.get("tools") or [])
    if call and not tools:  # the rounds are over: the model goes on from the tool that it called
        tools = (call.partition(" ")[0],)
    return Turn(system, tools, _text(last), pictured, call, result)


def listed(text: str) -> str:
    """A tool's result as the models read it: its lines as a numbered list, without the ids of products."""
    for marker in _MARKERS:
        text = text.replace(marker, "")
    lines = [line for line in (one.strip() for one in text.splitlines()) if line]
    titles = [_PRODUCT.sub("", line) for line in lines]
    if lines and all(title != line for title, line in zip(titles, lines, strict=True)):
        return " ; ".join(f"{n}. {title}" for n, title in enumerate(titles[:3], 1))
    return " ".join(lines)


def spoken(text: str, tools: Sequence[Mapping[str, Any]], usage: Usage) -> Answer:
    """What a model said as an answer: a call of a tool by its schema, or words with capitals where sentences begin."""
    match = re.fullmatch(r"CALL ([a-z_]+) : (.*?)(?: LIMIT (\d+))?", text)
    if match is None:
        words = re.sub(r"\s+([.,?!;:])", r"\1", text)
        words = re.sub(r"(^|[.?!] )([a-z])", lambda one: one[1] + one[2].upper(), words)
        return Answer(re.sub(r"\beur\b", "EUR", words), "stop", usage)
    name, words, limit = match.groups()
    functions = {str(one.get("function", {}).get("name")): one["function"] for one in tools}
    schema = functions.get(name, {}).get("parameters", {})
    properties = schema.get("properties", {})
    wanted = [*schema.get("required", []), *properties]
    arguments: dict[str, Any] = {}
    field = next((one for one in wanted if properties.get(one, {}).get("type") == "string"), "query")
    arguments[field] = words
    number = next((one for one, value in properties.items() if value.get("type") == "number"), None)
    if limit is not None and number is not None:
        arguments[number] = int(limit)
    call = ToolCall(f"call-{abs(hash((name, words))) % 10**9}", name, json.dumps(arguments))
    return Answer("", "tool_calls", usage, tool_calls=(call,))


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content if part.get("type") == "text")
    return str(content or "")


def _said(arguments: str) -> str:
    """The words of a call's arguments, as the model wrote them."""
    try:
        values = json.loads(arguments)
    except ValueError:
        return ""
    words = next((one for one in values.values() if isinstance(one, str)), "")
    number = next((one for one in values.values() if isinstance(one, int | float)), None)
    return words if number is None else f"{words} LIMIT {number:g}"


def main() -> None:
    """Serve until a signal comes; arguments: the folder of the models, the port."""
    import torch

    torch.set_num_threads(1)
    server = ModelServer(Path(sys.argv[1]) if len(sys.argv) > 1 else ASSETS)
    routes = [route("/v1/chat/completions", server.chat, methods=("POST",), seconds=120.0)]
    serve(
        Service("models", routes, around=server.around, access_log=False),
        port=int(sys.argv[2]) if len(sys.argv) > 2 else 0,
    )


if __name__ == "__main__":
    main()
