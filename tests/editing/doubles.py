"""A small world for the tests: squares on a ground, an editor that paints them, a planner and judges over real HTTP."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image, ImageDraw
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from noria.core.picture_files import open_picture, png
from noria.editing.types import EditorError
from tests.chat_server import Body, Reply, serving

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 160, 60),
    "blue": (40, 60, 200),
    "grey": (128, 128, 128),
    "black": (0, 0, 0),
}
_PAINT = re.compile(r"paint the square (\w+)", re.IGNORECASE)


def square(colour: str = "red", size: tuple[int, int] = (64, 48)) -> Image.Image:
    """A square of a colour in the middle of a grey ground, with a blue dot in the corner that no edit concerns."""
    image = Image.new("RGB", size, COLOURS["grey"])
    draw = ImageDraw.Draw(image)
    width, height = size
    draw.rectangle((width // 3, height // 3, 2 * width // 3, 2 * height // 3), fill=COLOURS[colour])
    draw.rectangle((2, 2, 6, 6), fill=COLOURS["blue"])
    return image


def colour_of(image: Image.Image) -> str:
    """The square's colour, by the pixel in the middle."""
    pixel: Any = image.convert("RGB").getpixel((image.width // 2, image.height // 2))
    return min(COLOURS, key=lambda name: sum((a - b) ** 2 for a, b in zip(COLOURS[name], pixel, strict=True)))


def painted(image: Image.Image, plan: str) -> Image.Image:
    """What the editor makes of a plan: `paint the square COLOUR`; any other plan changes nothing."""
    found = _PAINT.search(plan)
    result = image.copy()
    if found and found[1].lower() in COLOURS:
        width, height = image.size
        box = (width // 3, height // 3, 2 * width // 3, 2 * height // 3)
        ImageDraw.Draw(result).rectangle(box, fill=COLOURS[found[1].lower()])
    return result


@dataclass
class Painter:
    """An editor in this process; `fault` may raise instead, by the number of the call."""

    name: str = "painter"
    seconds: float = 0.0
    calls: list[tuple[str, int]] = field(default_factory=list)
    fault: Callable[[int], None] = lambda number: None
    most_at_once: int = 0
    _at_once: int = 0

    async def edit(
        self, images: Sequence[Image.Image], plan: str, seed: int, *, mask: Image.Image | None = None
    ) -> Image.Image:
        self.calls.append((plan, seed))
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            await asyncio.sleep(self.seconds)
            self.fault(len(self.calls))
        finally:
            self._at_once -= 1
        return painted(images[0], plan)


def refuses(number: int) -> None:
    raise EditorError("not with me", kind="refused")


@dataclass
class Edits:
    """What the editor's server was sent, and how it answers: `answer` makes the response of a picture."""

    url: str = ""
    seen: list[dict[str, Any]] = field(default_factory=list)
    answer: Callable[[int, Image.Image], Response] | None = None

    async def __call__(self, request: Request) -> Response:
        form = await request.form()
        fields: dict[str, Any] = {}
        images = []
        for name, value in form.multi_items():
            if isinstance(value, str):
                fields[name] = value
            else:
                content = await value.read()
                fields.setdefault(name, []).append(content)
                if name.startswith("image"):
                    images.append(open_picture(content))
        self.seen.append(fields)
        result = painted(images[0], fields["prompt"])
        if self.answer is not None:
            return self.answer(len(self.seen), result)
        return picture_answer(result)


def picture_answer(image: Image.Image) -> Response:
    return JSONResponse({"created": 0, "data": [{"b64_json": base64.b64encode(png(image)).decode()}]})


@contextlib.contextmanager
def edits_server(answer: Callable[[int, Image.Image], Response] | None = None) -> Iterator[Edits]:
    """A server with `/v1/images/edits` on loopback that paints; its `url` ends in /v1."""
    edits = Edits(answer=answer)

    async def edit(request: Request) -> Response:
        return await edits(request)

    async def generate(request: Request) -> Response:
        edits.seen.append(await request.json())
        return picture_answer(square("red", (96, 64)))

    routes = [
        Route("/v1/images/edits", edit, methods=["POST"]),
        Route("/v1/images/generations", generate, methods=["POST"]),
    ]
    with serving(Starlette(routes=routes)) as url:
        edits.url = f"{url}/v1"
        yield edits


# -- chat -------------------------------------------------------------------------------------------------------------


def pictures_of(body: Body) -> list[Image.Image]:
    """Pictures of a chat request, in order."""
    found = []
    for message in body["messages"]:
        for part in message["content"] if isinstance(message["content"], list) else []:
            if part["type"] == "image_url":
                data = base64.b64decode(part["image_url"]["url"].partition(",")[2])
                found.append(Image.open(io.BytesIO(data)).convert("RGB"))
    return found


def words_of(body: Body) -> str:
    """All text of a chat request."""
    pieces = []
    for message in body["messages"]:
        content = message["content"]
        pieces += (
            [content] if isinstance(content, str) else [p["text"] for p in content if p["type"] == "text"]
        )
    return "\n".join(pieces)


def output(plan: str, thinking: str = "rain washes colour away") -> str:
    return f"<think>{thinking}</think><answer>{plan}</answer>"


REFERENCE = {
    "outcome": "The square is green.",
    "must_change": ["the square becomes green"],
    "must_keep": ["the blue dot stays"],
    "why": "the paint turns with time",
    "forbidden": ["a blue square"],
}
ITEMS: dict[str, list[dict[str, Any]]] = {
    "cognitive": [
        {
            "dim": "intent",
            "question": "Does the plan say that the square is green?",
            "role": "change",
            "evidence": "The square is green",
            "required": True,
        },
        {
            "dim": "logic",
            "question": "Does the plan name a second square?",
            "polarity": "no",
            "role": "keep",
            "evidence": "the blue dot stays",
        },
    ],
    "visual": [
        {
            "dim": "instruction",
            "question": "Is the square green?",
            "role": "change",
            "evidence": "the square becomes green",
        },
        {
            "dim": "consistency",
            "question": "Is the dot in the corner gone?",
            "polarity": "no",
            "role": "keep",
            "evidence": "the blue dot stays",
        },
    ],
}


def everyone(body: Body, number: int = 0) -> Reply:
    """One model in every part: planner, writer of references and checklists, and an honest judge."""
    text = words_of(body)
    if "You plan edits" in text:
        return Reply(output("paint the square green"))
    if "what a picture must look like" in text:
        return Reply(json.dumps(REFERENCE))
    if "You invent tasks" in text:
        entry = {"scene": "a red square on grey", "instruction": f"What is left after the rain? ({number})"}
        given_away = entry | {"instruction": "Show how the square becomes green in the rain"}
        return Reply(json.dumps({"tasks": [entry | REFERENCE, given_away | REFERENCE, "nothing"]}))
    if "are described to you" in text or "is described to you" in text or "request to edit it are" in text:
        return Reply(json.dumps(REFERENCE))
    if "Two people worked out" in text:
        return Reply('{"same": true}')
    if '"score": an integer' in text:
        green, best = colour_of(pictures_of(body)[-1]) == "green", 1 if "1: yes; 0: no" in text else 5
        return Reply(json.dumps({"score": best if green else best // 5, "reason": "seen"}))
    if "You write a checklist" in text:
        return Reply(json.dumps(ITEMS))
    return Reply(json.dumps({"answers": honest(body)}))


def honest(body: Body) -> list[dict[str, Any]]:
    """Answers of a judge who reads the plan, or looks at the last picture."""
    text = words_of(body)
    questions = re.findall(r"^(\d+)\. (.*)$", text.partition("Questions:")[2], re.MULTILINE)
    after = "After the edit:" in text
    plan = text.partition("Plan:")[2].partition("material>>>")[0].lower()
    green = colour_of(pictures_of(body)[-1]) == "green" if after else "green" in plan
    corner: Any = pictures_of(body)[-1].getpixel((4, 4))
    gone = after and not corner[2] > 150 > corner[0]
    answers = []
    for number, question in questions:
        turned = question.startswith('Is "no" the right answer')
        answer = gone if "dot" in question else "green" in question and green
        answers.append(
            {"number": int(number), "answer": "yes" if answer != turned else "no", "reason": "seen"}
        )
    return answers
