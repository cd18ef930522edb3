"""What an answer is worth, which the simulation knows and nobody in the loop is told.

The oracle looks at what a user is shown: words, cards of products, pictures, reports. It was written and committed
before any learner was run, and has not been changed.
"""

from __future__ import annotations

import base64
import functools
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from noria.assistant.world.users import DIGITS, TRUTH, User, Wish
from noria.core.errors import DataError
from noria.editing.world.scenes import read

WEIGHTS = {"right": 0.55, "kind": 0.15, "detail": 0.2, "manner": 0.1}
"""Weight of each question of the checklist."""
SHORT = 14
"""Most words of an answer that is short."""
_KIND = {"find": "cards", "edit": "edit", "make": "picture", "report": "report", "help": ""}


@dataclass(frozen=True)
class Seen:
    """What a user sees of an answer.

    Attributes:
        text: words of the answer.
        shown: what stands beside them.
        seconds: how long the models would have taken (see :func:`waiting`).
        failed: whether there was no answer.
    """

    text: str = ""
    shown: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    seconds: float = 0.0
    failed: bool = False


def checklist(user: User, wish: Wish, seen: Seen) -> dict[str, float]:
    """Each question with its answer from 0 to 1.

    ```
    right   it is what was asked for
    kind    it is of the right kind: cards, an edited picture, a drawn one, a report, words alone
    detail  it says what belongs to it: a true price, a source; nothing is missing where nothing belongs to it
    manner  short where the user likes that, and offering more likewise
    ```
    """
    if seen.failed:
        return dict.fromkeys(WEIGHTS, 0.0)
    kinds = {str(one.get("kind")) for one in seen.shown}
    wanted = _KIND[wish.intent]
    kind = float(wanted in kinds if wanted else not kinds)
    right = float(_RIGHT[wish.intent](wish, seen))
    detail = 1.0
    if wish.intent == "find":
        detail = float(_names_price(seen)) if user.price > 0.3 else 1.0
    if wish.intent == "report":
        detail = float(bool(re.search(r"source|come from", seen.text.lower())))
    short = float(len(seen.text.split()) <= SHORT)
    offers = float(seen.text.rstrip().endswith("?"))
    manner = (
        user.brevity * short
        + (1 - user.brevity) * (1 - short)
        + user.style * offers
        + (1 - user.style) * (1 - offers)
    ) / 2
    return {"right": right, "kind": kind, "detail": detail * float(right > 0), "manner": manner}


def quality(user: User, wish: Wish, seen: Seen) -> float:
    """The checklist's weighted mean, from 0 to 1."""
    return sum(WEIGHTS[name] * value for name, value in checklist(user, wish, seen).items())


def satisfaction(user: User, wish: Wish, seen: Seen) -> float:
    """Quality, less what waiting beyond the user's patience costs."""
    late = max(0.0, seen.seconds - user.patience)
    return max(0.0, quality(user, wish, seen) - 0.02 * late)


def waiting(tokens: int, model: str, tools: int) -> float:
    """Seconds that an answer would take: a count of what was done, so that this machine's load does not matter.

    Args:
        tokens: tokens that the model wrote.
        model: `small` or `large`.
        tools: number of things that tools showed.
    """
    return tokens * {"small": 0.02}.get(model, 0.06) + 1.5 * tools


# -- what is right ----------------------------------------------------------------------------------------------------


def _found(wish: Wish, seen: Seen) -> bool:
    """The first card is the thing, at a price within the limit."""
    items = [item for one in seen.shown if one.get("kind") == "cards" for item in one.get("items", ())]
    if not items:
        return False
    first = items[0]
    price = first.get("price")
    fits = wish.limit is None or (isinstance(price, int | float) and price <= wish.limit)
    return str(first.get("title", "")).lower().removesuffix(", outlined") == wish.target and fits


def _names_price(seen: Seen) -> bool:
    """The words name the price of a card that is shown."""
    prices = [
        item.get("price") for one in seen.shown if one.get("kind") == "cards" for item in one.get("items", ())
    ]
    said = re.findall(r"\d+\.\d{2}", seen.text)
    return any(f"{price:.2f}" in said for price in prices if isinstance(price, int | float))


def _edited(wish: Wish, seen: Seen) -> bool:
    """The picture shows the scene that the rules of the world give."""
    assert wish.task is not None
    for one in seen.shown:
        picture = _picture(one.get("after")) if one.get("kind") == "edit" else None
        if picture is not None:
            try:
                return read(picture).by_cell == wish.task.target.by_cell
            except DataError:
                return False
    return False


def _drawn(wish: Wish, seen: Seen) -> bool:
    """The picture is read as the digit by its nearest neighbours."""
    for one in seen.shown:
        picture = _picture(one.get("picture")) if one.get("kind") == "picture" else None
        if picture is not None:
            small = np.asarray(picture.convert("L").resize((8, 8), Image.Resampling.BOX), np.float32)
            return int(_reader().predict(small.reshape(1, -1))[0]) == DIGITS.index(wish.target)
    return False


def _reported(wish: Wish, seen: Seen) -> bool:
    """A report whose title or summary names the topic."""
    words = wish.target.lower()
    return any(
        words in f"{one.get('title', '')} {one.get('summary', '')}".lower()
        for one in seen.shown
        if one.get("kind") == "report"
    )


def _helped(wish: Wish, seen: Seen) -> bool:
    """The words say what the shop grants."""
    return TRUTH[wish.target] in seen.text.lower()


_RIGHT = {"find": _found, "edit": _edited, "make": _drawn, "report": _reported, "help": _helped}


def _picture(url: Any) -> Image.Image | None:
    """The picture of a `data:` URL; None where there is none."""
    if not isinstance(url, str) or not url.startswith("data:image/"):
        return None
    try:
        return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")
    except (ValueError, OSError):
        return None


@functools.cache
def _reader() -> Any:
    """A reader of digits: five nearest neighbours among scikit-learn's 1,797 handwritten ones, scaled to 0–255."""
    from sklearn.datasets import load_digits
    from sklearn.neighbors import KNeighborsClassifier

    digits = load_digits()
    return KNeighborsClassifier(5).fit(digits.data * (255 / 16), digits.target)
