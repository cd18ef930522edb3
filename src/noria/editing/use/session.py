"""`ThinkThenEdit`: one call from a picture and a request to an edited picture, its plan and its verdicts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from PIL.Image import Image as Picture

from noria.core.errors import DataError, NoriaError
from noria.core.judging.items import Checklist, Verdict
from noria.editing.checklists.items import EditItem, items_of
from noria.editing.data.pictures import Scene
from noria.editing.environment.judges import AtomicJudges
from noria.editing.environment.rendering import Renderer
from noria.editing.plans import Plan, parse_plan
from noria.editing.rewards.atomic import AtomicReward, cognitive_reward, masked, visual_reward
from noria.editing.types import Editor, Planner, Rendering

LONGEST_INSTRUCTION = 8000
"""Most characters of a request."""


@dataclass(frozen=True)
class EditResult:
    """One try: a plan, its rendering, and what the judges say.

    Attributes:
        plan: the planner's output, parsed.
        rendering: picture, or why there is none; None where there was no plan to render.
        checklist: items that were judged, canaries among them.
        verdicts: one an item.
        cognitive, visual: rewards of the plan and of the picture; masked where nothing was judged.
        seed: seed of the editor.
    """

    plan: Plan
    rendering: Rendering | None = None
    checklist: Checklist = field(default_factory=lambda: Checklist(()))
    verdicts: tuple[Verdict, ...] = ()
    cognitive: AtomicReward = field(default_factory=lambda: masked("empty"))
    visual: AtomicReward = field(default_factory=lambda: masked("empty"))
    seed: int = 0

    @property
    def image(self) -> Picture | None:
        """The edited picture; None where there is none."""
        return None if self.rendering is None else self.rendering.image

    @property
    def why(self) -> str:
        """Why there is no picture; empty where there is one."""
        if self.image is not None:
            return ""
        if self.rendering is None:
            return f"the planner's output has no plan: {self.plan.problem}"
        return f"{self.rendering.failure}: {self.rendering.message}"

    @property
    def right(self) -> bool | None:
        """Whether every item of both paths is good; None where that is open."""
        known = [part.strict for part in (self.cognitive, self.visual) if part.why != "empty"]
        if False in known:
            return False
        return None if not known or None in known else True

    @property
    def rank(self) -> tuple[bool, float, float]:
        """Key by which the best of several tries is chosen: a picture first, then its reward, then the plan's."""
        values = [part.value if part.value is not None else -1.0 for part in (self.visual, self.cognitive)]
        return self.image is not None, values[0], values[1]

    @property
    def notes(self) -> str:
        """Failed items and problems of this try, in words that the planner reads before another try."""
        if not self.plan.ok:
            return f"The output had no plan ({self.plan.problem})."
        wrong = _wrong(self.checklist, self.verdicts)
        if self.image is None:
            return "The editor made no picture of it." if not wrong else "\n".join(wrong)
        return "\n".join(wrong)


class ThinkThenEdit:
    """A planner and an editor as one editor.

    ```python
    edit = ThinkThenEdit(planner, editor)
    result = edit(image, "What does this look like after a night in the rain?")
    result.image, result.plan.text
    ```

    Args:
        planner: writes the plan.
        editor: renders it; or a `Renderer`, which has bounds and a cache.
        judges: judges of plan and picture; without them nothing is checked, and every try is the last.
        need_thinking: whether an output without a think block has a problem.
    """

    def __init__(
        self,
        planner: Planner,
        editor: Editor | Renderer,
        *,
        judges: AtomicJudges | None = None,
        need_thinking: bool = True,
    ) -> None:
        self.planner, self.judges, self.need_thinking = planner, judges, need_thinking
        self.renderer = editor if isinstance(editor, Renderer) else Renderer(editor)
        self._runner: asyncio.Runner | None = None

    def __call__(self, image: Picture | Sequence[Picture], instruction: str, **choices: object) -> EditResult:
        """Edit in a program that is not asynchronous; the arguments are those of `edit`, the result the best try."""
        images = (image,) if isinstance(image, Picture) else tuple(image)
        if self._runner is None:  # one loop for all calls: connections and places belong to it
            self._runner = asyncio.Runner()
        return self._runner.run(self.edit(Scene(images), instruction, **choices))[0]  # type: ignore[arg-type]

    async def edit(
        self,
        scene: Scene,
        instruction: str,
        *,
        checklist: Checklist | None = None,
        tries: int = 1,
        samples: int = 1,
        seed: int = 0,
    ) -> list[EditResult]:
        """Plan, render, check; again with what was wrong, until everything is right.

        Args:
            scene: pictures of the request.
            instruction: what is asked for.
            checklist: items to judge by; empty by default.
            tries: most rounds; a round after the first reads what the one before got wrong.
            samples: plans of each round, all rendered.
            seed: seed of the planner's draws and of the editor.

        Returns:
            All tries, the best one first.

        Raises:
            DataError: the instruction is empty or too long.
            NoriaError: the planner does not answer at all.
        """
        if not instruction.strip() or len(instruction) > LONGEST_INSTRUCTION:
            raise DataError(
                "no request in words",
                where="instruction",
                mend=f"give 1 to {LONGEST_INSTRUCTION:,} characters",
            )
        items = checklist or Checklist(())
        results: list[EditResult] = []
        notes = ""
        for round_ in range(tries):
            numbers = [seed + round_ * samples + n for n in range(samples)]
            tried = await asyncio.gather(
                *(self._try(scene, instruction, items, number, seed, notes) for number in numbers),
                return_exceptions=True,
            )
            answers = [one for one in tried if isinstance(one, EditResult)]
            failures = [one for one in tried if isinstance(one, BaseException)]
            for failure in failures:
                if not isinstance(failure, NoriaError):
                    raise failure
            if not results and not answers:
                raise failures[0]
            results += answers
            results.sort(key=lambda one: one.rank, reverse=True)  # stable: the earlier of equals first
            if (self.judges is None and results[0].image is not None) or results[0].right:
                break
            notes = results[0].notes
        return results

    async def _try(
        self, scene: Scene, instruction: str, checklist: Checklist, sample: int, seed: int, notes: str
    ) -> EditResult:
        output = await self.planner.write(scene.images, instruction, sample=sample, notes=notes)
        plan = parse_plan(output, need_thinking=self.need_thinking)
        if not plan.ok:
            return EditResult(plan, seed=seed)
        return await self.render(scene, instruction, plan, checklist, seed)

    async def render(
        self, scene: Scene, instruction: str, plan: Plan, checklist: Checklist, seed: int
    ) -> EditResult:
        """Render a plan that is already written, and judge both."""
        rendering = await self.renderer.render(scene, plan.text, seed)
        result = EditResult(plan, rendering, seed=seed)
        if self.judges is None or not len(checklist):
            return result
        judged = await self.judges.judge_plan(checklist, instruction, scene, plan.text)
        result = replace(
            result,
            checklist=judged.checklist,
            verdicts=judged.verdicts,
            cognitive=cognitive_reward(judged.checklist, judged.verdicts),
            visual=masked("no picture"),
        )
        if rendering.image is None:
            return result
        seen = await self.judges.judge_picture(checklist, instruction, scene, rendering.image)
        return replace(
            result,
            checklist=Checklist((*judged.checklist.items, *seen.checklist.items)),
            verdicts=(*judged.verdicts, *seen.verdicts),
            visual=visual_reward(seen.checklist, seen.verdicts),
        )


class EditSession:
    """A picture edited turn by turn, each of which can be undone.

    Args:
        edit: planner and editor.
        scene: pictures at the start; a mask holds for the first turn alone.
    """

    def __init__(self, edit: ThinkThenEdit, scene: Scene) -> None:
        self.edit = edit
        self._scenes = [scene]
        self.results: list[EditResult] = []

    @property
    def scene(self) -> Scene:
        """The pictures as they are now."""
        return self._scenes[-1]

    async def turn(
        self, instruction: str, *, checklist: Checklist | None = None, **choices: int
    ) -> EditResult:
        """Edit the picture as it is now. A turn without a picture changes nothing.

        Raises:
            NoriaError: as `ThinkThenEdit.edit`.
        """
        result = (await self.edit.edit(self.scene, instruction, checklist=checklist, **choices))[0]
        if result.image is not None:
            self._scenes.append(Scene((result.image, *self.scene.images[1:])))
            self.results.append(result)
        return result

    def undo(self) -> Picture:
        """Take the last turn back: the picture before it, the same to the bit.

        Raises:
            DataError: there is none to take back.
        """
        if not self.results:
            raise DataError("nothing to undo", where="session")
        self.results.pop()
        self._scenes.pop()
        return self.scene.source


def _wrong(checklist: Checklist, verdicts: Sequence[Verdict]) -> list[str]:
    items: dict[str, EditItem] = {item.id: item for item in items_of(checklist, canaries=False)}
    lines = []
    for verdict in verdicts:
        item = items.get(verdict.item)
        if item is not None and verdict.value not in (item.good, "invalid"):
            lines.append(f"- {item.question} Answer: {verdict.value}. {verdict.reason}".rstrip())
    return lines
