"""Write a week of a shop's traffic as `traffic.jsonl`: requests with labels, and the answers that they got.

Everything is made up. The answers break one rule of `rubric.yaml` in two of three cases: they are not signed.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

PHRASES = {
    "returns": (
        "can I send the {x} back", "how do I return the {x}", "the {x} arrived broken, what now",
        "I changed my mind about the {x}", "where do I drop off the parcel with the {x}",
        "is it too late to give back the {x}", "exchange the {x} for another one", "refund for the {x} please",
    ),
    "sizes": (
        "which size of the {x} fits me", "is the {x} cut small", "does the {x} run large",
        "how long is the {x} in centimetres", "what is an M of the {x} in Japan",
        "the {x} was too tight, next size up?", "measurements of the {x}", "will the {x} fit a child of ten",
    ),
    "invoices": (
        "send me the invoice for the {x}", "I was charged twice for the {x}", "what did I pay for the {x}",
        "put my company on the bill of the {x}", "which taxes are on the {x}",
        "pay for the {x} in three parts", "the price of the {x} on my card is wrong", "a receipt for the {x}",
    ),
    "none": ("what is the weather in {x} town", "sing a song about a {x}", "who won the {x} cup", "draw me a {x}"),
}  # fmt: skip
THINGS = (
    "shirt", "coat", "scarf", "hat", "belt", "skirt", "dress", "jacket", "sweater", "sock", "glove", "boot", "shoe",
    "sandal", "cap", "tie", "vest", "blouse", "hoodie", "robe", "cardigan", "parka", "kimono", "poncho", "legging",
    "swimsuit", "apron", "uniform", "helmet", "mitten", "blazer", "tunic", "sari", "beret", "shawl", "slipper",
    "raincoat", "overall", "pyjama", "corset",
)  # fmt: skip
COLOURS = ("red", "blue", "green", "black", "white", "yellow", "grey", "brown", "pink", "purple")


def write_week(path: Path, requests: int = 1600, *, seed: int = 0) -> None:
    """Write requests, one JSON object a line; requests about one thing are one leakage group."""
    draw = random.Random(seed)
    lines = []
    for number in range(requests):
        skill = draw.choice(list(PHRASES))
        thing = f"{draw.choice(COLOURS)} {draw.choice(THINGS)}"
        row = {
            "id": f"r{number}",
            "query": draw.choice(PHRASES[skill]).format(x=thing),
            "group": thing,
            "expected": [skill],
            "cards": False,
        }
        if skill != "none":
            row |= {
                "route": skill,
                "skill": skill,
                "response": f"About the {thing}." + " Your shop" * (number % 3 == 0),
            }
        lines.append(json.dumps(row) + "\n")
    path.write_text("".join(lines))


if __name__ == "__main__":
    write_week(Path(sys.argv[1] if len(sys.argv) > 1 else "traffic.jsonl"))
