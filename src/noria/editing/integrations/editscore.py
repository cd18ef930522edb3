"""EditScore: its reward models as a judge of pictures.

EditScore gives three scores of 0 to 25: prompt following, consistency and perceptual quality. An item is answered by
the score of its dimension: its good answer where the score reaches a bar, the other one below it. That is coarser
than an item of its own, and a plan cannot be judged: its items are invalid. EditScore replaces a reply that it cannot
read by the middle of the scale; what is exactly there is invalid, too, since it is no measurement.
"""

from __future__ import annotations

import asyncio
import io
import math
from collections.abc import Sequence
from typing import Any

from noria.core.chat import Image as ImagePart, Part, Text
from noria.core.errors import require
from noria.core.judging.items import Checklist, Verdict
from noria.editing.checklists.items import EditItem

SCORES = {"instruction": "prompt_following", "consistency": "consistency", "realism": "perceptual_quality"}
"""EditScore's score by the dimension of an item."""
MIDDLE = 12.5


class EditScoreJudge:
    """A judge of the visual items.

    Args:
        scorer: an `EditScore` object, or anything whose `evaluate([before, after], instruction)` returns its scores.
        bar: score from which an item is good, of 25.
        name: name of the judge in its verdicts.
    """

    def __init__(self, scorer: Any, *, bar: float = 18.0, name: str = "editscore") -> None:
        self.scorer, self.bar, self.name, self.version = scorer, bar, name, f"bar {bar:g}"
        self._turn = asyncio.Lock()  # one model, one evaluation at a time

    async def verdicts(self, checklist: Checklist, subject: Sequence[Part]) -> list[Verdict]:
        """Score the pictures once, and answer every item by the score of its dimension."""
        pictures = [part.data for part in subject if isinstance(part, ImagePart)]
        texts = [part.text for part in subject if isinstance(part, Text)]
        if len(pictures) < 2 or not texts:
            return [self._invalid(item.id, "no pair of pictures") for item in checklist.items]
        request = texts[0].removeprefix("Request:\n")
        async with self._turn:
            scores = await asyncio.to_thread(self._scores, pictures[0], pictures[-1], request)
        return [self._verdict(item, scores) for item in checklist.items]

    def _scores(self, before: bytes, after: bytes, request: str) -> dict[str, Any]:
        from PIL import Image

        pair = [Image.open(io.BytesIO(data)).convert("RGB") for data in (before, after)]
        scores = self.scorer.evaluate(pair, request)
        return scores if isinstance(scores, dict) else {}

    def _verdict(self, item: Any, scores: dict[str, Any]) -> Verdict:
        if not isinstance(item, EditItem) or item.path != "visual" or item.role == "canary":
            return self._invalid(item.id, "it judges pictures as a whole")
        name = SCORES.get(item.dimension, "overall")
        score = scores.get(name)
        if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
            return self._invalid(item.id, f"no score of {name}")
        if score == MIDDLE:
            return self._invalid(item.id, "the middle of the scale stands for a reply that was not read")
        bad = "no" if item.good == "yes" else "yes"
        value: Any = item.good if score >= self.bar else bad
        return Verdict(item.id, value, f"{name} {score:g} of 25", self.name)

    def _invalid(self, item: str, why: str) -> Verdict:
        return Verdict(item, "invalid", why, self.name)


def open_editscore(backbone: str = "qwen3vl", **settings: Any) -> EditScoreJudge:
    """Load EditScore's model in this process.

    Args:
        backbone: name of the backbone that EditScore knows.
        settings: further arguments of `EditScore`, such as `num_pass`.

    Raises:
        MissingExtra: the package `editscore` is not installed.
    """
    editscore = require("editscore", "editscore")
    return EditScoreJudge(editscore.EditScore(backbone=backbone, **settings))
