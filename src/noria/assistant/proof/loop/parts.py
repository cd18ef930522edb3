"""Each part of the shop left out in turn, on the exam under what the loop made: quality, cost and waiting.

What the shop does not have is named, and measured nowhere here; it is no zero.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from noria.assistant.parts.protocol import Part, Step
from noria.assistant.parts.routing import RoutingPart
from noria.assistant.parts.skills import SkillsPart
from noria.assistant.proof.loop.seasons import Seasons, Version
from noria.assistant.proof.loop.testing import Pair
from noria.assistant.world.inside import AS_IT_IS, DigitsTool, EditTool, Reply, Variant
from noria.assistant.world.judges.labels import Given
from noria.assistant.world.judges.model import Case, judged_score, load_judges
from noria.assistant.world.oracle import quality
from noria.assistant.world.shop import PRICES
from noria.core.completions.requests import CompletionRequest
from noria.core.learning.routes.route import Route
from noria.core.tools import Tool
from noria.core.traces.records import SpanKind
from noria.editing.plans import format_output
from noria.editing.use.session import ThinkThenEdit
from noria.routing.config import NetworkTraining
from noria.routing.routers.files import open_router
from noria.routing.routers.learn import train_network
from noria.routing.tables.table import Cell, Question, Route as TableRoute, table_of, write_table

DEFAULT = "all-questions"
"""Skill that every request has where no skill is chosen."""
ASKED, ROUTED = 300, 260
"""Loop of the wishes that routers learn from, and users who have them."""
TRADE = 0.02
"""Quality that the dearer model must add, for both routers; not chosen by any result."""
STEPS = (4, 16)
"""Euler steps of a drawing in the shop, and where few steps are left out."""
ABSENT = {
    "blending": "no snapshot orders the shop's products",
    "heads": "no backend of the shop decodes with them; noria prove mtp",
    "distilled student": "a teacher draws, in few steps; noria prove distill",
    "credit and dual reward": "the planner was trained before it was packaged; noria prove credit and editing",
    "try-on": "no trained model is packaged; noria prove tryon",
}
"""Parts that are not measured here, and why."""


@dataclass
class WithoutBodies:
    """A choice of skills whose tools count, and whose bodies nobody reads."""

    part: SkillsPart
    kind: SpanKind = "skill"
    artefact: str = ""

    def apply(self, query: CompletionRequest, route: Route) -> Step | None:
        """Do what :meth:`Part.apply` says."""
        step = self.part.apply(query, route)
        return None if step is None else replace(step, route=route)


class AsAsked:
    """A planner that hands the user's words to the editor."""

    name = "as asked"

    async def write(
        self, images: Sequence[Any], instruction: str, *, sample: int = 0, notes: str = ""
    ) -> str:
        """Do what :meth:`Planner.write` says."""
        return format_output("as asked", instruction)


def _unplanned(tools: list[Tool]) -> list[Tool]:
    return [
        EditTool(ThinkThenEdit(AsAsked(), one.edit.renderer), one.picture)
        if isinstance(one, EditTool)
        else one
        for one in tools
    ]


async def run_parts(seasons: Seasons, version: Version, home: Path) -> dict[str, Any]:
    """The exam with each part left out.

    Args:
        seasons: seasons of the seed.
        version: what the loop made.
        home: folder for the routers' files.

    Returns:
        Figures of each arm by its name: quality, cost of a thousand answers, seconds of waiting.
    """
    skills = version.part
    drawing = DigitsTool(STEPS[1])

    def slowly(tools: list[Tool]) -> list[Tool]:
        return [drawing if isinstance(one, DigitsTool) else one for one in tools]

    routers = await _routers(seasons, skills, home)
    arms: dict[str, tuple[Sequence[Part], Variant]] = {
        "everything": ([skills], AS_IT_IS),
        "without routing of skills": ([Given(version.bank.skills[DEFAULT])], AS_IT_IS),
        "without bodies": ([WithoutBodies(skills)], AS_IT_IS),
        "without tools": ([skills], Variant("no tools", lambda tools: [])),
        "without planner": ([skills], Variant("no planner", _unplanned)),
        "without few steps": ([skills], Variant("many steps", slowly)),
        "with the router": ([skills, routers["recal"]], AS_IT_IS),
        "with the router, uncalibrated": ([skills, routers["grpo"]], AS_IT_IS),
        "small alone": ([skills, Small()], AS_IT_IS),
    }
    found = {}
    for name, (parts, variant) in arms.items():
        pairs: list[Pair] = []
        replies: list[Reply] = []
        for later in (False, True):
            asked, answered = await seasons.examined(parts, later=later, variant=variant)
            pairs, replies = [*pairs, *asked], [*replies, *answered]
        found[name] = {
            "quality": float(np.mean([quality(*p, r.seen) for p, r in zip(pairs, replies, strict=True)])),
            "cost": 1000 * float(np.mean([one.cost for one in replies])),
            "waiting": float(np.mean([one.seen.seconds for one in replies])),
        }
    return {"parts": found, "drawing": _drawing_seconds()}


@dataclass
class Small:
    """A part that sends every request to the small model."""

    kind: SpanKind = "model"
    artefact: str = ""

    def apply(self, query: CompletionRequest, route: Route) -> Step:
        """Do what :meth:`Part.apply` says."""
        return Step("small", route.model_copy(update={"backend": "small"}), {"small": 1.0}, "small")


async def _routers(seasons: Seasons, skills: Part, home: Path) -> dict[str, RoutingPart]:
    """Routers by their calibration, trained on what both models answered to the same users, as a judge scores it."""
    judge = load_judges()["judge-learner"]
    half = seasons.users[: ROUTED // 2], seasons.users[ROUTED // 2 : ROUTED]
    pairs = [*seasons.pairs(half[0], ASKED, 0), *seasons.pairs(half[1], ASKED, 0, later=True)]
    wishes = [wish for _, wish in pairs]
    rows = []
    for name in PRICES:
        parts: list[Part] = [skills, Small()] if name == "small" else [skills]
        for wish, one in zip(wishes, await seasons.shop.replies(wishes, parts), strict=True):
            cell = Cell(judged_score(judge, Case(wish.text, one.seen.text)), one.cost, response=one.seen.text)
            rows.append((Question(wish.name, "shop", wish.text), TableRoute(name), cell, "shop"))
    path = home / "table.jsonl"
    write_table(path, table_of(rows))
    found = {}
    for name in ("recal", "grpo"):
        config = NetworkTraining(
            table=str(path), calibration=name, steps=300, thrift=0.1, seed=seasons.seed, name=name
        )
        folder = train_network(config, home / name).folder
        found[name] = RoutingPart(open_router(folder, trade=TRADE), list(PRICES))
    return found


def _drawing_seconds() -> dict[str, float]:
    """CPU seconds of a drawing by its number of steps."""
    from noria.assistant.world.shop import digits_options
    from noria.distill.verbs.serve import ServeConfig, open_painter

    found = {}
    for steps in STEPS:
        painter = open_painter(ServeConfig.model_validate(digits_options() | {"steps": steps}))
        painter.draw(["3"], painter.noise(0, range(1)))
        began = time.process_time()
        for digit in range(5):
            painter.draw([str(digit)], painter.noise(digit, range(1)))
        found[str(steps)] = (time.process_time() - began) / 5
    return found
