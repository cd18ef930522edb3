"""Does an action fit a garment? A warning before anything is paid for: nobody unzips a T-shirt."""

from __future__ import annotations

import re
from collections.abc import Sequence

from noria.tryon.actions.reading import Action

NEEDS = {
    "zipper": (r"\b(un)?zip(s|ped|ping|per|pers)?\b", r"zip|jacket|hoodie|coat|parka|fleece|dress|skirt"),
    "buttons": (r"\b(un)?button(s|ed|ing)?\b", r"button|shirt|blouse|cardigan|coat|blazer|jacket"),
    "sleeves": (r"\bsleeves?\b|\bcuffs?\b", r"sleeve|shirt|jacket|coat|sweater|hoodie|blouse|cardigan|dress"),
    "a collar": (r"\bcollars?\b|\blapels?\b", r"collar|shirt|jacket|coat|blazer|polo|blouse"),
    "pockets": (r"\bpockets?\b", r"pocket|jacket|coat|trousers|jeans|hoodie|blazer|pants"),
    "a hood": (r"\bhoods?\b", r"hood|hoodie|parka|anorak"),
}
"""What an action needs: words of actions that need it, and words of garments that have it."""
LACKS = r"\bt-?shirts?\b|\btees?\b|\btank tops?\b|\bcamisoles?\b"
"""Garments that have none of these parts unless their description says so."""


def misfits(actions: Sequence[Action], garment: str) -> list[str]:
    """A line for each action that needs a part which the garment's description does not name.

    Args:
        actions: timed actions.
        garment: description of the garment in English, such as "a grey hoodie with a zipper"; empty says nothing.
    """
    if not garment.strip():
        return []
    text = garment.lower()
    plain = re.sub(LACKS, "", text)
    lines = []
    for number, action in enumerate(actions, 1):
        for part, (words, having) in NEEDS.items():
            if re.search(words, action.caption.lower()) and not re.search(having, plain):
                lines.append(
                    f"action {number} ({action.caption[:60]}) needs {part}, and the garment is {garment!r}"
                )
    return lines
