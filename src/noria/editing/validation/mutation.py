"""Mutants: plans and pictures that are wrong in one known way, which a checklist must not pass."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageOps
from PIL.Image import Image as Picture

from noria.editing.data.tasks import Reference

_SWAPS = (
    ("red", "blue"), ("green", "yellow"), ("black", "white"), ("orange", "grey"), ("left", "right"),
    ("above", "below"), ("top", "bottom"), ("larger", "smaller"), ("full", "empty"), ("open", "closed"),
    ("wet", "dry"), ("one", "four"), ("two", "five"), ("three", "six"), ("dark", "bright"), ("more", "fewer"),
)  # fmt: skip
"""Words that are put in each other's place."""


@dataclass(frozen=True)
class MutantPlan:
    """A plan with one fault, and its name."""

    name: str
    text: str


@dataclass(frozen=True)
class MutantPicture:
    """A picture with one fault, and its name."""

    name: str
    image: Picture


def mutant_plans(reference: Reference) -> list[MutantPlan]:
    """Plans that are the reference with one fault: a change left out, a word turned, nothing done, all forgotten.

    Only mutants that differ from the reference are made; a reference without facts of its own has few.
    """
    whole = reference.text
    mutants = [MutantPlan("nothing", "Change nothing. Leave every part of the picture as it is.")]
    for number, fact in enumerate(reference.must_change):
        rest = [one for one in reference.must_change if one != fact]
        if rest:
            mutants.append(
                MutantPlan(f"change {number + 1} left out", "\n".join((*rest, *reference.must_keep)))
            )
        if (turned := swapped(fact)) != fact:
            kept = "\n".join(
                (*(turned if one == fact else one for one in reference.must_change), *reference.must_keep)
            )
            mutants.append(MutantPlan(f"change {number + 1} turned", kept))
    if (turned := swapped(reference.outcome)) != reference.outcome:
        mutants.append(MutantPlan("outcome turned", whole.replace(reference.outcome, turned)))
    for number, wrong in enumerate(reference.forbidden):
        mutants.append(MutantPlan(f"wrong result {number + 1}", wrong))
    return mutants


def swapped(text: str) -> str:
    """The text with the first word that `_SWAPS` knows put into its opposite; unchanged where there is none."""
    turned = dict(_SWAPS) | {b: a for a, b in _SWAPS}
    match = re.search(r"\b(" + "|".join(turned) + r")\b", text, re.IGNORECASE)
    if match is None:
        return text
    return text[: match.start()] + turned[match[1].lower()] + text[match.end() :]


def mutant_pictures(
    source: Picture, edited: Picture | None = None, others: Sequence[Picture] = ()
) -> list[MutantPicture]:
    """Pictures that no edit should be: black, mirrored, of other colours, another task's; and the source where edited.

    Args:
        source: picture before the edit.
        edited: a right result, where there is one; without it, the mutants are the source's.
        others: results of other tasks, brought to the size of the source.
    """
    right = source if edited is None else edited
    hue, saturation, value = right.convert("HSV").split()
    turned = Image.merge("HSV", (hue.point(lambda v: (v + 96) % 256), saturation, value)).convert("RGB")
    mutants = [
        MutantPicture("black", Image.new("RGB", source.size)),
        MutantPicture("mirrored", ImageOps.mirror(right)),
        MutantPicture("other colours", turned),
        MutantPicture("half black", _half_black(right)),
    ]
    if edited is not None:
        mutants.append(MutantPicture("the source", source))
    for number, other in enumerate(others):
        mutants.append(MutantPicture(f"another's {number + 1}", other.convert("RGB").resize(source.size)))
    return [one for one in mutants if one.image.tobytes() != right.tobytes()]


def _half_black(image: Picture) -> Picture:
    half = image.copy()
    half.paste((0, 0, 0), (0, 0, image.width // 2, image.height))
    return half
