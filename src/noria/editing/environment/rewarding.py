"""The reward environment: rollouts in, rewards out, with rendering, judging and sampling overlapped.

At most `in_flight` rollouts are under way, so that a fast sampler waits for a slow editor. Within a rollout, the plan
is judged while its picture is rendered, unless the gate waits for the plan's verdicts to spare the render.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from noria.core.errors import ungrouped
from noria.core.judging.items import Checklist, Verdict
from noria.editing.checklists.items import items_of
from noria.editing.data.pictures import Scene
from noria.editing.data.tasks import Task
from noria.editing.environment.breaker import Breaker
from noria.editing.environment.judges import AtomicJudges, PathJudgement
from noria.editing.environment.rendering import Renderer
from noria.editing.plans import Plan, parse_plan
from noria.editing.rewards.atomic import (
    NO_PLAN,
    AtomicReward,
    cognitive_reward,
    fails_required,
    masked,
    visual_reward,
)
from noria.editing.rewards.streams import Stream, needs_plan_judge, needs_render
from noria.editing.types import Rendering


@dataclass(frozen=True)
class EnvironmentSettings:
    """Limits of the reward environment.

    Attributes:
        in_flight: rollouts under way at once.
        seconds: deadline of a rollout; what is not there by then is masked.
        gate: whether a plan that fails a required item is not rendered.
        need_thinking: whether an output without a think block has no plan.
        invalid_limit: largest share of invalid verdicts, and of renders without a picture.
    """

    in_flight: int = 64
    seconds: float = 600.0
    gate: bool = False
    need_thinking: bool = True
    invalid_limit: float = 0.05


@dataclass(frozen=True)
class Rollout:
    """One output of a planner, to be rewarded.

    Attributes:
        task: task that it is about.
        scene: the task's pictures.
        output: text that the planner wrote.
        stream: stream whose reward counts for the rollout.
        seed: seed of the editor; the same for all rollouts of a group (common random numbers).
        number: number of the rollout.
    """

    task: Task
    scene: Scene = field(repr=False)
    output: str
    stream: Stream = "both"
    seed: int = 0
    number: int = 0


@dataclass(frozen=True)
class ScoredRollout:
    """A rollout with its rewards; one that its stream does not ask for is masked with the word `stream`.

    Attributes:
        rollout: the rollout.
        plan: output, parsed.
        cognitive, visual: rewards.
        rendering: render or failure of the editor; None where the rollout needed no render.
        verdicts: verdicts of both paths, canaries among them.
        judge_seconds: time of the judgements.
        seconds: time from its start to its end.
    """

    rollout: Rollout
    plan: Plan
    cognitive: AtomicReward
    visual: AtomicReward
    rendering: Rendering | None = None
    verdicts: tuple[Verdict, ...] = ()
    judge_seconds: float = 0.0
    seconds: float = 0.0

    def to_json(self, **more: Any) -> dict[str, Any]:
        """The line of the rollout log, with `more` fields such as the advantage."""
        rendering = self.rendering
        return {
            "prompt": self.rollout.task.id,
            "family": self.rollout.task.family,
            "stream": self.rollout.stream,
            "seed": self.rollout.seed,
            "number": self.rollout.number,
            "output": self.rollout.output,
            "plan": self.plan.text,
            "parse_ok": self.plan.ok,
            "problem": self.plan.problem,
            "verdicts": [[one.item, one.value, one.reason] for one in self.verdicts],
            "cognitive": vars(self.cognitive),
            "visual": vars(self.visual),
            "editor_seconds": None if rendering is None else rendering.seconds,
            "failure": None if rendering is None else rendering.failure,
            "cached": None if rendering is None else rendering.cached,
            "judge_seconds": self.judge_seconds,
            **more,
        }


class RewardEnvironment:
    """Rewards rollouts. Use it from one event loop.

    Args:
        renderer: renders the plans.
        judges: judge plans and pictures.
        settings: bounds.
        on_scored: called with every rollout as it is rewarded, such as to log it.
    """

    def __init__(
        self,
        renderer: Renderer,
        judges: AtomicJudges,
        settings: EnvironmentSettings | None = None,
        *,
        on_scored: Callable[[ScoredRollout], None] | None = None,
    ) -> None:
        self.renderer, self.judges, self.settings = renderer, judges, settings or EnvironmentSettings()
        self.on_scored = on_scored
        limit = self.settings.invalid_limit
        self.verdicts = Breaker(limit)
        self.renders = Breaker(limit, window=200, least=40, what="renders")
        self.gated = 0
        self._places = asyncio.Semaphore(self.settings.in_flight)

    async def score(self, rollout: Rollout) -> ScoredRollout:
        """Reward one rollout. What goes wrong with it is masked.

        Raises:
            CoverageError: too much goes wrong.
        """
        async with self._places:
            began = time.perf_counter()
            plan = parse_plan(rollout.output, need_thinking=self.settings.need_thinking)
            scored = ScoredRollout(rollout, plan, *_without_plan(rollout.stream))
            if plan.ok:
                late = masked("timeout")
                scored = replace(scored, cognitive=late, visual=late)
                try:
                    async with asyncio.timeout(self.settings.seconds):
                        scored = await self._score(rollout, plan)
                except TimeoutError:
                    self.verdicts.add(0, len(rollout.task.checklist))
            scored = replace(scored, seconds=time.perf_counter() - began)
        if self.on_scored is not None:
            self.on_scored(scored)
        return scored

    async def score_all(
        self, rollouts: Iterable[Rollout] | AsyncIterable[Rollout]
    ) -> AsyncIterator[ScoredRollout]:
        """Reward rollouts as they come, each yielded as soon as it is done.

        The next one is taken from `rollouts` when there is a place for it, so that a sampler is held back.

        Raises:
            CoverageError: too much goes wrong; rollouts under way are cancelled.
        """
        under_way: set[asyncio.Task[ScoredRollout]] = set()
        coming = _asynchronous(rollouts)
        more = True
        try:
            while more or under_way:
                while more and len(under_way) < self.settings.in_flight:
                    try:
                        under_way.add(asyncio.create_task(self.score(await anext(coming))))
                    except StopAsyncIteration:
                        more = False
                if not under_way:
                    break
                done, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    yield task.result()
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    # -- one rollout -------------------------------------------------------------------------------------------

    async def _score(self, rollout: Rollout, plan: Plan) -> ScoredRollout:
        task = rollout.task
        asks_plan, renders = needs_plan_judge(rollout.stream), needs_render(rollout.stream)
        gate = renders and self.settings.gate and any(i.required for i in items_of(task.checklist))
        judgement: PathJudgement | None = None
        seen: tuple[Rendering | None, PathJudgement | None] = (None, None)
        if gate or not renders:
            judgement = await self._plan(rollout, plan, only_required=not asks_plan)
            if gate and (fails_required(judgement.checklist, judgement.verdicts) or _fooled(judgement)):
                self.gated += 1
                seen = (Rendering(None, "gated", attempts=0), None)
            elif renders:
                seen = await self._picture(rollout, plan)
        elif asks_plan:
            with ungrouped():
                async with asyncio.TaskGroup() as group:
                    first = group.create_task(self._plan(rollout, plan, only_required=False))
                    second = group.create_task(self._picture(rollout, plan))
            judgement, seen = first.result(), second.result()
        else:
            seen = await self._picture(rollout, plan)
        return self._assembled(rollout, plan, judgement, *seen)

    async def _plan(self, rollout: Rollout, plan: Plan, *, only_required: bool) -> PathJudgement:
        task = rollout.task
        judgement = await self.judges.judge_plan(
            task.checklist, task.instruction, rollout.scene, plan.text, only_required=only_required
        )
        self._count(judgement)
        return judgement

    async def _picture(self, rollout: Rollout, plan: Plan) -> tuple[Rendering, PathJudgement | None]:
        task = rollout.task
        rendering = await self.renderer.render(rollout.scene, plan.text, rollout.seed)
        failed = rendering.image is None and rendering.failure != "refused"
        self.renders.add(not failed, failed)
        if rendering.image is None:
            return rendering, None
        judgement = await self.judges.judge_picture(
            task.checklist, task.instruction, rollout.scene, rendering.image
        )
        self._count(judgement)
        return rendering, judgement

    def _count(self, judgement: PathJudgement) -> None:
        invalid = sum(verdict.value == "invalid" for verdict in judgement.verdicts)
        self.verdicts.add(len(judgement.verdicts) - invalid, invalid)

    def _assembled(
        self,
        rollout: Rollout,
        plan: Plan,
        judgement: PathJudgement | None,
        rendering: Rendering | None,
        seen: PathJudgement | None,
    ) -> ScoredRollout:
        cognitive = visual = masked("stream")
        if judgement is not None and needs_plan_judge(rollout.stream):
            cognitive = cognitive_reward(judgement.checklist, judgement.verdicts)
        if seen is not None:
            visual = visual_reward(seen.checklist, seen.verdicts)
        elif rendering is not None:
            visual = masked("gated" if rendering.failure == "gated" else "no picture")
        if "canary" in (cognitive.why, visual.why) or (judgement is not None and _fooled(judgement)):
            # A judge that was talked into one answer is not believed in the others: the whole rollout is void.
            cognitive, visual = (
                one if one.why == "stream" else masked("canary") for one in (cognitive, visual)
            )
        judgements = [one for one in (judgement, seen) if one is not None]
        return ScoredRollout(
            rollout,
            plan,
            cognitive,
            visual,
            rendering,
            tuple(verdict for one in judgements for verdict in one.verdicts),
            sum(one.seconds for one in judgements),
        )


def _fooled(judgement: PathJudgement) -> bool:
    """Whether a canary was answered wrongly."""
    items: Checklist = judgement.checklist
    return any(
        item.role == "canary" and verdict.value not in (item.good, "invalid")
        for item, verdict in zip(items_of(items), judgement.verdicts, strict=True)
    )


def _without_plan(stream: Stream) -> tuple[AtomicReward, AtomicReward]:
    other = masked("stream")
    return (NO_PLAN if needs_plan_judge(stream) else other, NO_PLAN if needs_render(stream) else other)


async def _asynchronous(rollouts: Iterable[Rollout] | AsyncIterable[Rollout]) -> AsyncIterator[Rollout]:
    if isinstance(rollouts, AsyncIterable):
        async for rollout in rollouts:
            yield rollout
    else:
        for rollout in rollouts:
            yield rollout
