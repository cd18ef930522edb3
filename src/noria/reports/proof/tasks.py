"""Generated tasks with machine gold: which entities, measures and kinds of charts, in English and Chinese."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from noria.reports.agents.requests import GLOSSARY, chinese_name
from noria.reports.search.index import Index

KINDS = {"line": ("line chart", "折线图"), "bar": ("bar chart", "柱状图"), "radar": ("radar chart", "雷达图")}
LINES = {
    "Unemployment rate",
    "Real GDP per capita",
    "Real GDP growth rate",
    "Inflation rate (consumer prices)",
    "Remittances",
    "Exports",
    "Imports",
}
"""Measures of which the Factbook has three years."""


@dataclass(frozen=True)
class Task:
    """A request with its gold: entities, measures, kinds of charts in order."""

    text: str
    entities: tuple[str, ...]
    measures: tuple[str, ...]
    kinds: tuple[str, ...]


def make_tasks(index: Index, seed: int, count: int) -> list[Task]:
    """Draw tasks on countries that all measures are known for; every second one is in Chinese."""
    rng = np.random.default_rng(seed)
    known = index.measures()
    common = sorted({en for en in GLOSSARY.values() if known.get(en, 0) >= 100})
    tasks = []
    for number in range(count):
        lines = [m for m in common if m in LINES]
        first = str(rng.choice(lines))
        others = [str(m) for m in rng.choice([m for m in common if m != first], 2, replace=False)]
        measures = (first, *others)
        have = [{f.entity for f in index.facts(measure=m)} for m in measures]
        named = sorted(e for e in set.intersection(*have) if chinese_name(e) != e)
        entities = tuple(str(e) for e in rng.choice(named, int(rng.integers(3, 6)), replace=False))
        tasks.append(_task(measures, entities, zh=number % 2 == 1))
    return tasks


def _task(measures: tuple[str, ...], entities: tuple[str, ...], *, zh: bool) -> Task:
    if zh:
        names = [next(zh for zh, en in GLOSSARY.items() if en == m) for m in measures]
        lands = "、".join(map(chinese_name, entities))
        text = f"请比较{lands}的{'、'.join(names)}。绘制{names[0]}折线图，{names[1]}柱状图，以及一张雷达图。"
    else:
        names = [m[0].lower() + m[1:] if m[1].islower() else m for m in measures]
        text = (
            f"Compare {', '.join(entities[:-1])} and {entities[-1]}: "
            f"{', '.join(names)}. Draw a line chart of the {names[0]}, "
            f"a bar chart of the {names[1]}, and a radar chart."
        )
    return Task(text, entities, measures, ("line", "bar", "radar"))
