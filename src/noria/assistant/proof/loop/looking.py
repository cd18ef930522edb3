"""Does the judging of the grounding stop an answerer that does not look? Questions about pictures of the shop's things.

Half of the pictures show the best seller of the season, so that who names it whatever is shown is right more often than
who looks. Users rate what is right. Answers, the question again without the picture, the judge's reply, the guardrail
and the decision of the test go through the functions of the service; answerers and judge are scripted here.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance
from PIL.Image import Image as Picture

from noria.assistant.config.judging import GroundingConfig
from noria.assistant.parts.grounding import CHECKLIST, GroundingJudging
from noria.assistant.products.features import LayoutEncoder
from noria.assistant.proof.loop.testing import dealt_again
from noria.assistant.world.catalogue import catalogue
from noria.core.chat import Answer, ChatRequest, Image as ChatImage, Outcome
from noria.core.experiments.lifecycle import Guardrail
from noria.core.judging.judges import ChatJudge
from noria.core.picture_files import open_picture, png
from noria.core.pictures import Studio, draw
from noria.core.traces.blobs import take_out_blobs
from noria.core.traces.ids import new_id
from noria.core.traces.records import Span, Trace
from noria.core.traces.store import TraceView

BEST_SELLER = 0.5
"""Share of the pictures that show the same thing."""
ERRS = 0.05
"""Share of a judge's readings of a picture, and of users' ratings, that are wrong."""
GUARD = Guardrail(name="grounded", tolerance=0.1)
"""Share of the answers that would not stand without their picture: it may not fall by more."""
SIDE = 72
Looks = Callable[[Picture | None], str]
"""An answerer: the name of what a picture shows; None is a question without its picture."""


class Eye:
    """Names what a picture shows by the nearest of the pictures that it knows.

    Args:
        studios: studios whose drawings it knows.
    """

    def __init__(self, studios: Sequence[Studio]) -> None:
        things = {one.thing: one.code for one in catalogue()}
        known = [(name, drawn(code, studio)) for name, code in things.items() for studio in studios]
        self.names, self._encoder = [name for name, _ in known], LayoutEncoder()
        self._known = self._encoder.encode([picture for _, picture in known])

    def __call__(self, picture: Picture | None) -> str:
        """The name; that there is no picture where there is none."""
        if picture is None:
            return "i see no picture"
        return self.names[int((self._known @ self._encoder.encode([picture])[0]).argmax())]


def drawn(code: str, studio: Studio) -> Picture:
    """A drawing on white."""
    picture = draw(code, studio, size=SIDE)
    ground = Image.new("RGB", picture.size, "white")
    ground.paste(picture, mask=picture.getchannel("A"))
    return ground


@dataclass
class Examiner:
    """A judge of pictures that knows all drawings, and errs."""

    eye: Eye
    rng: np.random.Generator

    async def ask(self, request: ChatRequest) -> Outcome:
        """The verdicts on a checklist of the grounding, as a model would write them."""
        parts = request.messages[-1].parts
        text = request.messages[-1].text
        answers = [_said(text, side) for side in "AB"]
        shown = next(part for part in parts if isinstance(part, ChatImage))
        sees = self.eye(open_picture(shown.data))
        right = (sees == answers[0]) != bool(self.rng.random() < ERRS)
        good = {"needs": True, "right": right, "supported": right, "stands": answers[0] == answers[1]}
        said = [
            {"number": n, "answer": "yes" if good[item.id] else "no"}
            for n, item in enumerate(CHECKLIST.items, 1)
        ]
        return Answer(json.dumps({"answers": said}), "stop", cost=0.0)


def _said(text: str, side: str) -> str:
    found = re.search(rf"Answer {side}:\n(.*?)\n", text)
    return "" if found is None else found[1]


def run_looking(seed: int, users: int, deals: int) -> dict[str, Any]:
    """What becomes of an answerer that does not look, and of one that looks better, with the guardrail and without.

    Returns:
        Of each answerer: share of right answers, share that rests on its picture, and shares of tests that promote it.
    """
    return asyncio.run(_looking(seed, users, deals))


async def _looking(seed: int, users: int, deals: int) -> dict[str, Any]:
    rng = np.random.default_rng([seed, 19])
    shown, pictures = _pictures(rng, users)
    best = max(set(shown), key=shown.count)
    sharp = Eye(("twemoji", "openmoji"))
    answerers: dict[str, Looks] = {
        "looks": Eye(("twemoji",)), "does not look": lambda picture: best, "looks better": sharp,
    }  # fmt: skip
    wrong = rng.random(users) < ERRS
    ratings, grounded = {}, {}
    for name, looks in answerers.items():
        said = [looks(one) for one in pictures]
        ratings[name] = [float((a == b) != w) for a, b, w in zip(said, shown, wrong, strict=True)]
        grounded[name] = await _grounded(looks, pictures, said, Examiner(sharp, rng))
    found = {}
    for name in answerers:
        rails = {GUARD.name: (grounded["looks"], grounded[name])}
        alone = [dealt_again(ratings["looks"], ratings[name], rng) for _ in range(deals)]
        guarded = [dealt_again(ratings["looks"], ratings[name], rng, rails, (GUARD,)) for _ in range(deals)]
        found[name] = {
            "right": float(np.mean(ratings[name])),
            "grounded": float(np.nanmean(grounded[name])),
            "promoted by ratings alone": alone.count("promoted") / deals,
            "promoted with the guardrail": guarded.count("promoted") / deals,
        }
    return {"looking": found}


def _pictures(rng: np.random.Generator, users: int) -> tuple[list[str], list[Picture]]:
    """What users show: names, and pictures as another studio draws them, turned, shrunk and in another light."""
    things = {one.thing: one.code for one in catalogue()}
    names = sorted(things)
    best = names[int(rng.integers(len(names)))]
    shown = [
        best if rng.random() < BEST_SELLER else names[int(rng.integers(len(names)))] for _ in range(users)
    ]
    plain = {name: drawn(things[name], "openmoji") for name in dict.fromkeys(shown)}
    pictures = []
    for name in shown:
        turned = plain[name].rotate(float(rng.uniform(-12, 12)), Image.Resampling.BILINEAR, fillcolor="white")
        pictures.append(ImageEnhance.Brightness(turned).enhance(float(rng.uniform(0.85, 1.1))))
    return shown, pictures


async def _grounded(
    looks: Looks, pictures: Sequence[Picture], said: Sequence[str], examiner: Examiner
) -> list[float]:
    """Whether each answer rests on its picture, as the judging of the grounding says; NaN where it cannot tell."""
    blobs: dict[str, bytes] = {}

    async def again(
        view: TraceView, messages: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]
    ) -> Outcome:
        return Answer(looks(None), "stop", cost=0.0)

    judging = GroundingJudging(
        ChatJudge(examiner, "examiner"), again, blobs.get, GroundingConfig(judge="examiner", share=1.0)
    )
    found = []
    for number, (picture, answer) in enumerate(zip(pictures, said, strict=True)):
        record = await judging.judged(_view(number, picture, answer, blobs))
        found.append(float("nan") if record is None or record.score is None else record.score)
    return found


def _view(number: int, picture: Picture, answer: str, blobs: dict[str, bytes]) -> TraceView:
    """The trace of a question about a picture."""
    url = f"data:image/png;base64,{base64.b64encode(png(picture)).decode('ascii')}"
    content = [{"type": "text", "text": "what is this?"}, {"type": "image_url", "image_url": {"url": url}}]
    given, taken = take_out_blobs({"messages": [{"role": "user", "content": content}]})
    blobs.update(taken)
    at = 10**9 * (number + 1)
    span = Span(
        new_id(at), "chat", "m", at, at + 1, input=given, output={"content": answer}, blobs=tuple(taken)
    )
    return TraceView(Trace(new_id(at), at, at + 1, "ok", spans=(span,)))
