"""What the learner of bodies gives: SkillChain's third stage on judged answers, and the exam before and after.

Every request has the skill that it needs, so that bodies alone differ.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np

from noria.assistant.learners.skills.cases import dealt
from noria.assistant.proof.loop.seasons import Seasons
from noria.assistant.world.judges.labels import Given
from noria.assistant.world.judges.model import load_judges
from noria.assistant.world.judges.server import JudgeServer
from noria.assistant.world.oracle import quality
from noria.assistant.world.users import SKILLS, Wish
from noria.core.chat import ChatRequest, Outcome
from noria.core.completions.requests import CompletionRequest
from noria.skills.assistants.assistants import CachedAssistant
from noria.skills.bank.bank import Bank
from noria.skills.judging.judges import ChatBodyJudge
from noria.skills.judging.rubric import Rubric
from noria.skills.proposing.templates import TemplateProposer
from noria.skills.stages.body_refiner import RefineConfig, Surroundings, refine_bodies
from noria.skills.stages.gates import GateSettings
from noria.skills.traffic.samples import Response, Sample

JUDGED, ASKING = 350, 450
"""Loop of the wishes whose answers are judged, and users who have them."""


class ShopAssistant:
    """Answers samples in the shop from a thread beside its event loop.

    Args:
        seasons: seasons of the seed.
        wishes: wishes by the id of their sample.
        loop: the event loop.
    """

    name = "shop"

    def __init__(self, seasons: Seasons, wishes: dict[str, Wish], loop: asyncio.AbstractEventLoop) -> None:
        self.seasons, self.wishes, self.loop = seasons, wishes, loop

    def answer(self, samples: Sequence[Sample], skills: Sequence[str | None], bank: Bank) -> list[Response]:
        """Do what :meth:`Assistant.answer` says."""
        return asyncio.run_coroutine_threadsafe(self._answer(samples, skills, bank), self.loop).result()

    async def _answer(
        self, samples: Sequence[Sample], skills: Sequence[str | None], bank: Bank
    ) -> list[Response]:
        parts = [Given(None if name is None else bank.skills[name]) for name in skills]
        replies = await asyncio.gather(
            *(
                self.seasons.shop.replies([self.wishes[one.id]], [part])
                for one, part in zip(samples, parts, strict=True)
            )
        )
        return [
            Response(reply.seen.text, skill=name, cost=reply.cost)
            for (reply,), name in zip(replies, skills, strict=True)
        ]


async def run_bodies(seasons: Seasons) -> dict[str, Any]:
    """Repair the bodies of the first bank, and examine both.

    Returns:
        Quality on the exam before and after, and the skills whose repair passed the learner's own gate.
    """
    bank = seasons.start.bank
    pairs = seasons.pairs(seasons.users[:ASKING], JUDGED, 0)
    wishes = {wish.name: wish for _, wish in pairs}
    samples = [Sample(w.name, w.text, f"user {u.number}", (SKILLS[w.intent],)) for u, w in pairs]
    pools = dealt(samples, {"pool": 0.5, "gate": 0.5}, salt=f"bodies {seasons.seed}")
    pool, gate_set = ([(one, one.expected[0]) for one in pools[name]] for name in ("pool", "gate"))
    server = JudgeServer(load_judges())

    def asker(name: str) -> Any:
        def ask(requests: Sequence[ChatRequest]) -> list[Outcome]:
            queries = [{"messages": [one.wire() for one in request.messages]} for request in requests]
            return [server.answer(CompletionRequest(q, "", False, False, {}), name) for q in queries]

        return ask

    rubric = Rubric()
    around = Surroundings(
        CachedAssistant(ShopAssistant(seasons, wishes, asyncio.get_running_loop())),
        rubric,
        ChatBodyJudge(asker("judge-learner"), rubric, name="judge-learner"),
        ChatBodyJudge(asker("judge-gate"), rubric, name="judge-gate", blind=True),
        TemplateProposer(),
        GateSettings(),
    )
    result = await asyncio.to_thread(refine_bodies, bank, pool, gate_set, around, RefineConfig(body_rounds=2))
    found = {"before": await _examined(seasons, bank), "after": await _examined(seasons, result.bank)}
    repaired = sorted({one.skill for one in result.rounds if one.accepted})
    return {"bodies": {**found, "repaired": repaired}}


async def _examined(seasons: Seasons, bank: Bank) -> float:
    """Mean quality of the exam in the usual words, each wish under the skill that it needs."""
    pairs = seasons.exam(later=False)
    replies = await asyncio.gather(
        *(seasons.shop.answers([wish], [Given(bank.skills[SKILLS[wish.intent]])]) for _, wish in pairs)
    )
    return float(np.mean([quality(*pair, seen) for pair, (seen,) in zip(pairs, replies, strict=True)]))
