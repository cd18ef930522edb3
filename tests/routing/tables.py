"""A small table whose best routes are known: each of three kinds of questions has a specialist."""

from __future__ import annotations

import numpy as np

from noria.routing.tables.table import Cell, Question, Route, Table, table_of

KINDS = {
    "sums": "what is {a} plus {b} in numbers",
    "capitals": "which city is the capital of country {a}{b}",
    "colours": "what colour has the thing called {a}{b}",
}
ROUTES = (Route("adder"), Route("atlas"), Route("painter"), Route("sage", "step_by_step"))
COST = (1.0, 2.0, 4.0, 16.0)


def small_table(number: int = 90, *, seed: int = 0) -> Table:
    """Specialists are right on nine of ten of their own questions and one of ten others; the sage on seven of ten."""
    generator = np.random.default_rng(seed)
    rows = []
    for n in range(number):
        name = list(KINDS)[n % 3]
        text = KINDS[name].format(a=generator.integers(100), b=n)
        question = Question(f"{name}-{n}", name, text, (f"answer {n}",), "exact")
        for r, route in enumerate(ROUTES):
            chance = 0.7 if r == 3 else (0.9 if r == n % 3 else 0.1)
            right = float(generator.random() < chance)
            words = f"answer {n}" if right else "no idea"
            cell = Cell(right, COST[r], words, prompt_tokens=10, completion_tokens=5)
            rows.append((question, route, cell, f"row {n}"))
    return table_of(rows)
