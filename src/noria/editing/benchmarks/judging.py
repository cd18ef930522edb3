"""Judging of benchmark items in our own words: one request a dimension, one integer, with the reasons recorded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from PIL import Image
from PIL.Image import Image as Picture

from noria.core.chat import Answer, ChatModel, ChatRequest, Image as ImagePart, user
from noria.core.judging.judges import quoted
from noria.core.picture_files import open_picture, png
from noria.editing.benchmarks.items import BenchItem
from noria.editing.benchmarks.scoring import CONCEPTUAL

LONGEST_SIDE = 768
"""Longest side of a picture that the judge sees, as RISEBench has it."""
_FORM = ' Reply with a JSON object and nothing else: {"score": an integer, "reason": "one sentence"}.'
_SCALE = " 5: nothing to object to; 4: a detail is off; 3: clear faults; 2: mostly wrong; 1: wrong or absent."

PROMPTS: dict[str, str] = {
    "rise.consistency": "The first picture was edited on request; the second is the result. Judge only what the "
    "request does not ask to change: is everything else as it was (things, places, background, style, view)?"
    + _SCALE,
    "rise.reasoning": "A picture was edited on request. Judge only whether the result shows the outcome that the "
    "request implies and the reference describes; leave quality and everything else aside." + _SCALE,
    "rise.plausibility": "Judge only whether this picture could be real, or be whole in its own style: shapes, light, "
    "limbs, letters, no artefacts. What it shows does not matter." + _SCALE,
    "rise.logical.consistency": "The first picture holds a puzzle; the second is the edited one. Is the puzzle itself, "
    "apart from its answer, unchanged? 1: yes; 0: no.",
    "rise.logical.reasoning": "An edited picture answers a puzzle. Does it show the answer of the reference, complete "
    "and in its right place? 1: yes; 0: no.",
    "kris.consistency": "The first pictures were edited on request; the last is the result. Judge only what the "
    "request does not ask to change: is everything else as it was?" + _SCALE,
    "kris.quality": "Judge only how well the picture is made: sharp, whole, natural, without artefacts."
    + _SCALE,
    "kris.instruction": "The first pictures were edited on request; the last is the result. Judge only whether the "
    "request is carried out, all of it." + _SCALE,
    "kris.knowledge": "The first pictures were edited on request; the last is the result. Judge only whether the "
    "result agrees with what is known of the world and with the explanation." + _SCALE,
}
"""Prompts by benchmark and dimension, before the form of the reply."""


def dimensions(item: BenchItem) -> list[str]:
    """Dimensions in which an item is judged."""
    if item.kind == "kris":
        names = ["consistency", "quality", "instruction"]
        return [*names, "knowledge"] if item.flags.get("task") in CONCEPTUAL else names
    logical = item.family == "logical_reasoning"
    names = [] if item.flags.get("consistency_free") else ["consistency"]
    return [*names, "reasoning", *([] if logical else ["plausibility"])]


def prompt_of(item: BenchItem, dimension: str) -> str:
    """The prompt of an item's dimension, with the form of the reply."""
    logical = "logical." if item.family == "logical_reasoning" and item.kind == "rise" else ""
    kind = "kris" if item.kind == "kris" else "rise"
    return PROMPTS[f"{kind}.{logical}{dimension}"] + _FORM


def prompts_digest() -> str:
    """SHA-256 of all prompts: judgements under other words are not compared."""
    return hashlib.sha256(json.dumps([PROMPTS, _FORM, LONGEST_SIDE], sort_keys=True).encode()).hexdigest()[
        :16
    ]


def request_for(item: BenchItem, dimension: str, edited: Picture) -> ChatRequest:
    """The request that judges a dimension, at temperature 0.

    Raises:
        DataError: a picture of the item cannot be read.
    """
    pictures: list[Picture] = []
    if dimension in ("consistency", "instruction", "knowledge"):
        pictures = [open_picture(path) for path in item.sources]
    elif dimension == "reasoning" and item.reference_image is not None:
        pictures = [open_picture(item.reference_image)]
    words = [prompt_of(item, dimension)]
    if dimension not in ("plausibility", "quality"):
        words.append(f"Request:\n{quoted(item.instruction)}")
    if dimension in ("reasoning", "knowledge"):
        if item.reference:
            words.append(f"Reference:\n{quoted(item.reference)}")
        if pictures and dimension == "reasoning":
            words.append("The first picture is the reference, the second the result.")
    shown = [ImagePart(small(one)) for one in (*pictures, edited)]
    return ChatRequest((user("\n\n".join(words), *shown),), temperature=0.0, max_tokens=1024)


def small(picture: Picture) -> bytes:
    """A picture as a PNG, at most `LONGEST_SIDE` pixels on its longer side."""
    factor = LONGEST_SIDE / max(picture.size)
    if factor < 1:
        size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    return png(picture)


async def judge_item(model: ChatModel, item: BenchItem, edited: Picture) -> Mapping[str, str | None]:
    """The judge's text by dimension; None where there is no answer."""
    replies: dict[str, str | None] = {}
    for dimension in dimensions(item):
        outcome = await model.ask(request_for(item, dimension, edited))
        replies[dimension] = outcome.text if isinstance(outcome, Answer) else None
    return replies
