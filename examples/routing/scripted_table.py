"""Write table.jsonl: a scripted replay table in which each kind of question has a cheap specialist.

Nothing is asked of a model: scores are drawn, so that the best possible router is known. The generalist is right on
seven of ten questions of any kind and costs sixteen times as much as the cheapest specialist; a specialist is right on
nine of ten questions of its own kind and one of ten others.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from noria.routing.tables.table import Cell, Question, Route, table_of, write_table

KINDS = {
    "sums": "what is {a} plus {b}, in digits",
    "capitals": "which city is the capital of country number {a}{b}",
    "colours": "what colour has the thing called {a}{b}",
}
COSTS = {"adder": 1.0, "atlas": 2.0, "painter": 4.0, "generalist": 16.0}


def main() -> None:
    """Draw 600 questions and what each route answers to them."""
    generator = np.random.default_rng(0)
    rows = []
    for n in range(600):
        kind = list(KINDS)[n % 3]
        text = KINDS[kind].format(a=generator.integers(100), b=n)
        question = Question(f"{kind}-{n}", kind, text, (f"answer {n}",), "exact")
        for place, (name, cost) in enumerate(COSTS.items()):
            chance = 0.7 if name == "generalist" else 0.9 if place == n % 3 else 0.1
            right = generator.random() < chance
            cell = Cell(float(right), cost, f"answer {n}" if right else "no idea")
            rows.append((question, Route(name), cell, f"row {n}"))
    write_table(Path("table.jsonl"), table_of(rows))
    print("table.jsonl: 600 questions, 4 routes")


if __name__ == "__main__":
    main()
