"""A gateway with its page over doubles: a model that streams and calls, and tools that show."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from noria.assistant.config import AssistantConfig
from noria.assistant.parts.ranking import Placer
from noria.assistant.service.service import GatewayState, Pages, opened_gateway
from noria.assistant.web.page import Page, open_page
from noria.core.completions.requests import CompletionRequest
from noria.core.service.hosting import running
from noria.core.tools import Toolbox, ToolContext, ToolResult, ToolSpec
from tests.assistant.gateways import TOKEN, Gateway, settings
from tests.chat_server import Body, Reply, chat_server

HOSTILE = "<script>document.title = 'taken'</script><img src=x onerror=alert(1)>"
REPORT = f"""<!doctype html><title>Lamps</title><style>body {{ font: 16px sans-serif; margin: 2rem }}</style>
<h1>Three lamps, compared</h1>{HOSTILE}<p>The first one is the brightest; all three are dimmable.</p>
<form action="/chat/data/delete" method="post"><button>Win a prize</button></form>
<table><tr><th>Lamp</th><th>Lumen</th></tr><tr><td>Ada</td><td>806</td></tr><tr><td>Bo</td><td>470</td></tr></table>"""


def scene(color: str = "#7aa2c8", size: tuple[int, int] = (640, 480)) -> bytes:
    """A PNG of a lamp on a table, in front of a wall of a colour."""
    wide, high = size
    picture = Image.new("RGB", size, color)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, high * 0.72, wide, high), fill="#8a6a4f")
    draw.ellipse((wide * 0.36, high * 0.68, wide * 0.64, high * 0.78), fill="#3b3b3b")
    draw.rectangle((wide * 0.485, high * 0.4, wide * 0.515, high * 0.72), fill="#3b3b3b")
    corners = [(0.36, 0.42), (0.64, 0.42), (0.57, 0.2), (0.43, 0.2)]
    draw.polygon([(wide * x, high * y) for x, y in corners], fill="#f3d27a")
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def film(seconds: float = 1.0) -> bytes:
    """An MP4 of a lamp whose wall turns from blue to green."""
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=12)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for number in range(int(12 * seconds)):
            still = Image.open(io.BytesIO(scene(f"#7a{160 + 4 * number:02x}c8", (320, 240))))
            for packet in stream.encode(av.VideoFrame.from_image(still)):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return buffer.getvalue()


def product(number: int, **changes: Any) -> dict[str, Any]:
    """A product of the shop."""
    names = [
        "Ada table lamp",
        "Bo reading lamp in brushed brass with a very long name",
        "Cy",
        HOSTILE,
        "Di",
        "Eli",
    ]
    return {
        "id": f"lamp-{number}", "title": names[number % 6], "price": 39.9 + 30 * number, "currency": "EUR",
        "image": "file:lamp", "link": f"https://shop.example/lamps/{number}", "available": number != 2,
        "why": [{"name": "looks alike", "value": 0.82 - number / 10}, {"name": "new in the shop", "value": 0.05}],
    } | changes  # fmt: skip


Make = Callable[[Mapping[str, Any]], ToolResult]


def _edit(arguments: Mapping[str, Any]) -> ToolResult:
    prompt = str(arguments.get("prompt", ""))
    plan = "1. Keep the lamp and the table as they are.\n2. Paint the wall green.\n3. Keep the light of the lamp."
    shown = {"kind": "edit", "before": "file:before", "after": "file:picture", "prompt": prompt, "plan": plan}
    return ToolResult("done", {"picture": scene("#8fb58a"), "before": scene()}, shown=[shown])


def _search(arguments: Mapping[str, Any]) -> ToolResult:
    cards = [product(n) for n in range(5)] + [
        product(5, price=None, image="http://127.0.0.1:9/pixel.png", why=[])
    ]
    return ToolResult(
        "five lamps", {"lamp": scene()}, shown=[{"kind": "cards", "title": "Lamps", "items": cards}]
    )


def _try_on(arguments: Mapping[str, Any]) -> ToolResult:
    shown = {"kind": "video", "video": "file:film.mp4", "poster": "file:poster", "title": "The coat, worn"}
    return ToolResult("done", {"film.mp4": film(), "poster": scene()}, shown=[shown])


def _report(arguments: Mapping[str, Any]) -> ToolResult:
    shown = {
        "kind": "report",
        "title": "Three lamps, compared",
        "page": "file:report.html",
        "summary": "Ada is brightest.",
    }
    return ToolResult("done", {"report.html": REPORT.encode()}, shown=[shown])


def _odd(arguments: Mapping[str, Any]) -> ToolResult:
    shown: list[dict[str, Any]] = [
        {"kind": "hologram"},
        {"kind": "cards", "items": "none"},
        {"kind": "edit", "before": 3},
    ]
    return ToolResult("done", shown=shown)


MAKERS: dict[str, Make] = {
    "edit_image": _edit, "search_products": _search, "try_on": _try_on, "write_report": _report, "odd": _odd
}  # fmt: skip


class DoubleTools:
    """Tools whose results are made here; `delay` is how long each takes."""

    def __init__(self, delay: float = 0.0) -> None:
        self.delay = delay
        self.called: list[tuple[str, Mapping[str, Any], str | None]] = []

    def off(self) -> dict[str, str]:
        """All of them can be called."""
        return {}

    def toolbox(
        self, query: CompletionRequest, placer: Placer | None = None, artefacts: object = None
    ) -> Toolbox:
        """As the gateway's own tools are asked."""
        return Toolbox([_Double(self, name, make) for name, make in MAKERS.items()])


class _Double:
    def __init__(self, tools: DoubleTools, name: str, make: Make) -> None:
        self.tools, self.make = tools, make
        words = {"type": "object", "properties": {"prompt": {"type": "string"}}}
        self.spec = ToolSpec(name, name, words, trusted=True)

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolResult:
        self.tools.called.append((self.spec.name, arguments, context.user))
        await asyncio.sleep(self.tools.delay)
        return self.make(arguments)


def calling(name: str, **arguments: Any) -> Reply:
    """A streamed reply that calls a tool, with the arguments in two pieces."""
    written = json.dumps(arguments)
    first = {"index": 0, "id": "call-1", "function": {"name": name, "arguments": written[:5]}}
    deltas: list[tuple[Any, str | None]] = [
        ({"role": "assistant", "content": "Let me see."}, None),
        ({"tool_calls": [first]}, None),
        ({"tool_calls": [{"index": 0, "function": {"arguments": written[5:]}}]}, "tool_calls"),
    ]
    events = [json.dumps({"choices": [{"index": 0, "delta": d, "finish_reason": end}]}) for d, end in deltas]
    body = "".join(f"data: {one}\n\n" for one in [*events, "[DONE]"]).encode()
    return Reply(body=body, headers={"content-type": "text/event-stream"})


PROSE = """Here is what I would do, in **three steps**:

1. Measure the corner, and write down its *height*.
2. Choose a lamp with at least `800` lumen.
3. Dim it in the evening.

| Lamp | Lumen | Price |
| --- | ---: | ---: |
| Ada | 806 | € 39.90 |
| Bo | 470 | € 69.90 |

> A warm light of 2,700 K suits a place to read.

More in [the guide](https://shop.example/guide) ![a pixel](https://evil.example/pixel.png)."""


def model(body: Body, number: int) -> Reply:
    """A model that does what a word of the message says: edit, search, wear, report, refuse, fail, slow."""
    last = body["messages"][-1]
    if last["role"] == "tool":
        return Reply("Here you are.", gap=0.0)
    content = last["content"]
    text = (
        content if isinstance(content, str) else next((p["text"] for p in content if p["type"] == "text"), "")
    )
    words = {
        "edit": "edit_image",
        "search": "search_products",
        "wear": "try_on",
        "report": "write_report",
        "odd": "odd",
    }
    if body.get("tools"):
        for word, tool in words.items():
            if text.lower().startswith(word):
                return calling(tool, prompt=text)
    if text.startswith("refuse"):
        return Reply("", refusal="I cannot help with that.")
    if text.startswith("quiet"):
        return Reply("")
    if text.startswith("fail"):
        return Reply(status=400)
    if text.startswith("slow"):
        return Reply(PROSE, pieces=40, gap=0.04)
    if text.startswith("hang"):
        return Reply("", delay=30.0)
    if text.startswith("prose"):
        return Reply(PROSE, pieces=20, gap=0.002)
    if text.startswith("say "):
        return Reply(text[4:])
    return Reply(f"You said: {text}" if text else "That is a lamp on a table.")


@contextlib.contextmanager
def page_gateway(
    folder: Path,
    respond: Callable[[Body, int], Reply] = model,
    *,
    tools: DoubleTools | None = None,
    companion: bool = False,
    token: str | None = TOKEN,
    **changes: Any,
) -> Iterator[tuple[Gateway, Page]]:
    """A gateway with its page on a thread of this process, and the page."""
    with chat_server(respond) as backend:
        config = AssistantConfig.model_validate(settings(backend.url, **changes))
        make = open_page(config)
        kept: list[Any] = []

        def pages(state: GatewayState) -> Pages:
            if tools is not None:
                state.gateway.tools = tools  # type: ignore[assignment]
            kept.append(make(state))
            return kept[0]  # type: ignore[no-any-return]

        opened = opened_gateway(
            folder, config, token=token, companion=companion, access_log=False, pages=pages
        )
        with opened as service, running(service) as url:
            yield Gateway(url, folder, backend), kept[0]
