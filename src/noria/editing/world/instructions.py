"""Instructions: each names an event and never its outcome; four wordings, the last of which is kept from training."""

from __future__ import annotations

import numpy as np

from noria.editing.world.rules import Event
from noria.editing.world.vocabulary import CELLS, NAMES, OUTSIDE, SYNONYMS

WORDINGS: dict[str, tuple[str, ...]] = {
    "hour": (
        "after an hour in the sun",
        "leave this in the sun for an hour",
        "show it an hour later in the sun",
        "one hour of sun later",
    ),
    "season": (
        "show this a season later",
        "let a season pass",
        "how does it look after a season",
        "one season later",
    ),
    "drought": (
        "nobody gives water for a week",
        "after a week without water",
        "a week passes without water",
        "one week later without water",
    ),
    "heat": (
        "heat everything",
        "put this in a hot oven",
        "show it in a hot oven",
        "leave everything in a hot oven",
    ),
    "spark": ("a spark hits everything", "let a spark fall", "after a spark", "show it after a spark"),
    "release": ("let go of everything", "drop everything", "gravity pulls", "let everything drop"),
    "mirror": (
        "show this in a mirror",
        "mirror everything left to right",
        "how does it look in a mirror",
        "mirror this left to right",
    ),
    "swap": (
        "swap {0} and {1}",
        "{0} and {1} trade places",
        "let {0} trade places with {1}",
        "let {0} swap with {1}",
    ),
    "slide": (
        "slide everything to the right wall",
        "wind pushes everything right",
        "push everything to the right wall",
        "wind pushes everything to the right wall",
    ),
    "odd": (
        "recolour the odd one",
        "make the odd colour fit",
        "one colour is odd correct it",
        "correct the odd one",
    ),
    "next": (
        "continue the row",
        "what comes next in the row",
        "add what comes next",
        "continue with what comes next",
    ),
    "alien": (
        "remove what does not belong",
        "one does not belong take it away",
        "take away what does not belong",
        "one does not belong remove it",
    ),
}
JOIN = " then "


def instruct(event: Event, chance: np.random.Generator, *, held_out: bool = False) -> str:
    """Words for an event.

    Args:
        event: what happens.
        chance: picks the wording.
        held_out: whether to use the wording that is kept from training.
    """
    parts = []
    for kind in event.kinds:
        words = WORDINGS[kind]
        chosen = words[-1] if held_out else words[int(chance.integers(len(words) - 1))]
        parts.append(chosen.format(*event.names))
    return JOIN.join(parts)


def world_words() -> list[str]:
    """Every word of instructions, thoughts and plans of this world, for a tokenizer."""
    spoken = " ".join(words.format("", "") for wordings in WORDINGS.values() for words in wordings)
    grammar = "turn paint move remove add keep at into to a an the then Request: , ; ."
    named = " ".join((*NAMES, *SYNONYMS, *CELLS, *OUTSIDE))
    return list(dict.fromkeys(f"{grammar} {spoken} {named}".split()))
